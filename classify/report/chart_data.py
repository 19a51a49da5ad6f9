"""What the page's script draws from: heads, verdicts, tested entries and images, as plain JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from classify.evaluation.intervals import wilson_interval
from classify.heads.select import BASELINE, ENSEMBLE
from classify.io.results import leaderboard
from classify.report.charts import PALETTE, leaderboard_chart, map_chart, verdict_chart
from classify.report.collect import ShownImages
from classify.report.head_charts import head_charts
from classify.report.names import NAMES, store_labels, with_interval
from classify.report.predictions import TestedEntries
from featurize.base.typing import Float64Array, IntArray

PANELS = (
    "confusion",
    "roc",
    "precision_recall",
    "reliability",
    "learning",
    "training_loss",
    "training_accuracy",
)
_PARTS = 10_000  # of a probability that is one: four digits are all that is shown


def page_data(record: Mapping[str, Any], tested: TestedEntries, seen: ShownImages) -> dict[str, Any]:
    """Return everything that the page's script needs but the pictures.

    Parameters
    ----------
    record : mapping
        What results.json holds.
    tested : TestedEntries
        What its heads said.
    seen : ShownImages
        The images, as far as they can be shown.
    """
    heads = heads_of(record, tested)
    number = {(head["store"], head["head"]): head["id"] for head in heads}
    chosen = record["recommended"] or (heads[0] if heads else None)
    classes, unit = record["classes"], "entry" if record.get("join") else "image"
    shown = leaderboard_columns(record)
    units = "entries" if unit == "entry" else "images"
    study = record.get("studies", {}).get("labels", {})
    return {
        "classes": classes,
        "colours": PALETTE,
        "ordered": record["ordered"],
        "unit": unit,
        "units": units,
        "recommended": number[chosen["store"], chosen["head"]] if chosen else None,
        "heads": heads,
        "panels": PANELS,
        "charts": {
            **head_charts(classes, unit=units),
            "leaderboard": leaderboard_chart(NAMES[primary(record)].long, n_heads=len(shown["rank"])),
            "verdicts": verdict_chart(NAMES[primary(record)].long),
            "map": map_chart(classes),
        },
        "leaderboard": shown,
        "verdicts": _verdicts(record, number),
        "tested": {
            "entry": [tested.entry[unit] for unit in seen.units],
            "y": tested.y[list(seen.units)],
            "split": seen.split_of_tested,
            "images": seen.tested,
            "p": {
                str(number[key]): np.rint(said[list(seen.units)] * _PARTS).astype(int).ravel()
                for key, said in tested.probabilities.items()
                if key in number
            },
        },
        "splits": list(dict.fromkeys([*seen.split, *seen.split_of_tested])),
        "images": {"path": seen.path, "split": seen.split, "y": seen.y, "picture": seen.picture},
        "maps": seen.maps,
        "why_no_map": seen.why_no_map,
        "n_tested": len(tested.entry),
        "nearest": seen.nearest,
        "doubtful": seen.doubtful,
        "none_doubtful": "None is in doubt." if study.get("n_doubtful") == 0 else "",
    }


def primary(record: Mapping[str, Any]) -> str:
    """Return the metric that verdicts rest on, accuracy where there are none."""
    return str(record["statistics"]["primary_metric"] or "accuracy")


def heads_of(record: Mapping[str, Any], tested: TestedEntries) -> list[dict[str, Any]]:
    """Return the heads that could be fitted, in the order of the leaderboard, numbered from 0.

    Each has `id`, `store`, `head`, `name`, `group` (of the list it stands in), `space` (the store whose
    features it saw), `facts` (a sentence), `per_class` and `panels` (what its charts draw).
    """
    results = {(result["store"], result["head"]): result for result in record["results"]}
    several, labels = len(record["stores"]) > 1, store_labels(record)
    learning = _learning(record)
    found: list[dict[str, Any]] = []
    for row in leaderboard(record):
        key = (row["store"], row["head"])
        if row["status"] != "ok" or key not in tested.probabilities:
            continue
        result, voted = results[key], row["head"] == ENSEMBLE
        label = labels.get(row["store"], row["store"])
        found.append(
            {
                "id": len(found),
                "store": row["store"],
                "head": row["head"],
                "name": f"{row['head']} on {label}" if several and not voted else row["head"],
                "group": "several stores" if voted and several else _full(label, row["store"]),
                "space": row["store"].split(", ")[0] if voted else row["store"],
                "facts": _facts(result, record),
                "per_class": _per_class(result, record["classes"]),
                "panels": head_panels(
                    result,
                    y=tested.y,
                    probabilities=tested.probabilities[key],
                    classes=record["classes"],
                    learning=learning.get(key, ()),
                ),
            }
        )
    return found


def leaderboard_columns(record: Mapping[str, Any]) -> Columns:
    """Return what the leaderboard's chart draws: the metric that verdicts rest on, one row a head."""
    metric, several, labels = primary(record), len(record["stores"]) > 1, store_labels(record)
    columns: Columns = {name: [] for name in ("label", "rank", "value", "low", "high", "kind")}
    baselines = 0
    for row in leaderboard(record):
        baselines += row["head"] == BASELINE
        if row["status"] != "ok" or row[metric] is None or (row["head"] == BASELINE and baselines > 1):
            continue  # the baseline says the same of every store: once
        apart = several and row["head"] not in (BASELINE, ENSEMBLE)
        ends = row["intervals"].get(metric) or {"low": None, "high": None}
        kind = "recommended" if row["recommended"] else "baseline" if row["head"] == BASELINE else "head"
        values = (
            f"{row['head']} · {labels.get(row['store'], row['store'])}" if apart else row["head"],
            len(columns["rank"]),
            row[metric],
            ends["low"],
            ends["high"],
            kind,
        )
        for name, value in zip(columns, values, strict=True):
            columns[name].append(value)
    return columns


