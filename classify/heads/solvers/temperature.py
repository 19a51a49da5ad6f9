"""Temperature scaling: one number that lowers or raises the confidence and leaves the arg max unchanged."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar

from featurize.base.typing import Float64Array

# Searched temperatures; only a head that is always right, or no better than chance, would need others.
TEMPERATURE_RANGE = (0.05, 20.0)
MIN_PROBABILITY = 1e-12  # replaces smaller probabilities, because the logarithm of 0 is not finite


def fit_temperature(y: npt.ArrayLike, probabilities: npt.ArrayLike) -> float:
    """Return the temperature that minimises the mean log loss.

    Parameters
    ----------
    y : array-like of shape (n,), int
        Index of the true class.
    probabilities : array-like of shape (n, n_classes), float
        Predictions for images that the head was not fitted on.

    Returns
    -------
    float
        Within `TEMPERATURE_RANGE`: above 1 if the head is overconfident; 1 if no temperature lowers the loss.

    References
    ----------
    Guo, Pleiss, Sun & Weinberger, "On calibration of modern neural networks", arXiv:1706.04599, section 4.2.
    """
    return temperature_of_scores(y, _logs(probabilities))


def temperature_of_scores(y: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """Return the temperature for scores (n, n_classes), such as logits, whose softmax is the probabilities.

    As `fit_temperature`, but without the loss of digits of probabilities close to 0.
    """
    labels, logits = np.asarray(y, dtype=np.int64), np.asarray(scores, dtype=np.float64)

    def loss(log_temperature: float) -> float:
        scaled = logits / math.exp(log_temperature)
        scaled -= np.logaddexp.reduce(scaled, axis=1, keepdims=True)
        return -float(np.mean(scaled[np.arange(len(labels)), labels]))

    bounds = [math.log(end) for end in TEMPERATURE_RANGE]
    result = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    return math.exp(result.x) if result.fun < loss(0.0) else 1.0


def apply_temperature(probabilities: npt.ArrayLike, temperature: float) -> Float64Array:
    """Return probabilities raised to ``1 / temperature`` and scaled to sum to one; unchanged at 1.

    Parameters
    ----------
    probabilities : array-like of shape (n, n_classes), float
    temperature : float
        Above 0.

    Returns
    -------
    ndarray of shape (n, n_classes), float64
        Within each row the order of the probabilities is unchanged.
    """
    if temperature == 1.0:
        return np.asarray(probabilities, dtype=np.float64)
    scaled = _logs(probabilities) / temperature
    return np.exp(scaled - np.logaddexp.reduce(scaled, axis=1, keepdims=True))


def _logs(probabilities: npt.ArrayLike) -> Float64Array:
    logs: Float64Array = np.log(np.maximum(np.asarray(probabilities, dtype=np.float64), MIN_PROBABILITY))
    return logs
