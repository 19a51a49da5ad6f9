"""What the report says in words: plain data in, sentences and cells out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from classify.heads.select import BASELINE, ENSEMBLE
from classify.io.results import DOUBTFUL, leaderboard
from classify.report.chart_data import primary
from classify.report.head_charts import MOST_IN_PANEL
from classify.report.leaderboard import has_ordinal_metrics
from classify.report.names import NAMES, figure_text, interval_text, store_labels
from classify.report.verdict_text import verdict_lines

_FIRST = ("cv_balanced_accuracy",)
_GRADED = (
    "quadratic_kappa",
    "accuracy",
    "mean_absolute_error",
    "off_by_two",
    "roc_auc",
    "log_loss",
    "calibration_error",
)
_OTHER = ("accuracy", "balanced_accuracy", "macro_f1", "roc_auc", "log_loss", "calibration_error")
_STUDY_TITLES = {
    "leaks": "What leaks would have shown",
    "learning": "What more images would bring",
    "views": "Augmented views",
    "levels": "Earlier stages of the network",
    "fusion": "Several backbones side by side",
    "ordering": "Knowing the order of the grades",
    "labels": "Grades to look at again",
}


def tiles(record: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the few figures that stand on top: each with what it is, and its interval."""
    chosen = record["recommended"]
    found = []
    if chosen is not None:
        best = _result(record, chosen)
        found.append(_tile(chosen["head"], "recommended head, chosen by cross-validation"))
        for name in dict.fromkeys((primary(record), "accuracy")):
            figure = figure_text(best["metrics"][name])
            found.append(_tile(figure, NAMES[name].long, interval=interval_text(best, name)))
        if has_ordinal_metrics(record):
            off = best["metrics"]["off_by_two"]
            found.append(_tile("–" if off is None else f"{100 * off:.1f} %", "off by two grades or more"))
    counted = [result["n_test"] for result in record["results"] if result["status"] == "ok"]
    n = record["statistics"]["n_entries"] or max(counted, default=0)
    how = "tested once, never fitted on" if _has_test(record) else "each graded by heads that had not seen it"
    found.append(_tile(f"{n:,}", f"{units(record)} {how}"))
    tried = {result["head"] for result in record["results"]} - {BASELINE}
    n_stores = len(record["stores"])
    stores = "1 backbone" if n_stores == 1 else f"{n_stores} stores of features"
    found.append(_tile(str(len(tried)), f"{'head' if len(tried) == 1 else 'heads'} on {stores}"))
    return found


def _tile(figure: str, what: str, *, interval: str = "") -> dict[str, str]:
    return {"figure": figure, "what": what, "interval": interval}


def units(record: Mapping[str, Any]) -> str:
    """Return what is graded."""
    return "entries" if record.get("join") else "images"


