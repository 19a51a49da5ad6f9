"""Nearest neighbours: the training rows lie in the graph."""

from __future__ import annotations

from typing import Any

import numpy as np

from classify.exporting.steps import Tensor, affine, scaled, unit_rows
from classify.heads.neighbours import NEAREST

_FLOAT32 = float(np.finfo(np.float32).eps)  # of the rows that scikit-learn compares


def neighbours(head: Any, rows: Tensor, *, name: str) -> Tensor:
    """Return the class probabilities of a fitted `NeighboursHead`; arguments as `linear.logistic`."""
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
    distance = ops.maximum(ops.subtract(1.0, nearest), NEAREST)
    total = ops.sum(ops.divide(votes, ops.expand_dims(distance, -1)), axis=1)
    shares = ops.divide(total, ops.sum(total, axis=1, keepdims=True))
    return ops.divide(ops.add(ops.multiply(shares, float(k)), 1.0 / n_classes), k + 1.0)


def kept_numbers(head: Any) -> int:
    """Return how many numbers the graph of a fitted `NeighboursHead` keeps."""
    return int(_training_rows(head).size)


def _training_rows(head: Any) -> Any:
    return head.neighbours_._fit_X  # scikit-learn has no public name for them
