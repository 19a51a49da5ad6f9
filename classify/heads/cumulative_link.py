"""Cumulative link: probabilities of ordered classes from one score and ascending thresholds.

P(class > k) = sigmoid(score - threshold k): McCullagh, "Regression Models for Ordinal Data", JRSS B 42, 1980.
The probability of a class between two thresholds is a difference of two sigmoids, which cancels in float32
when it is small. Therefore it is computed as a sum of logs, with
sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import keras
    import tensorflow as tf


_MIN_PRIOR = 1e-3  # smallest initial probability of a class, so that the initial thresholds differ
_MIN_GAP = 1e-30  # between thresholds; its logarithm is finite in float32
_THRESHOLDS = "thresholds"


def initial_thresholds(weight: np.ndarray) -> np.ndarray:
    """Return the thresholds at which a score of 0 gives each class its share of the total weight.

    Parameters
    ----------
    weight : ndarray of shape (n_classes,)
        Number of images of each class, times the weight of each.

    Returns
    -------
    ndarray of shape (n_classes - 1,), float64
        Ascending.
    """
    prior = np.maximum(weight / weight.sum(), _MIN_PRIOR)
    below = np.cumsum(prior / prior.sum())[:-1]
    return np.log(below / (1.0 - below))


def free_parameters(thresholds: np.ndarray) -> np.ndarray:
    """Invert `ordered_thresholds`: return the first threshold and the inverse softplus of the gaps."""
    return np.concatenate([thresholds[:1], np.log(np.expm1(np.diff(thresholds)))])


def ordered_thresholds(free: np.ndarray) -> np.ndarray:
    """Return ascending thresholds, (n_classes - 1,) float64, from as many unconstrained numbers."""
    free = free.astype(np.float64)
    return np.cumsum(np.concatenate([free[:1], np.logaddexp(0.0, free[1:])]))


def log_probabilities(score: tf.Tensor, free: tf.Tensor) -> tf.Tensor:
    """Return the log probability of each class.

    Parameters
    ----------
    score : tensor of shape (n_rows, 1)
    free : tensor of shape (n_classes - 1,)
        As from `free_parameters`.

    Returns
    -------
    tensor of shape (n_rows, n_classes)
    """
    import tensorflow as tf

    gaps = tf.math.softplus(free[1:]) + _MIN_GAP
    above = score - tf.cumsum(tf.concat([free[:1], gaps], axis=0))  # (n_rows, n_classes - 1)
    return (
        tf.pad(tf.math.log_sigmoid(above), [[0, 0], [1, 0]])
        + tf.pad(tf.math.log_sigmoid(-above), [[0, 0], [0, 1]])
        + tf.pad(tf.math.log(-tf.math.expm1(-gaps)), [[1, 1]])
    )


def link_layers(n_classes: int) -> list[keras.layers.Layer]:
    """Return built-in Keras layers from score to probabilities; `set_thresholds` sets their weights."""
    import keras

    dense = keras.layers.Dense
    return [
        dense(2 * (n_classes - 1), activation="log_sigmoid", trainable=False, name=_THRESHOLDS),
        dense(n_classes, activation="softmax", trainable=False, name="probabilities"),
    ]


def has_link(network: keras.Sequential) -> bool:
    """Return whether a network ends in `link_layers`."""
    return any(layer.name == _THRESHOLDS for layer in network.layers)


def get_thresholds(network: keras.Sequential) -> np.ndarray:
    """Return the thresholds of a network that ends in `link_layers`: (n_classes - 1,), float64."""
    bias = network.get_layer(_THRESHOLDS).bias.numpy()
    return bias[len(bias) // 2 :].astype(np.float64)


def set_thresholds(network: keras.Sequential, thresholds: np.ndarray) -> None:
    """Set the weights of a network's `link_layers` from ascending thresholds (n_classes - 1,)."""
    inner, outer = network.layers[-2:]
    ones = np.ones((1, len(thresholds)))
    inner.set_weights([np.hstack([ones, -ones]), np.concatenate([-thresholds, thresholds])])
    above = np.eye(len(thresholds), len(thresholds) + 1, k=1)  # class k + 1 lies above threshold k
    below = np.eye(len(thresholds), len(thresholds) + 1)  # class k lies below threshold k
    between = np.log(-np.expm1(-np.maximum(np.diff(thresholds), _MIN_GAP)))
    outer.set_weights([np.vstack([above, below]), np.concatenate([[0.0], between, [0.0]])])
