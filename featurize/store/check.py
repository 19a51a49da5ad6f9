"""Integrity check of a store: its structure, its checksums, and the consistency of its tables.

It runs in a separate process (``python -m featurize.store.check STORE``), because HDF5 may hang or crash on a
file with a damaged structure. It reads one chunk at a time.
"""

from __future__ import annotations

import json
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from featurize.base.typing import IntArray
from featurize.config import config_digest
from featurize.images.folders import SPLITS
from featurize.images.skip_reasons import UNKNOWN, kind_of
from featurize.store.reader import FORMAT, FORMAT_VERSION, THUMBNAIL
from featurize.store.writer import CONTENT_COLUMNS, IMAGE_COLUMNS, TEXTS, as_bytes, text_checksums

# What a fault makes unusable. "file": the whole store; "rows": all features, but not the config; "contents":
# the features of the listed contents; "images": the image table; "data": nothing, only the images on disk
# have changed.
REACHES = ("file", "rows", "contents", "images", "data")


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A fault found in a store."""

    reach: str  # one of REACHES
    where: str  # dataset, attribute or image path
    what: str
    contents: tuple[str, ...] = ()  # SHA-256 of the contents with unusable features

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


class StoreChecker:
    """Checks an open store in one pass and collects the faults.

    Parameters
    ----------
    file : h5py.File
        The store.
    report : callable
        Called with the number of chunks read and the number of all chunks.
    """

    def __init__(self, file: h5py.File, report: Callable[[int, int], None]) -> None:
        self.faults: list[Fault] = []
        self._file, self._report = file, report
        self._damaged: set[int] = set()  # content rows
        self._n_read = self._n_chunks = 0
        self._contents: list[str] = []
        # First path of each content row; empty if the image table is damaged.
        self._paths: dict[int, str] = {}

    def run(self) -> list[Fault]:
        """Run all checks that do not depend on damaged data; return the faults."""
        self._add("file", _check_structure(self._file))
        if self.faults:
            return self.faults
        config = self._file.attrs["config"]
        if config_digest(json.loads(config)) != self._file.attrs["config_digest"]:
            self._add("file", [("config", "does not match config_digest")])
            return self.faults
        self._check_texts()
        self._contents = [_text(value) for value in self._file["content/sha256"][:]]
        self._add("rows", self._order_faults("content/sha256"))
        self._n_chunks = _count_chunks(self._file)
        views = self._rows_of_views()
        self._check_images()
        if not self._has_fault("rows"):
            self._check_rows(views)
        return self.faults

    def _add(self, reach: str, faults: list[tuple[str, str]]) -> None:
        self.faults += [Fault(reach=reach, where=where, what=what) for where, what in faults]

    def _has_fault(self, reach: str) -> bool:
        return any(fault.reach == reach for fault in self.faults)

    def _check_texts(self) -> None:
        stored = self._file.attrs.get("text_crc32")
        if stored is None:  # optional
            return
        expected = json.loads(stored)
        for name, checksum in text_checksums(self._file).items():
            if expected.get(name) != checksum:
                reach = "rows" if name == "content/sha256" else "images"
                self._add(reach, [(name, "wrong checksum (crc32): some of the text has changed")])

    def _order_faults(self, name: str) -> list[tuple[str, str]]:
        values = [as_bytes(value) for value in self._file[name][:]]
        for row, (before, after) in enumerate(pairwise(values), start=1):
            if before >= after:
                what = "equal to the row before" if before == after else "not in order"
                return [(name, f"row {row} is {what}; expected rows sorted by their bytes")]
        return []

    def _rows_of_views(self) -> IntArray:
        """Return the content row of each row of augmented features."""
        name = _AUGMENTED_CONTENT
        dataset = self._file[name]
        values = np.full(dataset.shape, -1, np.int64)
        for rows, chunk in self._chunks(name, reach="rows"):
            values[rows] = chunk
        if not self._has_fault("rows"):
            wrong = np.flatnonzero((values < 0) | (values >= len(self._contents)))
            if len(wrong):
                self._add(
                    "rows", [(name, f"row {wrong[0]} is {values[wrong[0]]}, which is not a row of /content")]
                )
            elif (np.diff(values) <= 0).any():
                self._add("rows", [(name, "not in order; expected each content once, sorted")])
        return values

    def _check_rows(self, views: IntArray) -> None:
        """Read every chunk of the content table and the features; verify the checksum of every content."""
        all_rows = np.arange(len(self._contents))
        checksums = np.zeros(len(all_rows), np.uint32)
        expected = checksums.copy()
        for name in CONTENT_COLUMNS:
            for rows, chunk in self._chunks(name, reach="contents", content_of=all_rows):
                if name == "content/crc32":
                    expected[rows] = chunk
        # The checksum of a content covers its plain features, then its views.
        for name, content_of in (("features/plain", all_rows), ("features/augmented", views)):
            for rows, chunk in self._chunks(name, reach="contents", content_of=content_of):
                for content, values in zip(content_of[rows], chunk, strict=True):
                    checksums[content] = zlib.crc32(values.tobytes(), int(checksums[content]))
        with_views = set(views.tolist())
        for content in np.flatnonzero(checksums != expected):
            if content not in self._damaged:
                names = "features/plain and features/augmented" if content in with_views else "features/plain"
                self.faults.append(
                    Fault(
                        reach="contents",
                        where=self._paths.get(int(content), f"row {content}"),
                        what=f"{names} have a wrong checksum (crc32)",
                        contents=(self._contents[content],),
                    )
                )

    def _chunks(
        self, name: str, *, reach: str, content_of: IntArray | None = None
    ) -> Iterator[tuple[slice, npt.NDArray[Any]]]:
        """Yield rows and values of each readable chunk; add a fault for each damaged chunk.

        `content_of` maps the rows of the dataset to content rows, for the faults.
        """
        dataset = self._file[name]
        if dataset.chunks is None:  # an empty dataset
            return
        height, n_rows = dataset.chunks[0], dataset.shape[0]
        for start in range(0, n_rows, height):
            rows = slice(start, min(start + height, n_rows))
            self._n_read += 1
            self._report(self._n_read, self._n_chunks)
            values: npt.NDArray[Any] | None = None
            try:
                values = dataset[rows]
                what = _checksum_fault(dataset, start)
            except OSError:
                what = "cannot be read: wrong checksum (fletcher32)"
            if values is not None and not what:
                yield rows, values
                continue
            damaged = content_of[rows].tolist() if content_of is not None else []
            self._damaged.update(damaged)
            self.faults.append(
                Fault(
                    reach=reach,
                    where=name,
                    what=f"rows {rows.start} to {rows.stop - 1} {what}",
                    contents=tuple(self._contents[content] for content in damaged),
                )
            )

    def _check_images(self) -> None:
        columns = {}
        for name in ("content", "label"):
            values = np.full(len(self._file[f"images/{name}"]), -1, np.int64)
            for rows, chunk in self._chunks(f"images/{name}", reach="images"):
                values[rows] = chunk
            columns[name] = values
        texts = {
            name: [_text(value) for value in self._file[f"images/{name}"][:]]
            for name in ("path", "sha256", "split", "entry", "skipped")
        }
        self._add("images", self._order_faults("images/path"))
        if self._has_fault("rows") or self._has_fault("images"):
            return
        for path, content in zip(texts["path"], columns["content"].tolist(), strict=True):
            self._paths.setdefault(content, path)
        n_classes = len(self._file.attrs["classes"])
        for row, path in enumerate(texts["path"]):
            row_texts = {name: column[row] for name, column in texts.items()}
            content, label = int(columns["content"][row]), int(columns["label"][row])
            wrong = _image_faults(row_texts, content, label, contents=self._contents, n_classes=n_classes)
            self._add("images", [(path, what) for what in wrong])


def _image_faults(
    values: dict[str, str], content: int, label: int, *, contents: list[str], n_classes: int
) -> Iterator[str]:
    """Yield the faults of one row of the image table."""
    if not -1 <= label < n_classes:
        yield f"its label {label} is not one of the {n_classes} classes"
    if values["split"] not in SPLITS:
        yield f"its split {values['split']!r} is not one of: {', '.join(SPLITS)}"
    if values["entry"] != values["path"] and not values["path"].startswith(values["entry"] + "/"):
        yield f"its entry {values['entry']!r} is not a folder that contains it"
    if not -1 <= content < len(contents):
        yield f"its content {content} is not one of the {len(contents)} rows"
    elif content == -1:
        if kind_of(values["skipped"]) == UNKNOWN:
            yield f"it has no features, but {values['skipped']!r} is not a known reason"
    elif values["skipped"]:
        yield f"it has features, but is marked as skipped: {values['skipped']}"
    elif values["sha256"] != contents[content]:
        yield f"its features belong to another content, {contents[content][:12]}…"


def _checksum_fault(dataset: h5py.Dataset, start: int) -> str:
    """Return why HDF5 did not verify a chunk that it read, or ""; it returns zeros for a missing chunk."""
    try:
        mask, raw = dataset.id.read_direct_chunk((start, *[0] * (dataset.ndim - 1)))
    except RuntimeError:
        return "are missing"
    n_bytes = int(np.prod(dataset.chunks, dtype=np.int64)) * dataset.dtype.itemsize
    skipped = mask or len(raw) != n_bytes + 4  # fletcher32 adds four bytes
    return "have no checksum (fletcher32)" if skipped else ""


def _text(value: str | bytes) -> str:
    return as_bytes(value).decode("utf-8", "surrogateescape")


def main(path: str) -> int:
    """Check a store; print progress and the result as JSON, one object per line."""

    def report(done: int, total: int) -> None:
        _reply({"done": done, "total": total})

    report(0, 0)
    attributes: dict[str, Any] = {"config": None, "created_with": None}
    try:
        with h5py.File(Path(path), "r", locking=False) as file:
            faults = StoreChecker(file, report).run()
            if not any(fault.where in ("config", "created_with") for fault in faults):
                attributes = {name: json.loads(file.attrs[name]) for name in attributes}
    except Exception as error:  # a damaged structure can raise almost any exception in h5py
        text = " ".join(str(error).split()) or type(error).__name__
        faults = [Fault(reach="file", where="structure", what=f"HDF5 cannot read it ({text})")]
    _reply({"faults": [asdict(fault) for fault in faults], **attributes})
    return 0


def _reply(message: dict[str, Any]) -> None:
    """Write one line of JSON to the parent process."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


