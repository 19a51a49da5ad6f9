"""The files that a run skipped, with their reasons: as counts, and as a table for a spreadsheet."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from featurize.decode.reasons import count_kinds, detail_of, kind_of
from featurize.errors import ConfigError
from featurize.terminal import printable

COLUMNS = ("path", "split", "class", "reason", "detail")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")  # what a spreadsheet may run, or take for the next cell


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """One file without features."""

    path: str  # relative to the data set
    split: str
    class_name: str  # "" when ungraded
    reason: str

    @property
    def kind(self) -> str:
        """What kind of reason it is; one of `featurize.decode.reasons.SKIP_REASONS`."""
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
    return f"{n} file{'' if n == 1 else 's'} skipped: {each}"


def write_skipped(path: Path, skipped: Iterable[Skipped]) -> None:
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


def safe_cell(text: str) -> str:
    """Return text that a spreadsheet shows and does not run."""
    shown = printable(text)
    return f"'{shown}" if text.lstrip(" ").startswith(_FORMULA) else shown
