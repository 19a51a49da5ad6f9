"""The score of every grid point of a head on one fold. Importing this is cheap."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from sklearn.utils import assert_all_finite

from classify.heads.base import make_scaler
from classify.heads.registry import Head, grid_points, make_head, resolve
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

    The kernel heads compute each Gram matrix once and share it over C; logistic regression follows C with
    warm starts; the others are fitted point by point. SVMs are scored on their decisions, before calibration.

    Parameters
    ----------
    head : Head
    X : ndarray of shape (n_rows, n_features)
    y : ndarray of shape (n_rows,)
    fit_rows, score_rows : ndarray of int
        Rows of X; `score_rows` are plain views as a rule.
    points : sequence of mappings, optional
        By default `grid_points(head)`.
    groups, image : ndarray of shape (n_rows,), optional
        What must stay together, and which rows are views of one image.
    entry : ndarray of shape (n_rows,), int, optional
        Which rows are images of one entry; only that of the scored ones is read. With it entries are scored:
        the mean of the probabilities of an entry's images, or of their decisions, decides its class.
    class_weight, seed
        As in `make_head`.
    scorer : callable (y_true, y_pred) -> float, optional
        By default balanced accuracy: mean recall of the classes that are present.

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
        predictions = resolve(head.search)(heads, X_fit, y_fit, X_score, soft=soft)
    else:
        rows = {
            "groups": None if groups is None else groups[fit_rows],
            "image": None if image is None else image[fit_rows],
        }
        fitted = (candidate.fit(X_fit, y_fit, **rows) for candidate in heads)
        predictions = (one.predict_proba(X_score) if soft else one.predict(X_score) for one in fitted)
    if entry is not None:
        y_score, predictions = _by_entry(entry[score_rows], y_fit, y_score, predictions)
    return [float(score(y_score, predicted)) for predicted in predictions]


def _by_entry(
    entry: np.ndarray, y_fit: np.ndarray, y_score: np.ndarray, parts: Iterable[np.ndarray]
) -> tuple[np.ndarray, Iterator[np.ndarray]]:
    """Return the class of each entry, and what each part (n_score, n_classes) predicts for it."""
    import numpy as np

    classes = np.unique(y_fit)
    _, first, number = np.unique(entry, return_index=True, return_inverse=True)

    def joined(part: np.ndarray) -> np.ndarray:
        total = np.zeros((len(first), part.shape[1]))
        np.add.at(total, number, part)  # the arg max of sums is that of means
        return classes[np.argmax(total, axis=1)]

    return y_score[first], (joined(part) for part in parts)


def balanced_accuracy(y_true: np.ndarray, y_pred: np.ndarray) -> float:
    """Return the mean recall over the classes in `y_true` (unlike scikit-learn's, silent about others)."""
    import numpy as np

    return float(np.mean([np.mean(y_pred[y_true == label] == label) for label in np.unique(y_true)]))


class PathHead(Protocol):
    """A linear head that is solved along C."""

    C: float
    scaling: str
    class_weight: str | dict | None
    tol: float
    max_iter: int


def regularization_path(
    heads: Sequence[PathHead], X_fit: np.ndarray, X_score: np.ndarray
) -> Iterator[tuple[list[int], Float64Array, Float64Array]]:
    """Yield heads that differ in C alone, in ascending C, with the rows as they scale them.

    Parameters
    ----------
    heads : sequence of PathHead
    X_fit, X_score : ndarray of shape (n_fit, n_features) and (n_score, n_features)
        Unscaled features; left unchanged.

    Yields
    ------
    members : list of int
        Numbers of the heads.
    Z_fit, Z_score : ndarray, float64
        Scaled as fitted on `X_fit`.

    Raises
    ------
    ValueError
        If a feature is not finite.
    """
    assert_all_finite(X_fit)
    assert_all_finite(X_score)
    by_scaling: dict[str, dict[tuple, list[int]]] = {}
    for index, head in enumerate(heads):
        path = (str(head.class_weight), head.tol, head.max_iter)
        by_scaling.setdefault(head.scaling, {}).setdefault(path, []).append(index)
    for scaling, paths in by_scaling.items():
        scaler = make_scaler(scaling, copy=False)
        Z_fit = scaler.fit_transform(X_fit.astype(np.float64))
        Z_score = scaler.transform(X_score.astype(np.float64))
        for members in paths.values():
            yield sorted(members, key=lambda index: heads[index].C), Z_fit, Z_score