def _full(label: str, store: str) -> str:
    return store if label == store else f"{label}: {store}"


def _facts(result: Mapping[str, Any], record: Mapping[str, Any]) -> str:
    names = dict.fromkeys((primary(record), "accuracy", "log_loss", "calibration_error"))
    parts = [f"{NAMES[name].long} {with_interval(result, name)}" for name in names]
    said = "; ".join(parts)
    params = result["bundle_params"] or {}
    if result["head"] == ENSEMBLE:
        return f"{said[:1].upper()}{said[1:]}. The vote of: {'; '.join(params['members'])}."
    shown = ", ".join(f"{key} {_shown(value)}" for key, value in params.items() if value not in (None, []))
    return f"{said[:1].upper()}{said[1:]}. Hyper-parameters: {shown or 'none'}."


def _shown(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "-".join(map(_shown, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _per_class(result: Mapping[str, Any], classes: Sequence[str]) -> list[dict[str, Any]]:
    found = []
    for name in classes:
        figures = result["per_class"][name]
        ends = {
            metric: result["intervals"].get(f"{metric} of {name}") for metric in ("precision", "recall", "f1")
        }
        found.append(
            {
                "name": name,
                **{key: figures[key] for key in ("precision", "recall", "f1", "support")},
                "intervals": {
                    metric: None if not end or end["low"] is None else [end["low"], end["high"]]
                    for metric, end in ends.items()
                },
            }
        )
    return found


def _learning(record: Mapping[str, Any]) -> dict[tuple[str, str], Sequence[Mapping[str, Any]]]:
    study = record.get("studies", {}).get("learning", {})
    curves = {(one["store"], one["head"]): one.get("points") or () for one in study.get("heads", ())}
    if "points" in study:
        curves[study["store"], study["head"]] = study["points"]
    return curves


def _verdicts(
    record: Mapping[str, Any], number: Mapping[tuple[str, str], int]
) -> list[dict[str, Any]] | None:
    found = []
    for verdict in record["verdicts"]:
        a, b = (number.get((verdict[side]["store"], verdict[side]["head"])) for side in ("a", "b"))
        if a is None or b is None:
            continue
        found.append(
            {
                "a": a,
                "b": b,
                "better": verdict["verdict"] == "better",
                **{
                    name: None if verdict[name] is None else round(verdict[name], 4)
                    for name in ("difference", "low", "high", "p_holm")
                },
            }
        )
    return found or None


Columns = dict[str, list[Any]]  # name → one value a row

MOST_POINTS = 120  # of a curve: more of them look the same


def head_panels(
    result: Mapping[str, Any],
    *,
    y: IntArray,
    probabilities: Float64Array,
    classes: Sequence[str],
    learning: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Columns]:
    """Return what each chart of one head draws; a chart that has nothing to draw is left out.

    Parameters
    ----------
    result : mapping
        The head's, as in results.json.
    y : ndarray of shape (n_entries,), int
        Classes of the tested entries.
    probabilities : ndarray of shape (n_entries, n_classes), float
        What the head said of them.
    classes : sequence of str
    learning : sequence of mapping
        Points of its learning curve, where there is one.

    Returns
    -------
    dict
        Name of the chart → columns.
    """
    panels: dict[str, Columns] = {
        "confusion": confusion(result["confusion_matrix"], classes=classes),
        "roc": roc(y, probabilities, classes=classes),
        "precision_recall": precision_recall(y, probabilities, classes=classes),
        "reliability": reliability_points(result["reliability"]),
        "learning": learning_points(learning),
        "training": training_points(result.get("training")),
    }
    return {name: columns for name, columns in panels.items() if any(columns.values())}


def confusion(matrix: Sequence[Sequence[int]], *, classes: Sequence[str]) -> Columns:
    """Return one row a cell: how many entries of a class were graded as another, and which share of it."""
    cells = [
        (true, graded, count, count / max(1, sum(row)))
        for true, row in zip(classes, matrix, strict=True)
        for graded, count in zip(classes, row, strict=True)
    ]
    return dict(zip(("true", "graded", "count", "share"), map(list, zip(*cells, strict=True)), strict=True))


def roc(y: IntArray, probabilities: Float64Array, *, classes: Sequence[str]) -> Columns:
    """Return the points of each class's ROC curve, one against the rest; of two classes the second's only."""
    from sklearn.metrics import roc_curve

    columns: Columns = {"class": [], "x": [], "y": [], "threshold": []}
    for label in curve_labels(y, classes=classes):
        false, true, threshold = roc_curve(y == label, probabilities[:, label])
        _add(columns, classes[label], false, true, np.minimum(threshold, 1.0))
    return columns


def precision_recall(y: IntArray, probabilities: Float64Array, *, classes: Sequence[str]) -> Columns:
    """Return the points of each class's precision-recall curve, one against the rest."""
    from sklearn.metrics import precision_recall_curve

    columns: Columns = {"class": [], "x": [], "y": [], "threshold": []}
    for label in curve_labels(y, classes=classes):
        precision, recall, threshold = precision_recall_curve(y == label, probabilities[:, label])
        _add(columns, classes[label], recall, precision, np.append(threshold, 1.0))
    return columns


def curve_labels(y: IntArray, *, classes: Sequence[str]) -> list[int]:
    """Return the labels that have curves: those that some tested entry has and some has not."""
    labels = [1] if len(classes) == 2 else range(len(classes))
    return [label for label in labels if 0 < int((y == label).sum()) < len(y)]


def reliability_points(bins: Sequence[Mapping[str, Any]] | None) -> Columns:
    """Return one row a bin of confidence that holds entries, with Wilson's 95 % interval of its accuracy."""
    columns: Columns = {name: [] for name in ("confidence", "accuracy", "low", "high", "count")}
    for one in bins or ():
        if not one["count"]:
            continue
        low, high = wilson_interval(one["accuracy"], one["count"])
        for name, value in {**one, "low": low, "high": high}.items():
            columns[name].append(value if name == "count" else _short(value))
    return columns


def learning_points(points: Sequence[Mapping[str, Any]]) -> Columns:
    """Return one row a size of the training set."""
    names = ("n_images", "accuracy", "low", "high")
    return {name: [_short(point[name]) for point in points] for name in names}


def training_points(training: Mapping[str, Any] | None) -> Columns:
    """Return loss and accuracy of every epoch, on what was fitted and on what was held out to stop."""
    columns: Columns = {"epoch": [], "figure": [], "of": [], "value": []}
    for figure in ("loss", "accuracy"):
        for of, prefix in (("fitted on", ""), ("held out", "val_")):
            for epoch, value in enumerate((training or {}).get(prefix + figure) or (), start=1):
                if value is not None and math.isfinite(value):
                    row = {"epoch": epoch, "figure": figure, "of": of, "value": _short(value)}
                    for name, cell in row.items():
                        columns[name].append(cell)
    return columns


def _add(columns: Columns, name: str, x: Float64Array, y: Float64Array, threshold: Float64Array) -> None:
    kept = _bends(x, y)
    for column, values in (("x", x), ("y", y), ("threshold", threshold)):
        columns[column] += [_short(value) for value in values[kept]]
    columns["class"] += [name] * len(kept)


def _bends(x: Float64Array, y: Float64Array) -> IntArray:
    """Return the points of a curve without those on a straight line, and no more than `MOST_POINTS`."""
    points = np.column_stack([x, y])
    moves = np.any(np.diff(points, axis=0) != 0, axis=1)  # where a curve stands still, it turns all the same
    kept = np.flatnonzero(np.concatenate([[True], moves]))
    if len(kept) > 2:
        steps = np.diff(points[kept], axis=0)
        steps /= np.linalg.norm(steps, axis=1, keepdims=True)  # short ones turn as much as long ones
        before, after = steps[:-1], steps[1:]
        turns = np.abs(before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]) > 1e-9
        kept = kept[np.concatenate([[True], turns, [True]])]
    if len(kept) > MOST_POINTS:
        kept = kept[np.unique(np.linspace(0, len(kept) - 1, MOST_POINTS).round().astype(np.int64))]
    return kept


def _short(value: float) -> float:
    return round(float(value), 4)
