"""Proportional-odds logistic regression for ordered classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from sklearn.base import TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.class_weight import compute_class_weight
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from classify.heads.base import (
    SCALERS,
    PenalizedHead,
    make_scaler,
    require_two_classes,
    streamed_note,
)
from classify.heads.scoring import regularization_path
from classify.heads.solvers.proportional_odds_loss import (
    OrdinalSolution,
    class_probabilities,
    solve_ordinal_path,
    solve_ordinal_streamed,
)
from classify.heads.solvers.scaling import fit_scaling

if TYPE_CHECKING:
    from classify.data.blocks import RowStream


class OrdinalLogisticHead(PenalizedHead):
    """Proportional odds with an L2 penalty: one score per row, and thresholds between the classes.

    Labels ascend from the worst class to the best. With two classes this is logistic regression. Solved by
    `proportional_odds_loss.solve_ordinal_path`, on one thread.

    Parameters
    ----------
    C : float, default=1.0
        Inverse strength of the penalty, as in scikit-learn's logistic regression. Thresholds are not
        penalised.
    scaling : {"standardise", "l2"}, default="standardise"
    class_weight : {None, "balanced"} or dict, default=None
    tol : float, default=1e-6
        Largest component of the gradient of the mean loss at the solution, in float64.
    max_iter : int, default=10000
        Newton steps.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    scaler_ : fitted transformer
    coef_ : ndarray of shape (n_features,)
        Coefficients of the scaled columns.
    thresholds_ : ndarray of shape (n_classes - 1,)
        Ascending.
    n_iter_ : int
    converged_ : bool
        False if the solver stopped before it reached `tol`; no warning is given.

    References
    ----------
    McCullagh, "Regression models for ordinal data", 1980.
    """

    FITTED = PenalizedHead.FITTED | {
        "scaler_": SCALERS,
        "coef_": np.ndarray,
        "thresholds_": np.ndarray,
        "n_iter_": int,
        "converged_": bool,
    }

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.poor_score = True  # if no direction orders the classes, as in sklearn's checks
        return tags

    def fit(
        self,
        X: np.ndarray,
        y: np.ndarray,
        *,
        groups: np.ndarray | None = None,
        image: np.ndarray | None = None,
    ) -> OrdinalLogisticHead:
        """Fit on all rows; `groups` and `image` are ignored.

        Parameters
        ----------
        X : ndarray of shape (n_rows, n_features)
            Unscaled features.
        y : ndarray of shape (n_rows,)
            Labels, ascending from the worst class to the best.

        Raises
        ------
        FitError
            If there is only one class.
        """
        X, y = self._check_fit(X, y, dtype=np.float64)
        require_two_classes(self.classes_)
        scaler = make_scaler(self.scaling)
        with threadpool_limits(1):
            solution = next(_solutions([self], scaler.fit_transform(X), y))
        self._set_solution(scaler, solution)
        return self

    def fit_stream(self, rows: RowStream) -> OrdinalLogisticHead:
        """Fit on rows that stay on disk; the solution equals that of `fit`."""
        label = self._check_stream(rows)
        weight = compute_class_weight(self.class_weight, classes=self.classes_, y=rows.y)[label]
        scaled = fit_scaling(rows, self.scaling)
        solution = solve_ordinal_streamed(
            scaled, label, C=self.C, weight=weight, tol=self.tol, max_iter=self.max_iter
        )
        self._set_solution(scaled.scaler, solution)
        self.notes_ = (streamed_note(len(rows), "the same optimum, by Newton steps summed over blocks"),)
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return the class probabilities: (n_rows, n_classes), float64, columns as in `classes_`."""
        X = self._check_predict(X, dtype=np.float64)
        return class_probabilities(self.scaler_.transform(X) @ self.coef_, self.thresholds_)

    def _set_solution(self, scaler: TransformerMixin, solution: OrdinalSolution) -> None:
        self.scaler_, self.coef_, self.thresholds_ = scaler, solution.coef, solution.thresholds
        self.n_iter_ = solution.n_iter
        self.converged_ = solution.gradient <= self.tol


def fold_predictions(
    heads: Sequence[OrdinalLogisticHead],
    X_fit: np.ndarray,
    y_fit: np.ndarray,
    X_score: np.ndarray,
    *,
    soft: bool = False,
) -> list[np.ndarray]:
    """Fit each head on the rows of a fold and predict the scored rows; see `knn.fold_predictions`.

    Heads that differ only in C are solved in ascending C, each starting from the previous solution.
    """
    predictions: dict[int, np.ndarray] = {}
    classes = np.unique(y_fit)
    for members, Z_fit, Z_score in regularization_path(heads, X_fit, X_score):
        with threadpool_limits(1):
            solutions = _solutions([heads[index] for index in members], Z_fit, y_fit)
            for index, solution in zip(members, solutions, strict=True):
                probabilities = class_probabilities(Z_score @ solution.coef, solution.thresholds)
                predictions[index] = probabilities if soft else classes[np.argmax(probabilities, axis=1)]
    return [predictions[index] for index in range(len(heads))]


def _solutions(
    heads: Sequence[OrdinalLogisticHead], Z: np.ndarray, y: np.ndarray
) -> Iterator[OrdinalSolution]:
    """Yield the solution of each head; the heads differ only in C."""
    first = heads[0]
    classes, label = np.unique(y, return_inverse=True)
    weight = compute_class_weight(first.class_weight, classes=classes, y=y)[label]
    yield from solve_ordinal_path(
        Z, label, C=[head.C for head in heads], weight=weight, tol=first.tol, max_iter=first.max_iter
    )
