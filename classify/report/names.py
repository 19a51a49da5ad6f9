"""Names of metrics, units and stores for headings and sentences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any


@dataclass(frozen=True, kw_only=True)
class MetricName:
    """Names and explanation of a metric."""

    short: str  # column heading
    long: str  # name in a sentence
    about: str  # explanation in one line


NAMES: Mapping[str, MetricName] = {
    "cv_balanced_accuracy": MetricName(
        short="CV",
        long="balanced accuracy in cross-validation",
        about="balanced accuracy on held-out training images; selects hyper-parameters and recommended head",
    ),
    "quadratic_kappa": MetricName(
        short="kappa",
        long="quadratic-weighted kappa",
        about="agreement with the true grades, large errors weigh more: 1 is perfect, 0 is chance level",
    ),
    "accuracy": MetricName(short="accuracy", long="accuracy", about="proportion predicted correctly"),
    "balanced_accuracy": MetricName(
        short="bal. acc.", long="balanced accuracy", about="mean recall over classes"
    ),
    "macro_f1": MetricName(
        short="macro-F1",
        long="macro-averaged F1",
        about="mean F1 over classes; F1 is the harmonic mean of precision and recall",
    ),
    "roc_auc": MetricName(
        short="ROC-AUC",
        long="area under the ROC curve",
        about="how well the probabilities rank a class above the others: 1 is perfect, 0.5 is chance level",
    ),
    "mean_absolute_error": MetricName(
        short="MAE", long="mean absolute error", about="mean distance to the true grade, in grades"
    ),
    "off_by_two": MetricName(
        short="off by 2", long="proportion off by two", about="proportion two or more grades off"
    ),
    "log_loss": MetricName(
        short="log loss",
        long="log loss",
        about="loss of the probabilities: lower is better, confident errors cost most",
    ),
    "brier_score": MetricName(
        short="Brier", long="Brier score", about="squared error of the probabilities: lower is better"
    ),
    "calibration_error": MetricName(
        short="ECE",
        long="expected calibration error",
        about="mean difference between confidence and accuracy: lower is better",
    ),
}


def primary_metric(record: Mapping[str, Any]) -> str:
    """Return the metric that verdicts are based on, or accuracy if there are no verdicts."""
    return str(record["statistics"]["primary_metric"] or "accuracy")


def has_ordinal_metrics(record: Mapping[str, Any]) -> bool:
    """Return whether a record has the metrics of ordered classes."""
    return bool(record["statistics"]["primary_metric"] == "quadratic_kappa")


def has_test_split(record: Mapping[str, Any]) -> bool:
    """Return whether heads were tested on a test split, not out of fold."""
    return bool(record["protocol"]["kind"] == "test split")


def units(record: Mapping[str, Any]) -> str:
    """Return the plural name of the tested units: "entries" or "images"."""
    return "entries" if record.get("join") else "images"


def metric_text(value: float | None) -> str:
    """Return a metric with three digits, or a dash if it is undefined."""
    return "–" if value is None else f"{value:.3f}"


def interval_text(result: Mapping[str, Any], metric: str) -> str:
    """Return the 95 % interval of a metric in brackets, or "" if there is none."""
    ends = result["intervals"].get(metric) or {"low": None}
    return "" if ends["low"] is None else f"[{ends['low']:.2f}, {ends['high']:.2f}]"


def with_interval(result: Mapping[str, Any], metric: str) -> str:
    """Return a metric of a result in results.json, with its interval."""
    return f"{metric_text(result['metrics'].get(metric))} {interval_text(result, metric)}".strip()


MAX_NAME_LENGTH = 18  # characters of a store name in tables


def store_labels(record: Mapping[str, Any]) -> dict[str, str]:
    """Return a label for each store: its name, or a letter if any of the names is too long for tables.

    A fused store has the letters of its parts, such as "A+B". A single store keeps its name.

    Parameters
    ----------
    record : mapping
        Content of results.json.
    """
    stores = record["stores"]
    names = [store["store"] for store in stores]
    too_long = max(map(len, names), default=0) > MAX_NAME_LENGTH
    if len(names) < 2 or not too_long or len(names) > len(ascii_uppercase):
        return {name: name for name in names}
    single = [store["store"] for store in stores if not store.get("parts")]
    letters = dict(zip(single, ascii_uppercase, strict=False))
    fused = {
        store["store"]: "+".join(letters.get(part, part) for part in store["parts"])
        for store in stores
        if store.get("parts")
    }
    return {**letters, **fused}


def label_lines(record: Mapping[str, Any]) -> list[str]:
    """Return a line with the store name of each label; no line if the labels are the names."""
    labels = store_labels(record)
    letters = [f"{label}: {name}" for name, label in labels.items() if label != name and "+" not in label]
    fused = [f"{label}: their features fused" for label in labels.values() if letters and "+" in label]
    return [f"Stores: {', '.join([*letters, *fused])}"] if letters else []
