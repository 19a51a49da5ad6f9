"""The feature store, format version 1: one ordinary HDF5 file. Knows h5py and NumPy only.

A reader needs nothing of Folio: see "Store, format version 1" in CONTRIBUTING.md for every name, or ``h5dump``.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from featurize.errors import StoreError

FORMAT = "folio-features"
FORMAT_VERSION = 1
THUMBNAIL = 32
CHUNK_BYTES = 2**20
_TEXT = h5py.string_dtype("utf-8")


@dataclass(frozen=True, kw_only=True)
class ImageTable:
    """One row per image file, sorted by the bytes of ``path``; all columns have ``n_images`` entries."""

    path: list[str]
    sha256: list[str]
    content: npt.NDArray[np.int64]  # row of the content table, -1 when skipped
    label: npt.NDArray[np.int16]  # index into classes, -1 when ungraded
    split: list[str]
    entry: list[str]
    skipped: list[str]  # "" or the reason

    def __len__(self) -> int:
        return len(self.path)

    def same_as(self, other: ImageTable) -> bool:
        """Tell whether every cell is equal."""
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
    width: npt.NDArray[np.int32]  # upright pixels
    height: npt.NDArray[np.int32]
    phash: npt.NDArray[np.uint64]
    thumbnail: npt.NDArray[np.uint8]  # (n_content, 32, 32, 3)
    crc32: npt.NDArray[np.uint32]  # of the row's plain, then augmented features, as stored


@dataclass(frozen=True, kw_only=True)
class ContentRow:
    """All that a store keeps of one file content."""

    sha256: str
    width: int
    height: int
    phash: int
    thumbnail: npt.NDArray[np.uint8]  # (32, 32, 3)
    plain: npt.NDArray[np.float32]  # (n_features,)
    augmented: npt.NDArray[np.float32] | None  # (n_views, n_features)


class Store:
    """A store opened for reading. Use as a context manager; arrays are read when asked for."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._file = _open_for_reading(self.path)
        attributes = self._file.attrs
        self.config: dict[str, Any] = json.loads(attributes["config"])
        self.config_digest = str(attributes["config_digest"])
        self.classes: tuple[str, ...] = tuple(str(name) for name in attributes["classes"])
        self.ordered = bool(attributes["ordered"])
        self.created_with: dict[str, Any] = json.loads(attributes["created_with"])

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; arrays already read stay valid."""
        self._file.close()

    @property
    def name(self) -> str:
        """File name without ``.h5``: the backbone, with a suffix for a config that is not the default."""
        return self.path.name.removesuffix(".h5")

    @property
    def dataset(self) -> str:
        """Name of the data set the features were made from."""
        return str(self.created_with.get("dataset") or self.path.resolve().parent.name)

    @property
    def backbone(self) -> str:
        """Name of the backbone."""
        return str(self.config["backbone"])

    @property
    def n_images(self) -> int:
        """Image files, skipped ones included."""
        return int(self._file["images/path"].shape[0])

    @property
    def n_content(self) -> int:
        """Distinct file contents that have features."""
        return int(self._file["features/plain"].shape[0])

    @property
    def n_features(self) -> int:
        """Features of one view."""
        return int(self._file["features/plain"].shape[1])

    @property
    def n_augmented(self) -> int:
        """Contents that have augmented views."""
        return int(self._file["features/augmented"].shape[0])

    @property
    def n_views(self) -> int:
        """Augmented views of each content that has them."""
        return int(self._file["features/augmented"].shape[1])

    @property
    def level_names(self) -> tuple[str, ...]:
        """Names of the pooled levels."""
        return tuple(str(name) for name in self._file["features/plain"].attrs["level_names"])

    @property
    def level_ends(self) -> tuple[int, ...]:
        """Column at which each level ends."""
        return tuple(int(end) for end in self._file["features/plain"].attrs["level_ends"])

    @cached_property
    def images(self) -> ImageTable:
        """The table of image files."""
        group = self._file["images"]
        return ImageTable(
            path=_read_text(group["path"]),
            sha256=_read_text(group["sha256"]),
            content=group["content"][:],
            label=group["label"][:],
            split=_read_text(group["split"]),
            entry=_read_text(group["entry"]),
            skipped=_read_text(group["skipped"]),
        )

    @cached_property
    def content(self) -> ContentTable:
        """The table of distinct contents."""
        group = self._file["content"]
        return ContentTable(
            sha256=_read_text(group["sha256"]),
            width=group["width"][:],
            height=group["height"][:],
            phash=group["phash"][:],
            thumbnail=group["thumbnail"][:],
            crc32=group["crc32"][:],
        )

    @cached_property
    def augmented_content(self) -> npt.NDArray[np.int64]:
        """Content row of each row of `augmented`; int64 of shape (n_augmented,)."""
        return np.asarray(self._file["features/augmented_content"][:])

    def plain(self, rows: Any = None) -> npt.NDArray[np.float32]:
        """Return features of the plain view, float32 of shape (n_rows, n_features); all rows by default."""
        return self._read("features/plain", rows)

    def augmented(self, rows: Any = None, *, n_views: int | None = None) -> npt.NDArray[np.float32]:
        """Return features of the first ``n_views`` augmented views, float32 (n_rows, n_views, n_features)."""
        return self._read("features/augmented", rows)[:, :n_views]

    def row(self, index: int, *, augmented_index: int | None = None) -> ContentRow:
        """Return everything kept of content row ``index``; its views where ``augmented_index`` names their row."""
        content = self.content
        views = None if augmented_index is None else self._read("features/augmented", [augmented_index])[0]
        return ContentRow(
            sha256=content.sha256[index],
            width=int(content.width[index]),
            height=int(content.height[index]),
            phash=int(content.phash[index]),
            thumbnail=content.thumbnail[index],
            plain=self._read("features/plain", [index])[0],
            augmented=views,
        )

    def _read(self, name: str, rows: Any) -> npt.NDArray[np.float32]:
        try:
            values = self._file[name][:] if rows is None else self._file[name][rows]
        except OSError as error:
            raise StoreError(
                f"{self.path}: {name} is damaged on disk ({error}). "
                "Delete the file and run the same featurize extract again."
            ) from None
        return np.asarray(values, dtype=np.float32)


def open_store(path: str | os.PathLike[str]) -> Store:
    """Open a feature store for reading.

    Parameters
    ----------
    path : path-like
        A file made by ``featurize extract``.

    Returns
    -------
    Store
        To be used in a ``with`` statement, or closed.

    Raises
    ------
    StoreError
        If the file is missing, is not HDF5, is no feature store, or has a newer format version.
    """
    return Store(path)


class StoreWriter:
    """Writes a store row by row, in the order of ``sha256``; memory holds one chunk of rows.

    The file appears under its name only at `finish`, complete and flushed to disk, by one `os.replace`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        config: Mapping[str, Any],
        config_digest: str,
        n_features: int,
        n_views: int,
        most_rows: int,
        store_dtype: str = "float32",
    ) -> None:
        self.path = Path(path)
        self.sha256: list[str] = []
        self._n_views, self._n_features = n_views, n_features
        self._dtype = np.dtype(store_dtype).newbyteorder("<")
        self._most_rows = max(1, most_rows)
        self._temporary = self.path.with_name(self.path.name + ".tmp")
        self._file = h5py.File(self._temporary, "w", locking=False)
        self._file.attrs["format"] = FORMAT
        self._file.attrs["format_version"] = FORMAT_VERSION
        self._file.attrs["config"] = json.dumps(config)
        self._file.attrs["config_digest"] = config_digest
        self._pending: dict[str, list[Any]] = {}
        for name in ("width", "height"):
            self._create(f"content/{name}", (), np.dtype("<i4"))
        self._create("content/phash", (), np.dtype("<u8"))
        self._create("content/thumbnail", (THUMBNAIL, THUMBNAIL, 3), np.dtype("u1"))
        self._create("content/crc32", (), np.dtype("<u4"))
        self._create("features/plain", (n_features,), self._dtype)
        self._create("features/augmented", (n_views, n_features), self._dtype)
        self._create("features/augmented_content", (), np.dtype("<i8"))
        plain = self._file["features/plain"]
        plain.attrs["level_names"] = np.array(["final"], dtype=_TEXT)
        plain.attrs["level_ends"] = np.array([n_features], dtype=np.int64)

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Drop what was not finished; after `finish` there is nothing to drop."""
        if self._file:
            self._file.close()
            self._temporary.unlink(missing_ok=True)

    def add(self, row: ContentRow) -> None:
        """Append one content; rows must come in the order of their ``sha256``."""
        if self.sha256 and row.sha256 <= self.sha256[-1]:
            raise StoreError(
                f"{self.path}: content {row.sha256} came after {self.sha256[-1]}; rows must be sorted"
            )
        plain = np.ascontiguousarray(row.plain, dtype=self._dtype)
        checksum = zlib.crc32(plain.tobytes())
        if row.augmented is not None:
            augmented = np.ascontiguousarray(row.augmented, dtype=self._dtype)
            checksum = zlib.crc32(augmented.tobytes(), checksum)
            self._append("features/augmented", augmented)
            self._append("features/augmented_content", len(self.sha256))
        self._append("features/plain", plain)
        for name in ("width", "height", "phash", "thumbnail"):
            self._append(f"content/{name}", getattr(row, name))
        self._append("content/crc32", checksum)
        self.sha256.append(row.sha256)

    def finish(
        self, *, images: ImageTable, classes: Sequence[str], ordered: bool, created_with: Mapping[str, Any]
    ) -> int:
        """Write what is pending and the image table, put the file in place; return its size in bytes."""
        for name in list(self._pending):
            self._flush(name)
        attributes = self._file.attrs
        attributes["classes"] = _text_array(classes)
        attributes["ordered"] = bool(ordered)
        attributes["created_with"] = json.dumps(created_with)
        self._write_text("content/sha256", self.sha256)
        for name in ("path", "sha256", "split", "entry", "skipped"):
            self._write_text(f"images/{name}", getattr(images, name))
        for name, dtype in (("content", "<i8"), ("label", "<i2")):
            self._create(f"images/{name}", (), np.dtype(dtype), most_rows=len(images))
            self._pending[f"images/{name}"] = [getattr(images, name)]
            self._flush(f"images/{name}", stacked=True)
        self._file.close()
        _flush_to_disk(self._temporary)
        os.replace(self._temporary, self.path)
        _flush_to_disk(self.path.parent)
        return self.path.stat().st_size

    def _create(
        self, name: str, row_shape: tuple[int, ...], dtype: np.dtype[Any], *, most_rows: int | None = None
    ) -> None:
        row_bytes = int(np.prod(row_shape, dtype=np.int64)) * dtype.itemsize
        if row_bytes == 0:  # no augmented views at all: HDF5 has no chunks of nothing
            self._file.create_dataset(name, shape=(0, *row_shape), dtype=dtype)
            return
        rows = max(
            1, min(CHUNK_BYTES // row_bytes, self._most_rows if most_rows is None else max(1, most_rows))
        )
        self._file.create_dataset(
            name,
            shape=(0, *row_shape),
            maxshape=(None, *row_shape),
            chunks=(rows, *row_shape),
            dtype=dtype,
            fletcher32=True,
        )

    def _append(self, name: str, value: Any) -> None:
        rows = self._pending.setdefault(name, [])
        rows.append(value)
        if len(rows) >= self._file[name].chunks[0]:
            self._flush(name)

    def _flush(self, name: str, *, stacked: bool = False) -> None:
        rows = self._pending.pop(name)
        block = rows[0] if stacked else np.stack([np.asarray(row) for row in rows])
        dataset = self._file[name]
        start = dataset.shape[0]
        dataset.resize(start + len(block), axis=0)
        dataset[start:] = block

    def _write_text(self, name: str, values: Sequence[str]) -> None:
        self._file.create_dataset(name, data=_text_array(values), dtype=_TEXT)


def write_store(
    path: str | os.PathLike[str],
    *,
    config: Mapping[str, Any],
    config_digest: str,
    rows: Iterable[ContentRow],
    n_views: int,
    n_features: int,
    images: ImageTable,
    classes: Sequence[str],
    ordered: bool,
    created_with: Mapping[str, Any],
) -> int:
    """Write a whole store at once from rows sorted by ``sha256``; return its size in bytes."""
    rows = list(rows)
    with StoreWriter(
        path,
        config=config,
        config_digest=config_digest,
        n_features=n_features,
        n_views=n_views,
        most_rows=len(rows),
        store_dtype=config.get("store_dtype", "float32"),
    ) as writer:
        for row in rows:
            writer.add(row)
        return writer.finish(images=images, classes=classes, ordered=ordered, created_with=created_with)


def _open_for_reading(path: Path) -> h5py.File:
    if not path.is_file():
        raise StoreError(f"{path}: no such store. Make one with: featurize extract DATA")
    try:
        file = h5py.File(path, "r", locking=False)
    except OSError as error:
        raise StoreError(
            f"{path}: not a readable HDF5 file ({error}). Make it anew with: featurize extract DATA"
        ) from None
    if file.attrs.get("format") != FORMAT:
        file.close()
        raise StoreError(
            f"{path}: an HDF5 file, but not a Folio feature store. Make one with: featurize extract DATA"
        )
    version = int(file.attrs["format_version"])
    if version != FORMAT_VERSION:
        file.close()
        raise StoreError(
            f"{path}: format version {version}, but this Folio reads version {FORMAT_VERSION}. Upgrade folio-grader."
        )
    return file


def _text_array(values: Sequence[str]) -> npt.NDArray[np.object_]:
    array = np.empty(len(values), dtype=_TEXT)
    array[:] = [value.encode("utf-8", "surrogateescape") for value in values]
    return array


def _read_text(dataset: h5py.Dataset) -> list[str]:
    return list(dataset.asstr(errors="surrogateescape")[:])


def _flush_to_disk(path: Path) -> None:
    if os.name == "nt" and path.is_dir():  # Windows cannot open a folder to flush it
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
