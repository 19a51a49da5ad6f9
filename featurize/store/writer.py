"""Writer of a feature store: row by row, in order, into a file that appears only when it is complete."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from featurize.base.files import fsync_file, fsync_folder
from featurize.errors import StoreError
from featurize.store.reader import FORMAT, FORMAT_VERSION, THUMBNAIL, ContentRow, ImageTable

CHUNK_BYTES = 2**20
# Datasets: name → dtype.
CONTENT_COLUMNS = {
    "content/width": "<i4",
    "content/height": "<i4",
    "content/phash": "<u8",
    "content/thumbnail": "|u1",
    "content/crc32": "<u4",
}
IMAGE_COLUMNS = {"images/content": "<i8", "images/label": "<i2"}
# Datasets of strings.
TEXTS = (
    "content/sha256",
    "images/path",
    "images/sha256",
    "images/split",
    "images/entry",
    "images/skipped",
)
_TEXT = h5py.string_dtype("utf-8")


class StoreWriter:
    """Writes a store row by row, in the order of ``sha256``; memory holds one chunk of rows.

    The file appears under its name at `finish`, complete and flushed to disk.

    Parameters
    ----------
    path : path-like
        The store.
    config : mapping
        All settings that change a feature.
    config_digest : str
        Digest of `config`.
    n_features, n_views : int
        Width of the features; augmented views per content that has them.
    most_rows : int
        Maximum number of content rows; limits the chunk sizes.
    store_dtype : {"float32", "float16"}, default="float32"
        Dtype of the features.
    level_names, level_ends : sequence, optional
        Names and end columns of the levels; by default one level "final".
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
        level_names: Sequence[str] = ("final",),
        level_ends: Sequence[int] | None = None,
    ) -> None:
        self.path = Path(path)
        self.sha256: list[str] = []
        self._n_views, self._n_features = n_views, n_features
        self._dtype = np.dtype(store_dtype).newbyteorder("<")
        self._most_rows = max(1, most_rows)
        # A fixed name, so that the next run replaces the file of a killed one, which may be large.
        self._temporary = self.path.with_name(self.path.name + ".tmp")
        self._file = h5py.File(self._temporary, "w", locking=False)
        self._file.attrs["format"] = FORMAT
        self._file.attrs["format_version"] = FORMAT_VERSION
        self._file.attrs["config"] = json.dumps(config)
        self._file.attrs["config_digest"] = config_digest
        self._pending: dict[str, list[Any]] = {}
        self._datasets: dict[str, h5py.Dataset] = {}  # looking them up in h5py is slow
        self._chunk_rows: dict[str, int] = {}
        for name, dtype in CONTENT_COLUMNS.items():
            row_shape = (THUMBNAIL, THUMBNAIL, 3) if name == "content/thumbnail" else ()
            self._create(name, row_shape, np.dtype(dtype))
        self._create("features/plain", (n_features,), self._dtype)
        self._create("features/augmented", (n_views, n_features), self._dtype)
        self._create("features/augmented_content", (), np.dtype("<i8"))
        plain = self._file["features/plain"]
        plain.attrs["level_names"] = np.array(list(level_names), dtype=_TEXT)
        plain.attrs["level_ends"] = np.array(level_ends or [n_features], dtype=np.int64)

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove an unfinished file; does nothing after `finish`."""
        if self._file:
            self._file.close()
            self._temporary.unlink(missing_ok=True)

    def add(self, row: ContentRow) -> None:
        """Append one content; rows must be added in the order of their ``sha256``."""
        if self.sha256 and row.sha256 <= self.sha256[-1]:
            raise StoreError(
                f"{self.path}: content {row.sha256} was added after {self.sha256[-1]}; rows must be sorted"
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
        """Write the remaining rows and the image table, and rename the file; return its size in bytes."""
        for name in list(self._pending):
            self._flush(name)
        attributes = self._file.attrs
        attributes["classes"] = _text_array(classes)
        attributes["ordered"] = bool(ordered)
        attributes["created_with"] = json.dumps(created_with)
        self._write_text("content/sha256", self.sha256)
        for name in ("path", "sha256", "split", "entry", "skipped"):
            self._write_text(f"images/{name}", getattr(images, name))
        attributes["text_crc32"] = json.dumps(text_checksums(self._file))
        for name, dtype in IMAGE_COLUMNS.items():
            self._create(name, (), np.dtype(dtype), most_rows=len(images))
            self._write(name, getattr(images, name.removeprefix("images/")))
        self._file.close()
        fsync_file(self._temporary)
        os.replace(self._temporary, self.path)
        fsync_folder(self.path.parent)
        return self.path.stat().st_size

    def _create(
        self, name: str, row_shape: tuple[int, ...], dtype: np.dtype[Any], *, most_rows: int | None = None
    ) -> None:
        row_bytes = int(np.prod(row_shape, dtype=np.int64)) * dtype.itemsize
        if row_bytes == 0:  # no augmented views: HDF5 has no empty chunks
            self._file.create_dataset(name, shape=(0, *row_shape), dtype=dtype)
            return
        rows = max(
            1, min(CHUNK_BYTES // row_bytes, self._most_rows if most_rows is None else max(1, most_rows))
        )
        self._chunk_rows[name] = rows
        self._datasets[name] = self._file.create_dataset(
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
        if len(rows) >= self._chunk_rows[name]:
            self._flush(name)

    def _flush(self, name: str) -> None:
        self._write(name, np.stack([np.asarray(row) for row in self._pending.pop(name)]))

    def _write(self, name: str, block: npt.NDArray[Any]) -> None:
        dataset = self._datasets[name]
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
    """Write a complete store from rows sorted by ``sha256``; return its size in bytes."""
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


def text_checksums(file: h5py.File) -> dict[str, int]:
    """Return the CRC-32 of every text dataset, since HDF5's own checksums do not cover strings.

    The checksum of a dataset covers its strings, each followed by a zero byte. The attributes ``classes``,
    ``ordered`` ("True" or "False") and ``level_names`` are included in the same way.
    """
    checksums = {}
    for name in TEXTS:
        checksum = 0
        for value in file[name][:]:
            checksum = zlib.crc32(bytes(value) + b"\0", checksum)
        checksums[name] = checksum
    attributes = {
        "classes": file.attrs["classes"],
        "ordered": [str(bool(file.attrs["ordered"]))],
        "level_names": file["features/plain"].attrs["level_names"],
    }
    for name, values in attributes.items():
        checksums[name] = zlib.crc32(b"".join(as_bytes(value) + b"\0" for value in values))
    return checksums


def as_bytes(text: str | bytes) -> bytes:
    """Return the bytes of a string, with undecodable bytes of file names restored."""
    return text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")


def _text_array(values: Sequence[str]) -> npt.NDArray[np.object_]:
    array = np.empty(len(values), dtype=_TEXT)
    array[:] = [value.encode("utf-8", "surrogateescape") for value in values]
    return array
