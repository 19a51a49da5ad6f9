"""Support vector machines for ordered classes: one at each threshold between them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.optimize import isotonic_regression
from sklearn.utils.class_weight import compute_class_weight

from classify.data.blocks import RowStream
from classify.heads.base import BaseHead, require_two_classes
from classify.heads.grouping import groups_per_class, require_two_groups, resolve_groups, rows_by_image
from classify.heads.svm import SVMHead
from classify.heads.svm_search import solve_together
from featurize.base.typing import Float64Array


class OrdinalSVMHead(BaseHead):
    """SVMs that tell the classes above each threshold from those below. Labels ascend with the grade.

    Each is an `SVMHead` with its calibrated probability of lying above. Where that of a higher threshold is
    larger than that of a lower one, which cannot be, isotonic regression puts the nearest probabilities in
    their place that never rise. Their differences are the classes' probabilities; with three classes or more
    none is below 1 / (images + 2), as little as Platt's targets let a sigmoid learn: a class between levelled
    thresholds would have 0. Two classes make it `SVMHead` itself.

    Parameters
    ----------
    kernel : {"linear", "rbf"}, default="rbf"
    C, gamma_factor, scaling, n_folds, solver, tol, max_iter, seed
        Of each machine, as in `SVMHead`.
    class_weight : {None, "balanced"} or dict, default=None
        The classes above a threshold weigh their mean together, and so do those below.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    machines_ : list of SVMHead
        Of each threshold, from the lowest.
    floor_ : float
        The least probability of a class, before they are scaled to sum to one.
    n_folds_, n_iter_, converged_, notes_
        As in `SVMHead`, over all of them.

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
        """Fit each threshold's machine on all rows, its probabilities on grouped splits of them.

        Parameters
        ----------
        X : ndarray of shape (n_rows, n_features)
            Unscaled features.
        y : ndarray of shape (n_rows,)
            Ascending with the grade.
        groups, image : ndarray of shape (n_rows,), optional
            What no calibration split may part; by default each image, by default each row.

        Raises
        ------
        CompareError
            If there is one class only, or a class has a single group.
        """
        X, y = self._check_fit(X, y, dtype=np.float64)
        require_two_classes(self.classes_)
        groups, image = resolve_groups(len(y), groups, image)
        for label, n_groups in groups_per_class(y, groups).items():
            require_two_groups(label, n_groups)
        self.machines_ = [
            machine.fit(X, side, groups=groups, image=image) for machine, side in _thresholds(self, y)
        ]
        self._settle(n_images=len(rows_by_image(image).plain))
        return self

    def fit_stream(self, rows: RowStream) -> OrdinalSVMHead:
        """Fit on rows that stay on disk, each threshold's machine as `SVMHead.fit_stream` does."""
        self._check_stream(rows)
        for label, n_groups in groups_per_class(rows.y, rows.groups).items():
            require_two_groups(label, n_groups)
        self.machines_ = [
            machine.fit_stream(rows.with_labels(side)) for machine, side in _thresholds(self, rows.y)
        ]
        self._settle(n_images=int(rows.is_plain.sum()))
        return self

    def _settle(self, *, n_images: int) -> None:
        self.floor_ = 1.0 / (n_images + 2.0) if len(self.classes_) > 2 else 0.0
        self.n_folds_ = min(machine.n_folds_ for machine in self.machines_)
        self.n_iter_ = max(machine.n_iter_ for machine in self.machines_)
        self.converged_ = all(machine.converged_ for machine in self.machines_)
        self.notes_ = self.machines_[0].notes_

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return the class probabilities: (n_rows, n_classes), float64, columns as in `classes_`."""
        X = self._check_predict(X, dtype=np.float64)
        above = np.column_stack([machine.predict_proba(X)[:, 1] for machine in self.machines_])
        return class_shares(isotonic_nonincreasing(above), floor=self.floor_)


def isotonic_nonincreasing(above: Float64Array) -> Float64Array:
    """Return the nearest rows that never rise, by squared differences: isotonic regression of each."""
    nearest = above.copy()
    for row in np.flatnonzero((np.diff(above, axis=1) > 0).any(axis=1)):
        nearest[row] = isotonic_regression(above[row], increasing=False).x
    return nearest


def class_shares(above: Float64Array, *, floor: float) -> Float64Array:
    """Return class probabilities (n_rows, n_classes) from those of lying above each threshold, falling."""
    ends = np.ones((len(above), 1)), np.zeros((len(above), 1))
    shares = np.maximum(-np.diff(np.hstack([ends[0], above, ends[1]]), axis=1), floor)
    return shares / shares.sum(axis=1, keepdims=True)


def fold_predictions(
    heads: Sequence[OrdinalSVMHead],
    X_fit: np.ndarray,
    y_fit: np.ndarray,
    X_score: np.ndarray,
    *,
    soft: bool = False,
) -> list[np.ndarray]:
    """Return each head's predictions on `X_score` after a fit on the other rows, before calibration.

    The decision for a class is the sum of the decisions at the thresholds below it, so that one at odds with
    the rest is outvoted; where they fall as they should, the largest is that of the class between them.

    Parameters
    ----------
    heads : sequence of OrdinalSVMHead
        They stay unfitted, and share kernels over C and thresholds.
    X_fit, X_score : ndarray of shape (n_fit, n_features) and (n_score, n_features)
        Unscaled features.
    y_fit : ndarray of shape (n_fit,)
    soft : bool, default=False
        Whether decisions are wanted, one column a class, not classes.

    Returns
    -------
    list of ndarray of shape (n_score,), or (n_score, n_classes)
        In the order of the heads.
    """
    classes = np.unique(y_fit)
    by_head = [_thresholds(head, y_fit) for head in heads]
    problems = [
        ([thresholds[k][0] for thresholds in by_head], by_head[0][k][1]) for k in range(len(classes) - 1)
    ]
    found = solve_together(problems, X_fit, X_score, soft=True)  # [threshold][head]: (n_score, 2)
    predictions = []
    for parts in zip(*found, strict=True):
        decisions = np.column_stack([np.zeros(len(X_score)), *(part[:, 1] for part in parts)]).cumsum(axis=1)
        predictions.append(decisions if soft else classes[np.argmax(decisions, axis=1)])
    return predictions


def _thresholds(head: OrdinalSVMHead, y: np.ndarray) -> list[tuple[SVMHead, npt.NDArray[np.int64]]]:
    """Return for each threshold an unfitted machine, and which rows lie above it (1) or not (0)."""
    classes, label = np.unique(y, return_inverse=True)
    counts = np.bincount(label)
    weight = compute_class_weight(head.class_weight, classes=classes, y=y)
    found = []
    for k in range(1, len(classes)):
        means = [np.average(weight[part], weights=counts[part]) for part in (slice(k), slice(k, None))]
        sides = None if head.class_weight is None else {0: float(means[0]), 1: float(means[1])}
        machine = SVMHead(**{**head.get_params(), "class_weight": sides})
        found.append((machine, (label >= k).astype(np.int64)))
    return found
