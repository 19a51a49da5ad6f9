"""Grades of images, and how they leave: a CSV for spreadsheets, or JSON."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from classify.io.results import number, plain_json, probability_names, write_csv
from featurize.errors import DatasetError


@dataclass(frozen=True, kw_only=True)
class PredictedGrade:
    """What is said of one image, or of one entry of several."""

    path: str  # as given; for a file in a given folder, that folder and the path within it; "" for several
    entry: str  # first folder within the given one that holds the image, or the image itself
    n_images: int  # that were read: the grade is theirs
    grade: str  # "" when none could be read
    confidence: float | None  # the largest probability
    probabilities: tuple[float, ...]  # in label order; () when none could be read
    problem: str  # "" or the reason; of several images the path of each that could not be read, and why


@dataclass(frozen=True, kw_only=True)
class PredictResult:
    """What `predict` returns."""

    bundle: Path
    head: str
    store: str
    classes: tuple[str, ...]
    grades: tuple[PredictedGrade, ...]
    notes: tuple[str, ...]  # what the user should know

    @property
    def n_failed(self) -> int:
        """Rows that have no grade."""
        return sum(not grade.grade for grade in self.grades)


def check_output(path: Path) -> None:
    """Raise unless grades can be written to ``path``: said before the work, not after it.

    Raises
    ------
    DatasetError
        If it is a folder, or its parent is missing or not writable.
    """
    parent = path.parent
    problem = ""
    if path.is_dir():
        problem = "a folder; expected the name of a CSV file"
    elif not parent.is_dir():
        problem = f"cannot be written: {parent} is no folder"
    elif not os.access(parent, os.W_OK | os.X_OK):
        problem = f"cannot be written: {parent} is not writable"
    if problem:
        raise DatasetError(f"{path}: {problem}. Choose another file with --out")


def write_grades(path: Path, graded: PredictResult) -> None:
    """Write grades as CSV, UTF-8 with byte order mark, for spreadsheets.

    The columns are path, entry, n_images, grade, confidence, one probability a class, and problem.
    """
    header = [
        "path",
        "entry",
        "n_images",
        "grade",
        "confidence",
        *probability_names(graded.classes),
        "problem",
    ]
    empty = [""] * len(graded.classes)
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
        for grade in graded.grades
    ]
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        write_csv(temporary, header, rows, encoding="utf-8-sig")
        os.replace(temporary, path)
    except OSError as error:
        raise DatasetError(
            f"{path}: cannot be written ({error.strerror}). Choose another file with --out"
        ) from None
    finally:
        temporary.unlink(missing_ok=True)


def grades_json(graded: PredictResult) -> list[dict[str, Any]]:
    """Return grades as plain JSON: a row without a grade has nulls and its problem."""
    found: list[dict[str, Any]] = plain_json(
        [
            {
                "path": grade.path or None,
                "entry": grade.entry,
                "n_images": grade.n_images,
                "grade": grade.grade or None,
                "confidence": grade.confidence,
                "probabilities": dict(zip(graded.classes, grade.probabilities, strict=True))
                if grade.grade
                else None,
                "problem": grade.problem,
            }
            for grade in graded.grades
        ]
    )
    return found
