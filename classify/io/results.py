"""The one record of a comparison: results.json and predictions.csv, and the leaderboard as data."""

from __future__ import annotations

import csv
import itertools
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from classify.errors import CompareError
from featurize.base.text import printable, safe_cell

if TYPE_CHECKING:
    pass


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """What `fit` made."""

    bundle: Path
    store: str
    head: str
    params: Mapping[str, Any]  # all, defaults included
    chosen: str  # where they come from: "given", "from …", "searched in folds" or "searched on val"
    cv_balanced_accuracy: float | None  # of the search; None where nothing was searched
    metrics: Mapping[str, float | None] | None  # on the test images; None without a test split
    n_train: int
    n_test: int
    fitted_on: str  # what n_train counts: "images" or "entries"
    tested_on: str  # what n_test counts
    tune_seconds: float
    fit_seconds: float
    from_cache: bool  # fitted by an earlier run, which also measured the seconds
    notes: tuple[str, ...]
    facts: tuple[str, ...]  # of the images: what was left out, and why


FORMAT = "folio-run"
FORMAT_VERSION = 1
RESULTS = "results.json"
PREDICTIONS = "predictions.csv"
IMAGE_PREDICTIONS = "image_predictions.csv"  # where entries have several images
DOUBTFUL = "doubtful.csv"
REPORT = "report.html"
LEADERBOARD = "leaderboard.md"
FIGURES = "figures"  # a folder
# What a run writes, and so what --overwrite replaces.
PARTS = (
    *("bundles", "weights", "tensorboard", FIGURES),
    *(PREDICTIONS, IMAGE_PREDICTIONS, DOUBTFUL, LEADERBOARD, REPORT, RESULTS),
)
METRICS = (
    "accuracy",
    "balanced_accuracy",
    "macro_f1",
    "roc_auc",
    "log_loss",
    "brier_score",
    "calibration_error",
)
# Of three or more ordered classes.
ORDERED_METRICS = ("quadratic_kappa", "mean_absolute_error", "off_by_two")
# Of heads with equal cross-validation scores the first one here is recommended; then the first store.
SIMPLEST_FIRST = (
    *("nearest-mean", "lda", "logreg", "ordinal-logistic", "knn", "svm-linear", "svm-rbf", "ordinal-svm"),
    *("dense", "ordinal-dense", "ensemble"),
)


@dataclass(frozen=True, kw_only=True)
class Result:
    """One head on one store."""

    store: str
    config_digest: str
    backbone: str
    head: str
    status: str  # "ok" or "failed: …"
    params: Any  # the chosen hyper-parameters; without a test split a list of them, one a fold
    metrics: Mapping[str, float | None]
    undefined: Mapping[str, str]  # metric → why it is null
    per_class: Any
    confusion_matrix: list[list[int]] | None  # rows: true class, columns: predicted class, in label order
    reliability: Any  # bins of the calibration error
    intervals: Mapping[str, Any]  # metric → its 95 % interval, as in `classify.evaluation.intervals`
    n_train: int  # images fitted on; without a test split in the largest fold
    n_test: int
    cv_balanced_accuracy: float | None  # what the recommended head is chosen by
    tuning_scores: list[float]  # mean balanced accuracy of the chosen hyper-parameters, one a search
    tune_seconds: float
    fit_seconds: float
    predict_ms_per_image: float | None
    bundle: str | None  # folder, relative to the run
    bundle_params: Mapping[str, Any] | None
    refitted: bool  # the bundle's head saw more images than the head that was tested
    n_tasks: int  # folds scored and heads fitted
    n_remembered: int  # those of them that an earlier run had done; their seconds are of that run
    training: Mapping[str, Any] | None = None  # of the bundle's head, where it was trained in epochs
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What one head said of one test entry, or of one image of it."""

    store: str
    head: str
    entry: str
    path: str  # of the image, "" where there are several
    n_images: int
    fold: int | None  # from 0; None with a test split
    true: int
    probabilities: Sequence[float]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What `classify.jobs.compare.compare` returns."""

    folder: Path
    record: Mapping[str, Any]  # what results.json holds
    tensorboard: Path | None = None  # folder of logs, where the dense head ran
    report: Path | None = None  # the HTML file
    notes: tuple[str, ...] = field(default=())

    @property
    def recommended(self) -> Mapping[str, Any] | None:
        """Store, head and bundle of the recommended head, or None where no head could be fitted."""
        found: Mapping[str, Any] | None = self.record["recommended"]
        return found


