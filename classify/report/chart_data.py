"""Data of the page's script as JSON: heads, verdicts, tested entries, images and chart columns."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from classify.evaluation.intervals import wilson_interval
from classify.heads.select import BASELINE, ENSEMBLE
from classify.io.results import leaderboard
from classify.report.charts import PALETTE, leaderboard_chart, map_chart, verdict_chart
from classify.report.head_charts import TRAINING_SERIES, head_charts
from classify.report.images import ShownImages
from classify.report.names import NAMES, primary_metric, store_labels, units, with_interval
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
_SCALE = 10_000  # probabilities are written as integers of four digits


def page_data(record: Mapping[str, Any], tested: TestedEntries, shown: ShownImages) -> dict[str, Any]:
    """Return the data of the page's script, without the pictures.

    Parameters
    ----------
    record : mapping
        Content of results.json.
    tested : TestedEntries
        Predictions of its heads.
    shown : ShownImages
        Images that the page shows.
    """
    heads = heads_of(record, tested)
    number = {(head["store"], head["head"]): head["id"] for head in heads}
    selected = record["recommended"] or (heads[0] if heads else None)
    classes, metric = record["classes"], NAMES[primary_metric(record)].long
    columns = leaderboard_columns(record)
    study = record.get("studies", {}).get("labels", {})
    entries = list(shown.entries)
    return {
        "classes": classes,
        "colours": PALETTE,
        "ordered": record["ordered"],
        "unit": "entry" if record.get("join") else "image",
        "units": units(record),
        "recommended": number[selected["store"], selected["head"]] if selected else None,
        "heads": heads,
        "panels": PANELS,
        "charts": {
            **head_charts(classes, unit=units(record)),
            "leaderboard": leaderboard_chart(metric, n_heads=len(columns["rank"])),
            "verdicts": verdict_chart(metric),
            "map": map_chart(classes),
        },
        "leaderboard": columns,
        "verdicts": _verdicts(record, number),
        "tested": {
            "entry": [tested.entry[entry] for entry in entries],
            "y": tested.y[entries],
            "split": shown.entry_split,
            "images": shown.entry_images,
            "p": {
                str(number[key]): np.rint(probabilities[entries] * _SCALE).astype(int).ravel()
                for key, probabilities in tested.probabilities.items()
                if key in number
            },
        },
        "splits": list(dict.fromkeys([*shown.split, *shown.entry_split])),
        "images": {"path": shown.path, "split": shown.split, "y": shown.y, "picture": shown.picture},
        "maps": shown.maps,
        "why_no_map": shown.why_no_map,
        "n_tested": len(tested.entry),
        "nearest": shown.nearest,
        "doubtful": shown.doubtful,
        "none_doubtful": "No grade is doubtful." if study.get("n_doubtful") == 0 else "",
    }


def heads_of(record: Mapping[str, Any], tested: TestedEntries) -> list[dict[str, Any]]:
    """Return the fitted heads in the order of the leaderboard, numbered from 0.

    Each has `id`, `store`, `head`, `name`, `group` (heading in the list of heads), `space` (store whose
    features the head uses), `facts` (text), `per_class` and `panels` (columns of its charts).
    """
    results = {(result["store"], result["head"]): result for result in record["results"]}
    several, labels = len(record["stores"]) > 1, store_labels(record)
    learning = _learning(record)
    found: list[dict[str, Any]] = []
    for row in leaderboard(record):
        key = (row["store"], row["head"])
        if row["status"] != "ok" or key not in tested.probabilities:
            continue
        result, is_ensemble = results[key], row["head"] == ENSEMBLE
        label = labels.get(row["store"], row["store"])
        found.append(
            {
                "id": len(found),
                "store": row["store"],
                "head": row["head"],
                "name": f"{row['head']} on {label}" if several and not is_ensemble else row["head"],
                "group": "several stores" if is_ensemble and several else _store_heading(label, row["store"]),
                "space": row["store"].split(", ")[0] if is_ensemble else row["store"],
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
    """Return the columns of the leaderboard's chart: the primary metric, one row per head."""
    metric, several, labels = primary_metric(record), len(record["stores"]) > 1, store_labels(record)
    columns: Columns = {name: [] for name in ("label", "rank", "value", "low", "high", "kind")}
    baselines = 0
    for row in leaderboard(record):
        baselines += row["head"] == BASELINE
        if row["status"] != "ok" or row[metric] is None or (row["head"] == BASELINE and baselines > 1):
            continue  # the baseline is the same on every store
        with_store = several and row["head"] not in (BASELINE, ENSEMBLE)
        ends = row["intervals"].get(metric) or {"low": None, "high": None}
        kind = "recommended" if row["recommended"] else "baseline" if row["head"] == BASELINE else "head"
        values = (
            f"{row['head']} · {labels.get(row['store'], row['store'])}" if with_store else row["head"],
            len(columns["rank"]),
            row[metric],
            ends["low"],
            ends["high"],
            kind,
        )
        for name, value in zip(columns, values, strict=True):
            columns[name].append(value)
    return columns


def _store_heading(label: str, store: str) -> str:
    return store if label == store else f"{label}: {store}"


def _facts(result: Mapping[str, Any], record: Mapping[str, Any]) -> str:
    names = dict.fromkeys((primary_metric(record), "accuracy", "log_loss", "calibration_error"))
    text = "; ".join(f"{NAMES[name].long} {with_interval(result, name)}" for name in names)
    text = f"{text[:1].upper()}{text[1:]}."
    params = result["bundle_params"] or {}
    if result["head"] == ENSEMBLE:
        return f"{text} Members of the ensemble: {'; '.join(params['members'])}."
    values = [f"{key} {_value_text(value)}" for key, value in params.items() if value not in (None, [])]
    return f"{text} Hyper-parameters: {', '.join(values) or 'none'}."


