"""The steps that heads are made of, as Keras layers and operations any Keras can load: no code of ours.

Everything is in float64, as scikit-learn has it, and written so that float32 does not lose much either:
OpenVINO computes in nothing wider. Large constants are kernels of dense layers, which are saved as arrays;
an operation's constants would be saved as text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Tensor = Any  # keras.KerasTensor, which has no types

_NEXT_TO_NOTHING = 10  # machine epsilons: a row shorter than that is left as it is, as scikit-learn does


def affine(rows: Tensor, matrix: npt.ArrayLike, offset: npt.ArrayLike | None = None, *, name: str) -> Tensor:
    """Return ``rows @ matrix + offset`` in float64, as a dense layer.

    Parameters
    ----------
    rows : tensor of shape (n, n_in)
    matrix : array-like of shape (n_in, n_out)
    offset : array-like of shape (n_out,), optional
    name : str
        The layer's.
    """
    from keras import layers

    kernel = np.asarray(matrix, dtype=np.float64)
    layer = layers.Dense(
        kernel.shape[1], use_bias=offset is not None, dtype="float64", trainable=False, name=name
    )
    made = layer(rows)
    layer.set_weights([kernel] if offset is None else [kernel, np.asarray(offset, dtype=np.float64)])
    return made


def scaled(rows: Tensor, scaler: Any) -> Tensor:
    """Return rows as a fitted `StandardScaler` or `Normalizer` of ours scales them, in float64."""
    from keras import ops

    wide = ops.cast(rows, "float64")
    if hasattr(scaler, "scale_"):
        return ops.divide(ops.subtract(wide, scaler.mean_), scaler.scale_)
    return unit_rows(wide)


def unit_rows(rows: Tensor, *, epsilon: float = float(np.finfo(np.float64).eps)) -> Tensor:
    """Return each row divided by its length; ``epsilon`` is that of what scikit-learn computes in."""
    from keras import ops

    length = ops.sqrt(ops.sum(ops.square(rows), axis=1, keepdims=True))
    return ops.divide(rows, ops.where(ops.less(length, _NEXT_TO_NOTHING * epsilon), 1.0, length))


def columns(rows: Tensor, numbers: Sequence[int]) -> Tensor:
    """Return these columns of rows, in this order."""
    from keras import ops

    return ops.take(rows, list(numbers), axis=1)


def two_sides(score: Tensor) -> Tensor:
    """Return the probabilities of two classes, (n, 2), from the log odds of the second, (n, 1).

    Each by its own sigmoid: one less the other leaves nothing of a small one in float32.
    """
    from keras import ops

    return ops.concatenate([ops.sigmoid(ops.negative(score)), ops.sigmoid(score)], axis=1)


def log_sigmoid(score: Tensor) -> Tensor:
    """Return the logarithm of a sigmoid, from operations that every runtime has in float64."""
    from keras import ops

    decay = ops.exp(ops.negative(ops.absolute(score)))
    return ops.subtract(ops.minimum(score, 0.0), ops.log(ops.add(decay, 1.0)))


def at_temperature(probabilities: Tensor, temperature: float) -> Tensor:
    """Return probabilities (n, n_classes) as `classify.temperature.at_temperature` does."""
    from keras import ops

    from classify.temperature import SMALLEST

    if temperature == 1.0:
        return probabilities
    logs = ops.log(ops.maximum(probabilities, SMALLEST))
    return ops.softmax(ops.divide(logs, temperature), axis=1)
