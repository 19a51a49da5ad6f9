"""Predicted grades of images, written as CSV for spreadsheets or as JSON."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from classify.io.results import number, printable_json, probability_names, write_csv
from featurize.base.files import atomic_path
from featurize.errors import DatasetError


@dataclass(frozen=True, kw_only=True)
class PredictedGrade:
    """Predicted grade of one image, or of one entry of several images."""

    path: str  # as given, or given folder and path within it; "" for an entry of several images
    entry: str  # the image itself, or the sub-folder of the given folder that contains it
    n_images: int  # number of images that could be read and were used for the prediction
    grade: str  # "" if no image could be read
    confidence: float | None  # the largest probability
    probabilities: tuple[float, ...]  # in label order; () if no image could be read
    problem: str  # why images could not be read, with the path of each if there are several; else ""


@dataclass(frozen=True, kw_only=True)
class PredictResult:
    """Result of `classify.predict`."""

    bundle: Path
    head: str
    store: str
    classes: tuple[str, ...]
    grades: tuple[PredictedGrade, ...]
    notes: tuple[str, ...]  # for the user

    @property
    def n_failed(self) -> int:
        """Number of rows without a grade."""
        return sum(not grade.grade for grade in self.grades)


def check_output(path: Path) -> None:
    """Check, before images are read, that grades can be written to `path`.

    Raises
    ------
    DatasetError
        If the path is a folder, or its parent is missing or not writable.
    """
    parent = path.parent
    problem = ""
    if path.is_dir():
        problem = "is a folder, expected a CSV file"
    elif not parent.is_dir():
        problem = f"cannot be written, because {parent} is not a folder"
    elif not os.access(parent, os.W_OK | os.X_OK):
        problem = f"cannot be written, because {parent} is not writable"
    if problem:
        raise DatasetError(f"{path}: {problem}. Choose another file with --out FILE")


def write_grades(path: Path, result: PredictResult) -> None:
    """Write predicted grades as CSV for spreadsheets, in UTF-8 with byte order mark.

    The columns are path, entry, n_images, grade, confidence, one probability per class, and problem.

    Raises
    ------
    DatasetError
        If the file cannot be written.
    """
    header = [
        "path",
        "entry",
        "n_images",
        "grade",
        "confidence",
        *probability_names(result.classes),
        "problem",
    ]
    empty = [""] * len(result.classes)
    rows = [
        [
            grade.path,
            grade.entry,
            str(grade.n_images),
            grade.grade,
            "" if grade.confidence is None else number(grade.confidence),
            *([number(value) for value in grade.probabilities] or empty),
            grade.problem,
        ]
        for grade in result.grades
    ]
    try:
        with atomic_path(path) as temporary:
            write_csv(temporary, header, rows, encoding="utf-8-sig")
    except OSError as error:
        raise DatasetError(
            f"{path}: cannot be written ({error.strerror}). Choose another file with --out FILE"
        ) from None


def grades_json(result: PredictResult) -> list[dict[str, Any]]:
    """Return predicted grades as JSON data; grade and probabilities are null where no image could be read."""
    rows: list[dict[str, Any]] = printable_json(
        [
            {
                "path": grade.path or None,
                "entry": grade.entry,
                "n_images": grade.n_images,
                "grade": grade.grade or None,
                "confidence": grade.confidence,
                "probabilities": dict(zip(result.classes, grade.probabilities, strict=True))
                if grade.grade
                else None,
                "problem": grade.problem,
            }
            for grade in result.grades
        ]
    )
    return rows
