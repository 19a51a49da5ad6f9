"""SVMs of many C and gamma on one fold."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from sklearn import config_context
from sklearn.pipeline import Pipeline
from sklearn.utils import assert_all_finite

from classify.heads.base import make_scaler
from classify.heads.gram import inner_products, linear_kernel, rbf_kernels, scale_gamma
from classify.heads.linear import fit_quietly
from classify.heads.machines import (
    approximate_machine,
    exact_machine,
    free_of_c,
    make_features,
    settle_solver,
)

if TYPE_CHECKING:
    from classify.heads.kernel import SVMHead


def fold_scores(
    heads: Sequence[SVMHead], X_fit: np.ndarray, y_fit: np.ndarray, X_score: np.ndarray
) -> list[np.ndarray]:
    """Return each head's predictions on `X_score` after a fit on the other rows, before calibration.

    The predictions are those of `machines.make_pipeline` on the features. The heads stay unfitted.

    Parameters
    ----------
    heads : sequence of SVMHead
    X_fit, X_score : ndarray of shape (n_fit, n_features) and (n_score, n_features)
        Unscaled features.
    y_fit : ndarray of shape (n_fit,)

    Returns
    -------
    list of ndarray of shape (n_score,)
        In the order of the heads.
    """
    assert_all_finite(X_fit)
    assert_all_finite(X_score)
    heads = [settle_solver(head, len(X_fit)) for head in heads]
    alike: dict[tuple, dict[float, list[int]]] = {}
    for index, head in enumerate(heads):
        factor = head.gamma_factor if head.kernel == "rbf" else 0.0
        key = (head.solver, head.kernel, head.scaling, head.seed)
        alike.setdefault(key, {}).setdefault(factor, []).append(index)
    predictions: dict[int, np.ndarray] = {}
    for by_factor in alike.values():
        one = heads[next(iter(by_factor.values()))[0]]
        share = _kernels if one.solver == "exact" else _features
        rows = share(one, X_fit, X_score, by_factor)
        for members, (fit_rows, score_rows) in zip(by_factor.values(), rows, strict=True):
            found = _predictions([heads[i] for i in members], fit_rows, y_fit, score_rows)
            predictions.update(zip(members, found, strict=True))
    return [predictions[index] for index in range(len(heads))]


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


def _predictions(
    heads: Sequence[SVMHead], fit_rows: np.ndarray, y: np.ndarray, score_rows: np.ndarray
) -> list[np.ndarray]:
    """Fit machines on rows that they share, in ascending C, and let them predict."""
    predictions: dict[int, np.ndarray] = {}
    settled: dict[tuple, np.ndarray] = {}  # of machines that no larger C changes any more
    for index in sorted(range(len(heads)), key=lambda index: heads[index].C):
        head = heads[index]
        but_c = (str(head.class_weight), head.tol, head.max_iter)
        if but_c not in settled:
            exact = head.solver == "exact"
            machine = exact_machine(head, kernel="precomputed") if exact else approximate_machine(head)
            # To look for NaN in each kernel would take a tenth of the time.
            with config_context(assume_finite=True):
                converged = fit_quietly(machine, fit_rows, y)
                predictions[index] = machine.predict(score_rows)
            if exact and converged and free_of_c(machine):
                settled[but_c] = predictions[index]
        else:
            predictions[index] = settled[but_c]
    return [predictions[index] for index in range(len(heads))]
