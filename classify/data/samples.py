"""A store as samples to fit and score: rows of X, y and groups, and what was left out of them, and why."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any

import numpy as np
import numpy.typing as npt

from classify.data.blocks import RowStream, SourceRows
from classify.data.exclusions import SampleFacts, big_groups, exclude
from classify.data.folds import group_images
from classify.data.labels import class_labels, classes_without, count_images, has_test_split, require_classes
from classify.errors import CompareError
from featurize.base.typing import Float32Array, IntArray
from featurize.images.duplicates import near_duplicates
from featurize.store.reader import Store, open_store
from featurize.store.rows import StoredRows


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """Rows to fit or to score: of each image its plain view, then its augmented ones."""

    X: Float32Array  # (n_rows, n_features)
    y: IntArray  # (n_rows,) index into classes
    groups: IntArray  # (n_rows,) what no fold may split
    image: IntArray  # (n_rows,) index of the image in Samples
    is_plain: npt.NDArray[np.bool_]  # (n_rows,)


@dataclass(frozen=True, kw_only=True)
class StorePart:
    """One of the stores that a fused one joins: what its rows are made with."""

    store: str
    backbone: str
    config: dict[str, Any]
    config_digest: str
    level_ends: tuple[int, ...]  # in its own rows

    @property
    def n_features(self) -> int:
        """Features of one view."""
        return self.level_ends[-1]


@dataclass(frozen=True, kw_only=True, eq=False)
class Samples:
    """The graded images of a store that were not skipped, one row an image, in the order of ``/images``."""

    store: str  # name of the store's file, without .h5
    dataset: str
    backbone: str
    config: dict[str, Any]
    config_digest: str
    classes: tuple[str, ...]
    ordered: bool
    path: list[str]
    entry: list[str]
    split: npt.NDArray[np.str_]  # (n,) "train", "val" or "test"; without a test split all "train"
    y: IntArray  # (n,) index into classes
    content: IntArray  # (n,) row of plain
    group: IntArray  # (n,) images that must stay together, numbered in the order in which they appear
    plain: Float32Array  # (n_content, n_features)
    augmented: Float32Array  # (n_augmented, n_views, n_features)
    augmented_row: IntArray  # (n_content,) row of augmented, -1 for a content without views
    level_names: tuple[str, ...]  # of the network, in its order; "final" is the last
    level_ends: tuple[int, ...]  # column after the last one of each level
    fit: npt.NDArray[np.bool_]  # (n,) train and val images that may be fitted on
    scored: npt.NDArray[np.bool_]  # (n,) test images that count
    facts: SampleFacts
    parts: tuple[StorePart, ...] = ()  # of a fused store, in the order in which their names are joined
    join: str = "probabilities"  # what of an entry's images is averaged, where it has several
    n_joined: IntArray | None = None  # (n,) images behind each row, once their features are joined
    stored: DiskFeatures | None = None  # then plain and augmented have no rows

    @property
    def n_features(self) -> int:
        """Features of one view."""
        return int(self.plain.shape[1])

    @property
    def n_views(self) -> int:
        """Augmented views of each content that has them."""
        return int(self.augmented.shape[1])

    @property
    def has_test(self) -> bool:
        """Whether there is a test split; without one, nested cross-validation over all images decides."""
        return bool(np.any(self.split == "test"))

    @property
    def has_val(self) -> bool:
        """Whether hyper-parameters are chosen on a val split."""
        return bool(len(self.val_images))

    @property
    def train_images(self) -> IntArray:
        """Images of the train split that may be fitted on; without a test split all that may."""
        return np.flatnonzero(self.fit & (self.split == "train"))

    @property
    def val_images(self) -> IntArray:
        """Images on which hyper-parameters are chosen, where there is a val split beside a test split."""
        return np.flatnonzero(self.fit & (self.split == "val"))

    @property
    def fit_images(self) -> IntArray:
        """Images that the final bundles are fitted on: train and val."""
        return np.flatnonzero(self.fit)

    @property
    def test_images(self) -> IntArray:
        """Images of the test split that are scored; none without a test split."""
        return np.flatnonzero(self.scored)

    @property
    def for_search(self) -> Samples:
        """What hyper-parameters are searched on: all of it, or a sample where features stay on disk."""
        return self if self.stored is None or self.stored.sampled is None else self.stored.sampled

    def in_search(self, images: IntArray) -> IntArray:
        """Return which of these images are in `for_search`, as images of it."""
        if self.stored is None or self.stored.origin is None:
            return images
        return np.flatnonzero(np.isin(self.stored.origin, images))

    @cached_property
    def content_digests(self) -> tuple[list[bytes], list[bytes]]:
        """SHA-256 of each content's plain row, and of that row with its augmented views behind it."""
        if self.stored is not None:
            return digests_on_disk(self.stored.plain, self.stored.augmented, self.augmented_row)
        plain, all_views = [], []
        for content, row in enumerate(self.augmented_row):
            digest = sha256(np.ascontiguousarray(self.plain[content]).data)
            plain.append(digest.digest())
            if row >= 0:
                digest.update(np.ascontiguousarray(self.augmented[row]).data)
            all_views.append(digest.digest())
        return plain, all_views

    def columns(self, levels: str) -> slice:
        """Return the columns of the "final" level, or of "all"."""
        first = self.level_ends[-2] if levels == "final" and len(self.level_ends) > 1 else 0
        return slice(first, self.n_features)

    def n_rows(self, images: IntArray) -> int:
        """Return how many rows these images have, views included."""
        seen = self.augmented_row[self.content[images]] >= 0
        return len(images) + self.n_views * int(seen.sum())

    def stream(self, images: npt.ArrayLike, *, views: bool = True, levels: str = "all") -> RowStream:
        """Return the same rows as `rows`, numbered alike, for features that stay on disk.

        Parameters
        ----------
        images, views, levels
            As in `rows`.
        """
        assert self.stored is not None
        chosen = np.asarray(images, dtype=np.int64)
        start, counts, seen, view_row = self._places(chosen, views=views)
        image = np.repeat(chosen, counts)
        is_plain = np.zeros(len(image), dtype=bool)
        is_plain[start] = True
        pieces = [source_rows(self.stored.plain, self.content[chosen], start[:, None])]
        if len(seen):
            behind = start[seen, None] + 1 + np.arange(self.n_views)
            pieces.append(source_rows(self.stored.augmented, view_row[seen], behind))
        return RowStream(
            y=self.y[image],
            groups=self.group[image],
            image=image,
            is_plain=is_plain,
            pieces=tuple(pieces),
            columns=self.columns(levels),
            working_bytes=self.stored.working_bytes,
        )

    def _places(self, chosen: IntArray, *, views: bool) -> tuple[IntArray, IntArray, IntArray, IntArray]:
        """Return of images the plain row, how many rows, which have views, and their row among these."""
        view_row = self.augmented_row[self.content[chosen]]
        seen = np.flatnonzero(view_row >= 0) if views else np.empty(0, dtype=np.int64)
        counts = np.ones(len(chosen), dtype=np.int64)
        counts[seen] += self.n_views
        return np.cumsum(counts) - counts, counts, seen, view_row

    def rows(self, images: npt.ArrayLike, *, views: bool = True, levels: str = "all") -> Rows:
        """Return the feature rows of some images.

        Parameters
        ----------
        images : array-like of shape (n_chosen,), int
            Which images, in which order.
        views : bool, default=True
            Whether each image's plain row is followed by those of its augmented views, where it has any.
        levels : {"all", "final"}
            Which columns.

        Returns
        -------
        Rows
            New arrays.
        """
        if self.stored is not None:
            rows = self.stream(images, views=views, levels=levels)
            X = rows.take(np.arange(len(rows)))
            return Rows(X=X, y=rows.y, groups=rows.groups, image=rows.image, is_plain=rows.is_plain)
        chosen = np.asarray(images, dtype=np.int64)
        start, counts, seen, view_row = self._places(chosen, views=views)
        columns = self.columns(levels)
        X = np.empty((int(counts.sum()), columns.stop - columns.start), dtype=np.float32)
        X[start] = self.plain[self.content[chosen], columns]
        for view in range(self.n_views if len(seen) else 0):
            X[start[seen] + 1 + view] = self.augmented[view_row[seen], view, columns]
        is_plain = np.zeros(len(X), dtype=bool)
        is_plain[start] = True
        image = np.repeat(chosen, counts)
        return Rows(X=X, y=self.y[image], groups=self.group[image], image=image, is_plain=is_plain)


