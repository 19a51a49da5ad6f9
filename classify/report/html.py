"""The report as one HTML file that needs nothing from outside itself."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from classify.io.results import plain_json
from classify.report import text as text_module
from classify.report.chart_data import page_data
from classify.report.collect import ShownImages
from classify.report.names import label_lines
from classify.report.predictions import TestedEntries
from classify.report.verdict_text import headline

_TEMPLATES = files("classify.report").joinpath("templates")
_SCRIPT_END = re.compile(r"</(?=script)", re.IGNORECASE)


def render(
    record: Mapping[str, Any],
    tested: TestedEntries,
    seen: ShownImages,
    *,
    intake: Mapping[str, Any] | None,
    configs: Mapping[str, Mapping[str, Any]],
    notes: Sequence[str],
) -> str:
    """Return the page.

    Parameters
    ----------
    record : mapping
        What results.json holds.
    tested : TestedEntries
        What its heads said.
    seen : ShownImages
        The images, as far as they can be shown.
    intake : mapping, optional
        From `classify.report.images`.
    configs : mapping
        Name of a store → what its features were made with; those that are known.
    notes : sequence of str
        What could not be shown, and why.

    Returns
    -------
    str
        HTML. Whatever came from outside is escaped in it, or data of a block that is never run; a content
        security policy keeps the page from fetching anything, and from running what is not ours.
    """
    import jinja2
    from markupsafe import Markup

    data = plain_json(page_data(record, tested, seen))
    data["pictures"] = list(seen.pictures)  # megabytes of plain letters: there is nothing to escape in them
    number = {(head["store"], head["head"]): head["id"] for head in data["heads"]}
    columns, rows = text_module.table(record, number)
    library, script = _script(chart_library()), _script(_text("report.js"))
    found, not_done = text_module.study_texts(record), text_module.failed_studies(record)
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_text),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    made = record.get("made") or {}
    page = environment.get_template("report.html").render(
        plain_json(
            {
                "policy": _policy(library, script),
                "dataset": record["dataset"],
                "made_on": record["created"][:10],
                "headline": [line.replace(" %", "\N{NO-BREAK SPACE}%") for line in headline(record)],
                "tiles": text_module.tiles(record),
                "sections": _sections(bool(found or not_done)),
                "leaderboard_text": text_module.leaderboard_text(record),
                "store_legend": label_lines(record),
                "columns": columns,
                "rows": rows,
                "explained": text_module.column_notes(record),
                "failed": text_module.failure_lines(record),
                "verdict_text": text_module.verdict_text(record),
                "has_verdicts": bool(data["verdicts"]),
                "findings": found,
                "not_done": not_done,
                "panels": text_module.panels(record),
                "mistakes_text": text_module.mistakes_text(record),
                "doubtful_text": text_module.doubtful_text(record),
                "intake": intake,
                "facts": record["facts"],
                "protocol_text": record["protocol"]["text"],
                "protocol_notes": record["protocol"]["notes"],
                "commands": [*made.get("extract", ()), *filter(None, [made.get("command")])],
                "statistics": text_module.statistics_lines(record),
                "stores": [
                    {
                        "name": store["store"],
                        "config": text_module.config_lines(store, configs.get(store["store"])),
                    }
                    for store in record["stores"]
                ],
                "versions": sorted(record["created_with"].items()),
                "notes": list(notes),
            }
        ),
        style=Markup(_text("report.css")),
        library=Markup(library),
        script=Markup(script),
        data=Markup(_json_block(data)),
    )
    return page


@cache
def chart_library() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script."""
    import vl_convert

    return str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))


def _sections(findings: bool) -> list[tuple[str, str]]:
    sections = [
        ("leaderboard", "Leaderboard"),
        ("verdicts", "Which differences are real"),
        ("findings", "What the training images tell"),
        ("head", "One head"),
        ("map", "Map of the images"),
        ("mistakes", "Mistakes"),
        ("doubtful", "Doubtful grades"),
        ("intake", "The images"),
        ("made", "How this was made"),
    ]
    return [section for section in sections if findings or section[0] != "findings"]


def _policy(*scripts: str) -> str:
    """Return what the page may do: run these scripts and show its own pictures, nothing else.

    Vega compiles the expressions of a chart, hence ``unsafe-eval``; it compiles none that came from outside.
    """
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
        for script in scripts
    )
    return (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {hashes} 'unsafe-eval'; "
        "base-uri 'none'; form-action 'none'"
    )


def _script(text: str) -> str:
    """Return a script that no text in it can end early."""
    return _SCRIPT_END.sub(r"<\\/", text)


def _json_block(data: Any) -> str:
    """Return JSON that holds nothing that could be markup."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _text(name: str) -> str:
    return _TEMPLATES.joinpath(name).read_text(encoding="utf-8")
