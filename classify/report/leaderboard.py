"""Leaderboard tables for the terminal, at most 100 columns wide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from classify.heads.select import BASELINE
from classify.io.results import leaderboard
from classify.report.names import has_ordinal_metrics, interval_text, metric_text, store_labels
from featurize.base.text import printable

if TYPE_CHECKING:
    from rich.table import Table


_COLUMNS = (
    ("CV", "cv_balanced_accuracy"),
    ("accuracy", "accuracy"),
    ("bal. acc.", "balanced_accuracy"),
    ("macro-F1", "macro_f1"),
    ("ROC-AUC", "roc_auc"),
    ("log loss", "log_loss"),
)
# With ordered grades, metrics of distance come first; the other metrics are in a second table.
_ORDINAL_COLUMNS = (
    ("CV", "cv_balanced_accuracy"),
    ("kappa", "quadratic_kappa"),
    ("accuracy", "accuracy"),
    ("MAE", "mean_absolute_error"),
    ("off by 2", "off_by_two"),
)
_SECOND_COLUMNS = (
    ("bal. acc.", "balanced_accuracy"),
    ("ROC-AUC", "roc_auc"),
    ("log loss", "log_loss"),
    ("ECE", "calibration_error"),
)
_MAX_CLASSES = 5  # classes with a column for their error


def columns(record: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Return the heading and the metric of each column of the first table."""
    return _ORDINAL_COLUMNS if has_ordinal_metrics(record) else _COLUMNS


def make_tables(record: Mapping[str, Any]) -> list[Table]:
    """Return the leaderboard and, for ordered grades, a table of class errors and further metrics."""
    labels = store_labels(record)
    rows: list[dict[str, Any]] = []
    for row in leaderboard(record):
        # The baseline has the same predictions on every store, so it is listed once.
        if row["head"] != BASELINE or all(other["head"] != BASELINE for other in rows):
            label = ", ".join(labels.get(name, name) for name in row["store"].split(", "))
            rows.append({**row, "store": label})
    title = f"{record['dataset']}: {record['protocol']['kind']}"
    primary = record["statistics"]["primary_metric"]
    tables = [_table(rows, title, columns(record), primary=primary, seconds=True)]
    if has_ordinal_metrics(record):
        names = record["classes"] if len(record["classes"]) <= _MAX_CLASSES else []
        title = "error of each grade, further metrics" if names else "further metrics"
        tables.append(_table(rows, title, _SECOND_COLUMNS, classes=names))
    return tables


def _table(
    rows: Sequence[Mapping[str, Any]],
    title: str,
    metrics: Sequence[tuple[str, str]],  # heading, metric
    *,
    primary: str | None = None,
    classes: Sequence[str] = (),
    seconds: bool = False,
) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    table = Table(
        title=escape(printable(title)), box=SIMPLE_HEAD, show_edge=False, padding=0, collapse_padding=True
    )
    table.add_column("store", overflow="fold", min_width=min(18, max(len(row["store"]) for row in rows)))
    table.add_column("head", no_wrap=True)
    levels = seconds and any(row["levels"] for row in rows)
    if levels:
        table.add_column("levels")
    for name in classes:
        table.add_column(escape(printable(name)), justify="right", min_width=5)
    for name, metric in metrics:
        if metric == primary:
            table.add_column(f"{name} [95 %]", no_wrap=True)
        else:
            table.add_column(name, justify="right", min_width=5)
    if seconds:
        table.add_column("fit s", justify="right")
    for row in rows:
        cells = [escape(row["store"]), f"{row['head']} *" if row["recommended"] else row["head"]]
        cells += [row["levels"] or ""] if levels else []
        if row["status"] != "ok":
            table.add_row(*cells, "failed")
            continue
        cells += [metric_text(row["per_class"][name]["error"]) for name in classes]
        for _, metric in metrics:
            interval = interval_text(row, metric) if metric == primary else ""
            cells.append(f"{metric_text(row[metric])} {interval}".strip())
        table.add_row(*cells, *([f"{row['fit_seconds']:.1f}"] if seconds else []))
    return table