def leaderboard(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return one row a result, best cross-validation score first, failed heads last.

    Parameters
    ----------
    record : mapping
        What results.json holds.

    Returns
    -------
    list of dict
        Keys store, head, recommended, status, levels (of the bundle; None where the store has one),
        cv_balanced_accuracy, every metric, intervals, per_class, fit_seconds.
    """
    chosen = record["recommended"] or {}
    rows = [
        {
            "store": result["store"],
            "head": result["head"],
            "recommended": (result["store"], result["head"]) == (chosen.get("store"), chosen.get("head")),
            "status": result["status"],
            "levels": (result["bundle_params"] or {}).get("levels"),
            "cv_balanced_accuracy": result["cv_balanced_accuracy"],
            **result["metrics"],
            "intervals": result["intervals"],
            "per_class": result["per_class"],
            "fit_seconds": result["fit_seconds"],
        }
        for result in record["results"]
    ]
    return sorted(
        rows,
        key=lambda row: (
            row["status"] != "ok",
            -round(row["cv_balanced_accuracy"] or 0.0, 10),
            not row["recommended"],
        ),
    )


def read_record(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what a run folder's results.json holds.

    Raises
    ------
    CompareError
        If it is missing, damaged or no record of a comparison.
    """
    path = Path(folder) / RESULTS
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CompareError(f"{folder}: no {RESULTS} there. Make a run with: classify compare STORE") from None
    except (OSError, ValueError) as error:
        raise CompareError(
            f"{path}: cannot be read ({error}). Make the run anew: classify compare STORE"
        ) from None
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise CompareError(f"{path}: not the record of a comparison. Make one with: classify compare STORE")
    if record.get("format_version") != FORMAT_VERSION:
        raise CompareError(
            f"{path}: format version {record.get('format_version')}, but this Folio reads version "
            f"{FORMAT_VERSION}. Upgrade folio-grader."
        )
    return record


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write results.json: plain JSON, null where a figure is undefined, never NaN."""
    text = json.dumps(plain_json(record), indent=2, allow_nan=False, ensure_ascii=False)
    (folder / RESULTS).write_text(text + "\n", encoding="utf-8")


def write_predictions(path: Path, predictions: Iterable[Prediction], *, classes: Sequence[str]) -> None:
    """Write predictions.csv: one line a test entry, or image, for each store and head.

    The columns are store, head, entry, path, n_images, fold, true_class, predicted_class and one probability
    a class.
    """
    header = [
        "store",
        "head",
        "entry",
        "path",
        "n_images",
        "fold",
        "true_class",
        "predicted_class",
        *probability_names(classes),
    ]
    rows = (
        [
            item.store,
            item.head,
            item.entry,
            item.path,
            str(item.n_images),
            "" if item.fold is None else str(item.fold),
            classes[item.true],
            classes[max(range(len(classes)), key=lambda label: item.probabilities[label])],
            *(number(value) for value in item.probabilities),
        ]
        for item in predictions
    )
    write_csv(path, header, rows)


def probability_names(classes: Sequence[str]) -> list[str]:
    """Return the names of the probability columns."""
    return [f"p_{name}" for name in classes]


def number(value: float) -> str:
    """Return a probability as all our tables have it."""
    return f"{value:.6f}"


def write_csv(
    path: Path, header: Sequence[str], rows: Iterable[Sequence[str]], *, encoding: str = "utf-8"
) -> None:
    r"""Write a table that opens rightly in a spreadsheet and runs nothing there.

    A cell that a spreadsheet would take for a formula gets a leading apostrophe; undecodable bytes of file
    names are shown as ``\xNN``.
    """
    with path.open("w", encoding=encoding, newline="") as stream:
        writer = csv.writer(stream)
        for row in itertools.chain([header], rows):
            writer.writerow([safe_cell(cell) for cell in row])


def plain_json(value: Any) -> Any:
    """Return dictionaries, lists, printable text and numbers; a number that is not finite as None."""
    if isinstance(value, Mapping):
        return {printable(str(key)): plain_json(item) for key, item in value.items()}
    if isinstance(value, str):
        return printable(value)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, os.PathLike):
        return printable(os.fspath(value))
    if hasattr(value, "tolist"):  # NumPy's arrays and scalars
        return plain_json(value.tolist())
    if isinstance(value, Iterable):
        return [plain_json(item) for item in value]
    raise TypeError(f"{type(value).__name__} has no place in {RESULTS}")
