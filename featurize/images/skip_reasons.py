"""Skip reasons of image files: the fixed set of kinds, detection by content, and the CSV list."""

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

# Every reason starts with one of these kinds; ": " and a detail may follow. They are stored in files.
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
# Kinds that may not apply in the next run, which tries such files again. Other files are skipped by their
# content hash from then on.
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
UNKNOWN = "unknown"  # kind of a reason that this version does not use


def kind_of(reason: str) -> str:
    """Return the kind of a skip reason: one of `SKIP_REASONS`, or `UNKNOWN`."""
    kind = reason.partition(":")[0]
    return kind if kind in SKIP_REASONS else UNKNOWN


def detail_of(reason: str) -> str:
    """Return the detail of a skip reason after its kind; "" if there is none."""
    return reason.partition(":")[2].strip() if kind_of(reason) != UNKNOWN else reason


def is_transient(reason: str) -> bool:
    """Return whether a skipped file may be readable in the next run."""
    return kind_of(reason) in TRANSIENT


def count_kinds(reasons: Iterable[str]) -> dict[str, int]:
    """Return the number of reasons per kind, the most frequent kind first."""
    return dict(Counter(map(kind_of, reasons)).most_common())


_CONVERT = "convert it to JPEG or PNG"
_ENDS = 64  # bytes examined at the beginning and at the end of a file

# First bytes of other files that are often found among images, and advice.
_OTHER_FORMATS: tuple[tuple[bytes, str], ...] = (
    (b"%PDF", f"it is a PDF; export its pages as images, or {_CONVERT}"),
    (b"%!PS", f"it is PostScript; {_CONVERT}"),
    (b"\xc5\xd0\xd3\xc6", f"it is PostScript; {_CONVERT}"),
    (b"<svg", f"it is SVG; {_CONVERT}"),
    (b"PK\x03\x04", "it is a ZIP archive; unpack it"),
)
_HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")


def unidentified_reason(file: BinaryIO) -> str:
    """Return the skip reason of a file that Pillow cannot identify: not an image, truncated or damaged."""
    head = _read(file, 0, _ENDS)
    for start, advice in _OTHER_FORMATS:
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
    """Return whether a file begins like an image but ends before the end defined by its format."""
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
    if head.startswith((b"II*\0", b"MM\0*")):  # TIFF: the directory may be anywhere, often at the end
        return length < _end_of_tiff_directory(file, byteorder="little" if head.startswith(b"I") else "big")
    if head[4:12] == b"ftypavif":
        return length < _end_of_boxes(file, length)
    return False


def _end_of_tiff_directory(file: BinaryIO, *, byteorder: Literal["little", "big"]) -> int:
    start = int.from_bytes(_read(file, 4, 4), byteorder)
    n_entries = int.from_bytes(_read(file, start, 2), byteorder)
    return start + 2 + 12 * max(1, n_entries)


def _end_of_boxes(file: BinaryIO, length: int) -> int:
    """Return the end of the last box of an ISO media file."""
    end = 0
    while end < length:
        size = int.from_bytes(_read(file, end, 4), "big")
        if size < 8:  # special sizes: 0, up to the end of the file; 1, more than 4 GiB
            return length
        end += size
    return end


def _read(file: BinaryIO, start: int, n_bytes: int) -> bytes:
    file.seek(start)
    return file.read(n_bytes)


COLUMNS = ("path", "split", "class", "reason", "detail")


@dataclass(frozen=True, kw_only=True)
class SkippedFile:
    """A file without features, and the reason."""

    path: str  # relative to the data set
    split: str
    class_name: str  # "" when ungraded
    reason: str

    @property
    def kind(self) -> str:
        """Kind of the reason, one of `SKIP_REASONS`, or `UNKNOWN`."""
        return kind_of(self.reason)

    @property
    def detail(self) -> str:
        """Detail of the reason after its kind; "" if there is none."""
        return detail_of(self.reason)


def count_skipped(reasons: Iterable[str]) -> str:
    """Return a line of text with the number of skipped files, in total and per kind of reason."""
    kinds = count_kinds(reasons)
    n = sum(kinds.values())
    each = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    return f"{plural(n, 'file')} skipped: {each}"


def write_skipped(path: Path, skipped: Iterable[SkippedFile]) -> None:
    """Write a CSV table of skipped files, in UTF-8 with a byte order mark so that spreadsheets detect it.

    Cells that a spreadsheet would evaluate as a formula get a leading apostrophe; control characters and
    undecodable bytes are escaped.

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
            "Give a file in an existing folder"
        ) from error
