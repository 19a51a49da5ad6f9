"""The leaderboard as Markdown: for a wiki, a pull request, a message to a colleague."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from classify.report import wording
from classify.showing.headline import headline
from classify.showing.store_labels import label_lines

_SPECIAL = re.compile(r"([\\`*_{}\[\]#|!])")
_AS_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "~": "&#126;"})


def leaderboard_markdown(record: Mapping[str, Any]) -> str:
    """Return headline, table, verdicts and how it was made, as GitHub's Markdown.

    Parameters
    ----------
    record : mapping
        What results.json holds.
    """
    columns, rows = wording.table(record, {})
    head, *verdicts = wording.verdict_text(record)
    made = record.get("made") or {}
    commands = [*made.get("extract", ()), *filter(None, [made.get("command")])]
    blocks = [
        f"# {_text(record['dataset'])}",
        *map(_text, headline(record)),
        *map(_text, label_lines(record)),
        "\n".join(_table(columns, rows)),
        *(["★ recommended, chosen by cross-validation"] if record["recommended"] else []),
        _list(f"{name}: {about}" for name, about in wording.explained(record)),
        _list(wording.failed(record)),
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
