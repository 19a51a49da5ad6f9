"""Reader of a feature store, format version 1: one ordinary HDF5 file.

Other programs can read a store with any HDF5 library: README.md, section "The store", describes every dataset
and attribute.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from featurize.base.typing import Float32Array, IntArray
from featurize.errors import StoreError
from featurize.store.rows import StoredRows, damaged

FORMAT = "folio-features"
FORMAT_VERSION = 1
THUMBNAIL = 32  # side of a thumbnail, in pixels
_DAMAGE = (OSError, KeyError, ValueError, TypeError, RuntimeError)  # raised by h5py and json on damaged data


@dataclass(frozen=True, kw_only=True)
class ImageTable:
    """One row per image file, sorted by the bytes of ``path``; all columns have length ``n_images``."""

    path: list[str]
    sha256: list[str]
    content: IntArray  # row of the content table, -1 if skipped
    label: npt.NDArray[np.int16]  # index into classes, -1 if ungraded
    split: list[str]
    entry: list[str]
    skipped: list[str]  # reason, or ""

    def __len__(self) -> int:
        return len(self.path)

    def same_as(self, other: ImageTable) -> bool:
        """Return whether all cells of two tables are equal."""
        return (
            self.path == other.path
            and self.sha256 == other.sha256
            and np.array_equal(self.content, other.content)
            and np.array_equal(self.label, other.label)
            and self.split == other.split
            and self.entry == other.entry
            and self.skipped == other.skipped
        )


@dataclass(frozen=True, kw_only=True)
class ContentTable:
    """One row per distinct file content, sorted by ``sha256``."""

    sha256: list[str]
    width: npt.NDArray[np.int32]  # in pixels, upright
    height: npt.NDArray[np.int32]
    phash: npt.NDArray[np.uint64]
    thumbnail: StoredRows  # (n_content, 32, 32, 3) uint8, read on demand: 3 GB per million rows
    crc32: npt.NDArray[np.uint32]  # of the row's plain and augmented features, in this order, as stored


@dataclass(frozen=True, kw_only=True)
class ContentRow:
    """All data of one file content in a store."""

    sha256: str
    width: int
    height: int
    phash: int
    thumbnail: npt.NDArray[np.uint8]  # (32, 32, 3)
    plain: Float32Array  # (n_features,)
    augmented: Float32Array | None  # (n_views, n_features)


class Store:
    """A feature store opened for reading; a context manager. Arrays are read on demand."""

    def __init__(self, path: str | os.PathLike[str], *, salvage: bool = False) -> None:
        self.path = Path(path)
        self._salvage = salvage
        self._file = _open_for_reading(self.path)
        attributes = self._file.attrs
        try:
            with self.report_damage("the metadata (attributes)"):
                self.config: dict[str, Any] = dict(json.loads(attributes["config"]))
                self.config_digest = str(attributes["config_digest"])
                self.classes: tuple[str, ...] = tuple(str(name) for name in attributes["classes"])
                self.ordered = bool(attributes["ordered"])
                self.created_with: dict[str, Any] = dict(json.loads(attributes["created_with"]))
        except StoreError:
            self.close()
            raise

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; arrays already read stay valid, and `StoredRows` open it again on demand."""
        self._file.close()

    @contextmanager
    def report_damage(self, what: str) -> Iterator[None]:
        """Convert the exceptions that damaged data in ``what`` causes to a `StoreError`."""
        try:
            yield
        except _DAMAGE as error:
            raise damaged(self.path, what, _reason(error)) from error

    @property
    def name(self) -> str:
        """File name without ``.h5``: the backbone, with suffixes for settings that are not the default."""
        return self.path.name.removesuffix(".h5")

    @property
    def dataset(self) -> str:
        """Name of the data set that the features were computed from."""
        return str(self.created_with.get("dataset") or self.path.resolve().parent.name)

    @property
    def backbone(self) -> str:
        """Name of the backbone."""
        return str(self.config["backbone"])

    @property
    def n_images(self) -> int:
        """Number of image files, including skipped ones."""
        return int(self._file["images/path"].shape[0])

    @property
    def n_content(self) -> int:
        """Number of distinct file contents that have features."""
        return int(self._file["features/plain"].shape[0])

    @property
    def n_features(self) -> int:
        """Number of features per view."""
        return int(self._file["features/plain"].shape[1])

    @property
    def n_augmented(self) -> int:
        """Number of contents that have augmented views."""
        return int(self._file["features/augmented"].shape[0])

    @property
    def n_views(self) -> int:
        """Number of augmented views per content that has them."""
        return int(self._file["features/augmented"].shape[1])

    @property
    def level_names(self) -> tuple[str, ...]:
        """Names of the pooled levels."""
        return tuple(str(name) for name in self._file["features/plain"].attrs["level_names"])

    @property
    def level_ends(self) -> tuple[int, ...]:
        """End column of each level (exclusive)."""
        return tuple(int(end) for end in self._file["features/plain"].attrs["level_ends"])

    @cached_property
    def images(self) -> ImageTable:
        """The table of image files."""
        return ImageTable(
            path=self._text("images/path"),
            sha256=self._text("images/sha256"),
            content=self._column("images/content"),
            label=self._column("images/label"),
            split=self._text("images/split"),
            entry=self._text("images/entry"),
            skipped=self._text("images/skipped"),
        )

    @cached_property
    def content(self) -> ContentTable:
        """The table of distinct contents."""
        return ContentTable(
            sha256=self._text("content/sha256"),
            width=self._column("content/width"),
            height=self._column("content/height"),
            phash=self._column("content/phash"),
            thumbnail=self._rows("content/thumbnail", salvage=self._salvage),
            crc32=self._column("content/crc32"),
        )

    @cached_property
    def augmented_content(self) -> IntArray:
        """Content row of each row of `augmented`, shape (n_augmented,)."""
        return self._column("features/augmented_content")

    def plain(self, rows: Any = None) -> Float32Array:
        """Return features of the plain view, shape (n_rows, n_features); all rows by default."""
        return self._read("features/plain", rows)

    def augmented(self, rows: Any = None, *, n_views: int | None = None) -> Float32Array:
        """Return features of the first ``n_views`` augmented views, shape (n_rows, n_views, n_features)."""
        return self._read("features/augmented", rows)[:, :n_views]

    @cached_property
    def plain_rows(self) -> StoredRows:
        """Features of the plain view, (n_content, n_features), read on demand."""
        return self._rows("features/plain")

    @cached_property
    def augmented_rows(self) -> StoredRows:
        """Features of the augmented views, (n_augmented, n_views, n_features), read on demand."""
        return self._rows("features/augmented")

    def rows_of_contents(self) -> dict[str, int]:
        """Return a mapping from SHA-256 to content row."""
        return {sha256: row for row, sha256 in enumerate(self.content.sha256)}

    def rows_of_views(self) -> dict[str, int]:
        """Return a mapping from SHA-256 to row of the augmented features."""
        names = self.content.sha256
        return {names[content]: row for row, content in enumerate(self.augmented_content)}

    def row(self, index: int, *, augmented_index: int | None = None) -> ContentRow:
        """Return one content with its features.

        Parameters
        ----------
        index : int
            Content row.
        augmented_index : int, optional
            Row of its augmented views; must be given if the content has any.

        Raises
        ------
        StoreError
            If the row cannot be read, or its checksum is wrong.
        """
        content = self.content
        plain = self.plain_rows[index].astype(np.float32)
        views = None if augmented_index is None else self.augmented_rows[augmented_index].astype(np.float32)
        if self._checksum(plain, views) != content.crc32[index]:
            raise damaged(self.path, f"row {index} of features/plain", "wrong checksum")
        return ContentRow(
            sha256=content.sha256[index],
            width=int(content.width[index]),
            height=int(content.height[index]),
            phash=int(content.phash[index]),
            thumbnail=content.thumbnail[index],
            plain=plain,
            augmented=views,
        )

    def _checksum(self, *features: Float32Array | None) -> int:
        checksum = 0
        for values in features:
            if values is not None:
                stored = np.ascontiguousarray(values, dtype=self._file["features/plain"].dtype)
                checksum = zlib.crc32(stored.tobytes(), checksum)
        return checksum

    def _read(self, name: str, rows: Any) -> Float32Array:
        try:
            values = self._file[name][:] if rows is None else self._file[name][rows]
        except OSError as error:
            raise damaged(self.path, name, str(error)) from None
        return np.asarray(values, dtype=np.float32)

    def _rows(self, name: str, *, salvage: bool = False) -> StoredRows:
        with self.report_damage(name):
            return StoredRows(self.path, name, file=self._file, salvage=salvage)

    def _text(self, name: str) -> list[str]:
        with self.report_damage(name):
            return list(self._file[name].asstr(errors="surrogateescape")[:])

    def _column(self, name: str) -> npt.NDArray[Any]:
        with self.report_damage(name):
            dataset = self._file[name]
        try:
            return np.asarray(dataset[:])
        except _DAMAGE as error:
            if not self._salvage:
                raise damaged(self.path, name, _reason(error)) from None
        values = np.zeros(dataset.shape, dataset.dtype)
        for chunk in dataset.iter_chunks():
            with suppress(OSError):
                values[chunk] = dataset[chunk]
        return values


