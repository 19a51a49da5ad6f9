"""Temperature scaling: one number that makes probabilities less sure, or surer, and changes no arg max."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar

from featurize.base.typing import Float64Array

RANGE = (0.05, 20.0)  # beyond that only heads go that are always right, or no better than chance
SMALLEST = 1e-12  # probability that stands for 0, whose logarithm is not finite


def fit_temperature(y: npt.ArrayLike, probabilities: npt.ArrayLike) -> float:
    """Return the temperature at which the mean log loss is smallest.

    Parameters
    ----------
    y : array-like of shape (n,), int
        Index of the true class.
    probabilities : array-like of shape (n, n_classes), float
        Of images that the head was not fitted on.

    Returns
    -------
    float
        Above 1 where the head is too sure of itself; 1 where nothing is gained; within `RANGE`.

    References
    ----------
    Guo, Pleiss, Sun & Weinberger, "On calibration of modern neural networks", arXiv:1706.04599, section 4.2.
    """
    return temperature_of_scores(y, _logs(probabilities))


def temperature_of_scores(y: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """Return the temperature for scores (n, n_classes) whose softmax is the probabilities.

    As `fit_temperature`, and without its loss of digits where a probability is next to 0.
    """
    labels, logs = np.asarray(y, dtype=np.int64), np.asarray(scores, dtype=np.float64)

    def loss(log_temperature: float) -> float:
        scaled = logs / math.exp(log_temperature)
        scaled -= np.logaddexp.reduce(scaled, axis=1, keepdims=True)
        return -float(np.mean(scaled[np.arange(len(labels)), labels]))

    low, high = (math.log(end) for end in RANGE)
    found = minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-6})
    return math.exp(found.x) if found.fun < loss(0.0) else 1.0


def at_temperature(probabilities: npt.ArrayLike, temperature: float) -> Float64Array:
    """Return probabilities raised to ``1 / temperature`` and scaled to sum to one; at 1 those given.

    Parameters
    ----------
    probabilities : array-like of shape (n, n_classes), float
    temperature : float
        Above 0.

    Returns
    -------
    ndarray of shape (n, n_classes), float64
        The order of the classes of each row stays what it was.
    """
    if temperature == 1.0:
        return np.asarray(probabilities, dtype=np.float64)
    scaled = _logs(probabilities) / temperature
    return np.exp(scaled - np.logaddexp.reduce(scaled, axis=1, keepdims=True))


def _logs(probabilities: npt.ArrayLike) -> Float64Array:
    logs: Float64Array = np.log(np.maximum(np.asarray(probabilities, dtype=np.float64), SMALLEST))
    return logs
