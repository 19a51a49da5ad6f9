"""The job: a run becomes ``report.html``, ``leaderboard.md`` and the figures of a paper."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from classify.errors import CompareError
from classify.io.results import FIGURES, LEADERBOARD, REPORT, read_record
from featurize.errors import FolioError

FORMATS = ("svg", "png", "none")  # of figures
MOST_ENTRIES = 50_000  # tested ones, that a page is made of


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was written."""

    path: Path
    table: Path  # leaderboard.md
    figures: Path | None  # the folder
    notes: tuple[str, ...]  # what could not be shown, and why


def make_report(
    run: str | os.PathLike[str],
    *,
    stores: Sequence[str | os.PathLike[str]] = (),
    data: str | os.PathLike[str] | None = None,
    pictures: bool = True,
    figures: str = "svg",
    on_progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Write the report of a run into its folder: one HTML file that needs nothing from outside.

    Parameters
    ----------
    run : path-like
        A folder made by ``classify compare``.
    stores : sequence of path-like
        Where the run's stores are, if not where they were.
    data : path-like, optional
        Where the images lie, if not where they lay when features were extracted.
    pictures : bool, default=True
        Whether images are shown. Without them the file says nothing of what they show.
    figures : {"svg", "png", "none"}
        What the charts are written as, for a paper, in ``figures/``.
    on_progress : callable, optional
        Called with (done, total) pictures.

    Returns
    -------
    Report
        Where the stores or the images are not found, the report does without, and `notes` says so.

    Raises
    ------
    CompareError
        If there is no run there, more was tested than a page is for, or a file cannot be written.
    """
    from classify.report.collect import collect_report_data, find_stores, without_stores
    from classify.report.figures import write_figures
    from classify.report.html import render
    from classify.report.predictions import read_tested

    if figures not in FORMATS:
        raise CompareError(f"figures is {figures!r}: expected {' or '.join(FORMATS)}")
    folder = Path(run)
    record = read_record(folder)
    _write(folder / LEADERBOARD, leaderboard_markdown(record))
    if (n := record["statistics"]["n_entries"] or 0) > MOST_ENTRIES:
        raise CompareError(
            f"{folder}: {n:,} tested entries, and a page is made of up to {MOST_ENTRIES:,}. The figures are "
            f"in {LEADERBOARD} and results.json"
        )
    tested = read_tested(folder, record)
    try:
        found = collect_report_data(
            folder,
            record,
            tested,
            stores=find_stores(folder, record, [Path(store) for store in stores]),
            data=None if data is None else Path(data),
            with_pictures=pictures,
            on_progress=on_progress,
        )
    except FolioError as error:
        if stores or data is not None:  # what is named has to be right
            raise
        found = without_stores(tested, record, str(error))
    notes = found.seen.notes
    page = render(record, tested, found.seen, intake=found.intake, configs=found.configs, notes=notes)
    _write(folder / REPORT, page)
    try:
        drawn = write_figures(folder / FIGURES, record, tested, found.seen, kind=figures)
    except OSError as error:
        raise _unwritable(folder / FIGURES, error) from None
    return Report(path=folder / REPORT, table=folder / LEADERBOARD, figures=drawn, notes=notes)


def _write(path: Path, text: str) -> None:
    """Put a file in place in one step."""
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as stream:
                stream.write(text)
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise _unwritable(path, error) from None


def _unwritable(path: Path, error: OSError) -> CompareError:
    return CompareError(f"{path}: cannot be written ({error.strerror}). Make room or choose another run")


_SPECIAL = re.compile(r"([\\`*_{}\[\]#|!])")
_AS_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "~": "&#126;"})


def leaderboard_markdown(record: Mapping[str, Any]) -> str:
    """Return headline, table, verdicts and how it was made, as GitHub's Markdown.

    Parameters
    ----------
    record : mapping
        What results.json holds.
    """
    from classify.report import text as text_module
    from classify.report.names import label_lines
    from classify.report.verdict_text import headline

    columns, rows = text_module.table(record, {})
    head, *verdicts = text_module.verdict_text(record)
    made = record.get("made") or {}
    commands = [*made.get("extract", ()), *filter(None, [made.get("command")])]
    blocks = [
        f"# {_text(record['dataset'])}",
        *map(_text, headline(record)),
        *map(_text, label_lines(record)),
        "\n".join(_table(columns, rows)),
        *(["★ recommended, chosen by cross-validation"] if record["recommended"] else []),
        _list(f"{name}: {about}" for name, about in text_module.column_notes(record)),
        _list(text_module.failure_lines(record)),
        _text(head),
        _list(verdicts),
        _text(" ".join([record["protocol"]["text"], *record["protocol"]["notes"]])),
        _code(commands),
    ]
    return "\n\n".join(filter(None, blocks)) + "\n"


def _table(columns: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [[_text(column["name"]) for column in columns]]
    lines.append(["---:" if column["number"] else "---" for column in columns])
    for row in rows:
        cells = [_text(f"{cell['text']} {cell['interval']}".strip()) for cell in row["cells"]]
        if row["recommended"]:
            cells[0] = f"**{cells[0]}** ★"
        lines.append(cells)
    return [f"| {' | '.join(line)} |" for line in lines]


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {_text(line)}" for line in lines)


def _code(lines: Sequence[str]) -> str:
    """Return lines as they are, indented: that needs no fence, which one of them might hold."""
    return "\n".join(f"    {line}" for line in lines)


def _text(text: str) -> str:
    """Return text that Markdown shows as it is, on one line.

    Not every reader of Markdown lets a backslash stand before what begins a tag: there it would be one.
    """
    return _SPECIAL.sub(r"\\\1", " ".join(text.split())).translate(_AS_ENTITIES)
