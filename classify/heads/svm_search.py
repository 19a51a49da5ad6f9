"""Grid search of SVMs on one fold: kernels and features are shared by all values of C."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
from sklearn import config_context
from sklearn.pipeline import Pipeline
from sklearn.svm import SVC, LinearSVC
from sklearn.utils import assert_all_finite

from classify.heads.base import make_scaler
from classify.heads.kernels import inner_products, linear_kernel, rbf_kernels, scale_gamma
from classify.heads.logistic import fit_quietly
from classify.heads.svm_fitting import (
    is_hard_margin,
    make_linear_svc,
    make_svc,
    make_transformers,
    resolve_solver,
)

if TYPE_CHECKING:
    from classify.heads.svm import SVMHead


def fold_predictions(
    heads: Sequence[SVMHead],
    X_fit: np.ndarray,
    y_fit: np.ndarray,
    X_score: np.ndarray,
    *,
    soft: bool = False,
) -> list[np.ndarray]:
    """Fit each head on the rows of a fold, without calibration, and predict the scored rows.

    The predictions equal those of `svm_fitting.fit_pipeline`. The heads themselves stay unfitted.

    Parameters
    ----------
    heads : sequence of SVMHead
    X_fit, X_score : ndarray of shape (n_fit, n_features) and (n_score, n_features)
        Unscaled features.
    y_fit : ndarray of shape (n_fit,)
    soft : bool, default=False
        Return decisions, one column per class as with scikit-learn's "ovr", instead of classes.

    Returns
    -------
    list of ndarray of shape (n_score,), or (n_score, n_classes) if `soft`
        In the order of the heads.
    """
    return solve_together([(heads, y_fit)], X_fit, X_score, soft=soft)[0]


def solve_together(
    problems: Sequence[tuple[Sequence[SVMHead], np.ndarray]],
    X_fit: np.ndarray,
    X_score: np.ndarray,
    *,
    soft: bool,
) -> list[list[np.ndarray]]:
    """Return `fold_predictions` for several problems that share scaled rows and kernels.

    Parameters
    ----------
    problems : sequence of (heads, y_fit)
        All have the same number of heads, and head i differs between problems only in its class weights.
    X_fit, X_score, soft
        As in `fold_predictions`.
    """
    assert_all_finite(X_fit)
    assert_all_finite(X_score)
    resolved = [[resolve_solver(head, len(X_fit)) for head in heads] for heads, _ in problems]
    heads = resolved[0]

    def path_key(index: int) -> tuple:
        return tuple(_path_key(problem_heads[index]) for problem_heads in resolved)

    order = sorted(range(len(heads)), key=lambda i: (*_rows_key(heads[i]), path_key(i), heads[i].C))
    predictions: list[dict[int, np.ndarray]] = [{} for _ in problems]
    for _, same_rows in groupby(order, key=lambda i: _rows_key(heads[i])):
        members = list(same_rows)
        first, factors = heads[members[0]], sorted({_gamma_factor(heads[i]) for i in members})
        exact = first.solver == "exact"
        matrices = (_kernels if exact else _features)(first, X_fit, X_score, factors)
        by_factor = groupby(members, key=lambda i: _gamma_factor(heads[i]))
        for (_, same_gamma), (fit_matrix, score_matrix) in zip(by_factor, matrices, strict=True):
            for _, ascending in groupby(same_gamma, key=path_key):
                path = list(ascending)
                predict = _exact_predictions if exact else _approximate_predictions
                for problem_heads, (_, y), found in zip(resolved, problems, predictions, strict=True):
                    path_heads = [problem_heads[i] for i in path]
                    path_predictions = predict(path_heads, fit_matrix, y, score_matrix, soft=soft)
                    found.update(zip(path, path_predictions, strict=True))
    return [[found[index] for index in range(len(heads))] for found in predictions]


def _rows_key(head: SVMHead) -> tuple:
    """Return the parameters that are equal for heads that share scaled rows."""
    return head.solver, head.kernel, head.scaling, head.seed


def _gamma_factor(head: SVMHead) -> float:
    return head.gamma_factor if head.kernel == "rbf" else 0.0


def _path_key(head: SVMHead) -> tuple:
    """Return the parameters that are equal, besides `_rows_key`, for heads that differ only in C."""
    return _gamma_factor(head), str(head.class_weight), head.tol, head.max_iter


def _kernels(
    head: SVMHead, X_fit: np.ndarray, X_score: np.ndarray, gamma_factors: Iterable[float]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the kernel matrices for each gamma: (n_fit, n_fit) and (n_score, n_fit)."""
    products = inner_products(X_fit, X_score, scaling=head.scaling)
    if head.kernel == "linear":
        yield linear_kernel(products)
    else:
        yield from rbf_kernels(products, [factor * products.gamma for factor in gamma_factors])


def _features(
    head: SVMHead, X_fit: np.ndarray, X_score: np.ndarray, gamma_factors: Iterable[float]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the transformed features for each gamma, which the approximate SVM is fitted on."""
    X_fit, X_score = X_fit.astype(np.float64), X_score.astype(np.float64)
    scale = scale_gamma(make_scaler(head.scaling).fit_transform(X_fit))
    for factor in gamma_factors:
        transformers = Pipeline(make_transformers(head, len(X_fit), gamma=factor * scale))
        yield transformers.fit_transform(X_fit), transformers.transform(X_score)


def _exact_predictions(
    heads: Sequence[SVMHead], K_fit: np.ndarray, y: np.ndarray, K_score: np.ndarray, *, soft: bool
) -> Iterator[np.ndarray]:
    """Yield the predictions of SVCs that differ only in C, given in ascending C, on one kernel."""
    final = None  # predictions that do not change for larger C
    for head in heads:
        if final is not None:
            yield final
            continue
        svc = make_svc(head, kernel="precomputed")
        # Checking each kernel for NaN would take a tenth of the time.
        with config_context(assume_finite=True):
            converged = fit_quietly(svc, K_fit, y)
            predicted = _predict(svc, K_score, soft=soft)
        if converged and is_hard_margin(svc):
            final = predicted
        yield predicted


def _approximate_predictions(
    heads: Sequence[SVMHead], Z_fit: np.ndarray, y: np.ndarray, Z_score: np.ndarray, *, soft: bool
) -> Iterator[np.ndarray]:
    """Yield the predictions of linear SVMs on the same features."""
    for head in heads:
        svm = make_linear_svc(head)
        fit_quietly(svm, Z_fit, y)
        yield _predict(svm, Z_score, soft=soft)


def _predict(svm: SVC | LinearSVC, rows: np.ndarray, *, soft: bool) -> np.ndarray:
    """Return the predicted classes or, if `soft`, the decision for each class (n_rows, n_classes)."""
    if not soft:
        return svm.predict(rows)
    decisions = svm.decision_function(rows)
    return decisions if decisions.ndim > 1 else np.column_stack([-decisions, decisions])