def open_store(path: str | os.PathLike[str], *, salvage: bool = False) -> Store:
    """Open a feature store for reading.

    Parameters
    ----------
    path : path-like
        A file written by ``featurize extract``.
    salvage : bool, default=False
        For repair, which knows the damaged parts: return zeros for values that cannot be read.

    Returns
    -------
    Store
        Use it in a ``with`` statement, or close it.

    Raises
    ------
    StoreError
        If the file is missing, is not HDF5, is not a feature store, or has a newer format version.
    """
    return Store(path, salvage=salvage)


def _open_for_reading(path: Path) -> h5py.File:
    if not path.is_file():
        raise StoreError(f"{path}: no such store. Create one with: featurize extract DATA")
    try:
        file = h5py.File(path, "r", locking=False)
    except OSError as error:
        raise StoreError(
            f"{path}: not a readable HDF5 file ({error}). Create it again with: featurize extract DATA"
        ) from None
    try:
        _check_format(path, file)
    except _DAMAGE as error:
        file.close()
        raise damaged(path, "the metadata (attributes)", _reason(error)) from None
    except StoreError:
        file.close()
        raise
    return file


def _check_format(path: Path, file: h5py.File) -> None:
    if file.attrs.get("format") != FORMAT:
        raise StoreError(
            f"{path}: an HDF5 file, but not a Folio feature store. Create one with: featurize extract DATA"
        )
    version = int(file.attrs["format_version"])
    if version != FORMAT_VERSION:
        raise StoreError(
            f"{path}: format version {version}, but this Folio reads version {FORMAT_VERSION}. "
            "Upgrade folio-grader."
        )


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
