"""Support vector machines for ordered classes: one binary SVM per threshold between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy.optimize import isotonic_regression
from sklearn.utils.class_weight import compute_class_weight

from classify.heads.base import BaseHead, require_two_classes
from classify.heads.grouping import groups_per_class, require_two_groups, resolve_groups, rows_by_image
from classify.heads.svm import SVMHead
from classify.heads.svm_search import solve_together
from featurize.base.typing import Float64Array

if TYPE_CHECKING:
    from classify.data.blocks import RowStream


class OrdinalSVMHead(BaseHead):
    """One binary SVM per threshold: the classes above it against those below (Frank & Hall).

    Labels ascend from the worst class to the best. Each SVM is an `SVMHead` with a calibrated probability of
    lying above its threshold. These probabilities must not increase from one threshold to the next; where
    they do, isotonic regression replaces them by the nearest nonincreasing ones. Their differences are the
    class probabilities. A class between two equal values would have probability 0; therefore, with three or
    more classes, no probability is below 1 / (n_images + 2), the smallest target of Platt scaling. With two
    classes the predictions equal those of `SVMHead`.

    Parameters
    ----------
    kernel : {"linear", "rbf"}, default="rbf"
    C, gamma_factor, scaling, n_folds, solver, tol, max_iter, seed
        As in `SVMHead`, for each SVM.
    class_weight : {None, "balanced"} or dict, default=None
        Each side of a threshold has the mean weight of its rows.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    machines_ : list of SVMHead
        SVM of each threshold, from the lowest to the highest.
    floor_ : float
        Lower bound of a class probability, before the probabilities are scaled to sum to one.
    n_folds_, n_iter_, converged_, notes_
        As in `SVMHead`: smallest number of folds, largest number of iterations, whether all SVMs converged,
        notes of the first SVM.

    References
    ----------
    Frank & Hall, "A simple approach to ordinal classification", 2001.
    Isotonic regression: Robertson, Wright & Dykstra, "Order restricted statistical inference", 1988.
    """

    FITTED = BaseHead.FITTED | {
        "machines_": list[SVMHead],
        "floor_": float,
        "n_folds_": int,
        "n_iter_": int,
        "converged_": bool,
    }

    def __init__(
        self,
        *,
        kernel: str = "rbf",
        C: float = 1.0,
        gamma_factor: float = 1.0,
        scaling: str = "standardise",
        class_weight: str | dict | None = None,
        n_folds: int = 5,
        solver: str = "auto",
        tol: float = 1e-6,
        max_iter: int = 5_000_000,
        seed: int = 0,
    ) -> None:
        self.kernel = kernel
        self.C = C
        self.gamma_factor = gamma_factor
        self.scaling = scaling
        self.class_weight = class_weight
        self.n_folds = n_folds
        self.solver = solver
        self.tol = tol
        self.max_iter = max_iter
        self.seed = seed

    def fit(
        self,
        X: np.ndarray,
        y: np.ndarray,
        *,
        groups: np.ndarray | None = None,
        image: np.ndarray | None = None,
    ) -> OrdinalSVMHead:
        """Fit the SVM of each threshold on all rows, and calibrate it on grouped folds of them.

        Parameters
        ----------
        X : ndarray of shape (n_rows, n_features)
            Unscaled features.
        y : ndarray of shape (n_rows,)
            Labels, ascending from the worst class to the best.
        groups, image : ndarray of shape (n_rows,), optional
            Group and image of each row; no fold splits a group. By default each image is a group, and each
            row an image.

        Raises
        ------
        CompareError
            If there is only one class, or a class has a single group.
        """
        X, y = self._check_fit(X, y, dtype=np.float64)
        require_two_classes(self.classes_)
        groups, image = resolve_groups(len(y), groups, image)
        for label, n_groups in groups_per_class(y, groups).items():
            require_two_groups(label, n_groups)
        self.machines_ = [
            svm.fit(X, above, groups=groups, image=image) for svm, above in _binary_problems(self, y)
        ]
        self._set_summary(n_images=len(rows_by_image(image).plain))
        return self

    def fit_stream(self, rows: RowStream) -> OrdinalSVMHead:
        """Fit on rows that stay on disk: the SVM of each threshold with `SVMHead.fit_stream`."""
        self._check_stream(rows)
        for label, n_groups in groups_per_class(rows.y, rows.groups).items():
            require_two_groups(label, n_groups)
        self.machines_ = [
            svm.fit_stream(rows.with_labels(above)) for svm, above in _binary_problems(self, rows.y)
        ]
        self._set_summary(n_images=int(rows.is_plain.sum()))
        return self

    def _set_summary(self, *, n_images: int) -> None:
        """Set the fitted attributes that summarise all SVMs."""
        self.floor_ = 1.0 / (n_images + 2.0) if len(self.classes_) > 2 else 0.0
        self.n_folds_ = min(svm.n_folds_ for svm in self.machines_)
        self.n_iter_ = max(svm.n_iter_ for svm in self.machines_)
        self.converged_ = all(svm.converged_ for svm in self.machines_)
        self.notes_ = self.machines_[0].notes_

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return the class probabilities: (n_rows, n_classes), float64, columns as in `classes_`."""
        X = self._check_predict(X, dtype=np.float64)
        above = np.column_stack([svm.predict_proba(X)[:, 1] for svm in self.machines_])
        return class_probabilities(isotonic_nonincreasing(above), floor=self.floor_)


