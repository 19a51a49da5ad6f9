"""Graphs of heads from standard Keras layers and operations, and their common steps.

Everything computes in float64, as scikit-learn does, but is written to lose little precision in float32:
OpenVINO computes in float32 at most. Large constants are kernels of dense layers, which are saved as arrays;
constants of operations would be saved as text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from classify.heads.knn import MIN_DISTANCE

Tensor = Any  # keras.KerasTensor, which has no type annotations

_MIN_LENGTH = 10  # machine epsilons: shorter rows are not scaled, as in scikit-learn


def affine(rows: Tensor, matrix: npt.ArrayLike, offset: npt.ArrayLike | None = None, *, name: str) -> Tensor:
    """Return ``rows @ matrix + offset`` in float64, as a dense layer.

    Parameters
    ----------
    rows : tensor of shape (n, n_in)
    matrix : array-like of shape (n_in, n_out)
    offset : array-like of shape (n_out,), optional
    name : str
        Name of the layer.
    """
    from keras import layers

    kernel = np.asarray(matrix, dtype=np.float64)
    layer = layers.Dense(
        kernel.shape[1], use_bias=offset is not None, dtype="float64", trainable=False, name=name
    )
    outputs = layer(rows)
    layer.set_weights([kernel] if offset is None else [kernel, np.asarray(offset, dtype=np.float64)])
    return outputs


def scaled(rows: Tensor, scaler: Any) -> Tensor:
    """Return rows scaled by a fitted scaler of a head, standardising or to unit length, in float64."""
    from keras import ops

    wide = ops.cast(rows, "float64")
    if hasattr(scaler, "scale_"):
        return ops.divide(ops.subtract(wide, scaler.mean_), scaler.scale_)
    return unit_rows(wide)


def unit_rows(rows: Tensor, *, epsilon: float = float(np.finfo(np.float64).eps)) -> Tensor:
    """Return each row divided by its length; ``epsilon`` is that of scikit-learn's dtype."""
    from keras import ops

    length = ops.sqrt(ops.sum(ops.square(rows), axis=1, keepdims=True))
    return ops.divide(rows, ops.where(ops.less(length, _MIN_LENGTH * epsilon), 1.0, length))


def columns(rows: Tensor, numbers: Sequence[int]) -> Tensor:
    """Return the given columns, in this order."""
    from keras import ops

    return ops.take(rows, list(numbers), axis=1)


def binary_probabilities(score: Tensor) -> Tensor:
    """Return the probabilities of two classes, (n, 2), from the log-odds of the second, (n, 1).

    Each is a sigmoid of its own: 1 - p would lose a small probability in float32.
    """
    from keras import ops

    return ops.concatenate([ops.sigmoid(ops.negative(score)), ops.sigmoid(score)], axis=1)


def log_sigmoid(score: Tensor) -> Tensor:
    """Return the logarithm of a sigmoid, from operations that every runtime supports in float64."""
    from keras import ops

    decay = ops.exp(ops.negative(ops.absolute(score)))
    return ops.subtract(ops.minimum(score, 0.0), ops.log(ops.add(decay, 1.0)))


def at_temperature(probabilities: Tensor, temperature: float) -> Tensor:
    """Return temperature-scaled probabilities, as `classify.heads.solvers.temperature.apply_temperature`."""
    from keras import ops

    from classify.heads.solvers.temperature import MIN_PROBABILITY

    if temperature == 1.0:
        return probabilities
    logs = ops.log(ops.maximum(probabilities, MIN_PROBABILITY))
    return ops.softmax(ops.divide(logs, temperature), axis=1)


def logistic(head: Any, rows: Tensor, *, name: str) -> Tensor:
    """Return the class probabilities of a fitted `LogisticHead`.

    Parameters
    ----------
    head : fitted head
    rows : tensor of shape (n, n_features), float32
    name : str
        Prefix of the layer names.

    Returns
    -------
    tensor of shape (n, n_classes), float64
        Columns in the order of the head's `classes_`.
    """
    regression = head.pipeline_["classify"]
    return _from_scores(scaled(rows, head.pipeline_["scale"]), regression, temperature=1.0, name=name)


def lda(head: Any, rows: Tensor, *, name: str) -> Tensor:
    """Return the class probabilities of a fitted `LDAHead`."""
    analysis, scale = head.pipeline_["classify"], head.pipeline_["scale"]
    return _from_scores(scaled(rows, scale), analysis, temperature=head.temperature_, name=name)


