"""Graphs of support vector machines: kernels, pairwise decisions, votes, calibrated probabilities."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
from sklearn.svm import SVC

from classify.deploy.export.layers import Tensor, affine, binary_probabilities, columns, log_sigmoid, scaled
from featurize.base.typing import Float64Array

_LOG_SMALLEST = -745.13  # below it a sigmoid is 0 in float64


def svm(head: Any, rows: Tensor, *, name: str) -> Tensor:
    """Return the class probabilities of a fitted `SVMHead`; parameters as in `layers.logistic`.

    As in `CalibratedClassifierCV`: a sigmoid of each decision, scaled to sum to one. It is computed from
    logarithms, which do not underflow in float32. If all sigmoids are 0 in float64, all classes have the
    same probability.
    """
    from keras import ops

    (calibrated,) = head.classifier_.calibrated_classifiers_
    decisions = _decisions(calibrated.estimator, rows, name=name)
    slope = -np.array([sigmoid.a_ for sigmoid in calibrated.calibrators])
    offset = -np.array([sigmoid.b_ for sigmoid in calibrated.calibrators])
    log_odds = affine(decisions, np.diag(slope), offset, name=f"{name}_calibration")
    if len(slope) == 1:
        return binary_probabilities(log_odds)
    logs = log_sigmoid(log_odds)
    is_positive = ops.greater(ops.max(logs, axis=1, keepdims=True), _LOG_SMALLEST)
    return ops.where(is_positive, ops.softmax(logs, axis=1), 1.0 / len(slope))


def ordinal_svm(head: Any, rows: Tensor, *, name: str) -> Tensor:
    """Return the class probabilities of a fitted `OrdinalSVMHead`."""
    from keras import ops

    binary = [svm(machine, rows, name=f"{name}_above_{k + 1}") for k, machine in enumerate(head.machines_)]
    if len(binary) == 1:
        return binary[0]
    exceedance = ops.concatenate([columns(each, [1]) for each in binary], axis=1)  # P(y > k)
    above = isotonic_nonincreasing(exceedance, name=name)
    first = ops.subtract(1.0, columns(above, [0]))
    last = len(binary) - 1
    middle = ops.subtract(columns(above, range(last)), columns(above, range(1, last + 1)))
    probabilities = ops.concatenate([first, middle, columns(above, [last])], axis=1)
    probabilities = ops.maximum(probabilities, head.floor_)
    return ops.divide(probabilities, ops.sum(probabilities, axis=1, keepdims=True))


def isotonic_nonincreasing(above: Tensor, *, name: str) -> Tensor:
    """Return the nearest non-increasing rows, as `classify.heads.ordinal_svm.isotonic_nonincreasing`.

    Value k of a non-increasing isotonic regression is the minimum over i <= k of the maximum over j >= k of
    the mean from i to j: Robertson, Wright & Dykstra, "Order restricted statistical inference", 1988, 1.4.
    """
    from keras import ops

    n = above.shape[1]
    spans = [(i, j) for i in range(n) for j in range(i, n)]
    column_of = {span: column for column, span in enumerate(spans)}
    number = np.arange(n)[:, None]
    first, last = np.array(spans).T
    mean = ((number >= first) & (number <= last)) / (last - first + 1.0)  # (n, n_spans)
    means = affine(above, mean, name=f"{name}_means")
    values = []
    for k in range(n):
        around_k = [[column_of[i, j] for j in range(k, n)] for i in range(k + 1)]
        values.append(ops.min(ops.max(ops.take(means, around_k, axis=1), axis=2), axis=1, keepdims=True))
    return ops.concatenate(values, axis=1)


def n_stored_values(head: Any) -> int:
    """Return the number of training values in the graph of a fitted `SVMHead` or `OrdinalSVMHead`."""
    return sum(
        _n_kernel_values(machine.classifier_.calibrated_classifiers_[0].estimator)
        for machine in getattr(head, "machines_", [head])
    )


def _n_kernel_values(pipeline: Any) -> int:
    if "map" in pipeline.named_steps:
        return int(pipeline["map"].components_.size)
    classifier = pipeline["classify"]
    return int(classifier.support_vectors_.size) if getattr(classifier, "kernel", "linear") == "rbf" else 0


def _decisions(pipeline: Any, rows: Tensor, *, name: str) -> Tensor:
    """Return the decision function of a fitted pipeline: (n, n_classes), or (n, 1) for two classes."""
    rows = scaled(rows, pipeline["scale"])
    classifier = pipeline["classify"]
    if "map" in pipeline.named_steps:  # a linear classifier on Nyström features
        nystroem = pipeline["map"]
        kernel = _rbf(rows, nystroem.components_, gamma=nystroem.gamma, name=name)
        rows = affine(kernel, nystroem.normalization_.T, name=f"{name}_features")
    if not isinstance(classifier, SVC):
        return affine(rows, classifier.coef_.T, classifier.intercept_, name=f"{name}_decisions")
    if classifier.kernel == "linear":
        matrix = classifier.coef_.T
    else:
        rows = _rbf(rows, classifier.support_vectors_, gamma=classifier.gamma, name=name)
        matrix = pair_weights(classifier)
    pairs = affine(rows, matrix, classifier.intercept_, name=f"{name}_pairs")
    n_classes = len(classifier.classes_)
    return pairs if n_classes == 2 else _votes(pairs, n_classes=n_classes, name=name)


def pair_weights(classifier: SVC) -> Float64Array:
    """Return the weight of each support vector in the decision of each pair of classes, (n_support, n_pairs).

    In `dual_coef_`, the rows of a vector are its weights against the other classes, in their order.
    """
    n_classes = len(classifier.classes_)
    if n_classes == 2:
        return np.asarray(classifier.dual_coef_).T
    ends = np.cumsum(classifier.n_support_)
    of_class = [slice(end - n, end) for n, end in zip(classifier.n_support_, ends, strict=True)]
    pairs = list(combinations(range(n_classes), 2))
    weights = np.zeros((ends[-1], len(pairs)))
    for number, (i, j) in enumerate(pairs):
        weights[of_class[i], number] = classifier.dual_coef_[j - 1, of_class[i]]
        weights[of_class[j], number] = classifier.dual_coef_[i, of_class[j]]
    return weights


def _rbf(rows: Tensor, vectors: Float64Array, *, gamma: float, name: str) -> Tensor:
    """Return the RBF kernel of each row with each vector: (n, n_vectors), float64.

    Rows and vectors are centred at the mean of the vectors. Distances stay the same, and shorter rows lose
    less precision when their squares are subtracted.
    """
    from keras import ops

    centre = vectors.mean(axis=0)
    centred, centred_vectors = ops.subtract(rows, centre), vectors - centre
    products = affine(
        centred,
        -2.0 * centred_vectors.T,
        np.sum(centred_vectors**2, axis=1),
        name=f"{name}_support_vectors",
    )
    squares = ops.sum(ops.square(centred), axis=1, keepdims=True)
    distances = ops.maximum(ops.add(products, squares), 0.0)
    return ops.exp(ops.multiply(distances, -float(gamma)))


def _votes(pairs: Tensor, *, n_classes: int, name: str) -> Tensor:
    """Return the votes for each class, (n, n_classes), plus a term below 1 that breaks ties.

    As scikit-learn's ``_ovr_decision_function``: a pair's decision of 0 or more is a vote for its first
    class, and ties are broken by the sums of decisions.
    """
    from keras import ops

    order = list(combinations(range(n_classes), 2))
    first = np.array([[float(i == k) for k in range(n_classes)] for i, _ in order])  # (n_pairs, n_classes)
    second = np.array([[float(j == k) for k in range(n_classes)] for _, j in order])
    lost = ops.cast(ops.less(pairs, 0.0), "float64")
    votes = affine(lost, second - first, first.sum(axis=0), name=f"{name}_votes")
    sums = affine(pairs, first - second, name=f"{name}_sums")
    ties = ops.divide(sums, ops.multiply(ops.add(ops.absolute(sums), 1.0), 3.0))
    return ops.add(votes, ties)
