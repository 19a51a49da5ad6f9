"""Why a file gives no picture: the closed set of kinds, and what is told apart by them."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from featurize.base.text import plural, safe_cell
from featurize.errors import ConfigError

# Every reason is one of these kinds; ": " and a detail may follow.
SKIP_REASONS = (
    "unreadable",
    "not a regular file",
    "empty file",
    "not an image",
    "too many pixels",
    "truncated",
    "damaged",
    "changed while being read",
    "timed out",
    "decoder crashed",
)
# May be gone at the next run; a file skipped for another kind is known by its content from then on.
TRANSIENT = frozenset(
    {
        "unreadable",
        "not a regular file",
        "too many pixels",
        "changed while being read",
        "timed out",
        "decoder crashed",
    }
)
UNKNOWN = "unknown"  # no reason that this version gives


def kind_of(reason: str) -> str:
    """Return the kind of a skip reason: one of `SKIP_REASONS`, or `UNKNOWN`."""
    kind = reason.partition(":")[0]
    return kind if kind in SKIP_REASONS else UNKNOWN


def detail_of(reason: str) -> str:
    """Return what a skip reason says beyond its kind; "" when it says no more."""
    return reason.partition(":")[2].strip() if kind_of(reason) != UNKNOWN else reason


def is_transient(reason: str) -> bool:
    """Tell whether a skipped file may be readable at the next run."""
    return kind_of(reason) in TRANSIENT


def count_kinds(reasons: Iterable[str]) -> dict[str, int]:
    """Return how many reasons there are of each kind, the most frequent kind first."""
    return dict(Counter(map(kind_of, reasons)).most_common())


_CONVERT = "convert it to JPEG or PNG"
_ENDS = 64  # bytes looked at, at either end

# First bytes of what people put among pictures by mistake, and what to do about it.
_OTHERS: tuple[tuple[bytes, str], ...] = (
    (b"%PDF", f"it is a PDF; export its pages as images, or {_CONVERT}"),
    (b"%!PS", f"it is PostScript; {_CONVERT}"),
    (b"\xc5\xd0\xd3\xc6", f"it is PostScript; {_CONVERT}"),
    (b"<svg", f"it is SVG; {_CONVERT}"),
    (b"PK\x03\x04", "it is a ZIP archive; unpack it"),
)
_HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")


def why_not_identified(file: BinaryIO) -> str:
    """Return the reason: "not an image", or "truncated" or "damaged" for what begins as an image does."""
    head = _read(file, 0, _ENDS)
    for start, advice in _OTHERS:
        if head.startswith(start):
            return f"not an image: {advice}"
    if head[4:8] == b"ftyp" and head[8:12] in _HEIC_BRANDS:
        return f"not an image: it is HEIC, which cannot be read here; {_CONVERT}"
    if is_truncated(file):
        return "truncated"
    starts = {b"\xff\xd8\xff": "JPEG", b"\x89PNG": "PNG", b"GIF8": "GIF", b"II*\0": "TIFF", b"MM\0*": "TIFF"}
    for start, name in starts.items():
        if head.startswith(start):
            return f"damaged: the header of this {name} file cannot be read"
    return "not an image"


def is_truncated(file: BinaryIO) -> bool:
    """Return whether a file that begins as an image ends before the end that its format promises."""
    head = _read(file, 0, _ENDS)
    length = file.seek(0, os.SEEK_END)
    tail = _read(file, max(0, length - _ENDS), _ENDS)
    if head.startswith(b"\xff\xd8\xff"):  # JPEG
        return b"\xff\xd9" not in tail
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return b"IEND" not in tail
    if head.startswith((b"GIF87a", b"GIF89a")):
        return not tail.rstrip(b"\0").endswith(b";")
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return length < 8 + int.from_bytes(head[4:8], "little")
    if head.startswith((b"II*\0", b"MM\0*")):  # TIFF: its directory lies anywhere, often at the end
        return length < _end_of_tiff_directory(file, byteorder="little" if head.startswith(b"I") else "big")
    if head[4:12] == b"ftypavif":
        return length < _end_of_boxes(file, length)
    return False


def _end_of_tiff_directory(file: BinaryIO, *, byteorder: Literal["little", "big"]) -> int:
    start = int.from_bytes(_read(file, 4, 4), byteorder)
    n_entries = int.from_bytes(_read(file, start, 2), byteorder)
    return start + 2 + 12 * max(1, n_entries)


def _end_of_boxes(file: BinaryIO, length: int) -> int:
    """Return where the last of the boxes ends that an ISO media file is made of."""
    end = 0
    while end < length:
        size = int.from_bytes(_read(file, end, 4), "big")
        if size < 8:  # the two special sizes: to the end of the file, and more than 4 GiB
            return length
        end += size
    return end


def _read(file: BinaryIO, start: int, n_bytes: int) -> bytes:
    file.seek(start)
    return file.read(n_bytes)


COLUMNS = ("path", "split", "class", "reason", "detail")


@dataclass(frozen=True, kw_only=True)
class SkippedFile:
    """One file without features."""

    path: str  # relative to the data set
    split: str
    class_name: str  # "" when ungraded
    reason: str

    @property
    def kind(self) -> str:
        """What kind of reason it is; one of `featurize.images.skip_reasons.SKIP_REASONS`."""
        return kind_of(self.reason)

    @property
    def detail(self) -> str:
        """What the reason says beyond its kind."""
        return detail_of(self.reason)


def count_skipped(reasons: Iterable[str]) -> str:
    """Return how many files were skipped, by the kind of their reasons, as a line of text."""
    kinds = count_kinds(reasons)
    n = sum(kinds.values())
    each = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    return f"{plural(n, 'file')} skipped: {each}"


def write_skipped(path: Path, skipped: Iterable[SkippedFile]) -> None:
    """Write a table that opens rightly in a spreadsheet and runs nothing there: UTF-8 with a byte order mark.

    A cell that a spreadsheet would take for a formula gets a leading apostrophe; bytes and control characters
    that cannot be shown are written as escapes.

    Raises
    ------
    ConfigError
        If the file cannot be written.
    """
    try:
        with path.open("w", encoding="utf-8-sig", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(COLUMNS)
            for file in skipped:
                cells = (file.path, file.split, file.class_name, file.kind, file.detail)
                writer.writerow([safe_cell(cell) for cell in cells])
    except OSError as error:
        raise ConfigError(
            f"--skipped {path}: cannot be written ({error.strerror or error}). "
            "Name a file in a folder that is there"
        ) from error
