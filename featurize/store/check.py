"""A store looked at from within: its structure, its checksums, whether its tables fit together.

Run in a process of its own (``python -m featurize.store.check STORE``), because HDF5 may hang or crash
on a file whose structure is broken. Reads one chunk at a time.
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

from featurize.config import config_digest
from featurize.images.folders import SPLITS
from featurize.images.skip_reasons import UNKNOWN, kind_of
from featurize.store.reader import FORMAT, FORMAT_VERSION, THUMBNAIL
from featurize.store.writer import TEXTS, text_checksums

# What a fault leaves unreliable. "file": all of the store; "rows": all features, not the config; "contents":
# the features of those named; "images": the table of images; "data": nothing, the folder has changed since.
REACHES = ("file", "rows", "contents", "images", "data")


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing that is off."""

    reach: str  # one of REACHES
    where: str  # dataset, attribute or path
    what: str
    contents: tuple[str, ...] = ()  # SHA-256 of the contents whose features are not to be used

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


class StoreChecker:
    """One pass over an open store. Collects faults; what later steps build on is asked for by `reaches`."""

    def __init__(self, file: h5py.File, report: Callable[[int, int], None]) -> None:
        self.faults: list[Fault] = []
        self._file, self._report = file, report
        self._damaged: set[int] = set()  # rows of the contents
        self._n_read = self._n_chunks = 0
        self._contents: list[str] = []
        self._paths: dict[int, str] = {}  # first path of each content row, where the table of images is whole

    def run(self) -> list[Fault]:
        """Look at everything, in the order in which one thing rests on another."""
        self._note("file", check_structure(self._file))
        if self.faults:
            return self.faults
        config = self._file.attrs["config"]
        if config_digest(json.loads(config)) != self._file.attrs["config_digest"]:
            self._note("file", [("config", "config_digest is not the digest of it")])
            return self.faults
        self._note_texts()
        self._contents = [_text(value) for value in self._file["content/sha256"][:]]
        self._note("rows", self._unsorted("content/sha256"))
        self._n_chunks = store_shapes(self._file).n_chunks
        views = self._rows_of_views()
        self._note_images()
        if not self._reaches("rows"):
            self._note_rows(views)
        return self.faults

    def _note(self, reach: str, faults: list[tuple[str, str]]) -> None:
        self.faults += [Fault(reach=reach, where=where, what=what) for where, what in faults]

    def _reaches(self, reach: str) -> bool:
        return any(fault.reach == reach for fault in self.faults)

    def _note_texts(self) -> None:
        stored = self._file.attrs.get("text_crc32")
        if stored is None:  # written before there were any
            return
        expected = json.loads(stored)
        for name, checksum in text_checksums(self._file).items():
            if expected.get(name) != checksum:
                reach = "rows" if name == "content/sha256" else "images"
                self._note(reach, [(name, "its checksum (crc32) is another: some of the text has changed")])

    def _unsorted(self, name: str) -> list[tuple[str, str]]:
        values = [_bytes(value) for value in self._file[name][:]]
        for row, (before, after) in enumerate(pairwise(values), start=1):
            if before >= after:
                what = "equal to the row before" if before == after else "not in order"
                return [(name, f"row {row} is {what}; expected rows sorted by their bytes")]
        return []

    def _rows_of_views(self) -> npt.NDArray[np.int64]:
        """Return the content row of each row of augmented features."""
        name = "features/augmented_content"
        dataset = self._file[name]
        values = np.full(dataset.shape, -1, np.int64)
        for rows, chunk in self._chunks(name, reach="rows"):
            values[rows] = chunk
        if not self._reaches("rows"):
            wrong = np.flatnonzero((values < 0) | (values >= len(self._contents)))
            if len(wrong):
                self._note(
                    "rows", [(name, f"row {wrong[0]} is {values[wrong[0]]}, which is no row of /content")]
                )
            elif (np.diff(values) <= 0).any():
                self._note("rows", [(name, "not in order; expected each content once, sorted")])
        return values

    def _note_rows(self, views: npt.NDArray[np.int64]) -> None:
        """Read every chunk of what is kept of contents, and compare the features with their checksums."""
        everything = np.arange(len(self._contents))
        checksums = np.zeros(len(everything), np.uint32)
        expected = checksums.copy()
        for name in CONTENT_COLUMNS:
            for rows, chunk in self._chunks(name, reach="contents", content_of=everything):
                if name == "content/crc32":
                    expected[rows] = chunk
        # A row's checksum goes over its plain features, then over its views.
        for name, content_of in (("features/plain", everything), ("features/augmented", views)):
            for rows, chunk in self._chunks(name, reach="contents", content_of=content_of):
                for content, values in zip(content_of[rows], chunk, strict=True):
                    checksums[content] = zlib.crc32(values.tobytes(), int(checksums[content]))
        having_views = set(views.tolist())
        for content in np.flatnonzero(checksums != expected):
            if content not in self._damaged:
                both = (
                    "features/plain and features/augmented" if content in having_views else "features/plain"
                )
                self.faults.append(
                    Fault(
                        reach="contents",
                        where=self._paths.get(int(content), f"row {content}"),
                        what=f"{both} do not have the checksum (crc32) that was taken of them",
                        contents=(self._contents[content],),
                    )
                )

    def _chunks(
        self, name: str, *, reach: str, content_of: npt.NDArray[np.int64] | None = None
    ) -> Iterator[tuple[slice, npt.NDArray[Any]]]:
        """Yield rows and values of each chunk that can be read; note those that cannot."""
        dataset = self._file[name]
        if dataset.chunks is None:  # HDF5 has no chunks of nothing
            return
        height, n_rows = dataset.chunks[0], dataset.shape[0]
        for start in range(0, n_rows, height):
            rows = slice(start, min(start + height, n_rows))
            self._n_read += 1
            self._report(self._n_read, self._n_chunks)
            values: npt.NDArray[Any] | None = None
            try:
                values = dataset[rows]
                what = _unchecked(dataset, start)
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

    def _note_images(self) -> None:
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
        self._note("images", self._unsorted("images/path"))
        if self._reaches("rows") or self._reaches("images"):
            return
        for path, content in zip(texts["path"], columns["content"].tolist(), strict=True):
            self._paths.setdefault(content, path)
        n_classes = len(self._file.attrs["classes"])
        for row, path in enumerate(texts["path"]):
            row_texts = {name: column[row] for name, column in texts.items()}
            content, label = int(columns["content"][row]), int(columns["label"][row])
            wrong = _wrong_in_row(row_texts, content, label, contents=self._contents, n_classes=n_classes)
            self._note("images", [(path, what) for what in wrong])


