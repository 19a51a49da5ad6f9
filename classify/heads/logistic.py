"""Logistic regression on scaled features."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.utils.class_weight import compute_class_weight
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from classify.heads.base import PenalizedHead, make_scaler, require_two_classes, streamed_note
from classify.heads.scoring import regularization_path
from classify.heads.solvers.softmax_loss import Solution, solve_path, solve_streamed

if TYPE_CHECKING:
    from classify.data.blocks import RowStream


class LogisticHead(PenalizedHead):
    """Multinomial logistic regression with an L2 penalty.

    Solved by `softmax_loss.solve_path`. scikit-learn's own solver then starts from this solution: it returns
    at once if the gradient is below `tol`, and continues until it is otherwise. The fit runs on one thread:
    its short steps gain next to nothing from a second thread, and take ten times as long when another process
    needs that core.

    Parameters
    ----------
    C : float, default=1.0
        Inverse strength of the penalty, as in scikit-learn.
    scaling : {"standardise", "l2"}, default="standardise"
    class_weight : {None, "balanced"} or dict, default=None
    tol : float, default=1e-6
        Largest component of the gradient of the mean loss at the solution, in float64. With scikit-learn's
        default, 1e-4, a tenth of the predictions can differ at large C, without a warning.
    max_iter : int, default=10000
        Newton steps, plus the L-BFGS steps of scikit-learn after them.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    pipeline_ : Pipeline
        Scaler and LogisticRegression, fitted.
    n_iter_ : int
        Total steps of both solvers.
    converged_ : bool
        False if the solver stopped before it reached `tol`; no warning is given.
    """

    FITTED = PenalizedHead.FITTED | {
        "pipeline_": Pipeline,
        "n_iter_": int,
        "converged_": bool,
    }

    def fit(
        self,
        X: np.ndarray,
        y: np.ndarray,
        *,
        groups: np.ndarray | None = None,
        image: np.ndarray | None = None,
    ) -> LogisticHead:
        """Fit on all rows; `groups` and `image` are ignored.

        Parameters
        ----------
        X : ndarray of shape (n_rows, n_features)
            Unscaled features.
        y : ndarray of shape (n_rows,)

        Raises
        ------
        FitError
            If there is only one class.
        """
        X, y = self._check_fit(X, y, dtype=np.float64)
        require_two_classes(self.classes_)
        scaler = make_scaler(self.scaling)
        Z = scaler.fit_transform(X)
        with threadpool_limits(1):
            regression = _regression(self, self.classes_, Z.shape[1], next(_solutions([self], Z, y)))
            self.converged_ = _continue_lbfgs(regression, Z, y)
        self.pipeline_ = Pipeline([("scale", scaler), ("classify", regression)])
        self.n_iter_ = int(np.max(regression.n_iter_))
        return self

    def fit_stream(self, rows: RowStream) -> LogisticHead:
        """Fit on rows that stay on disk; the solution equals that of `fit`."""
        label = self._check_stream(rows)
        weight = compute_class_weight(self.class_weight, classes=self.classes_, y=rows.y)[label]
        from classify.heads.solvers.scaling import fit_scaling

        scaled = fit_scaling(rows, self.scaling)
        solution = solve_streamed(
            scaled, label, C=self.C, weight=weight, tol=self.tol, max_iter=self.max_iter
        )
        regression = _regression(self, self.classes_, rows.n_features, solution)
        self.converged_ = solution.gradient <= self.tol
        self.pipeline_ = Pipeline([("scale", scaled.scaler), ("classify", regression)])
        self.n_iter_ = solution.n_iter
        self.notes_ = (streamed_note(len(rows), "the same optimum, by Newton steps summed over blocks"),)
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return the class probabilities: (n_rows, n_classes), float64, columns as in `classes_`."""
        X = self._check_predict(X, dtype=np.float64)
        return self.pipeline_.predict_proba(X)


def fold_predictions(
    heads: Sequence[LogisticHead],
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
    for members, Z_fit, Z_score in regularization_path(heads, X_fit, X_score):
        with threadpool_limits(1):
            solutions = _solutions([heads[index] for index in members], Z_fit, y_fit)
            for index, solution in zip(members, solutions, strict=True):
                regression = _regression(heads[index], np.unique(y_fit), Z_fit.shape[1], solution)
                if solution.gradient > regression.tol:
                    _continue_lbfgs(regression, Z_fit, y_fit)
                predict = regression.predict_proba if soft else regression.predict
                predictions[index] = predict(Z_score)
    return [predictions[index] for index in range(len(heads))]


def fit_quietly(estimator: BaseEstimator, X: np.ndarray, y: np.ndarray, **fit_params: np.ndarray) -> bool:
    """Fit, and return whether the solver converged; warnings other than ConvergenceWarning are passed on."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        estimator.fit(X, y, **fit_params)
    converged = True
    for warning in caught:
        if issubclass(warning.category, ConvergenceWarning):
            converged = False
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return converged


def _solutions(heads: Sequence[LogisticHead], Z: np.ndarray, y: np.ndarray) -> Iterator[Solution]:
    """Yield the solution of each head; the heads differ only in C."""
    first = heads[0]
    classes, label = np.unique(y, return_inverse=True)
    weight = compute_class_weight(first.class_weight, classes=classes, y=y)[label]
    yield from solve_path(
        Z, label, C=[head.C for head in heads], weight=weight, tol=first.tol, max_iter=first.max_iter
    )


def _regression(
    head: LogisticHead, classes: np.ndarray, n_features: int, solution: Solution
) -> LogisticRegression:
    """Return scikit-learn's estimator with the solution as its fitted attributes."""
    regression = LogisticRegression(
        C=head.C, class_weight=head.class_weight, tol=head.tol, max_iter=head.max_iter, solver="lbfgs"
    )
    regression.classes_, regression.n_features_in_ = classes, n_features
    regression.coef_, regression.intercept_ = solution.coef, solution.intercept
    regression.n_iter_ = np.array([solution.n_iter], dtype=np.int32)
    return regression


def _continue_lbfgs(regression: LogisticRegression, Z: np.ndarray, y: np.ndarray) -> bool:
    """Continue with scikit-learn's solver until it converges, usually at once; return whether it did."""
    steps, limit = int(regression.n_iter_[0]), regression.max_iter
    if steps >= limit:
        return False
    converged = fit_quietly(regression.set_params(warm_start=True, max_iter=limit - steps), Z, y)
    regression.set_params(warm_start=False, max_iter=limit)
    regression.n_iter_ = regression.n_iter_ + np.int32(steps)
    return converged