def nearest_centroid(head: Any, rows: Tensor, *, name: str) -> Tensor:
    """Return the class probabilities of a fitted `NearestCentroidHead`.

    A squared distance is |z|² - 2 z·m + |m|². The first term is the same for all classes and cancels in the
    softmax, so the scores are linear.
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
    logits = affine(scaled(rows, head.scaler_), -repeated, thresholds, name=f"{name}_thresholds")
    p_below, p_above = ops.sigmoid(logits), ops.sigmoid(ops.negative(logits))  # (n_rows, n_classes - 1) each
    probabilities = [columns(p_below, [0])]
    if n > 1:
        between = ops.multiply(columns(p_below, range(1, n)), columns(p_above, range(n - 1)))
        probabilities.append(ops.multiply(between, -np.expm1(-np.diff(thresholds))))
    return ops.concatenate([*probabilities, columns(p_above, [n - 1])], axis=1)


def baseline(head: Any, rows: Tensor, *, name: str) -> Tensor:
    """Return the class priors of a fitted `BaselineHead`, the same for every row."""
    priors = np.asarray(head.classifier_.class_prior_)
    return affine(rows, np.zeros((rows.shape[1], len(priors))), priors, name=f"{name}_priors")


def _from_scores(rows: Tensor, fitted: Any, *, temperature: float, name: str) -> Tensor:
    """Return a linear classifier's class probabilities; with two classes it has one score, of the second."""
    from keras import ops

    scores = affine(
        rows, fitted.coef_.T / temperature, fitted.intercept_ / temperature, name=f"{name}_scores"
    )
    return binary_probabilities(scores) if len(fitted.coef_) == 1 else ops.softmax(scores, axis=1)


def dense(head: Any, rows: Tensor, *, name: str) -> Tensor:
    """Return the class probabilities of a fitted `DenseHead`."""
    import keras
    from keras import ops

    features = keras.Input(head.model_.input_shape[1:], dtype="float32", name=f"{name}_features")
    outputs = features
    for layer in head.model_.layers:
        outputs = _apply_layer(layer, outputs)
    network = keras.Model(features, outputs, name=name)
    probabilities = ops.cast(network(rows), "float64")
    if len(head.classes_) == 2:
        return ops.concatenate([ops.subtract(1.0, probabilities), probabilities], axis=1)
    return ops.divide(probabilities, ops.sum(probabilities, axis=1, keepdims=True))


def _apply_layer(layer: Any, rows: Tensor) -> Tensor:
    """Return the output of a layer for rows.

    A normalization layer is replaced by operations: it holds its constants as tensors, which would become
    inputs of the frozen TensorFlow graph.
    """
    import keras
    from keras import ops

    if not isinstance(layer, keras.layers.Normalization):
        return layer(rows)
    scale = np.maximum(np.sqrt(np.asarray(layer.variance)), np.float32(keras.config.epsilon()))
    return ops.divide(ops.subtract(rows, np.asarray(layer.mean)), scale)


_FLOAT32_EPS = float(np.finfo(np.float32).eps)  # scikit-learn's neighbour search computes in float32


def knn(head: Any, rows: Tensor, *, name: str) -> Tensor:
    """Return the class probabilities of a fitted `KNNHead`."""
    from keras import layers, ops

    n_classes, k = len(head.classes_), min(head.k, len(head.label_))
    train = np.asarray(_training_rows(head), dtype=np.float64)
    length = np.linalg.norm(train, axis=1, keepdims=True)
    train = train / np.where(length < _MIN_LENGTH * _FLOAT32_EPS, 1.0, length)
    unit = unit_rows(scaled(rows, head.scaler_), epsilon=_FLOAT32_EPS)
    cosines = affine(unit, train.T, name=f"{name}_rows")  # (n, n_rows)
    nearest, index = ops.top_k(cosines, k)
    vote = layers.Embedding(len(train), n_classes, dtype="float64", trainable=False, name=f"{name}_classes")
    votes = vote(index)  # (n, k, n_classes)
    vote.set_weights([np.eye(n_classes)[head.label_] * head.class_weight_])
    distance = ops.maximum(ops.subtract(1.0, nearest), MIN_DISTANCE)
    total = ops.sum(ops.divide(votes, ops.expand_dims(distance, -1)), axis=1)
    mean = ops.divide(total, ops.sum(total, axis=1, keepdims=True))
    return ops.divide(ops.add(ops.multiply(mean, float(k)), 1.0 / n_classes), k + 1.0)


def n_stored_values(head: Any) -> int:
    """Return the number of training values in the graph of a fitted `KNNHead`."""
    return int(_training_rows(head).size)


def _training_rows(head: Any) -> Any:
    return head.neighbours_._fit_X  # scikit-learn has no public name for it