def _wrong_in_row(
    values: dict[str, str], content: int, label: int, *, contents: list[str], n_classes: int
) -> Iterator[str]:
    """Yield what is wrong with one row of the table of images."""
    if not -1 <= label < n_classes:
        yield f"its label {label} is none of the {n_classes} classes"
    if values["split"] not in SPLITS:
        yield f"its split {values['split']!r} is none of: {', '.join(SPLITS)}"
    if values["entry"] != values["path"] and not values["path"].startswith(values["entry"] + "/"):
        yield f"its entry {values['entry']!r} is no folder that it lies in"
    if not -1 <= content < len(contents):
        yield f"its content {content} is none of the {len(contents)} rows"
    elif content == -1:
        if kind_of(values["skipped"]) == UNKNOWN:
            yield f"it has no features, and {values['skipped']!r} is no reason for that"
    elif values["skipped"]:
        yield f"it has features, and was skipped all the same: {values['skipped']}"
    elif values["sha256"] != contents[content]:
        yield f"its features are those of another content, {contents[content][:12]}…"


def _unchecked(dataset: h5py.Dataset, start: int) -> str:
    """Return why a chunk that could be read was not checked: HDF5 takes zeros for one that it cannot find."""
    try:
        mask, raw = dataset.id.read_direct_chunk((start, *[0] * (dataset.ndim - 1)))
    except RuntimeError:
        return "are missing"
    n_bytes = int(np.prod(dataset.chunks, dtype=np.int64)) * dataset.dtype.itemsize
    skipped = mask or len(raw) != n_bytes + 4  # fletcher32 adds four bytes
    return "have no checksum (fletcher32)" if skipped else ""


def _bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode("utf-8", "surrogateescape")


def _text(value: str | bytes) -> str:
    return _bytes(value).decode("utf-8", "surrogateescape")


def main(path: str) -> int:
    """Check a store; print progress and the result, one JSON object a line."""

    def report(done: int, total: int) -> None:
        _reply({"done": done, "total": total})

    report(0, 0)
    facts: dict[str, Any] = {"config": None, "created_with": None}
    try:
        with h5py.File(Path(path), "r", locking=False) as file:
            faults = StoreChecker(file, report).run()
            if not any(fault.where in ("config", "created_with") for fault in faults):
                facts = {name: json.loads(file.attrs[name]) for name in facts}
    except Exception as error:  # a broken structure makes HDF5 and h5py raise anything at all
        text = " ".join(str(error).split()) or type(error).__name__
        faults = [Fault(reach="file", where="structure", what=f"HDF5 cannot read it ({text})")]
    _reply({"faults": [asdict(fault) for fault in faults], **facts})
    return 0


