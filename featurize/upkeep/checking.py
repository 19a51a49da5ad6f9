"""A store looked at from within: its structure, its checksums, whether its tables fit together.

Run in a process of its own (``python -m featurize.upkeep.checking STORE``), because HDF5 may hang or crash
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
from featurize.dataset import SPLITS
from featurize.decode.reasons import UNKNOWN, kind_of
from featurize.store_writer import text_checksums
from featurize.upkeep.structure import CONTENT_COLUMNS, check_structure, shapes

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


class Check:
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
        self._n_chunks = shapes(self._file).n_chunks
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
            faults = Check(file, report).run()
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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
