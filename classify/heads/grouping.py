"""Rows grouped by image, and images held out for validation or calibration without splitting a group."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from classify.data.folds import grouped_folds
from classify.heads.base import FitError
from featurize.base.typing import Float64Array


@dataclass(frozen=True, kw_only=True)
class ImageRows:
    """Rows of each image: image i has ``rows[start[i] : start[i] + count[i]]``, its plain view first."""

    rows: np.ndarray  # (n_rows,) int64
    start: np.ndarray  # (n_images,) int64
    count: np.ndarray  # (n_images,) int64

    @property
    def plain(self) -> np.ndarray:
        """Row of the plain view of each image, ndarray of shape (n_images,)."""
        return self.rows[self.start]


def resolve_groups(
    n_rows: int, groups: np.ndarray | None, image: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the group and the image of each row; by default each row is an image, and each image a group.

    Raises
    ------
    FitError
        If one of them does not have `n_rows` values.
    """
    for name, values in (("groups", groups), ("image", image)):
        if values is not None and len(values) != n_rows:
            raise FitError(f"{name} has {len(values)} rows: expected {n_rows}, one for each row of X.")
    image = np.arange(n_rows) if image is None else np.asarray(image)
    return image if groups is None else np.asarray(groups), image


def rows_by_image(image: np.ndarray) -> ImageRows:
    """Collect the rows of each image. The first row of an image is taken as its plain view.

    Parameters
    ----------
    image : ndarray of shape (n_rows,)
        Image of each row; the views of one image have equal values.
    """
    _, inverse, count = np.unique(image, return_inverse=True, return_counts=True)
    return ImageRows(
        rows=np.argsort(inverse, kind="stable"),
        start=np.concatenate([[0], np.cumsum(count)[:-1]]),
        count=count,
    )


def groups_per_class(y: np.ndarray, groups: np.ndarray) -> dict:
    """Return the number of distinct groups in each class."""
    return {label: len(np.unique(groups[y == label])) for label in np.unique(y)}


def validation_images(
    y: np.ndarray,
    groups: np.ndarray,
    *,
    fraction: float = 0.2,
    seed: int = 0,
    names: Sequence[str] | None = None,
) -> np.ndarray:
    """Hold out about `fraction` of the groups of each class, and at least one, for validation.

    A fold of `grouped_folds` is no replacement: the number of folds is limited by the number of groups of
    the rarest class, so that one fold could be half of the data.

    Parameters
    ----------
    y, groups : ndarray of shape (n_images,)
    fraction : float
        In (0, 1).
    seed : int
    names : sequence of str, optional
        Class names for messages; y then holds indices into them.

    Returns
    -------
    ndarray of shape (n_images,), bool
        True for held-out images. At least one group of each class is not held out.

    Raises
    ------
    FitError
        If a class has a single group, or no group of it can be held out without using up a class.
    """
    generator = np.random.default_rng(seed)
    labels, label_of = np.unique(y, return_inverse=True)
    unique_groups, group_of = np.unique(groups, return_inverse=True)
    # Sparse table group × class: a cell is one class within one group; `counts` is its number of images.
    cells, counts = np.unique(group_of * len(labels) + label_of, return_counts=True)
    cell_group, cell_label = np.divmod(cells, len(labels))
    start = np.searchsorted(cell_group, np.arange(len(unique_groups) + 1))  # first cell of each group
    remaining = np.bincount(label_of)  # images of each class that are not held out
    n_held_out = np.zeros(len(labels), dtype=np.int64)  # held-out groups of each class
    held_out = np.zeros(len(unique_groups), dtype=bool)
    n_groups = np.bincount(cell_label)
    for k in sorted(range(len(labels)), key=lambda k: n_groups[k]):  # rare classes choose first
        name = labels[k] if names is None else names[labels[k]]
        require_two_groups(name, n_groups[k])
        target = max(1, round(fraction * int(n_groups[k])))
        for group in generator.permutation(cell_group[cell_label == k]):
            if n_held_out[k] >= target:
                break
            part = slice(start[group], start[group + 1])
            if not held_out[group] and np.all(remaining[cell_label[part]] > counts[part]):
                held_out[group] = True
                remaining[cell_label[part]] -= counts[part]
                n_held_out[cell_label[part]] += 1
        if not n_held_out[k]:
            raise FitError(
                f"Class '{name}' has no group that can be held out for validation. Add images of this class, "
                "or a val split."
            )
    return held_out[group_of]


def require_two_groups(label: object, n_groups: int) -> None:
    """Raise FitError if a class has too few groups to hold one out."""
    if n_groups < 2:
        raise FitError(
            f"Class '{label}' has a single group of images (one entry, or near duplicates): "
            "expected at least 2. Add images of this class."
        )


def held_out_scores(
    score: Callable[[np.ndarray, np.ndarray], Float64Array],
    label: npt.NDArray[np.integer],
    *,
    groups: np.ndarray,
    image: np.ndarray,
    names: list[str],
    n_folds: int,
    seed: int,
) -> tuple[Float64Array, npt.NDArray[np.integer]]:
    """Score the plain view of each image with a model that was fitted without its group.

    Parameters
    ----------
    score : callable (fit_mask, score_rows) -> ndarray of shape (n_scored, n_classes)
        Fits on the rows where `fit_mask` (n_rows,), bool, is True, and scores `score_rows` (n_scored,), int.
    label : ndarray of shape (n_rows,), int
        Class index of each row.
    groups, image : ndarray of shape (n_rows,)
        Group and image of each row: no fold splits a group; the views of one image have the same image.
    names : list of str
        Class names, for messages.
    n_folds, seed : int
        As in `classify.data.folds.grouped_folds`.

    Returns
    -------
    scores : ndarray of shape (n_images, n_classes), float64
    label : ndarray of shape (n_images,), int
    """
    fold, plain = calibration_folds(
        label, groups=groups, image=image, names=names, n_folds=n_folds, seed=seed
    )
    scores = np.empty((len(plain), len(names)))
    for k in range(int(fold.max()) + 1):
        held_out = np.flatnonzero(fold[plain] == k)
        scores[held_out] = score(fold != k, plain[held_out])
    return scores, label[plain]


def calibration_folds(
    label: npt.NDArray[np.integer],
    *,
    groups: np.ndarray,
    image: np.ndarray,
    names: list[str],
    n_folds: int,
    seed: int,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the fold of each row, (n_rows,), and the row of the plain view of each image, (n_images,).

    Folds are stratified over plain views; the other views of an image are in its fold. The parameters are
    those of `held_out_scores`.
    """
    plain = rows_by_image(image).plain
    folds = grouped_folds(label[plain], groups[plain], n_folds=n_folds, seed=seed, classes=names)
    unique_groups, group = np.unique(groups, return_inverse=True)
    fold_of_group = np.empty(len(unique_groups), dtype=np.int64)
    for k, (_, held_out) in enumerate(folds.pairs):
        fold_of_group[group[plain[held_out]]] = k
    return fold_of_group[group], plain