def _reply(message: dict[str, Any]) -> None:
    """Send the parent process one line of JSON."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


CONTENT_COLUMNS = {
    "content/width": "<i4",
    "content/height": "<i4",
    "content/phash": "<u8",
    "content/thumbnail": "|u1",
    "content/crc32": "<u4",
}
IMAGE_COLUMNS = {"images/content": "<i8", "images/label": "<i2"}
FEATURES = ("features/plain", "features/augmented")
REQUIRED = {"format", "format_version", "config", "config_digest", "classes", "ordered", "created_with"}
OPTIONAL = {"text_crc32"}


@dataclass(frozen=True, kw_only=True)
class StoreShapes:
    """The counts of a store, as its datasets have them."""

    n_content: int
    n_images: int
    n_augmented: int
    n_views: int
    n_features: int
    n_chunks: int


def store_shapes(file: h5py.File) -> StoreShapes:
    """Return the counts of a store whose datasets are all there."""
    augmented = file["features/augmented"].shape
    n_chunks = 0
    for name in (*CONTENT_COLUMNS, *IMAGE_COLUMNS, *FEATURES, "features/augmented_content"):
        if file[name].chunks is not None:
            n_chunks += -(-file[name].shape[0] // file[name].chunks[0])
    return StoreShapes(
        n_content=file["content/sha256"].shape[0],
        n_images=file["images/path"].shape[0],
        n_augmented=augmented[0],
        n_views=augmented[1],
        n_features=file["features/plain"].shape[1],
        n_chunks=n_chunks,
    )


def check_structure(file: h5py.File) -> list[tuple[str, str]]:
    """Return what is not as the format has it: where, and what. Nothing else is worth reading then."""
    file.visititems(lambda name, item: None)  # raises where a name leads nowhere
    return _attributes(file) or _types(file) or _shapes(file)


def _attributes(file: h5py.File) -> list[tuple[str, str]]:
    names = set(file.attrs)
    faults = [(name, "this attribute is missing") for name in sorted(REQUIRED - names)]
    faults += [(name, "this attribute is not in the format") for name in sorted(names - REQUIRED - OPTIONAL)]
    if faults:
        return faults
    if file.attrs["format"] != FORMAT or file.attrs["format_version"] != FORMAT_VERSION:
        found = f"{file.attrs['format']!r} version {file.attrs['format_version']}"
        faults.append(("format", f"is {found}; expected {FORMAT!r} version {FORMAT_VERSION}"))
    for name in ("config", "created_with", *(OPTIONAL & names)):
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
        **dict.fromkeys(FEATURES, features),
        "features/augmented_content": "<i8",
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
    plain, augmented = (file[name].shape for name in FEATURES)
    if len(plain) != 2:
        return [("features/plain", f"its shape is {plain}; expected (n_content, n_features)")]
    if len(augmented) != 3:
        return [
            ("features/augmented", f"its shape is {augmented}; expected (n_augmented, n_views, n_features)")
        ]
    expected: dict[str, tuple[int, ...]] = {name: (len(file["content/sha256"]),) for name in CONTENT_COLUMNS}
    expected["content/thumbnail"] += (THUMBNAIL, THUMBNAIL, 3)
    expected["features/plain"] = (len(file["content/sha256"]), plain[1])
    expected["features/augmented"] = (len(file["features/augmented_content"]), augmented[1], plain[1])
    expected |= dict.fromkeys((*IMAGE_COLUMNS, *TEXTS[1:]), (len(file["images/path"]),))
    faults = [
        (name, f"its shape is {file[name].shape}; expected {shape}")
        for name, shape in expected.items()
        if file[name].shape != shape
    ]
    return faults or _too_large(file, expected) or _levels(file["features/plain"])


def _too_large(file: h5py.File, expected: dict[str, tuple[int, ...]]) -> list[tuple[str, str]]:
    """Rows that HDF5 would make up: chunks that are not in the file come as zeros, without an end."""
    there = file.id.get_filesize()
    for name, shape in expected.items():
        if np.prod(shape, dtype=object) * file[name].dtype.itemsize > there:
            return [(name, f"its shape is {shape}, more than the whole file of {there} bytes can hold")]
        chunks: Any = file[name].chunks
        if chunks is None and np.prod(shape) and name not in TEXTS:
            return [(name, "it is not chunked")]
        if chunks is not None and chunks[1:] != shape[1:]:
            return [(name, f"its chunks are {chunks}; expected whole rows")]
    return []


def _levels(plain: h5py.Dataset) -> list[tuple[str, str]]:
    names, ends = plain.attrs.get("level_names"), plain.attrs.get("level_ends")
    if names is None or ends is None or len(names) != len(ends):
        return [("features/plain", "its attributes level_names and level_ends do not fit together")]
    ends = [0, *map(int, ends)]
    if ends[-1] != plain.shape[1] or any(a >= b for a, b in pairwise(ends)):
        return [("features/plain", f"level_ends {ends[1:]} are not the ends of {plain.shape[1]} columns")]
    return []


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
