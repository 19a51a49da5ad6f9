"""The tables that a comparison prints: they read well at 100 columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from classify.heads.select import BASELINE
from classify.io.results import leaderboard
from classify.report.names import store_labels
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
# Of ordered grades: how far off counts more, and what is left out stands in the second table.
_ORDERED_COLUMNS = (
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
_MOST_CLASSES = 5  # whose errors have room in a line


def columns(record: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Return the heading and the metric of each column of the first table."""
    return _ORDERED_COLUMNS if has_ordinal_metrics(record) else _COLUMNS


def has_ordinal_metrics(record: Mapping[str, Any]) -> bool:
    """Return whether a record holds the metrics of ordered classes."""
    return bool(record["statistics"]["primary_metric"] == "quadratic_kappa")


def make_tables(record: Mapping[str, Any]) -> list[Table]:
    """Return the leaderboard, and for ordered grades the errors of each class and what else there is."""
    labels = store_labels(record)
    rows: list[dict[str, Any]] = []
    for row in leaderboard(record):
        if row["head"] != BASELINE or all(other["head"] != BASELINE for other in rows):
            label = ", ".join(labels.get(name, name) for name in row["store"].split(", "))
            rows.append({**row, "store": label})  # the baseline says the same of every store: once
    chosen = columns(record)
    title = f"{record['dataset']}: {record['protocol']['kind']}"
    tables = [_table(rows, title, chosen, primary=record["statistics"]["primary_metric"], seconds=True)]
    if has_ordinal_metrics(record):
        names = record["classes"] if len(record["classes"]) <= _MOST_CLASSES else []
        title = "error of each grade, and probabilities" if names else "probabilities"
        tables.append(_table(rows, title, _SECOND_COLUMNS, classes=names))
    return tables


def _table(
    rows: Sequence[Mapping[str, Any]],
    title: str,
    chosen: Sequence[tuple[str, str]],
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
    for name, metric in chosen:
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
        cells += [_figure(row["per_class"][name]["error"]) for name in classes]
        cells += [_figure(row[metric]) + _ends(row, metric, primary) for _, metric in chosen]
        table.add_row(*cells, *([f"{row['fit_seconds']:.1f}"] if seconds else []))
    return table


def _ends(row: Mapping[str, Any], metric: str, primary: str | None) -> str:
    if metric != primary:
        return ""
    ends = row["intervals"].get(metric) or {"low": None}
    return "" if ends["low"] is None else f" [{ends['low']:.2f}, {ends['high']:.2f}]"


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