def _value_text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "-".join(map(_value_text, value))
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


Columns = dict[str, list[Any]]  # name → one value per row

MAX_POINTS = 120  # points per curve; more are not visible


def head_panels(
    result: Mapping[str, Any],
    *,
    y: IntArray,
    probabilities: Float64Array,
    classes: Sequence[str],
    learning: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Columns]:
    """Return the columns of each chart of one head; charts without data are omitted.

    Parameters
    ----------
    result : mapping
        Result of the head, as in results.json.
    y : ndarray of shape (n_entries,), int
        Classes of the tested entries.
    probabilities : ndarray of shape (n_entries, n_classes), float
        Predictions of the head.
    classes : sequence of str
    learning : sequence of mapping
        Points of its learning curve, if there is one.

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
    """Return one row per cell: number of entries by true and predicted class, and fraction of the true class.

    The column of predicted classes is named ``graded``.
    """
    cells = [
        (true, predicted, count, count / max(1, sum(row)))
        for true, row in zip(classes, matrix, strict=True)
        for predicted, count in zip(classes, row, strict=True)
    ]
    return dict(zip(("true", "graded", "count", "share"), map(list, zip(*cells, strict=True)), strict=True))


def roc(y: IntArray, probabilities: Float64Array, *, classes: Sequence[str]) -> Columns:
    """Return the points of each class's one-vs-rest ROC curve; with two classes, of the second class only."""
    from sklearn.metrics import roc_curve

    columns: Columns = {"class": [], "x": [], "y": [], "threshold": []}
    for label in curve_labels(y, classes=classes):
        false, true, threshold = roc_curve(y == label, probabilities[:, label])
        _add(columns, classes[label], false, true, np.minimum(threshold, 1.0))
    return columns


def precision_recall(y: IntArray, probabilities: Float64Array, *, classes: Sequence[str]) -> Columns:
    """Return the points of each class's one-vs-rest precision-recall curve."""
    from sklearn.metrics import precision_recall_curve

    columns: Columns = {"class": [], "x": [], "y": [], "threshold": []}
    for label in curve_labels(y, classes=classes):
        precision, recall, threshold = precision_recall_curve(y == label, probabilities[:, label])
        _add(columns, classes[label], recall, precision, np.append(threshold, 1.0))
    return columns


def curve_labels(y: IntArray, *, classes: Sequence[str]) -> list[int]:
    """Return the labels that have curves: some tested entries have the label, and some do not."""
    labels = [1] if len(classes) == 2 else range(len(classes))
    return [label for label in labels if 0 < int((y == label).sum()) < len(y)]


def reliability_points(bins: Sequence[Mapping[str, Any]] | None) -> Columns:
    """Return one row per non-empty bin of confidence, with Wilson's 95 % interval of its accuracy."""
    columns: Columns = {name: [] for name in ("confidence", "accuracy", "low", "high", "count")}
    for row in bins or ():
        if not row["count"]:
            continue
        low, high = wilson_interval(row["accuracy"], row["count"])
        for name, value in {**row, "low": low, "high": high}.items():
            columns[name].append(value if name == "count" else _four_digits(value))
    return columns


def learning_points(points: Sequence[Mapping[str, Any]]) -> Columns:
    """Return one row per size of the training set."""
    names = ("n_images", "accuracy", "low", "high")
    return {name: [_four_digits(point[name]) for point in points] for name in names}


def training_points(training: Mapping[str, Any] | None) -> Columns:
    """Return loss and accuracy per epoch, on the training images and on those held out for early stopping."""
    columns: Columns = {"epoch": [], "figure": [], "of": [], "value": []}
    for figure in ("loss", "accuracy"):
        for images, prefix in zip(TRAINING_SERIES, ("", "val_"), strict=True):
            for epoch, value in enumerate((training or {}).get(prefix + figure) or (), start=1):
                if value is not None and math.isfinite(value):
                    row = {"epoch": epoch, "figure": figure, "of": images, "value": _four_digits(value)}
                    for name, cell in row.items():
                        columns[name].append(cell)
    return columns


def _add(columns: Columns, name: str, x: Float64Array, y: Float64Array, threshold: Float64Array) -> None:
    corners = _corner_points(x, y)
    for column, values in (("x", x), ("y", y), ("threshold", threshold)):
        columns[column] += [_four_digits(value) for value in values[corners]]
    columns["class"] += [name] * len(corners)


def _corner_points(x: Float64Array, y: Float64Array) -> IntArray:
    """Return the indices of at most `MAX_POINTS` points of a curve, without points on a straight line."""
    points = np.column_stack([x, y])
    moves = np.any(np.diff(points, axis=0) != 0, axis=1)  # False for a repeated point
    indices = np.flatnonzero(np.concatenate([[True], moves]))
    if len(indices) > 2:
        steps = np.diff(points[indices], axis=0)
        steps /= np.linalg.norm(steps, axis=1, keepdims=True)  # direction only, whatever the length
        before, after = steps[:-1], steps[1:]
        turns = np.abs(before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]) > 1e-9
        indices = indices[np.concatenate([[True], turns, [True]])]
    if len(indices) > MAX_POINTS:
        indices = indices[np.unique(np.linspace(0, len(indices) - 1, MAX_POINTS).round().astype(np.int64))]
    return indices


def _four_digits(value: float) -> float:
    return round(float(value), 4)
