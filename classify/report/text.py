"""Texts and tables of the report, from results.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from classify.heads.select import BASELINE, ENSEMBLE
from classify.io.results import DOUBTFUL, leaderboard
from classify.report.head_charts import MAX_CLASSES_IN_PANEL
from classify.report.names import (
    NAMES,
    has_ordinal_metrics,
    has_test_split,
    interval_text,
    metric_text,
    primary_metric,
    store_labels,
    units,
)
from classify.report.verdict_text import verdict_lines

_ORDINAL_METRICS = (
    "cv_balanced_accuracy",
    "quadratic_kappa",
    "accuracy",
    "mean_absolute_error",
    "off_by_two",
    "roc_auc",
    "log_loss",
    "calibration_error",
)
_NOMINAL_METRICS = (
    "cv_balanced_accuracy",
    "accuracy",
    "balanced_accuracy",
    "macro_f1",
    "roc_auc",
    "log_loss",
    "calibration_error",
)
_STUDY_TITLES = {
    "leaks": "Leakage without grouped folds",
    "learning": "Learning curve",
    "views": "Augmented views",
    "levels": "Earlier network levels",
    "fusion": "Fused stores",
    "ordering": "Order of the classes",
    "labels": "Grades to review",
}


def tiles(record: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the key figures at the top of the page: value, description and interval of each."""
    recommended = record["recommended"]
    found = []
    if recommended is not None:
        best = _result(record, recommended)
        found.append(_tile(recommended["head"], "recommended head, chosen by cross-validation"))
        for name in dict.fromkeys((primary_metric(record), "accuracy")):
            value = metric_text(best["metrics"][name])
            found.append(_tile(value, NAMES[name].long, interval=interval_text(best, name)))
        if has_ordinal_metrics(record):
            off = best["metrics"]["off_by_two"]
            text = f"{units(record)} predicted two or more grades off"
            found.append(_tile("–" if off is None else f"{100 * off:.1f} %", text))
    counts = [result["n_test"] for result in record["results"] if result["status"] == "ok"]
    n_tested = record["statistics"]["n_entries"] or max(counts, default=0)
    how = "in the test split, used once" if has_test_split(record) else "predicted out of fold"
    found.append(_tile(f"{n_tested:,}", f"{units(record)} {how}"))
    n_heads = len({result["head"] for result in record["results"]} - {BASELINE})
    n_stores = len(record["stores"])
    heads, stores = "head" if n_heads == 1 else "heads", "store" if n_stores == 1 else "stores"
    found.append(_tile(str(n_heads), f"{heads} compared on {n_stores} {stores}"))
    return found


def _tile(figure: str, what: str, *, interval: str = "") -> dict[str, str]:
    return {"figure": figure, "what": what, "interval": interval}


def _table_metrics(record: Mapping[str, Any]) -> tuple[str, ...]:
    return _ORDINAL_METRICS if has_ordinal_metrics(record) else _NOMINAL_METRICS