def isotonic_nonincreasing(above: Float64Array) -> Float64Array:
    """Return the nearest nonincreasing rows, in the least-squares sense: isotonic regression of each row."""
    nearest = above.copy()
    for row in np.flatnonzero((np.diff(above, axis=1) > 0).any(axis=1)):
        nearest[row] = isotonic_regression(above[row], increasing=False).x
    return nearest


def class_probabilities(above: Float64Array, *, floor: float) -> Float64Array:
    """Return the class probabilities.

    Parameters
    ----------
    above : ndarray of shape (n_rows, n_classes - 1), float64
        Probability of lying above each threshold; the values of a row do not increase.
    floor : float
        Lower bound of a probability, before each row is scaled to sum to one.

    Returns
    -------
    ndarray of shape (n_rows, n_classes), float64
    """
    ones, zeros = np.ones((len(above), 1)), np.zeros((len(above), 1))
    probabilities = np.maximum(-np.diff(np.hstack([ones, above, zeros]), axis=1), floor)
    return probabilities / probabilities.sum(axis=1, keepdims=True)


def fold_predictions(
    heads: Sequence[OrdinalSVMHead],
    X_fit: np.ndarray,
    y_fit: np.ndarray,
    X_score: np.ndarray,
    *,
    soft: bool = False,
) -> list[np.ndarray]:
    """Fit each head on the rows of a fold, without calibration, and predict the scored rows.

    The decision for a class is the sum of the decisions at the thresholds below it, so that a single
    contradicting SVM is outvoted. If the decisions decrease from one threshold to the next, as they should,
    the class between the last positive and the first negative decision has the largest sum.

    Parameters
    ----------
    heads : sequence of OrdinalSVMHead
        They stay unfitted, and share kernels over C and thresholds.
    X_fit, X_score : ndarray of shape (n_fit, n_features) and (n_score, n_features)
        Unscaled features.
    y_fit : ndarray of shape (n_fit,)
    soft : bool, default=False
        Return decisions, one column per class, instead of classes.

    Returns
    -------
    list of ndarray of shape (n_score,), or (n_score, n_classes) if `soft`
        In the order of the heads.
    """
    classes = np.unique(y_fit)
    by_head = [_binary_problems(head, y_fit) for head in heads]
    problems = [
        ([thresholds[k][0] for thresholds in by_head], by_head[0][k][1]) for k in range(len(classes) - 1)
    ]
    decisions = solve_together(problems, X_fit, X_score, soft=True)  # [threshold][head]: (n_score, 2)
    predictions = []
    for head_decisions in zip(*decisions, strict=True):
        above = (columns[:, 1] for columns in head_decisions)
        sums = np.column_stack([np.zeros(len(X_score)), *above]).cumsum(axis=1)
        predictions.append(sums if soft else classes[np.argmax(sums, axis=1)])
    return predictions


def _binary_problems(head: OrdinalSVMHead, y: np.ndarray) -> list[tuple[SVMHead, npt.NDArray[np.int64]]]:
    """Return, per threshold, an unfitted SVM and the labels: 1 for rows above the threshold, 0 below."""
    classes, label = np.unique(y, return_inverse=True)
    counts = np.bincount(label)
    weight = compute_class_weight(head.class_weight, classes=classes, y=y)
    problems = []
    for k in range(1, len(classes)):
        means = [np.average(weight[side], weights=counts[side]) for side in (slice(k), slice(k, None))]
        class_weight = None if head.class_weight is None else {0: float(means[0]), 1: float(means[1])}
        svm = SVMHead(**{**head.get_params(), "class_weight": class_weight})
        problems.append((svm, (label >= k).astype(np.int64)))
    return problems
