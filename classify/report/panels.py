"""What the charts of a head draw: columns of equal length, as plain JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from classify.significance.proportions import wilson_interval

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Columns = dict[str, list[Any]]  # name → one value a row

MOST_POINTS = 120  # of a curve: more of them look the same


def head_panels(
    result: Mapping[str, Any],
    *,
    y: IntArray,
    probabilities: FloatArray,
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
        "reliability": reliable(result["reliability"]),
        "learning": learned(learning),
        "training": trained(result.get("training")),
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


def roc(y: IntArray, probabilities: FloatArray, *, classes: Sequence[str]) -> Columns:
    """Return the points of each class's ROC curve, one against the rest; of two classes the second's only."""
    from sklearn.metrics import roc_curve

    columns: Columns = {"class": [], "x": [], "y": [], "threshold": []}
    for label in curves_of(y, classes=classes):
        false, true, threshold = roc_curve(y == label, probabilities[:, label])
        _add(columns, classes[label], false, true, np.minimum(threshold, 1.0))
    return columns


def precision_recall(y: IntArray, probabilities: FloatArray, *, classes: Sequence[str]) -> Columns:
    """Return the points of each class's precision-recall curve, one against the rest."""
    from sklearn.metrics import precision_recall_curve

    columns: Columns = {"class": [], "x": [], "y": [], "threshold": []}
    for label in curves_of(y, classes=classes):
        precision, recall, threshold = precision_recall_curve(y == label, probabilities[:, label])
        _add(columns, classes[label], recall, precision, np.append(threshold, 1.0))
    return columns


def curves_of(y: IntArray, *, classes: Sequence[str]) -> list[int]:
    """Return the labels that have curves: those that some tested entry has and some has not."""
    labels = [1] if len(classes) == 2 else range(len(classes))
    return [label for label in labels if 0 < int((y == label).sum()) < len(y)]


def reliable(bins: Sequence[Mapping[str, Any]] | None) -> Columns:
    """Return one row a bin of confidence that holds entries, with Wilson's 95 % interval of its accuracy."""
    columns: Columns = {name: [] for name in ("confidence", "accuracy", "low", "high", "count")}
    for one in bins or ():
        if not one["count"]:
            continue
        low, high = wilson_interval(one["accuracy"], one["count"])
        for name, value in {**one, "low": low, "high": high}.items():
            columns[name].append(value if name == "count" else _short(value))
    return columns


def learned(points: Sequence[Mapping[str, Any]]) -> Columns:
    """Return one row a size of the training set."""
    names = ("n_images", "accuracy", "low", "high")
    return {name: [_short(point[name]) for point in points] for name in names}


def trained(training: Mapping[str, Any] | None) -> Columns:
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


def _add(columns: Columns, name: str, x: FloatArray, y: FloatArray, threshold: FloatArray) -> None:
    kept = _bends(x, y)
    for column, values in (("x", x), ("y", y), ("threshold", threshold)):
        columns[column] += [_short(value) for value in values[kept]]
    columns["class"] += [name] * len(kept)


def _bends(x: FloatArray, y: FloatArray) -> IntArray:
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