def table(
    record: Mapping[str, Any], number: Mapping[tuple[str, str], int]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the columns and rows of the leaderboard.

    Parameters
    ----------
    record : mapping
        Content of results.json.
    number : mapping
        Store, head → number of the head in the page's data; heads without details are missing.
    """
    several = len(record["stores"]) > 1
    levels = any((result["bundle_params"] or {}).get("levels") for result in record["results"])
    metrics = _table_metrics(record)
    columns = [_column("head")]
    columns += [_column("store")] if several else []
    columns += [_column("levels")] if levels else []
    columns += [_column(NAMES[name].short, about=NAMES[name].about) for name in metrics]
    columns.append(_column("fit s", about="seconds per fit"))
    rows: list[dict[str, Any]] = []
    labels = store_labels(record)
    for row in leaderboard(record):
        if row["head"] == BASELINE and any(other["baseline"] for other in rows):
            continue  # the baseline is the same on every store
        cells: list[dict[str, Any]] = [_cell(row["head"])]
        cells += (
            [_cell("" if row["head"] in (BASELINE, ENSEMBLE) else labels.get(row["store"], row["store"]))]
            if several
            else []
        )
        cells += [_cell(row["levels"] or "")] if levels else []
        if row["status"] != "ok":
            cells += [_cell("failed"), *(_cell("") for _ in metrics)]
        else:
            with_interval = (primary_metric(record), "accuracy")
            cells += [_metric_cell(row, name, with_interval=name in with_interval) for name in metrics]
            cells.append(_cell(f"{row['fit_seconds']:.1f}", value=row["fit_seconds"]))
        rows.append(
            {
                "id": number.get((row["store"], row["head"])),
                "recommended": row["recommended"],
                "baseline": row["head"] == BASELINE,
                "cells": cells,
            }
        )
    return columns, rows


def column_notes(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the heading and the explanation of each column of the leaderboard."""
    rows = [(NAMES[name].short, NAMES[name].about) for name in _table_metrics(record)]
    return [*rows, ("[from, to]", "95 % interval; results.json has the intervals of all metrics")]


def leaderboard_text(record: Mapping[str, Any]) -> str:
    """Return the explanation of the leaderboard's chart."""
    statistics, metric = record["statistics"], NAMES[primary_metric(record)].long
    where = "on the test split, which was used once" if has_test_split(record) else "out of fold"
    approximate = f" (approximate: {statistics['why']})" if statistics["approximate"] else ""
    return (
        f"Each mark is the {metric} of a head {where}; the line is its 95 % interval{approximate}. Heads are "
        "sorted by their cross-validation score. If two intervals overlap widely, the order of the heads may "
        "be due to chance. The next section lists the differences that are detectable."
    )


def failure_lines(record: Mapping[str, Any]) -> list[str]:
    """Return the reasons of failed heads, the notes on heads, and the reasons of undefined metrics."""
    lines = []
    for result in record["results"]:
        name = f"{result['head']} on {result['store']}"
        if result["status"] != "ok":
            lines.append(f"{name} {result['status']}")
        lines += [f"{name}: {note}" for note in result["notes"]]
        if result["status"] == "ok":
            lines += [
                f"{name}: {NAMES[key].long} is undefined: {why}"
                for key, why in result["undefined"].items()
                if key in NAMES
            ]
    return lines


def verdict_text(record: Mapping[str, Any]) -> list[str]:
    """Return the verdicts as sentences, or a sentence that there are none."""
    lines = [line.strip() for line in verdict_lines(record)]
    first, *rest = lines or ["There is no pair of heads to compare."]  # the first begins with a head's name
    return [first, *(f"{line[:1].upper()}{line[1:]}" for line in rest)]


def study_texts(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return title, text and details of each study; details of doubtful grades are in a gallery instead."""
    return [
        {
            "title": _STUDY_TITLES.get(name, name),
            "text": f"{study['text'].rstrip(':.')}.",
            "shown": study.get("shown", ()) if name != "labels" else (),
        }
        for name, study in record.get("studies", {}).items()
        if "reason" not in study
    ]


def failed_studies(record: Mapping[str, Any]) -> list[str]:
    """Return the texts of requested studies that were not possible."""
    return [study["text"] for study in record.get("studies", {}).values() if "reason" in study]


def panels(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return name, title, explanation and width of each chart of a head, and a text for its absence.

    A chart without such a text is hidden if there is nothing to draw.
    """
    tested = units(record)
    each = "One curve per class, against all other classes."
    if len(record["classes"]) == 2:
        each = f"Positive class: {record['classes'][1]}."
    one_class = f"No curve: all tested {tested} have the same class."
    learning = "Not computed. Compute it with: classify compare … --study learning"
    study = record.get("studies", {}).get("learning")
    if study is not None:
        learning = study.get("reason") or f"Only computed for single heads on {study['store']}."
    rows = (
        (
            "confusion",
            "Confusion matrix",
            f"Number of {tested} by true class (rows) and predicted class (columns). Darker cells: a larger "
            "fraction of the true class.",
            "No confusion matrix.",
        ),
        (
            "roc",
            "ROC curve",
            f"{each} The upper left corner is best; the dotted line is chance level.",
            one_class,
        ),
        (
            "precision_recall",
            "Precision-recall curve",
            f"{each} The upper right corner is best.",
            one_class,
        ),
        (
            "reliability",
            "Reliability",
            "Accuracy by confidence. On the dotted line the probabilities are calibrated; below it the head "
            f"is overconfident. Larger marks: more {tested}. Lines: 95 % intervals.",
            f"No tested {tested}.",
        ),
        (
            "learning",
            "Learning curve",
            "Accuracy out of fold, after fitting on subsets of the training images. Band: approximate 95 % "
            "intervals.",
            learning,
        ),
        (
            "training_loss",
            "Training loss",
            "Loss per epoch. If the validation loss rises while the training loss falls, the head overfits; "
            "the best epoch is used.",
            "",
        ),
        ("training_accuracy", "Training accuracy", "Accuracy per epoch.", ""),
    )
    many = len(record["classes"]) > MAX_CLASSES_IN_PANEL
    return [
        {
            **dict(zip(("name", "title", "about", "absent"), row, strict=True)),
            "wide": row[0] == "confusion" and many,
        }
        for row in rows
    ]


def mistakes_text(record: Mapping[str, Any]) -> str:
    """Return the explanation of the gallery of mistakes."""
    difference = "the difference between the probabilities of the predicted and the true grade"
    order = f"distance in grades, then by {difference}" if record["ordered"] else difference
    where = "test" if has_test_split(record) else "held-out"
    return (
        f"Wrong predictions of the selected head on {where} {units(record)}, sorted by {order}. Below each: "
        "the training images with the most similar features."
    )


def doubtful_text(record: Mapping[str, Any]) -> str:
    """Return the explanation of the gallery of doubtful grades, or how to compute it."""
    study = record.get("studies", {}).get("labels")
    if study is None:
        return "Not computed. Compute it with: classify compare … --study labels"
    if "n_doubtful" not in study:
        return study["text"]
    return (
        f"Training {units(record)} whose grade differs from the out-of-fold prediction ({study['head']} on "
        f"{study['store']}) or between near duplicates, and outliers. A doubtful grade is not necessarily "
        f"wrong: please review it. The complete list is in {DOUBTFUL}."
    )


def commands(record: Mapping[str, Any]) -> list[str]:
    """Return the commands that created the stores and the run."""
    made = record.get("made") or {}
    return [*made.get("extract", ()), *filter(None, [made.get("command")])]


def config_lines(store: Mapping[str, Any], config: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """Return name and value of each setting that the features of a store were extracted with."""
    shown = {
        "backbone": store["backbone"],
        "features": store["n_features"],
        "augmented views": store["n_views"],
        "levels": ", ".join(store["level_names"]),
        "fused from": ", ".join(store["parts"]),
        "config digest": store["config_digest"],
        **(config or {"weights": store["weights"]}),
    }
    return [
        (name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
        for name, value in shown.items()
        if value not in (None, "", [], ())
    ]


def statistics_lines(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return name and description of the methods for intervals and tests."""
    statistics = record["statistics"]
    lines = [
        ("Intervals", statistics["intervals"]),
        ("Resamples", f"{statistics['n_resamples']:,}, seed {statistics['seed']}"),
    ]
    if statistics.get("test"):
        lines += [("Paired tests", statistics["test"]), ("Correction", statistics["correction"])]
    tested = (
        f"{statistics['n_entries']} {units(record)} in {statistics['n_groups']} groups; groups are resampled "
        "as a whole"
    )
    return [*lines, ("Tested", tested)]


def _result(record: Mapping[str, Any], name: Mapping[str, Any]) -> Mapping[str, Any]:
    return next(r for r in record["results"] if (r["store"], r["head"]) == (name["store"], name["head"]))


def _column(name: str, *, about: str = "") -> dict[str, Any]:
    return {"name": name, "about": about, "number": bool(about)}


def _cell(text: str, *, value: float | None = None, interval: str = "") -> dict[str, Any]:
    return {"text": text, "value": value, "interval": interval, "number": value is not None}


def _metric_cell(row: Mapping[str, Any], name: str, *, with_interval: bool) -> dict[str, Any]:
    interval = interval_text(row, name) if with_interval else ""
    return {**_cell(metric_text(row[name]), value=row[name], interval=interval), "number": True}
