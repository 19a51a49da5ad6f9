"""The report as one self-contained HTML file."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from classify.io.results import printable_json
from classify.report import text as text_module
from classify.report.chart_data import page_data
from classify.report.images import ShownImages
from classify.report.names import label_lines
from classify.report.predictions import TestedEntries
from classify.report.verdict_text import headline

_TEMPLATES = files("classify.report").joinpath("templates")
_SCRIPT_END = re.compile(r"</(?=script)", re.IGNORECASE)


def render(
    record: Mapping[str, Any],
    tested: TestedEntries,
    shown: ShownImages,
    *,
    summary: Mapping[str, Any] | None,
    configs: Mapping[str, Mapping[str, Any]],
) -> str:
    """Return the page.

    Parameters
    ----------
    record : mapping
        Content of results.json.
    tested : TestedEntries
        Predictions of its heads.
    shown : ShownImages
        Images that the page shows.
    summary : mapping, optional
        From `classify.report.images.dataset_summary`.
    configs : mapping
        Store → settings of its features, for the stores that could be read.

    Returns
    -------
    str
        HTML. Text from outside is escaped, or is in a JSON block that is never executed. A content security
        policy blocks all requests, and all scripts that are not part of the page.
    """
    import jinja2
    from markupsafe import Markup

    data = printable_json(page_data(record, tested, shown))
    data["pictures"] = list(shown.pictures)  # large, and base64 needs no escaping
    number = {(head["store"], head["head"]): head["id"] for head in data["heads"]}
    columns, rows = text_module.table(record, number)
    library, script = _script(chart_library()), _script(_text("report.js"))
    studies, failed_studies = text_module.study_texts(record), text_module.failed_studies(record)
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_text),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    page = environment.get_template("report.html").render(
        printable_json(
            {
                "policy": _policy(library, script),
                "dataset": record["dataset"],
                "date": record["created"][:10],
                "headline": [line.replace(" %", "\N{NO-BREAK SPACE}%") for line in headline(record)],
                "tiles": text_module.tiles(record),
                "sections": _sections(with_studies=bool(studies or failed_studies)),
                "leaderboard_text": text_module.leaderboard_text(record),
                "store_legend": label_lines(record),
                "columns": columns,
                "rows": rows,
                "column_notes": text_module.column_notes(record),
                "failures": text_module.failure_lines(record),
                "verdict_text": text_module.verdict_text(record),
                "has_verdicts": bool(data["verdicts"]),
                "studies": studies,
                "failed_studies": failed_studies,
                "panels": text_module.panels(record),
                "mistakes_text": text_module.mistakes_text(record),
                "doubtful_text": text_module.doubtful_text(record),
                "summary": summary,
                "facts": record["facts"],
                "protocol_text": record["protocol"]["text"],
                "protocol_notes": record["protocol"]["notes"],
                "commands": text_module.commands(record),
                "statistics": text_module.statistics_lines(record),
                "stores": [
                    {
                        "name": store["store"],
                        "config": text_module.config_lines(store, configs.get(store["store"])),
                    }
                    for store in record["stores"]
                ],
                "versions": sorted(record["created_with"].items()),
                "notes": list(shown.notes),
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


def _sections(*, with_studies: bool) -> list[tuple[str, str]]:
    """Return id and title of each section, for the table of contents."""
    sections = [
        ("leaderboard", "Leaderboard"),
        ("verdicts", "Detectable differences"),
        ("studies", "Studies"),
        ("head", "Head details"),
        ("map", "Map"),
        ("mistakes", "Mistakes"),
        ("doubtful", "Doubtful grades"),
        ("dataset", "Data set"),
        ("methods", "Methods"),
    ]
    return [section for section in sections if with_studies or section[0] != "studies"]


def _policy(*scripts: str) -> str:
    """Return a content security policy that allows these scripts and embedded images, and nothing else.

    Vega compiles the expressions of charts, which needs ``unsafe-eval``; no expression comes from outside.
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
    """Return a script in which no text can close the script element."""
    return _SCRIPT_END.sub(r"<\\/", text)


def _json_block(data: Any) -> str:
    """Return JSON without characters of HTML markup."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _text(name: str) -> str:
    return _TEMPLATES.joinpath(name).read_text(encoding="utf-8")
