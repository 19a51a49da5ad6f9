"""Which rows are one image, and how images are set aside without parting a group."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from classify.data.folds import Folds, grouped_folds
from classify.heads.base import FitError
from featurize.base.typing import Float64Array


@dataclass(frozen=True, kw_only=True)
class ImageRows:
    """Rows by image: image i has the rows ``rows[start[i] : start[i] + count[i]]``, its plain view first."""

    rows: np.ndarray  # (n_rows,) int64
    start: np.ndarray  # (n_images,) int64
    count: np.ndarray  # (n_images,) int64

    @property
    def plain(self) -> np.ndarray:
        """The row of each image's plain view, ndarray of shape (n_images,)."""
        return self.rows[self.start]


def resolve_rows(
    n_rows: int, groups: np.ndarray | None, image: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return `groups` and `image` of every row: by default each row is an image, and each image a group.

    Raises
    ------
    FitError
        If either is given with another number of rows.
    """
    for name, values in (("groups", groups), ("image", image)):
        if values is not None and len(values) != n_rows:
            raise FitError(f"{name} has {len(values)} rows: expected {n_rows}, one for each row of X.")
    image = np.arange(n_rows) if image is None else np.asarray(image)
    return image if groups is None else np.asarray(groups), image


def rows_by_image(image: np.ndarray) -> ImageRows:
    """Gather the rows of each image. The first row of an image, in the order given, counts as its plain view.

    Parameters
    ----------
    image : ndarray of shape (n_rows,)
        Equal values mark the views of one image.
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
    """Set about `fraction` of each class's groups aside, whole groups only, at least one a class.

    Folds would not do here: with as few folds as the scarcest class has groups, one fold could be half the
    data.

    Parameters
    ----------
    y, groups : ndarray of shape (n_images,)
    fraction : float
        In (0, 1).
    seed : int
    names : sequence of str, optional
        Of the classes, for messages; y is then an index into them.

    Returns
    -------
    ndarray of shape (n_images,), bool
        True for images set aside. Every class keeps at least one group outside.

    Raises
    ------
    FitError
        If a class has a single group, or shares all of them with others so that none can be spared.
    """
    generator = np.random.default_rng(seed)
    labels, label_of = np.unique(y, return_inverse=True)
    known, group_of = np.unique(groups, return_inverse=True)
    # How many images of each class each group has, (n_cells,) each, by group: few of a group's are not zero.
    cells, counts = np.unique(group_of * len(labels) + label_of, return_counts=True)
    cell_label = cells % len(labels)
    start = np.searchsorted(cells, np.arange(len(known) + 1) * len(labels))
    inside = np.bincount(label_of)  # images of each class that are not set aside
    groups_aside = np.zeros(len(labels), dtype=np.int64)  # of each class
    aside = np.zeros(len(known), dtype=bool)
    n_groups = np.bincount(cell_label)
    for k in sorted(range(len(labels)), key=lambda k: n_groups[k]):  # scarce classes choose first
        name = labels[k] if names is None else names[labels[k]]
        require_two_groups(name, n_groups[k])
        wanted = max(1, round(fraction * int(n_groups[k])))
        for group in generator.permutation(_groups_of_class(cells, k, n_labels=len(labels))):
            if groups_aside[k] >= wanted:
                break
            part = slice(start[group], start[group + 1])
            if not aside[group] and np.all(inside[cell_label[part]] > counts[part]):
                aside[group] = True
                inside[cell_label[part]] -= counts[part]
                groups_aside[cell_label[part]] += 1
        if not groups_aside[k]:
            raise FitError(
                f"Class '{name}' can spare no group for validation. Add images of it, or a val split."
            )
    return aside[group_of]


def _groups_of_class(cells: np.ndarray, k: int, *, n_labels: int) -> np.ndarray:
    """Return the groups, ascending, that have images of class k, from cells numbered group by group."""
    return cells[cells % n_labels == k] // n_labels


def require_two_groups(label: object, n_groups: int) -> None:
    """Raise FitError if a class has too few groups to set one aside."""
    if n_groups < 2:
        raise FitError(
            f"Class '{label}' has a single group of images (one entry, or near duplicates): "
            "expected at least 2. Add images of that class."
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
        As in `classify.data.folds.grouped_folds`.

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
