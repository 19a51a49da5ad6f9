"""The report of a run: ``report.html``, ``leaderboard.md`` and chart files."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from classify.errors import CompareError
from classify.io.results import FIGURES, LEADERBOARD, REPORT, read_record
from featurize.base.files import write_atomic
from featurize.errors import FolioError

FORMATS = ("svg", "png", "none")  # formats of chart files
MAX_ENTRIES = 50_000  # tested entries; a page with more would be too large


@dataclass(frozen=True, kw_only=True)
class Report:
    """Paths of the files that were written."""

    path: Path
    table: Path  # leaderboard.md
    figures: Path | None  # folder of the chart files
    notes: tuple[str, ...]  # parts that are not shown, with reasons


def make_report(
    run: str | os.PathLike[str],
    *,
    stores: Sequence[str | os.PathLike[str]] = (),
    data: str | os.PathLike[str] | None = None,
    pictures: bool = True,
    figures: str = "svg",
    on_progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Write the report of a run into its folder, as one self-contained HTML file.

    Parameters
    ----------
    run : path-like
        A folder created by ``classify compare``.
    stores : sequence of path-like
        Current paths of stores that have moved since the comparison.
    data : path-like, optional
        Folder of the images, if it has moved since the features were extracted.
    pictures : bool, default=True
        Whether the page shows thumbnails of the images.
    figures : {"svg", "png", "none"}
        File format of the charts in ``figures/``, for publications.
    on_progress : callable, optional
        Called with (done, total) thumbnails.

    Returns
    -------
    Report
        If stores or images are not found, the report is written without them, and `notes` has the reason.

    Raises
    ------
    CompareError
        If the folder is not a run, if there are too many tested entries for a page, if ``stores`` or ``data``
        are wrong, or if a file cannot be written.
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
    if (n := record["statistics"]["n_entries"] or 0) > MAX_ENTRIES:
        raise CompareError(
            f"{folder}: {n:,} tested entries, but a page can have at most {MAX_ENTRIES:,}. All metrics are "
            f"in {LEADERBOARD} and results.json"
        )
    tested = read_tested(folder, record)
    try:
        report_data = collect_report_data(
            folder,
            record,
            tested,
            stores=find_stores(folder, record, [Path(store) for store in stores]),
            data=None if data is None else Path(data),
            with_pictures=pictures,
            on_progress=on_progress,
        )
    except FolioError as error:
        if stores or data is not None:  # paths that the caller passed must be right
            raise
        report_data = without_stores(tested, record, str(error))
    shown = report_data.shown
    page = render(record, tested, shown, summary=report_data.summary, configs=report_data.configs)
    _write(folder / REPORT, page)
    try:
        figures_folder = write_figures(folder / FIGURES, record, tested, shown, kind=figures)
    except OSError as error:
        raise _write_error(folder / FIGURES, error) from None
    return Report(path=folder / REPORT, table=folder / LEADERBOARD, figures=figures_folder, notes=shown.notes)


def _write(path: Path, text: str) -> None:
    try:
        write_atomic(path, text)
    except OSError as error:
        raise _write_error(path, error) from None


def _write_error(path: Path, error: OSError) -> CompareError:
    return CompareError(f"{path}: cannot be written ({error.strerror}). Check free space and permissions")


_SPECIAL = re.compile(r"([\\`*_{}\[\]#|!])")
_AS_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "~": "&#126;"})


def leaderboard_markdown(record: Mapping[str, Any]) -> str:
    """Return headline, leaderboard, verdicts, methods and commands as GitHub-flavoured Markdown.

    Parameters
    ----------
    record : mapping
        Content of results.json.
    """
    from classify.report import text as text_module
    from classify.report.names import label_lines
    from classify.report.verdict_text import headline

    columns, rows = text_module.table(record, {})
    head, *verdicts = text_module.verdict_text(record)
    blocks = [
        f"# {_escape(record['dataset'])}",
        *map(_escape, headline(record)),
        *map(_escape, label_lines(record)),
        "\n".join(_table(columns, rows)),
        *(["★ recommended, chosen by cross-validation"] if record["recommended"] else []),
        _list(f"{name}: {about}" for name, about in text_module.column_notes(record)),
        _list(text_module.failure_lines(record)),
        _escape(head),
        _list(verdicts),
        _escape(" ".join([record["protocol"]["text"], *record["protocol"]["notes"]])),
        _code(text_module.commands(record)),
    ]
    return "\n\n".join(filter(None, blocks)) + "\n"


def _table(columns: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [[_escape(column["name"]) for column in columns]]
    lines.append(["---:" if column["number"] else "---" for column in columns])
    for row in rows:
        cells = [_escape(f"{cell['text']} {cell['interval']}".strip()) for cell in row["cells"]]
        if row["recommended"]:
            cells[0] = f"**{cells[0]}** ★"
        lines.append(cells)
    return [f"| {' | '.join(line)} |" for line in lines]


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {_escape(line)}" for line in lines)


def _code(lines: Sequence[str]) -> str:
    """Return lines as an indented code block; a fence could also occur in one of the lines."""
    return "\n".join(f"    {line}" for line in lines)


def _escape(text: str) -> str:
    """Return text on one line that Markdown shows literally.

    Characters of HTML tags become entities, because some Markdown parsers do not accept a backslash before
    them.
    """
    return _SPECIAL.sub(r"\\\1", " ".join(text.split())).translate(_AS_ENTITIES)
