"""What figures are called, in a heading and in a sentence, and what they mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any


@dataclass(frozen=True, kw_only=True)
class MetricName:
    """A figure of a head."""

    short: str  # a column's heading
    long: str  # in a sentence
    about: str  # one line for who meets it for the first time


NAMES: Mapping[str, MetricName] = {
    "cv_balanced_accuracy": MetricName(
        short="CV",
        long="balanced accuracy in cross-validation",
        about="balanced accuracy on held out training images; chose hyper-parameters and recommended head",
    ),
    "quadratic_kappa": MetricName(
        short="kappa",
        long="quadratic-weighted kappa",
        about="agreement with the grades, far misses weighing more: 1 at best, 0 by chance",
    ),
    "accuracy": MetricName(short="accuracy", long="accuracy", about="share graded rightly"),
    "balanced_accuracy": MetricName(
        short="bal. acc.", long="balanced accuracy", about="the mean over the classes of what share is found"
    ),
    "macro_f1": MetricName(
        short="macro-F1",
        long="macro-averaged F1",
        about="mean over the classes of F1 of precision and recall",
    ),
    "roc_auc": MetricName(
        short="ROC-AUC",
        long="area under the ROC curve",
        about="how well the probabilities rank one class before the others: 0.5 by chance",
    ),
    "mean_absolute_error": MetricName(
        short="MAE", long="mean absolute error", about="how many grades off on average"
    ),
    "off_by_two": MetricName(
        short="off by 2", long="share off by two", about="share off by two grades or more"
    ),
    "log_loss": MetricName(
        short="log loss",
        long="log loss",
        about="of the probabilities: less is better, being sure and wrong costs most",
    ),
    "brier_score": MetricName(
        short="Brier", long="Brier score", about="squared error of the probabilities: less is better"
    ),
    "calibration_error": MetricName(
        short="ECE",
        long="expected calibration error",
        about="how far stated probabilities are from how often the head is right: less is better",
    ),
}


def figure_text(value: float | None) -> str:
    """Return a figure to three digits, a dash where there is none."""
    return "–" if value is None else f"{value:.3f}"


def interval_text(result: Mapping[str, Any], metric: str) -> str:
    """Return a metric's 95 % interval in brackets, "" where there is none."""
    ends = result["intervals"].get(metric) or {"low": None}
    return "" if ends["low"] is None else f"[{ends['low']:.2f}, {ends['high']:.2f}]"


def with_interval(result: Mapping[str, Any], metric: str) -> str:
    """Return a metric of one of a record's results, with its interval."""
    return f"{figure_text(result['metrics'].get(metric))} {interval_text(result, metric)}".strip()


LONGEST = 18  # characters of a name that tables have room for


def store_labels(record: Mapping[str, Any]) -> dict[str, str]:
    """Return a label for each store of a record: its name, or a letter where some name is long.

    A fused store has the letters of its parts: "A+B". A single store keeps its name.

    Parameters
    ----------
    record : mapping
        What results.json holds.
    """
    stores = record["stores"]
    names = [store["store"] for store in stores]
    if len(names) < 2 or max(map(len, names)) <= LONGEST or len(names) > len(ascii_uppercase):
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
    """Return what each label stands for; nothing where labels are names."""
    labels = store_labels(record)
    told = [f"{label}: {name}" for name, label in labels.items() if label != name and "+" not in label]
    joined = [f"{label}: their features side by side" for label in labels.values() if told and "+" in label]
    return [f"Stores: {', '.join([*told, *joined])}"] if told else []
