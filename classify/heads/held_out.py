"""What a simple model says of images that it was not fitted on: what its probabilities are scaled by."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from classify.heads.rows import rows_by_image
from classify.splits import Folds, grouped_folds

F64 = npt.NDArray[np.float64]


def held_out_scores(
    score: Callable[[np.ndarray, np.ndarray], F64],
    label: npt.NDArray[np.integer],
    *,
    groups: np.ndarray,
    image: np.ndarray,
    names: list[str],
    n_folds: int,
    seed: int,
) -> tuple[F64, npt.NDArray[np.integer]]:
    """Return the scores of every image's plain view by a model fitted without its group, and its class.

    Parameters
    ----------
    score : callable
        Called with the rows to fit on, ndarray of shape (n_rows,), bool, and the numbers of those to score;
        returns (n_scored, n_classes).
    label : ndarray of shape (n_rows,), int
    groups, image : ndarray of shape (n_rows,)
        What must not be parted, and which rows are views of one image.
    names : list of str
        Of the classes, for messages.
    n_folds, seed : int
        As in `classify.splits.grouped_folds`.

    Returns
    -------
    scores : ndarray of shape (n_images, n_classes), float64
    label : ndarray of shape (n_images,), int
    """
    plain, folds = _folds(label, groups=groups, image=image, names=names, n_folds=n_folds, seed=seed)
    scores = np.empty((len(plain), len(names)))
    for _, held in folds.pairs:
        fitted = ~np.isin(groups, groups[plain[held]])  # with its views
        scores[held] = score(fitted, plain[held])
    return scores, label[plain]


def held_out_parts(
    label: npt.NDArray[np.integer],
    *,
    groups: np.ndarray,
    image: np.ndarray,
    names: list[str],
    n_folds: int,
    seed: int,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return with which part each row is left out, and the row of each image's plain view.

    For sums that are made once for every part: the models are those of `held_out_scores`.
    """
    plain, folds = _folds(label, groups=groups, image=image, names=names, n_folds=n_folds, seed=seed)
    known, group = np.unique(groups, return_inverse=True)
    of_group = np.empty(len(known), dtype=np.int64)
    for part, (_, held) in enumerate(folds.pairs):
        of_group[group[plain[held]]] = part
    return of_group[group], plain


def _folds(
    label: npt.NDArray[np.integer],
    *,
    groups: np.ndarray,
    image: np.ndarray,
    names: list[str],
    n_folds: int,
    seed: int,
) -> tuple[npt.NDArray[np.int64], Folds]:
    plain = rows_by_image(image).plain
    folds = grouped_folds(label[plain], groups[plain], n_folds=n_folds, seed=seed, classes=names)
    return plain, folds
