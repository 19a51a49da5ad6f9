"""SVMs of many C and gamma on one fold."""

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
    approximate_machine,
    exact_machine,
    free_of_c,
    make_features,
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
    """Return each head's predictions on `X_score` after a fit on the other rows, before calibration.

    The predictions are those of `machines.fit_pipeline` on the features. The heads stay unfitted.

    Parameters
    ----------
    heads : sequence of SVMHead
    X_fit, X_score : ndarray of shape (n_fit, n_features) and (n_score, n_features)
        Unscaled features.
    y_fit : ndarray of shape (n_fit,)
    soft : bool, default=False
        Whether decisions are wanted, one column a class as scikit-learn's "ovr" has them, not classes.

    Returns
    -------
    list of ndarray of shape (n_score,), or (n_score, n_classes)
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
    """Return what `fold_predictions` does for each problem; they share scaled rows and kernels.

    Parameters
    ----------
    problems : sequence of (heads, y_fit)
        As many heads each, that differ between problems in class weights alone.
    X_fit, X_score, soft
        As in `fold_predictions`.
    """
    assert_all_finite(X_fit)
    assert_all_finite(X_score)
    settled = [[resolve_solver(head, len(X_fit)) for head in heads] for heads, _ in problems]
    heads = settled[0]

    def path_of(index: int) -> tuple:
        return tuple(_path(part[index]) for part in settled)

    order = sorted(range(len(heads)), key=lambda i: (*_shared(heads[i]), path_of(i), heads[i].C))
    predictions: list[dict[int, np.ndarray]] = [{} for _ in problems]
    for _, together in groupby(order, key=lambda i: _shared(heads[i])):
        members = list(together)
        one, factors = heads[members[0]], sorted({_factor(heads[i]) for i in members})
        exact = one.solver == "exact"
        rows = (_kernels if exact else _features)(one, X_fit, X_score, factors)
        by_factor = groupby(members, key=lambda i: _factor(heads[i]))
        for (_, alike), (fit_rows, score_rows) in zip(by_factor, rows, strict=True):
            for _, ascending in groupby(alike, key=path_of):
                path = list(ascending)
                predict = _exact_predictions if exact else _approximate_predictions
                for part, (_, y), found in zip(settled, problems, predictions, strict=True):
                    said = predict([part[i] for i in path], fit_rows, y, score_rows, soft=soft)
                    found.update(zip(path, said, strict=True))
    return [[found[index] for index in range(len(heads))] for found in predictions]


def _shared(head: SVMHead) -> tuple:
    """Return what heads have in common that share scaled rows."""
    return head.solver, head.kernel, head.scaling, head.seed


def _factor(head: SVMHead) -> float:
    return head.gamma_factor if head.kernel == "rbf" else 0.0


def _path(head: SVMHead) -> tuple:
    """Return what heads have in common, beside scaled rows, that differ in C alone."""
    return _factor(head), str(head.class_weight), head.tol, head.max_iter


def _kernels(
    head: SVMHead, X_fit: np.ndarray, X_score: np.ndarray, gamma_factors: Iterable[float]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield kernel values for each gamma: (n_fit, n_fit) and (n_score, n_fit)."""
    products = inner_products(X_fit, X_score, scaling=head.scaling)
    if head.kernel == "linear":
        yield linear_kernel(products)
    else:
        yield from rbf_kernels(products, [factor * products.gamma for factor in gamma_factors])


def _features(
    head: SVMHead, X_fit: np.ndarray, X_score: np.ndarray, gamma_factors: Iterable[float]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the features that the approximate machine is fitted on, for each gamma."""
    X_fit, X_score = X_fit.astype(np.float64), X_score.astype(np.float64)
    scale = scale_gamma(make_scaler(head.scaling).fit_transform(X_fit))
    for factor in gamma_factors:
        steps = Pipeline(make_features(head, len(X_fit), gamma=factor * scale))
        yield steps.fit_transform(X_fit), steps.transform(X_score)


def _exact_predictions(
    heads: Sequence[SVMHead], K_fit: np.ndarray, y: np.ndarray, K_score: np.ndarray, *, soft: bool
) -> Iterator[np.ndarray]:
    """Fit machines that differ in C alone, in ascending C, on one kernel, and let them predict."""
    final = None  # predictions that no larger C changes any more
    for head in heads:
        if final is not None:
            yield final
            continue
        machine = exact_machine(head, kernel="precomputed")
        # To look for NaN in each kernel would take a tenth of the time.
        with config_context(assume_finite=True):
            converged = fit_quietly(machine, K_fit, y)
            predicted = _said(machine, K_score, soft=soft)
        if converged and free_of_c(machine):
            final = predicted
        yield predicted


def _approximate_predictions(
    heads: Sequence[SVMHead], Z_fit: np.ndarray, y: np.ndarray, Z_score: np.ndarray, *, soft: bool
) -> Iterator[np.ndarray]:
    """Fit machines on the same features, and let them predict."""
    for head in heads:
        machine = approximate_machine(head)
        fit_quietly(machine, Z_fit, y)
        yield _said(machine, Z_score, soft=soft)


def _said(machine: SVC | LinearSVC, rows: np.ndarray, *, soft: bool) -> np.ndarray:
    """Return what a machine says of rows: classes, or its decision for each class."""
    if not soft:
        return machine.predict(rows)
    decisions = machine.decision_function(rows)
    return decisions if decisions.ndim > 1 else np.column_stack([-decisions, decisions])
