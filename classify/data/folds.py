"""Grouped, stratified folds.

A group holds all images of an entry, all copies of a file and all near duplicates of it. No fold splits a
group. Every view of an image is in the group of the image.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import StratifiedGroupKFold

from classify.errors import CompareError
from featurize.base.text import plural
from featurize.base.typing import IntArray
from featurize.images.duplicates import connected_components

# StratifiedGroupKFold is greedy: on small, skewed data it can leave a training part without some class, or a
# fold empty. Another shuffle usually does better.
_N_ATTEMPTS = 20
# StratifiedGroupKFold loops over groups and folds in Python. More groups than this are assigned to folds in
# turn instead, which balances so many groups well enough.
MAX_STRATIFIED_GROUPS = 100_000


@dataclass(frozen=True, kw_only=True)
class Folds:
    """Cross-validation over groups."""

    n_folds: int
    pairs: list[tuple[IntArray, IntArray]]  # (training rows, scored rows), both ascending
    notes: tuple[str, ...]  # for the user: why there are fewer folds than requested


def group_images(entry: Sequence[str], content: npt.ArrayLike, near: IntArray) -> IntArray:
    """Return the group of each image: images of one entry or content, near duplicates, and chains of these.

    Parameters
    ----------
    entry : sequence of str, length n_images
        Entry of each image.
    content : array-like of shape (n_images,), int
        Content of each image.
    near : ndarray of shape (n_pairs, 2), int64
        Pairs of contents that are near duplicates.

    Returns
    -------
    ndarray of shape (n_images,), int64
        Group numbers from 0 in order of first appearance.
    """
    contents = np.asarray(content, dtype=np.int64)
    number: dict[str, int] = {}
    entries = np.array([number.setdefault(name, len(number)) for name in entry], dtype=np.int64)
    n_images, n_entries = len(contents), len(number)
    n_contents = 1 + max(contents.max(initial=-1), near.max(initial=-1))
    # Nodes of the graph: the images, then the entries, then the contents.
    image, first_content = np.arange(n_images), n_images + n_entries
    links = [
        np.column_stack([image, n_images + entries]),
        np.column_stack([image, first_content + contents]),
        first_content + near.reshape(-1, 2),
    ]
    return connected_components(first_content + int(n_contents), np.concatenate(links))[:n_images]


def grouped_folds(
    y: npt.ArrayLike,
    groups: npt.ArrayLike,
    *,
    n_folds: int = 5,
    seed: int = 0,
    train_groups: int = 1,
    classes: Sequence[str] | None = None,
) -> Folds:
    """Return stratified folds that do not split any group.

    Parameters
    ----------
    y : array-like of shape (n,), int
        Class of each row, as an index into `classes`.
    groups : array-like of shape (n,), int
        Group of each row. The order of the rows has no influence on the folds; the group numbers have.
    n_folds : int, default=5
        Number of folds. Fewer are returned, with a note, if a class has fewer groups.
    seed : int, default=0
        Seed of the shuffle.
    train_groups : int, default=1
        Minimum number of groups of each class in each training part; 2 if that is to be split again.
    classes : sequence of str, optional
        Names of the classes, for messages; each class must have rows. By default the numbers in `y`.

    Returns
    -------
    Folds
        Each row is scored in exactly one fold, no fold is empty and each training part has every class.

    Raises
    ------
    CompareError
        If there is only one class, or a class has too few groups.
    """
    labels = np.asarray(y, dtype=np.int64)
    group = np.unique(np.asarray(groups), return_inverse=True)[1]
    names = dict(enumerate(classes)) if classes is not None else {int(k): str(k) for k in np.unique(labels)}
    if len(names) < 2:
        raise CompareError(
            f"folds need two or more classes, but the only class is {_quoted(names.values())}. "
            "Add images of another class."
        )
    n_groups = _groups_of_classes(labels, group, names)
    rarest = min(n_groups, key=lambda k: n_groups[k])
    fewest, name = n_groups[rarest], names[rarest]
    if fewest <= train_groups:
        n_images = int(np.sum(labels == rarest))
        raise CompareError(
            f"class {name!r} has {plural(fewest, 'group')} of images ({plural(n_images, 'image')}), but "
            f"{train_groups + 1} are needed: images of an entry and near duplicates form one group, which no "
            f"fold may split. Add images of class {name!r}."
        )
    most = min(n_folds, fewest)
    for k in range(most, 1, -1):
        for attempt in _seeds(seed):
            pairs = _stratified(labels, group, k, attempt)
            if all(_is_valid(labels, group, pair, names, train_groups) for pair in pairs):
                return Folds(n_folds=k, pairs=pairs, notes=_notes(k, n_folds, most, name))
    raise CompareError(
        f"found no folds in which every training part has {plural(train_groups, 'group')} of each class "
        f"({_quoted(names.values())}), for {most} or fewer folds: some groups contain several classes. "
        "Add images that are not near duplicates of others."
    )


def _stratified(labels: IntArray, group: IntArray, k: int, seed: int) -> list[tuple[IntArray, IntArray]]:
    if group.max(initial=-1) >= MAX_STRATIFIED_GROUPS:
        fold = _assign_in_turn(labels, group, k, seed)[group]
        return [(np.flatnonzero(fold != number), np.flatnonzero(fold == number)) for number in range(k)]
    splitter = StratifiedGroupKFold(n_splits=k, shuffle=True, random_state=seed)
    return list(splitter.split(np.zeros(len(labels)), labels, group))


def _assign_in_turn(labels: IntArray, group: IntArray, k: int, seed: int) -> IntArray:
    """Return the fold of each group: shuffled, sorted by class counts, then assigned to folds in turn."""
    n_groups, n_labels = int(group.max()) + 1, int(labels.max()) + 1
    counts = np.zeros((n_groups, n_labels), dtype=np.int64)  # rows of each class in each group
    np.add.at(counts, (group, labels), 1)
    shuffled = np.random.default_rng(seed).permutation(n_groups)
    columns = [counts[shuffled, label] for label in range(n_labels)]
    order = np.lexsort([*columns, -counts[shuffled].sum(axis=1)])  # the largest groups first; stable
    fold = np.empty(n_groups, dtype=np.int64)
    fold[shuffled[order]] = np.arange(n_groups) % k
    return fold


def _seeds(seed: int) -> Iterator[int]:
    yield seed
    yield from (int(value) for value in np.random.SeedSequence(seed).generate_state(_N_ATTEMPTS - 1))


def _is_valid(
    labels: IntArray,
    group: IntArray,
    pair: tuple[IntArray, IntArray],
    names: dict[int, str],
    train_groups: int,
) -> bool:
    train, test = pair
    n_groups = _groups_of_classes(labels[train], group[train], names)
    return len(test) > 0 and min(n_groups.values()) >= train_groups


def _groups_of_classes(labels: IntArray, group: IntArray, names: Iterable[int]) -> dict[int, int]:
    return {k: len(np.unique(group[labels == k])) for k in names}


def _notes(k: int, n_folds: int, most: int, name: str) -> tuple[str, ...]:
    if k == n_folds:
        return ()
    if k == most:
        return (f"{k} folds instead of {n_folds}: class {name!r} has only {plural(k, 'group')} of images",)
    return (f"{k} folds instead of {n_folds}: with more folds, some training part would lack a class",)


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names) or "none"