_FEATURES = ("features/plain", "features/augmented")
_AUGMENTED_CONTENT = "features/augmented_content"
_REQUIRED = {"format", "format_version", "config", "config_digest", "classes", "ordered", "created_with"}
_OPTIONAL = {"text_crc32"}


def _count_chunks(file: h5py.File) -> int:
    """Return the number of chunks of a store that has all datasets."""
    datasets = [file[name] for name in (*CONTENT_COLUMNS, *IMAGE_COLUMNS, *_FEATURES, _AUGMENTED_CONTENT)]
    return sum(
        -(-dataset.shape[0] // dataset.chunks[0]) for dataset in datasets if dataset.chunks is not None
    )


def _check_structure(file: h5py.File) -> list[tuple[str, str]]:
    """Return violations of the format as (where, what); with any, the content is not checked further."""
    file.visititems(lambda name, item: None)  # raises if a name has no object
    return _attributes(file) or _types(file) or _shapes(file)


def _attributes(file: h5py.File) -> list[tuple[str, str]]:
    names = set(file.attrs)
    faults = [(name, "this attribute is missing") for name in sorted(_REQUIRED - names)]
    faults += [
        (name, "this attribute is not in the format") for name in sorted(names - _REQUIRED - _OPTIONAL)
    ]
    if faults:
        return faults
    if file.attrs["format"] != FORMAT or file.attrs["format_version"] != FORMAT_VERSION:
        found = f"{file.attrs['format']!r} version {file.attrs['format_version']}"
        faults.append(("format", f"is {found}; expected {FORMAT!r} version {FORMAT_VERSION}"))
    for name in ("config", "created_with", *(_OPTIONAL & names)):
        try:
            is_object = isinstance(json.loads(file.attrs[name]), dict)
        except (TypeError, ValueError):
            is_object = False
        if not is_object:
            faults.append((name, "is not a JSON object"))
    return faults


def _types(file: h5py.File) -> list[tuple[str, str]]:
    stored = json.loads(file.attrs["config"]).get("store_dtype", "float32")
    features = np.dtype(stored).newbyteorder("<").str
    numbers = {
        **CONTENT_COLUMNS,
        **IMAGE_COLUMNS,
        **dict.fromkeys(_FEATURES, features),
        _AUGMENTED_CONTENT: "<i8",
    }
    faults = []
    for name, dtype in numbers.items():
        dataset = file.get(name)
        if not isinstance(dataset, h5py.Dataset):
            faults.append((name, "this dataset is missing"))
        elif dataset.dtype != np.dtype(dtype):
            faults.append((name, f"its type is {dataset.dtype}; expected {np.dtype(dtype)}"))
        elif dataset.chunks is not None and not dataset.fletcher32:
            faults.append((name, "it has no checksums (fletcher32)"))
    for name in TEXTS:
        dataset = file.get(name)
        if not isinstance(dataset, h5py.Dataset):
            faults.append((name, "this dataset is missing"))
        elif h5py.check_string_dtype(dataset.dtype) is None:
            faults.append((name, f"its type is {dataset.dtype}; expected text"))
    return faults


def _shapes(file: h5py.File) -> list[tuple[str, str]]:
    plain, augmented = (file[name].shape for name in _FEATURES)
    if len(plain) != 2:
        return [("features/plain", f"its shape is {plain}; expected (n_content, n_features)")]
    if len(augmented) != 3:
        return [
            ("features/augmented", f"its shape is {augmented}; expected (n_augmented, n_views, n_features)")
        ]
    expected: dict[str, tuple[int, ...]] = {name: (len(file["content/sha256"]),) for name in CONTENT_COLUMNS}
    expected["content/thumbnail"] += (THUMBNAIL, THUMBNAIL, 3)
    expected["features/plain"] = (len(file["content/sha256"]), plain[1])
    expected["features/augmented"] = (len(file[_AUGMENTED_CONTENT]), augmented[1], plain[1])
    expected |= dict.fromkeys((*IMAGE_COLUMNS, *TEXTS[1:]), (len(file["images/path"]),))
    faults = [
        (name, f"its shape is {file[name].shape}; expected {shape}")
        for name, shape in expected.items()
        if file[name].shape != shape
    ]
    return faults or _too_large(file, expected) or _levels(file["features/plain"])


def _too_large(file: h5py.File, expected: dict[str, tuple[int, ...]]) -> list[tuple[str, str]]:
    """Return faults of datasets with more rows than the file can hold: HDF5 would return zeros for them."""
    file_bytes = file.id.get_filesize()
    for name, shape in expected.items():
        if np.prod(shape, dtype=object) * file[name].dtype.itemsize > file_bytes:
            return [(name, f"its shape is {shape}, more than a file of {file_bytes} bytes can hold")]
        chunks: Any = file[name].chunks
        if chunks is None and np.prod(shape) and name not in TEXTS:
            return [(name, "it is not chunked")]
        if chunks is not None and chunks[1:] != shape[1:]:
            return [(name, f"its chunks are {chunks}; expected whole rows")]
    return []


def _levels(plain: h5py.Dataset) -> list[tuple[str, str]]:
    names, ends = plain.attrs.get("level_names"), plain.attrs.get("level_ends")
    if names is None or ends is None or len(names) != len(ends):
        return [("features/plain", "its attributes level_names and level_ends do not match")]
    ends = [0, *map(int, ends)]
    if ends[-1] != plain.shape[1] or any(a >= b for a, b in pairwise(ends)):
        return [("features/plain", f"level_ends {ends[1:]} are not the ends of {plain.shape[1]} columns")]
    return []


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
