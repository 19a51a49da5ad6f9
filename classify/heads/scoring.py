"""Scores of all grid points of a head on one fold."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.utils import assert_all_finite

from classify.heads.base import PenalizedHead, make_scaler
from classify.heads.registry import Head, grid_points, import_object, make_head
from featurize.base.typing import Float64Array

Scorer = Callable[[np.ndarray, np.ndarray], float]


def grid_scores(
    head: Head,
    X: np.ndarray,
    y: np.ndarray,
    *,
    fit_rows: np.ndarray,
    score_rows: np.ndarray,
    points: Sequence[Mapping[str, Any]] | None = None,
    groups: np.ndarray | None = None,
    image: np.ndarray | None = None,
    class_weight: str | None = None,
    seed: int = 0,
    entry: np.ndarray | None = None,
    scorer: Scorer | None = None,
) -> list[float]:
    """Return the score of every grid point on one fold: fitted on `fit_rows`, scored on `score_rows`.

    SVMs compute each kernel matrix once and share it over C; logistic regression is solved in ascending C
    with warm starts; kNN shares one neighbour search over k; LDA shares the covariance over shrinkage. Other
    heads are fitted for one point after another. SVMs are scored on their decisions, before calibration.

    Parameters
    ----------
    head : Head
    X : ndarray of shape (n_rows, n_features)
    y : ndarray of shape (n_rows,)
    fit_rows, score_rows : ndarray of int
        Indices of rows of X; `score_rows` are usually plain views.
    points : sequence of mappings, optional
        By default `grid_points(head)`.
    groups, image : ndarray of shape (n_rows,), optional
        Group and image of each row: no fold splits a group; the views of one image have the same image.
    entry : ndarray of shape (n_rows,), int, optional
        Entry of each row; only the values of scored rows are used. If given, entries are scored instead of
        images: the class of an entry is the arg max of the mean probabilities, or mean decisions, of its
        images.
    class_weight, seed
        As in `make_head`.
    scorer : callable (y_true, y_pred) -> float, optional
        By default `balanced_accuracy`.

    Returns
    -------
    list of float
        In the order of `points`.
    """
    heads = [
        make_head(head.name, params=point, seed=seed, class_weight=class_weight)
        for point in (grid_points(head) if points is None else points)
    ]
    score = scorer or balanced_accuracy
    X_fit, y_fit, X_score, y_score = X[fit_rows], y[fit_rows], X[score_rows], y[score_rows]
    soft = entry is not None
    predictions: Iterable[np.ndarray]
    if head.search:
        predictions = import_object(head.search)(heads, X_fit, y_fit, X_score, soft=soft)
    else:
        rows = {
            "groups": None if groups is None else groups[fit_rows],
            "image": None if image is None else image[fit_rows],
        }
        fitted = (candidate.fit(X_fit, y_fit, **rows) for candidate in heads)
        predictions = (
            candidate.predict_proba(X_score) if soft else candidate.predict(X_score) for candidate in fitted
        )
    if entry is not None:
        y_score, predictions = _by_entry(entry[score_rows], y_fit, y_score, predictions)
    return [float(score(y_score, predicted)) for predicted in predictions]


def _by_entry(
    entry: np.ndarray, y_fit: np.ndarray, y_score: np.ndarray, predictions: Iterable[np.ndarray]
) -> tuple[np.ndarray, Iterator[np.ndarray]]:
    """Return the true class of each entry, and the classes predicted from each array (n_score, n_classes)."""
    classes = np.unique(y_fit)
    _, first, entry_index = np.unique(entry, return_index=True, return_inverse=True)

    def entry_classes(images: np.ndarray) -> np.ndarray:
        total = np.zeros((len(first), images.shape[1]))
        np.add.at(total, entry_index, images)  # the arg max of the sums is the arg max of the means
        return classes[np.argmax(total, axis=1)]

    return y_score[first], (entry_classes(images) for images in predictions)


def balanced_accuracy(y_true: np.ndarray, y_pred: np.ndarray) -> float:
    """Return the mean recall over the classes in `y_true`; other predicted classes give no warning."""
    return float(np.mean([np.mean(y_pred[y_true == label] == label) for label in np.unique(y_true)]))


def regularization_path(
    heads: Sequence[PenalizedHead], X_fit: np.ndarray, X_score: np.ndarray
) -> Iterator[tuple[list[int], Float64Array, Float64Array]]:
    """Yield the heads that differ only in C, in ascending C, and their scaled rows.

    Parameters
    ----------
    heads : sequence of PenalizedHead
    X_fit, X_score : ndarray of shape (n_fit, n_features) and (n_score, n_features)
        Unscaled features; left unchanged.

    Yields
    ------
    members : list of int
        Indices into `heads`.
    Z_fit, Z_score : ndarray, float64
        Scaled with a scaler fitted on `X_fit`.

    Raises
    ------
    ValueError
        If a feature is not finite.
    """
    assert_all_finite(X_fit)
    assert_all_finite(X_score)
    by_scaling: dict[str, dict[tuple, list[int]]] = {}
    for index, head in enumerate(heads):
        params = (str(head.class_weight), head.tol, head.max_iter)
        by_scaling.setdefault(head.scaling, {}).setdefault(params, []).append(index)
    for scaling, paths in by_scaling.items():
        scaler = make_scaler(scaling, copy=False)
        Z_fit = scaler.fit_transform(X_fit.astype(np.float64))
        Z_score = scaler.transform(X_score.astype(np.float64))
        for members in paths.values():
            yield sorted(members, key=lambda index: heads[index].C), Z_fit, Z_score
