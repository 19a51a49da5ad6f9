"""Samples of a store: the images to fit on and to score, with features, labels, groups and splits."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from classify.data.exclusions import SampleFacts, big_groups, exclude
from classify.data.folds import group_images
from classify.data.labels import class_labels, classes_without, count_images, has_test_split, require_classes
from classify.errors import CompareError
from featurize.base.typing import Float32Array, IntArray
from featurize.images.duplicates import near_duplicates
from featurize.store.reader import Store, open_store
from featurize.store.rows import StoredRows

if TYPE_CHECKING:
    from classify.data.blocks import RowStream, SourceRows


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """Rows to fit on or to score; the plain view of each image is followed by its augmented views."""

    X: Float32Array  # (n_rows, n_features)
    y: IntArray  # (n_rows,) index into classes
    groups: IntArray  # (n_rows,) group, which no fold may split
    image: IntArray  # (n_rows,) index of the image in Samples
    is_plain: npt.NDArray[np.bool_]  # (n_rows,)


@dataclass(frozen=True, kw_only=True)
class StorePart:
    """One of the stores of fused samples, with the config of its features."""

    store: str
    backbone: str
    config: dict[str, Any]
    config_digest: str
    level_ends: tuple[int, ...]  # column after the last one of each level, in the rows of this store

    @property
    def n_features(self) -> int:
        """Number of features of a view."""
        return self.level_ends[-1]


@dataclass(frozen=True, kw_only=True, eq=False)
class Samples:
    """The graded images of a store that could be read, one row per image, in the order of ``/images``."""

    store: str  # name of the store's file, without .h5
    dataset: str
    backbone: str
    config: dict[str, Any]
    config_digest: str
    classes: tuple[str, ...]
    ordered: bool
    path: list[str]
    entry: list[str]
    split: npt.NDArray[np.str_]  # (n,) "train", "val" or "test"; all "train" if there is no test split
    y: IntArray  # (n,) index into classes
    content: IntArray  # (n,) row of plain
    group: IntArray  # (n,) group, which no fold may split, numbered in order of first appearance
    plain: Float32Array  # (n_content, n_features)
    augmented: Float32Array  # (n_augmented, n_views, n_features)
    augmented_row: IntArray  # (n_content,) row of augmented; -1 for a content without augmented views
    level_names: tuple[str, ...]  # levels of the network, in its order; "final" is the last
    level_ends: tuple[int, ...]  # column after the last one of each level
    fit: npt.NDArray[np.bool_]  # (n,) train and val images that may be fitted on
    scored: npt.NDArray[np.bool_]  # (n,) test images to score
    facts: SampleFacts
    parts: tuple[StorePart, ...] = ()  # the stores of fused samples, in the order of their names in `store`
    join: str = "probabilities"  # what is averaged over the images of an entry: see `JOINS`
    n_joined: IntArray | None = None  # (n,) images averaged in each row, with join "features"
    on_disk: DiskFeatures | None = None  # features that stay on disk; then plain and augmented are empty

    @property
    def n_features(self) -> int:
        """Number of features of a view."""
        return int(self.plain.shape[1])

    @property
    def n_views(self) -> int:
        """Number of augmented views of each content that has any."""
        return int(self.augmented.shape[1])

    @property
    def has_test(self) -> bool:
        """Whether there is a test split; if not, heads are tested by nested cross-validation."""
        return bool(np.any(self.split == "test"))

    @property
    def has_val(self) -> bool:
        """Whether hyper-parameters are chosen on a val split."""
        return bool(len(self.val_images))

    @property
    def train_images(self) -> IntArray:
        """Images of the train split that may be fitted on; all images that may, if there is no test split."""
        return np.flatnonzero(self.fit & (self.split == "train"))

    @property
    def val_images(self) -> IntArray:
        """Images to choose hyper-parameters on, if there are a val split and a test split."""
        return np.flatnonzero(self.fit & (self.split == "val"))

    @property
    def fit_images(self) -> IntArray:
        """Images that the bundles are fitted on: train and val."""
        return np.flatnonzero(self.fit)

    @property
    def test_images(self) -> IntArray:
        """Images of the test split that are scored; none if there is no test split."""
        return np.flatnonzero(self.scored)

    @property
    def search_samples(self) -> Samples:
        """Samples for the hyper-parameter search: these, or a sample in memory if features stay on disk."""
        return self if self.on_disk is None or self.on_disk.sample is None else self.on_disk.sample

    def to_search_samples(self, images: IntArray) -> IntArray:
        """Return these images as indices into `search_samples`, without those that it lacks."""
        if self.on_disk is None or self.on_disk.sample_images is None:
            return images
        return np.flatnonzero(np.isin(self.on_disk.sample_images, images))

    @cached_property
    def content_digests(self) -> tuple[list[bytes], list[bytes]]:
        """SHA-256 of the plain row of each content, and of that row followed by its augmented views."""
        if self.on_disk is not None:
            return digests_on_disk(self.on_disk.plain, self.on_disk.augmented, self.augmented_row)
        plain, all_views = [], []
        for content, row in enumerate(self.augmented_row):
            digest = sha256(np.ascontiguousarray(self.plain[content]).data)
            plain.append(digest.digest())
            if row >= 0:
                digest.update(np.ascontiguousarray(self.augmented[row]).data)
            all_views.append(digest.digest())
        return plain, all_views

    def columns(self, levels: str) -> slice:
        """Return the columns of the "final" level or of "all" levels."""
        first = self.level_ends[-2] if levels == "final" and len(self.level_ends) > 1 else 0
        return slice(first, self.n_features)

    def n_rows(self, images: IntArray) -> int:
        """Return the number of rows of these images, views included."""
        has_views = self.augmented_row[self.content[images]] >= 0
        return len(images) + self.n_views * int(has_views.sum())

    def stream(self, images: npt.ArrayLike, *, views: bool = True, levels: str = "all") -> RowStream:
        """Return the rows that `rows` returns, in the same order, for features that stay on disk.

        Parameters
        ----------
        images, views, levels
            As in `rows`.
        """
        assert self.on_disk is not None
        chosen = np.asarray(images, dtype=np.int64)
        start, counts, with_views, view_row = self._row_layout(chosen, views=views)
        image = np.repeat(chosen, counts)
        is_plain = np.zeros(len(image), dtype=bool)
        is_plain[start] = True
        pieces = [source_rows(self.on_disk.plain, self.content[chosen], start[:, None])]
        if len(with_views):
            position = start[with_views, None] + 1 + np.arange(self.n_views)  # (n_with_views, n_views)
            pieces.append(source_rows(self.on_disk.augmented, view_row[with_views], position))
        from classify.data.blocks import RowStream

        return RowStream(
            y=self.y[image],
            groups=self.group[image],
            image=image,
            is_plain=is_plain,
            pieces=tuple(pieces),
            columns=self.columns(levels),
            working_bytes=self.on_disk.working_bytes,
        )

    def _row_layout(self, chosen: IntArray, *, views: bool) -> tuple[IntArray, IntArray, IntArray, IntArray]:
        """Return the layout of the rows of some images.

        Per image: its first row, its number of rows; the images that have views; per image its row in
        `augmented`.
        """
        view_row = self.augmented_row[self.content[chosen]]
        with_views = np.flatnonzero(view_row >= 0) if views else np.empty(0, dtype=np.int64)
        counts = np.ones(len(chosen), dtype=np.int64)
        counts[with_views] += self.n_views
        return np.cumsum(counts) - counts, counts, with_views, view_row

    def rows(self, images: npt.ArrayLike, *, views: bool = True, levels: str = "all") -> Rows:
        """Return the feature rows of some images.

        Parameters
        ----------
        images : array-like of shape (n_chosen,), int
            Images in the order of the rows.
        views : bool, default=True
            Include the augmented views of each image, after its plain row.
        levels : {"all", "final"}
            The columns to return.

        Returns
        -------
        Rows
            New arrays.
        """
        if self.on_disk is not None:
            rows = self.stream(images, views=views, levels=levels)
            X = rows.take(np.arange(len(rows)))
            return Rows(X=X, y=rows.y, groups=rows.groups, image=rows.image, is_plain=rows.is_plain)
        chosen = np.asarray(images, dtype=np.int64)
        start, counts, with_views, view_row = self._row_layout(chosen, views=views)
        columns = self.columns(levels)
        X = np.empty((int(counts.sum()), columns.stop - columns.start), dtype=np.float32)
        X[start] = self.plain[self.content[chosen], columns]
        for view in range(self.n_views if len(with_views) else 0):
            X[start[with_views] + 1 + view] = self.augmented[view_row[with_views], view, columns]
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
    """Read a store and choose the images to fit on and to score.

    Not fitted on are train images that are identical or nearly identical to a val or test image, val images
    that are so to a test image, and all copies of a file but the first. Files with several grades are neither
    fitted on nor scored. If there is no test split, train and val are used together in nested
    cross-validation.

    Parameters
    ----------
    store_path : path-like
        A store written by ``featurize extract``.
    order : sequence of str, optional
        All classes from worst to best. Labels follow this order, and the classes are ordered.
    working_bytes : int, optional
        Leave the features on disk and read them in blocks that fit in this memory.

    Returns
    -------
    Samples
        ``facts.lines()`` lists the images left out, with reasons.

    Raises
    ------
    StoreError
        If the file is not a feature store, or damaged.
    ConfigError
        If `order` does not match the classes of the store.
    CompareError
        If there is only one class, or a class has no image to fit on.
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
                f"{store.path}: no test image is left to score: all of them have several grades"
            )
        group = group_images(entry, content, near)
        augmented_row = np.full(store.n_content, -1, dtype=np.int64)
        augmented_row[store.augmented_content] = np.arange(store.n_augmented)
        on_disk = None
        if working_bytes is not None:
            on_disk = DiskFeatures(
                plain=store.plain_rows, augmented=store.augmented_rows, working_bytes=working_bytes
            )
        present = count_images(role, y[graded], classes, mask=fit | scored)
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
            plain=store.plain() if on_disk is None else store.plain(slice(0)),
            augmented=store.augmented() if on_disk is None else store.augmented(slice(0)),
            on_disk=on_disk,
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
                near_duplicates=_pair_paths(near, path, content),
                big_groups=big_groups(path, group),
                untested=classes_without(present, "test"),
                unvalidated=classes_without(present, "val"),
                merged_val=not has_test and bool(np.any(split[graded] == "val")),
            ),
        )


