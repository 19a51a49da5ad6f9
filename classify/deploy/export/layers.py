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

from classify.heads.knn import MIN_DISTANCE

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
    """Return probabilities (n, n_classes) as `classify.heads.solvers.temperature.apply_temperature` does."""
    from keras import ops

    from classify.heads.solvers.temperature import MIN_PROBABILITY

    if temperature == 1.0:
        return probabilities
    logs = ops.log(ops.maximum(probabilities, MIN_PROBABILITY))
    return ops.softmax(ops.divide(logs, temperature), axis=1)


def logistic(head: Any, rows: Tensor, *, name: str) -> Tensor:
    """Return the class probabilities of a fitted `LogisticHead`; arguments as of every head's graph.

    Parameters
    ----------
    head : fitted head
    rows : tensor of shape (n, n_features), float32
    name : str
        Its layers' names begin with that.

    Returns
    -------
    tensor of shape (n, n_classes), float64
        Columns as in the head's `classes_`.
    """
    regression = head.pipeline_["classify"]
    return _from_scores(scaled(rows, head.pipeline_["scale"]), regression, temperature=1.0, name=name)


def lda(head: Any, rows: Tensor, *, name: str) -> Tensor:
    """Return the class probabilities of a fitted `LDAHead`."""
    analysis, scale = head.pipeline_["classify"], head.pipeline_["scale"]
    return _from_scores(scaled(rows, scale), analysis, temperature=head.temperature_, name=name)


def nearest_centroid(head: Any, rows: Tensor, *, name: str) -> Tensor:
    """Return the class probabilities of a fitted `NearestCentroidHead`.

    Of a squared distance, |z|² - 2 z·m + |m|², the first term is the same for all classes, and a softmax does
    not see it: what is left is linear.
    """
    from keras import ops

    means, sharpness = head.means_, head.sharpness_
    scores = affine(
        scaled(rows, head.scaler_),
        2.0 * sharpness * means.T,
        -sharpness * np.sum(means**2, axis=1),
        name=f"{name}_scores",
    )
    return ops.softmax(scores, axis=1)


def ordinal_logistic(head: Any, rows: Tensor, *, name: str) -> Tensor:
    """Return the class probabilities of a fitted `OrdinalLogisticHead`."""
    from keras import ops

    thresholds = head.thresholds_
    n = len(thresholds)
    repeated = np.repeat(head.coef_[:, None], n, axis=1)
    above = affine(scaled(rows, head.scaler_), -repeated, thresholds, name=f"{name}_thresholds")
    below_it, above_it = ops.sigmoid(above), ops.sigmoid(ops.negative(above))  # (n_rows, n_classes - 1) each
    shares = [columns(below_it, [0])]
    if n > 1:
        between = ops.multiply(columns(below_it, range(1, n)), columns(above_it, range(n - 1)))
        shares.append(ops.multiply(between, -np.expm1(-np.diff(thresholds))))
    return ops.concatenate([*shares, columns(above_it, [n - 1])], axis=1)


def baseline(head: Any, rows: Tensor, *, name: str) -> Tensor:
    """Return the class shares of a fitted `BaselineHead`, whatever the rows."""
    shares = np.asarray(head.classifier_.class_prior_)
    return affine(rows, np.zeros((rows.shape[1], len(shares))), shares, name=f"{name}_shares")


def _from_scores(rows: Tensor, fitted: Any, *, temperature: float, name: str) -> Tensor:
    """Return the softmax of a linear classifier's scores; of two classes it has only the second one's."""
    from keras import ops

    scores = affine(
        rows, fitted.coef_.T / temperature, fitted.intercept_ / temperature, name=f"{name}_scores"
    )
    return two_sides(scores) if len(fitted.coef_) == 1 else ops.softmax(scores, axis=1)


def dense(head: Any, rows: Tensor, *, name: str) -> Tensor:
    """Return the class probabilities of a fitted `DenseHead`; arguments as `linear.logistic`."""
    import keras
    from keras import ops

    features = keras.Input(head.model_.input_shape[1:], dtype="float32", name=f"{name}_features")
    reached = features
    for layer in head.model_.layers:
        reached = _layer(layer, reached)
    network = keras.Model(features, reached, name=name)
    said = ops.cast(network(rows), "float64")
    if len(head.classes_) == 2:
        return ops.concatenate([ops.subtract(1.0, said), said], axis=1)
    return ops.divide(said, ops.sum(said, axis=1, keepdims=True))


def _layer(layer: Any, rows: Tensor) -> Tensor:
    """Return what a layer of the network makes of rows.

    Standardising is written out: the layer holds its numbers as tensors, which TensorFlow takes for further
    inputs of a graph that is frozen.
    """
    import keras
    from keras import ops

    if not isinstance(layer, keras.layers.Normalization):
        return layer(rows)
    scale = np.maximum(np.sqrt(np.asarray(layer.variance)), np.float32(keras.config.epsilon()))
    return ops.divide(ops.subtract(rows, np.asarray(layer.mean)), scale)


_FLOAT32 = float(np.finfo(np.float32).eps)  # of the rows that scikit-learn compares


def knn(head: Any, rows: Tensor, *, name: str) -> Tensor:
    """Return the class probabilities of a fitted `KNNHead`; arguments as `linear.logistic`."""
    from keras import layers, ops

    n_classes, k = len(head.classes_), min(head.k, len(head.label_))
    kept = np.asarray(_training_rows(head), dtype=np.float64)
    length = np.linalg.norm(kept, axis=1, keepdims=True)
    kept = kept / np.where(length < 10 * _FLOAT32, 1.0, length)
    given = unit_rows(scaled(rows, head.scaler_), epsilon=_FLOAT32)
    cosines = affine(given, kept.T, name=f"{name}_rows")  # (n, n_rows)
    nearest, found = ops.top_k(cosines, k)
    vote = layers.Embedding(len(kept), n_classes, dtype="float64", trainable=False, name=f"{name}_classes")
    votes = vote(found)  # (n, k, n_classes)
    vote.set_weights([np.eye(n_classes)[head.label_] * head.class_weight_])
    distance = ops.maximum(ops.subtract(1.0, nearest), MIN_DISTANCE)
    total = ops.sum(ops.divide(votes, ops.expand_dims(distance, -1)), axis=1)
    shares = ops.divide(total, ops.sum(total, axis=1, keepdims=True))
    return ops.divide(ops.add(ops.multiply(shares, float(k)), 1.0 / n_classes), k + 1.0)


def kept_numbers(head: Any) -> int:
    """Return how many numbers the graph of a fitted `KNNHead` keeps."""
    return int(_training_rows(head).size)


def _training_rows(head: Any) -> Any:
    return head.neighbours_._fit_X  # scikit-learn has no public name for them