def load_samples(
    store_path: str | os.PathLike[str],
    *,
    order: Sequence[str] | None = None,
    working_bytes: int | None = None,
) -> Samples:
    """Read a store and settle what may be fitted on and what is scored.

    Left out of fitting: a train image that is identical or nearly identical to a val or test image, a val
    image that is so to a test image, and all copies of one file but the first. Left out of everything: a file
    that stands under two grades, test images included. Without a test split train and val are one, for nested
    cross-validation.

    Parameters
    ----------
    store_path : path-like
        A file made by ``featurize extract``.
    order : sequence of str, optional
        All classes, lowest first: labels follow it, and the classes count as ordered.
    working_bytes : int, optional
        Leave the features on disk, to be read in blocks that fit in so much memory.

    Returns
    -------
    Samples
        ``facts.lines()`` says what was left out, and why.

    Raises
    ------
    StoreError
        If the file is no feature store, or damaged.
    ConfigError
        If ``order`` is not the store's classes.
    CompareError
        If there is one class only, or a class has no image to fit on.
    """
    with open_store(store_path) as store:
        classes, y = class_labels(store, order)
        images = store.images
        graded = np.flatnonzero((y >= 0) & (images.content >= 0))
        split, content = np.array(images.split, dtype=np.str_), images.content[graded]
        has_test = has_test_split(store, split, y=y)
        role = split[graded] if has_test else np.full(len(graded), "train")
        path, entry = [images.path[i] for i in graded], [images.entry[i] for i in graded]
        near = _near_duplicates(store, np.unique(content))
        fit, scored, left_out = exclude(path, role, y[graded], content, near)
        require_classes(store, classes, y=y, fitted=graded[fit & (role == "train")])
        if has_test and not scored.any():
            raise CompareError(
                f"{store.path}: no test image is left to score: all stand under several grades"
            )
        group = group_images(entry, content, near)
        augmented_row = np.full(store.n_content, -1, dtype=np.int64)
        augmented_row[store.augmented_content] = np.arange(store.n_augmented)
        stored = None
        if working_bytes is not None:
            stored = DiskFeatures(
                plain=store.plain_rows, augmented=store.augmented_rows, working_bytes=working_bytes
            )
        present = count_images(role, y[graded], classes, kept=fit | scored)
        return Samples(
            store=store.name,
            dataset=store.dataset,
            backbone=store.backbone,
            config=store.config,
            config_digest=store.config_digest,
            classes=classes,
            ordered=store.ordered or order is not None,
            path=path,
            entry=entry,
            split=role,
            y=y[graded],
            content=content,
            group=group,
            plain=store.plain() if stored is None else store.plain(slice(0)),
            augmented=store.augmented() if stored is None else store.augmented(slice(0)),
            stored=stored,
            augmented_row=augmented_row,
            level_names=store.level_names,
            level_ends=store.level_ends,
            fit=fit,
            scored=scored,
            facts=SampleFacts(
                counts=count_images(split[graded], y[graded], classes),
                skipped=tuple(
                    (images.path[i], images.skipped[i])
                    for i in np.flatnonzero((y >= 0) & (images.content < 0))
                ),
                left_out=left_out,
                near_duplicates=_paths(near, path, content),
                big_groups=big_groups(path, group),
                untested=classes_without(present, "test"),
                unvalidated=classes_without(present, "val"),
                merged_val=not has_test and bool(np.any(split[graded] == "val")),
            ),
        )