def _near_duplicates(store: Store, contents: IntArray) -> IntArray:
    """Return the pairs of near duplicates among these contents; contents of ungraded images are ignored."""
    table = store.content
    return contents[near_duplicates(table.phash[contents], table.thumbnail, rows=contents)]


def _pair_paths(near: IntArray, path: list[str], content: IntArray) -> tuple[tuple[str, str], ...]:
    """Return pairs of contents as paths: the first image of each content."""
    first = {int(content[i]): path[i] for i in reversed(range(len(path)))}
    return tuple((first[int(a)], first[int(b)]) for a, b in near)


@dataclass(frozen=True, kw_only=True, eq=False)
class DiskFeatures:
    """Features that stay on disk because they do not fit within the memory limit."""

    plain: StoredRows  # (n_content, n_features)
    augmented: StoredRows  # (n_augmented, n_views, n_features)
    working_bytes: int  # memory for fitting, in addition to libraries and tables
    sample: Samples | None = None  # samples in memory, for the hyper-parameter search
    sample_images: IntArray | None = None  # (n_sample,) indices of the images of `sample`


def digests_on_disk(
    plain: StoredRows, augmented: StoredRows, augmented_row: IntArray
) -> tuple[list[bytes], list[bytes]]:
    """Return what `Samples.content_digests` returns, reading the rows from disk in one pass."""
    plain_digests = [digest for _, digest in _row_digests(plain)]
    all_digests = list(plain_digests)
    content = np.flatnonzero(augmented_row >= 0)
    content = content[np.argsort(augmented_row[content])]
    for row, digest in _row_digests(augmented):
        all_digests[content[row]] = sha256(plain_digests[content[row]] + digest).digest()
    return plain_digests, all_digests


def _row_digests(source: StoredRows) -> Iterator[tuple[int, bytes]]:
    for part, block in source.blocks(np.arange(len(source)), most_rows=source.chunk_rows):
        for row, values in enumerate(block.astype(np.float32), start=part.start):
            yield row, sha256(values.data).digest()


def source_rows(source: StoredRows, rows: IntArray, position: IntArray) -> SourceRows:
    """Return rows of a source, given in any order, as a piece of a `RowStream`."""
    order = np.argsort(rows, kind="stable")
    from classify.data.blocks import SourceRows

    return SourceRows(source=source, rows=rows[order], position=position[order])
