"""The dense head's network in Keras (imported on first use): how features are scaled, and the layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import keras

ROWS_A_PASS = 8192  # bounds memory


def scaling_layers(X: np.ndarray, scaling: str) -> list[keras.layers.Layer]:
    """Return the layers that scale raw features, fitted on X (n_rows, n_features), float32.

    "standardise": each column to mean 0 and standard deviation 1; constant columns to 0, as scikit-learn has
    it. "l2": each row to length 1, times a constant that brings the columns to the size batch norm's epsilon
    expects.
    """
    import keras

    if scaling == "l2":
        return [
            keras.layers.UnitNormalization(name="unit_length"),
            keras.layers.Rescaling(float(X.shape[1]) ** 0.5, name="rescale"),
        ]
    mean, variance = X.mean(axis=0, dtype=np.float64), X.var(axis=0, dtype=np.float64)
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
) -> keras.Sequential:
    """Return the network, its weights drawn: batch norm, ReLU layers, batch norm, dropout, class layer.

    Parameters
    ----------
    n_features, n_classes : int
        Two classes get one sigmoid unit, the probability of the second; more get a softmax.
    units : sequence of int
        Widths of the ReLU layers.
    dropout : float
        Share of the last layer's inputs that is dropped in training.
    seed : int
    before : sequence of layers
        Put between input and first batch norm; no weights are learned there.
    """
    import keras

    layers = keras.layers
    seeds = [int(s) >> 1 for s in np.random.SeedSequence(seed).generate_state(len(units) + 2)]

    def dense(width: int, activation: str, index: int, name: str) -> keras.layers.Layer:
        first = keras.initializers.GlorotUniform(seed=seeds[index])
        return layers.Dense(width, activation=activation, kernel_initializer=first, name=name)

    width, activation = (1, "sigmoid") if n_classes == 2 else (n_classes, "softmax")
    return keras.Sequential(
        [
            keras.Input((n_features,), dtype="float32", name="features"),
            *before,
            layers.BatchNormalization(name="norm_features"),
            *[dense(size, "relu", i, f"dense_{i + 1}") for i, size in enumerate(units)],
            layers.BatchNormalization(name="norm_dense"),
            layers.Dropout(dropout, seed=seeds[-1], name="dropout"),
            dense(width, activation, len(units), "probabilities"),
        ],
        name="dense_head",
    )


def scale_rows(layers: Sequence[keras.layers.Layer], X: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return these rows as the layers scale them, part by part: whole copies of X are what fills memory."""
    scaled = np.empty((len(rows), X.shape[1]), dtype=np.float32)
    for start in range(0, len(rows), ROWS_A_PASS):
        part = X[rows[start : start + ROWS_A_PASS]]
        for layer in layers:
            part = layer(part)
        scaled[start : start + ROWS_A_PASS] = part
    return scaled