def _near_duplicates(store: Store, contents: IntArray) -> IntArray:
    """Find near duplicates among some contents; those of ungraded images join nothing."""
    table = store.content
    return contents[near_duplicates(table.phash[contents], table.thumbnail, rows=contents)]


def _paths(near: IntArray, path: list[str], content: IntArray) -> tuple[tuple[str, str], ...]:
    """Name pairs of contents by the first image of each."""
    first = {int(content[i]): path[i] for i in reversed(range(len(path)))}
    return tuple((first[int(a)], first[int(b)]) for a, b in near)


@dataclass(frozen=True, kw_only=True, eq=False)
class DiskFeatures:
    """Features that stay on disk, because they do not fit in the memory that may be taken."""

    plain: StoredRows  # (n_content, n_features)
    augmented: StoredRows  # (n_augmented, n_views, n_features)
    working_bytes: int  # that fitting may take beside libraries and tables
    sampled: Samples | None = None  # images that hyper-parameters are searched on, in memory
    origin: IntArray | None = None  # (n_sampled,) which images these are


def digests_on_disk(
    plain: StoredRows, augmented: StoredRows, augmented_row: IntArray
) -> tuple[list[bytes], list[bytes]]:
    """Return the digest of each content's plain row, and one of it and its views, read in one pass."""
    of_plain = [digest for _, digest in _row_digests(plain)]
    of_all = list(of_plain)
    content = np.flatnonzero(augmented_row >= 0)
    content = content[np.argsort(augmented_row[content])]
    for row, digest in _row_digests(augmented):
        of_all[content[row]] = sha256(of_plain[content[row]] + digest).digest()
    return of_plain, of_all


def _row_digests(source: StoredRows) -> Iterator[tuple[int, bytes]]:
    for part, block in source.blocks(np.arange(len(source)), most_rows=source.chunk_rows):
        for row, values in enumerate(block.astype(np.float32), start=part.start):
            yield row, sha256(values.data).digest()


def source_rows(source: StoredRows, rows: IntArray, position: IntArray) -> SourceRows:
    """Return rows of a source, in any order, as a piece of a stream."""
    order = np.argsort(rows, kind="stable")
    return SourceRows(source=source, rows=rows[order], position=position[order])
