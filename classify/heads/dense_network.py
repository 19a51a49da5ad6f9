"""The dense head's network in Keras (imported on first use): how features are scaled, and the layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from classify.heads.cumulative_link import link_layers, set_thresholds

if TYPE_CHECKING:
    import keras

ROWS_A_PASS = 8192  # bounds memory
_NOMINAL, _ORDINAL = "dense_head", "ordinal_dense_head"  # a network's name, kept in its file


def scaling_layers(X: np.ndarray, scaling: str) -> list[keras.layers.Layer]:
    """Return the layers that scale raw features, fitted on X (n_rows, n_features), float32.

    "standardise": each column to mean 0 and standard deviation 1; constant columns to 0, as scikit-learn has
    it. "l2": each row to length 1, times a constant that brings the columns to the size batch norm's epsilon
    expects.
    """
    mean = variance = np.zeros(X.shape[1])
    if scaling != "l2":
        mean, variance = X.mean(axis=0, dtype=np.float64), X.var(axis=0, dtype=np.float64)
    return layers_of_moments(mean, variance, scaling)


def layers_of_moments(mean: np.ndarray, variance: np.ndarray, scaling: str) -> list[keras.layers.Layer]:
    """Return the same from the mean and variance of each column, (n_features,) float64."""
    import keras

    if scaling == "l2":
        return [
            keras.layers.UnitNormalization(name="unit_length"),
            keras.layers.Rescaling(float(len(mean)) ** 0.5, name="rescale"),
        ]
    variance = variance.copy()
    # A constant column's mean is rounded to float32 too: divided by nearly nothing, that rounding would be
    # data.
    variance[variance <= (1e-6 * mean) ** 2] = 1.0
    return [keras.layers.Normalization(mean=mean, variance=variance, name="standardise")]


def build_network(
    n_features: int,
    n_classes: int,
    *,
    units: Sequence[int],
    dropout: float,
    seed: int,
    before: Sequence[keras.layers.Layer] = (),
    thresholds: np.ndarray | None = None,
) -> keras.Sequential:
    """Return the network, its weights drawn: batch norm, ReLU layers, batch norm, dropout, classes.

    Parameters
    ----------
    n_features, n_classes : int
        Two classes get one sigmoid unit, the probability of the second; more get a softmax, or a cumulative
        link.
    units : sequence of int
        Widths of the ReLU layers.
    dropout : float
        Share of the last layer's inputs that is dropped in training.
    seed : int
    before : sequence of layers
        Put between input and first batch norm; no weights are learned there.
    thresholds : ndarray of shape (n_classes - 1,), optional
        Of ordered classes: where those of the cumulative link start, ascending.
    """
    import keras

    layers = keras.layers
    seeds = [int(s) >> 1 for s in np.random.SeedSequence(seed).generate_state(len(units) + 2)]

    def dense(width: int, activation: str, index: int, name: str) -> keras.layers.Layer:
        first = keras.initializers.GlorotUniform(seed=seeds[index])
        return layers.Dense(width, activation=activation, kernel_initializer=first, name=name)

    if thresholds is not None and n_classes > 2:
        first = keras.initializers.GlorotUniform(seed=seeds[len(units)])
        score = layers.Dense(1, use_bias=False, kernel_initializer=first, name="score")
        last = [score, *link_layers(n_classes)]
    else:
        width, activation = (1, "sigmoid") if n_classes == 2 else (n_classes, "softmax")
        last = [dense(width, activation, len(units), "probabilities")]
    network = keras.Sequential(
        [
            keras.Input((n_features,), dtype="float32", name="features"),
            *before,
            layers.BatchNormalization(name="norm_features"),
            *[dense(size, "relu", i, f"dense_{i + 1}") for i, size in enumerate(units)],
            layers.BatchNormalization(name="norm_dense"),
            layers.Dropout(dropout, seed=seeds[-1], name="dropout"),
            *last,
        ],
        name=_NOMINAL if thresholds is None else _ORDINAL,
    )
    if thresholds is not None and n_classes > 2:
        set_thresholds(network, thresholds)
    return network


def is_ordinal(network: keras.Sequential) -> bool:
    """Return whether a network was built for ordered classes."""
    return network.name == _ORDINAL


def scale_rows(layers: Sequence[keras.layers.Layer], X: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return these rows as the layers scale them, part by part: whole copies of X are what fills memory."""
    scaled = np.empty((len(rows), X.shape[1]), dtype=np.float32)
    for start in range(0, len(rows), ROWS_A_PASS):
        part = X[rows[start : start + ROWS_A_PASS]]
        for layer in layers:
            part = layer(part)
        scaled[start : start + ROWS_A_PASS] = part
    return scaled
