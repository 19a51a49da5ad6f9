"""Support vector machines: votes of pairs, sigmoids of them, shares; kernels as distances in the graph."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
from sklearn.svm import SVC

from classify.deploy.export.layers import Tensor, affine, columns, log_sigmoid, scaled, two_sides
from featurize.base.typing import Float64Array

_LOG_OF_NOTHING = -745.13  # below it a sigmoid is 0 in float64


def svm(head: Any, rows: Tensor, *, name: str) -> Tensor:
    """Return the class probabilities of a fitted `SVMHead`; arguments as `linear.logistic`.

    A sigmoid of each decision, scaled to sum to one: what `CalibratedClassifierCV` does. It is computed from
    logarithms, which float32 has room for, and where all sigmoids are 0 in float64 every class has the same.
    """
    from keras import ops

    (calibrated,) = head.classifier_.calibrated_classifiers_
    decisions = _decisions(calibrated.estimator, rows, name=name)
    slope = -np.array([one.a_ for one in calibrated.calibrators])
    offset = -np.array([one.b_ for one in calibrated.calibrators])
    odds = affine(decisions, np.diag(slope), offset, name=f"{name}_calibration")
    if len(slope) == 1:
        return two_sides(odds)
    logs = log_sigmoid(odds)
    known = ops.greater(ops.max(logs, axis=1, keepdims=True), _LOG_OF_NOTHING)
    return ops.where(known, ops.softmax(logs, axis=1), 1.0 / len(slope))


def ordinal_svm(head: Any, rows: Tensor, *, name: str) -> Tensor:
    """Return the class probabilities of a fitted `OrdinalSVMHead`."""
    from keras import ops

    sides = [svm(one, rows, name=f"{name}_above_{k + 1}") for k, one in enumerate(head.machines_)]
    if len(sides) == 1:
        return sides[0]
    above = isotonic_nonincreasing(ops.concatenate([columns(one, [1]) for one in sides], axis=1), name=name)
    first = ops.subtract(1.0, columns(above, [0]))
    last = len(sides) - 1
    middle = ops.subtract(columns(above, range(last)), columns(above, range(1, last + 1)))
    shares = ops.concatenate([first, middle, columns(above, [last])], axis=1)
    shares = ops.maximum(shares, head.floor_)
    return ops.divide(shares, ops.sum(shares, axis=1, keepdims=True))


def isotonic_nonincreasing(above: Tensor, *, name: str) -> Tensor:
    """Return the nearest rows that never rise, as `classify.heads.ordinal_svm.isotonic_nonincreasing` does.

    The k-th number of a falling isotonic regression is the least over i <= k of the largest over j >= k of
    the means from i to j: Robertson, Wright & Dykstra, "Order restricted statistical inference", 1988, 1.4.
    """
    from keras import ops

    n = above.shape[1]
    spans = [(i, j) for i in range(n) for j in range(i, n)]
    place = {span: number for number, span in enumerate(spans)}
    number = np.arange(n)[:, None]
    first, last = np.array(spans).T
    mean = ((number >= first) & (number <= last)) / (last - first + 1.0)  # (n, n_spans)
    means = affine(above, mean, name=f"{name}_means")
    found = []
    for k in range(n):
        wanted = [[place[i, j] for j in range(k, n)] for i in range(k + 1)]
        found.append(ops.min(ops.max(ops.take(means, wanted, axis=1), axis=2), axis=1, keepdims=True))
    return ops.concatenate(found, axis=1)


def kept_numbers(head: Any) -> int:
    """Return how many numbers the graph of a fitted `SVMHead` or `OrdinalSVMHead` keeps for its kernels."""
    return sum(
        kept.size
        for one in getattr(head, "machines_", [head])
        for kept in _kept(one.classifier_.calibrated_classifiers_[0].estimator)
    )


def _kept(pipeline: Any) -> list[Float64Array]:
    if "map" in pipeline.named_steps:
        return [pipeline["map"].components_]
    classifier = pipeline["classify"]
    return [classifier.support_vectors_] if getattr(classifier, "kernel", "linear") == "rbf" else []


def _decisions(pipeline: Any, rows: Tensor, *, name: str) -> Tensor:
    """Return a fitted pipeline's decision function: (n, n_classes), or (n, 1) of two classes."""
    rows = scaled(rows, pipeline["scale"])
    classifier = pipeline["classify"]
    if "map" in pipeline.named_steps:  # then the machine is linear on Nyström's features
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
    """Return what each support vector weighs in each pair's decision, (n_support, n_pairs).

    scikit-learn keeps a vector's weights against the other classes in the order of these.
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

    Rows and vectors are moved together to where the vectors' mean is 0, which no distance notices: the
    shorter they are, the less is lost when their squares are subtracted.
    """
    from keras import ops

    centre = vectors.mean(axis=0)
    moved, kept = ops.subtract(rows, centre), vectors - centre
    products = affine(moved, -2.0 * kept.T, np.sum(kept**2, axis=1), name=f"{name}_support_vectors")
    squares = ops.sum(ops.square(moved), axis=1, keepdims=True)
    distances = ops.maximum(ops.add(products, squares), 0.0)
    return ops.exp(ops.multiply(distances, -float(gamma)))


def _votes(pairs: Tensor, *, n_classes: int, name: str) -> Tensor:
    """Return the votes for each class, (n, n_classes), and what the sums of decisions add to break ties.

    A pair's decision above 0 is a vote for its first class; as scikit-learn's ``_ovr_decision_function``.
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
