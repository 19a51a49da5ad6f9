"""Files of a comparison: results.json, predictions.csv, and the leaderboard as data."""

from __future__ import annotations

import csv
import itertools
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from classify.errors import CompareError
from featurize.base.text import printable, safe_cell


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """Result of `classify.fit`."""

    bundle: Path
    store: str
    head: str
    params: Mapping[str, Any]  # all hyper-parameters, defaults included
    chosen: str  # origin of the hyper-parameters: "given", "from …", "searched in folds" or "searched on val"
    cv_balanced_accuracy: float | None  # score of the search; None if nothing was searched
    metrics: Mapping[str, float | None] | None  # on the test images; None if there is no test split
    n_train: int
    n_test: int
    fitted_on: str  # unit of n_train: "images" or "entries"
    tested_on: str  # unit of n_test: "images" or "entries"
    tune_seconds: float
    fit_seconds: float
    from_cache: bool  # fitted by an earlier run, which also measured the seconds
    notes: tuple[str, ...]
    facts: tuple[str, ...]  # about the images: those left out, with reasons


FORMAT = "folio-run"
FORMAT_VERSION = 1
RESULTS = "results.json"
PREDICTIONS = "predictions.csv"
IMAGE_PREDICTIONS = "image_predictions.csv"  # written if entries have several images
DOUBTFUL = "doubtful.csv"
REPORT = "report.html"
LEADERBOARD = "leaderboard.md"
FIGURES = "figures"  # a folder
# Files and folders that a run writes and that --overwrite replaces.
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
# For three or more ordered classes.
ORDERED_METRICS = ("quadratic_kappa", "mean_absolute_error", "off_by_two")
# Of heads with equal cross-validation scores, the first one here is recommended; then the first store.
SIMPLEST_FIRST = (
    *("nearest-mean", "lda", "logreg", "ordinal-logistic", "knn", "svm-linear", "svm-rbf", "ordinal-svm"),
    *("dense", "ordinal-dense", "ensemble"),
)


@dataclass(frozen=True, kw_only=True)
class Result:
    """One head on one store, as in "results" of results.json."""

    store: str
    config_digest: str
    backbone: str
    head: str
    status: str  # "ok" or "failed: …"
    params: Any  # chosen hyper-parameters; a list with one element per outer fold if there is no test split
    metrics: Mapping[str, float | None]
    undefined: Mapping[str, str]  # metric that is null → reason
    per_class: Any
    confusion_matrix: list[list[int]] | None  # rows: true class, columns: predicted class, in label order
    reliability: Any  # bins of the expected calibration error
    intervals: Mapping[str, Any]  # metric → 95 % interval, as in `classify.evaluation.intervals`
    n_train: int  # images fitted on; in the largest outer fold if there is no test split
    n_test: int
    cv_balanced_accuracy: float | None  # the recommended head is the one with the highest
    tuning_scores: list[float]  # mean balanced accuracy of the chosen hyper-parameters, one per search
    tune_seconds: float
    fit_seconds: float
    predict_ms_per_image: float | None
    bundle: str | None  # folder relative to the run folder
    bundle_params: Mapping[str, Any] | None
    refitted: bool  # the head of the bundle was fitted on more images than the tested head
    n_tasks: int  # number of folds scored and heads fitted
    n_remembered: int  # how many of them come from the cache, with the seconds measured then
    training: Mapping[str, Any] | None = None  # curves of the bundle's head; None without epochs
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Prediction of one head for one test entry, or for one image of it: a row of predictions.csv."""

    store: str
    head: str
    entry: str
    path: str  # of the image; "" if the entry has several
    n_images: int
    fold: int | None  # outer fold, from 0; None if there is a test split
    true: int  # label
    probabilities: Sequence[float]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Result of `classify.compare`."""

    folder: Path
    record: Mapping[str, Any]  # content of results.json, with names as they are on disk
    tensorboard: Path | None = None  # log folder, if the dense head was trained
    report: Path | None = None  # report.html, if it was written
    notes: tuple[str, ...] = field(default=())

    @property
    def recommended(self) -> Mapping[str, Any] | None:
        """Store, head and bundle of the recommended head; None if no head could be fitted."""
        recommended: Mapping[str, Any] | None = self.record["recommended"]
        return recommended


def leaderboard(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return one row per result, best cross-validation score first, failed heads last.

    Parameters
    ----------
    record : mapping
        Content of results.json.

    Returns
    -------
    list of dict
        Keys store, head, recommended, status, levels (of the bundle; None if the store has one level),
        cv_balanced_accuracy, every metric, intervals, per_class, fit_seconds.
    """
    recommended = record["recommended"] or {}
    rows = [
        {
            "store": result["store"],
            "head": result["head"],
            "recommended": (result["store"], result["head"])
            == (recommended.get("store"), recommended.get("head")),
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
    """Return the content of results.json of a run folder.

    Raises
    ------
    CompareError
        If the file is missing, damaged or not the record of a comparison.
    """
    path = Path(folder) / RESULTS
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CompareError(f"{folder}: has no {RESULTS}. Make a run with: classify compare STORE") from None
    except (OSError, ValueError) as error:
        raise CompareError(
            f"{path}: cannot be read ({error}). Make the run again with: classify compare STORE"
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
    """Write results.json: undefined metrics are null, never NaN; names are made printable."""
    (folder / RESULTS).write_text(json_text(record), encoding="utf-8")


def write_predictions(path: Path, predictions: Iterable[Prediction], *, classes: Sequence[str]) -> None:
    """Write predictions.csv: one row per store, head and test entry or image.

    The columns are store, head, entry, path, n_images, fold, true_class, predicted_class and one probability
    per class.
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
    """Return a probability as text, as in all CSV files."""
    return f"{value:.6f}"


def write_csv(
    path: Path, header: Sequence[str], rows: Iterable[Sequence[str]], *, encoding: str = "utf-8"
) -> None:
    r"""Write a CSV file that is safe to open in a spreadsheet.

    A cell that looks like a formula gets a leading apostrophe. Undecodable bytes of file names are written as
    ``\xNN``.
    """
    with path.open("w", encoding=encoding, newline="") as stream:
        writer = csv.writer(stream)
        for row in itertools.chain([header], rows):
            writer.writerow([safe_cell(cell) for cell in row])


def json_text(value: Any) -> str:
    """Return a value as the text of a JSON file, with a final line end; see `printable_json`."""
    return json.dumps(printable_json(value), indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def printable_json(value: Any) -> Any:
    """Return a value as JSON data for output: as `plain_json`, with all text made printable."""
    return plain_json(value, convert_text=printable)


def plain_json(value: Any, *, convert_text: Callable[[str], str] = str) -> Any:
    """Return a value as dictionaries, lists, text, numbers and None; numbers that are not finite become None.

    Parameters
    ----------
    value : object
        Nested mappings and iterables of text, paths, numbers, None and NumPy arrays.
    convert_text : callable
        Applied to all text and paths, keys included.

    Raises
    ------
    TypeError
        If the value contains an object of another type.
    """
    if isinstance(value, Mapping):
        return {
            convert_text(str(key)): plain_json(item, convert_text=convert_text) for key, item in value.items()
        }
    if isinstance(value, str):
        return convert_text(value)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, os.PathLike):
        return convert_text(os.fspath(value))
    if hasattr(value, "tolist"):  # NumPy arrays and scalars
        return plain_json(value.tolist(), convert_text=convert_text)
    if isinstance(value, Iterable):
        return [plain_json(item, convert_text=convert_text) for item in value]
    raise TypeError(f"{type(value).__name__} cannot be written to {RESULTS}")