def table(
    record: Mapping[str, Any], number: Mapping[tuple[str, str], int]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the columns and the rows of the leaderboard; `number` is of the heads that can be looked at."""
    several = len(record["stores"]) > 1
    levels = any((result["bundle_params"] or {}).get("levels") for result in record["results"])
    metrics = (*_FIRST, *(_GRADED if has_ordinal_metrics(record) else _OTHER))
    columns = [_column("head")]
    columns += [_column("store")] if several else []
    columns += [_column("levels")] if levels else []
    columns += [_column(NAMES[name].short, about=NAMES[name].about) for name in metrics]
    columns.append(_column("fit s", about="seconds that one fit took"))
    rows: list[dict[str, Any]] = []
    labels = store_labels(record)
    for row in leaderboard(record):
        if row["head"] == BASELINE and any(other["baseline"] for other in rows):
            continue  # it says the same of every store: once
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
            cells += [_number(row, name, with_ends=name in (primary(record), "accuracy")) for name in metrics]
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
    """Return what each column of the leaderboard means."""
    names = (*_FIRST, *(_GRADED if has_ordinal_metrics(record) else _OTHER))
    rows = [(NAMES[name].short, NAMES[name].about) for name in names]
    return [*rows, ("[from, to]", "95 % interval; those of the other figures are in results.json")]


def leaderboard_text(record: Mapping[str, Any]) -> str:
    """Return how to read the leaderboard."""
    name = NAMES[primary(record)].long
    said = f"Marks: {name} of each head, the line its 95 % interval"
    if record["statistics"]["approximate"]:
        said = f"{said} (approximate: {record['statistics']['why']})"
    where = "on the test split, which was used once" if _has_test(record) else "out of fold"
    return (
        f"{said}, {where}; best cross-validation score first. Where lines overlap by much, the order may be "
        "chance: the next section says which differences are real."
    )


def failure_lines(record: Mapping[str, Any]) -> list[str]:
    """Return why heads failed, and what there is to note of others."""
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
    """Return the verdicts in words, or why there are none."""
    lines = [line.strip() for line in verdict_lines(record)]
    first, *rest = lines or ["There is no pair of heads to compare."]  # the first begins with a head's name
    return [first, *(f"{line[:1].upper()}{line[1:]}" for line in rest)]


def study_texts(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what the studies say; which grades are doubtful has a gallery of its own."""
    return [
        {
            "title": _STUDY_TITLES.get(name, name),
            "text": found["text"]
            if name != "labels"
            else f"{found['text'].removesuffix(', to be looked at again from the top:').removesuffix('.')}.",
            "shown": found.get("shown", ()) if name != "labels" else (),
        }
        for name, found in record.get("studies", {}).items()
        if "reason" not in found
    ]


def failed_studies(record: Mapping[str, Any]) -> list[str]:
    """Return why studies that were asked for could not be made."""
    return [found["text"] for found in record.get("studies", {}).values() if "reason" in found]


def panels(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return title, explanation, what is said in its absence, and whether it is wide, of each chart.

    One without a word for its absence is left out where there is nothing to draw.
    """
    what = units(record)
    each = "One curve a class, against all others."
    if len(record["classes"]) == 2:
        each = f"The curve of {record['classes'][1]}."
    one_sided = f"No class that some tested {what} have and others have not."
    learning = "Not asked for. Add it with: classify compare … --study learning"
    study = record.get("studies", {}).get("learning")
    if study is not None:
        learning = study.get("reason") or f"Drawn of single heads on {study['store']} only."
    rows = (
        (
            "confusion",
            "Confusion matrix",
            f"Rows: what the {what} are. Columns: how they were graded. Darker: a larger share of the row.",
            "No matrix.",
        ),
        (
            "roc",
            "ROC curve",
            f"{each} How many of a class are found, against how many of the others are taken for it. "
            "Up and to the left is better; dotted: chance.",
            one_sided,
        ),
        (
            "precision_recall",
            "Precision-recall curve",
            f"{each} What share of those given the grade have it, against how many of them are found. "
            "Up and to the right is better.",
            one_sided,
        ),
        (
            "reliability",
            "Reliability",
            "Do probabilities mean what they say? On the dotted line they do; below it the head is too sure. "
            f"Larger marks: more {what}; lines: 95 % intervals.",
            "Nothing was tested.",
        ),
        (
            "learning",
            "Learning curve",
            "Would more training images help? Out of fold, on parts of the training images; approximate 95 % "
            "intervals.",
            learning,
        ),
        (
            "training_loss",
            "Training: loss",
            "Of every epoch. Where the held out loss rises while the other falls, the head learns by heart; "
            "the best epoch is kept.",
            "",
        ),
        ("training_accuracy", "Training: accuracy", "Of every epoch.", ""),
    )
    many = len(record["classes"]) > MOST_IN_PANEL
    return [
        {
            **dict(zip(("name", "title", "about", "absent"), row, strict=True)),
            "wide": row[0] == "confusion" and many,
        }
        for row in rows
    ]


def mistakes_text(record: Mapping[str, Any]) -> str:
    """Return what the gallery of mistakes is of."""
    order = "how many grades off, then by how much surer" if record["ordered"] else "how much surer"
    where = "test" if _has_test(record) else "held out"
    return (
        f"What the chosen head graded otherwise than people did, of the {where} {units(record)}; sorted by "
        f"{order} it was of its own grade than of the right one. Beside each: the training images whose "
        "features are most alike."
    )


def doubtful_text(record: Mapping[str, Any]) -> str:
    """Return what the gallery of doubtful grades is of, or how to get one."""
    study = record.get("studies", {}).get("labels")
    if study is None:
        return (
            "Which grades of training images to look at again was not asked for. Add it with: "
            "classify compare … --study labels"
        )
    if "n_doubtful" not in study:
        return study["text"]
    return (
        f"Grades of training {units(record)} that heads which had not seen them would give otherwise "
        f"({study['head']} on {study['store']}), that differ between near duplicates, or that stand alone. A "
        f"doubt is no error: look at them. All are in {DOUBTFUL}."
    )


def config_lines(store: Mapping[str, Any], config: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """Return what a store's features were made with, one line a setting."""
    shown = {
        "backbone": store["backbone"],
        "features": store["n_features"],
        "augmented views": store["n_views"],
        "levels": ", ".join(store["level_names"]),
        "made of": ", ".join(store["parts"]),
        "config digest": store["config_digest"],
        **(config or {"weights": store["weights"]}),
    }
    return [
        (name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
        for name, value in shown.items()
        if value not in (None, "", [], ())
    ]


def statistics_lines(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return how intervals and tests were made."""
    found = record["statistics"]
    lines = [
        ("Intervals", found["intervals"]),
        ("Resamples", f"{found['n_resamples']:,}, seed {found['seed']}"),
    ]
    if found.get("test"):
        lines += [("Tests of pairs", found["test"]), ("Correction", found["correction"])]
    groups = (
        f"{found['n_entries']} {units(record)} in {found['n_groups']} groups that are resampled as a whole"
    )
    return [*lines, ("Tested", groups)]


def _result(record: Mapping[str, Any], place: Mapping[str, Any]) -> Mapping[str, Any]:
    return next(r for r in record["results"] if (r["store"], r["head"]) == (place["store"], place["head"]))


def _has_test(record: Mapping[str, Any]) -> bool:
    return bool(record["protocol"]["kind"] == "test split")


def _column(name: str, *, about: str = "") -> dict[str, Any]:
    return {"name": name, "about": about, "number": bool(about)}


def _cell(text: str, *, value: float | None = None, interval: str = "") -> dict[str, Any]:
    return {"text": text, "value": value, "interval": interval, "number": value is not None}


def _number(row: Mapping[str, Any], name: str, *, with_ends: bool) -> dict[str, Any]:
    ends = interval_text(row, name) if with_ends else ""
    return {**_cell(figure_text(row[name]), value=row[name], interval=ends), "number": True}
