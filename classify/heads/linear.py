"""Logistic regression on scaled features."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from classify.heads.base import BaseHead, make_scaler, require_two_classes


class LogisticHead(BaseHead):
    """Multinomial logistic regression with an L2 penalty.

    Solved on one thread: hundreds of short steps gain next to nothing from a second one, and lose tenfold
    when another process wants its core. And in float64: in float32 the gradient drowns in rounding before it
    is as small as `tol`.

    Parameters
    ----------
    C : float, default=1.0
        Inverse strength of the penalty, as in scikit-learn.
    scaling : {"standardise", "l2"}, default="standardise"
    class_weight : {None, "balanced"} or dict, default=None
    tol : float, default=1e-6
        Largest component of the mean loss's gradient at the solution. scikit-learn's default, 1e-4, can
        change a tenth of the predictions at large C without a warning.
    max_iter : int, default=10000
        L-BFGS iterations.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    pipeline_ : Pipeline
        Scaler and LogisticRegression, fitted.
    n_iter_ : int
    converged_ : bool
        False when the solver stopped short of `tol`; no warning is given.
    """

    def __init__(
        self,
        *,
        C: float = 1.0,
        scaling: str = "standardise",
        class_weight: str | dict | None = None,
        tol: float = 1e-6,
        max_iter: int = 10_000,
    ) -> None:
        self.C = C
        self.scaling = scaling
        self.class_weight = class_weight
        self.tol = tol
        self.max_iter = max_iter

    def fit(
        self,
        X: np.ndarray,
        y: np.ndarray,
        *,
        groups: np.ndarray | None = None,
        image: np.ndarray | None = None,
    ) -> LogisticHead:
        """Fit on all rows; `groups` and `image` make no difference.

        Parameters
        ----------
        X : ndarray of shape (n_rows, n_features)
            Unscaled features.
        y : ndarray of shape (n_rows,)

        Raises
        ------
        FitError
            If there is one class only.
        """
        X, y = self._check_fit(X, y, dtype=np.float64)
        require_two_classes(self.classes_)
        self.pipeline_ = Pipeline([("scale", make_scaler(self.scaling)), ("classify", _regression(self))])
        with threadpool_limits(1):
            self.converged_ = fit_quietly(self.pipeline_, X, y)
        self.n_iter_ = int(np.max(self.pipeline_["classify"].n_iter_))
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return the class probabilities: (n_rows, n_classes), float64, columns as in `classes_`."""
        X = self._check_predict(X, dtype=np.float64)
        return self.pipeline_.predict_proba(X)


def fold_scores(
    heads: Sequence[LogisticHead], X_fit: np.ndarray, y_fit: np.ndarray, X_score: np.ndarray
) -> list[np.ndarray]:
    """Return each head's predictions on `X_score` after a fit on the other rows; the heads stay unfitted.

    Heads that differ in C alone are solved in ascending C, each from the solution before it.
    """
    predictions: dict[int, np.ndarray] = {}
    X_fit, X_score = X_fit.astype(np.float64), X_score.astype(np.float64)
    paths: dict[tuple, list[int]] = {}
    for index, head in enumerate(heads):
        path = (head.scaling, str(head.class_weight), head.tol, head.max_iter)
        paths.setdefault(path, []).append(index)
    for members in paths.values():
        scaler = make_scaler(heads[members[0]].scaling).fit(X_fit)
        Z_fit, Z_score = scaler.transform(X_fit), scaler.transform(X_score)
        regression = _regression(heads[members[0]]).set_params(warm_start=True)
        for index in sorted(members, key=lambda index: heads[index].C):
            with threadpool_limits(1):
                fit_quietly(regression.set_params(C=heads[index].C), Z_fit, y_fit)
            predictions[index] = regression.predict(Z_score)
    return [predictions[index] for index in range(len(heads))]


def fit_quietly(estimator: BaseEstimator, X: np.ndarray, y: np.ndarray, **fit_params: np.ndarray) -> bool:
    """Fit, and return whether the solver converged; all warnings but that one go on to the caller."""
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


def _regression(head: LogisticHead) -> LogisticRegression:
    return LogisticRegression(
        C=head.C, class_weight=head.class_weight, tol=head.tol, max_iter=head.max_iter, solver="lbfgs"
    )
