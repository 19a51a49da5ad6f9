"""New images graded by a bundle: every input has its row, and a file that could not be read says why."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from classify.results import RESULTS, number, plain_json, probability_names, read_record, write_csv
from featurize import BundleError, DatasetError, EngineError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from classify.bundle import Bundle
    from featurize import ImageFeatures

MANIFEST = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class Grade:
    """What is said of one image."""

    path: str  # as given; for a file in a given folder, that folder and the path within it
    entry: str  # first folder within the given one that holds the image, or the image itself
    grade: str  # "" when it could not be read
    confidence: float | None  # the largest probability
    probabilities: tuple[float, ...]  # in label order; () when it could not be read
    problem: str  # "" or the reason


@dataclass(frozen=True, kw_only=True)
class Graded:
    """What `predict` returns."""

    bundle: Path
    head: str
    store: str
    classes: tuple[str, ...]
    grades: tuple[Grade, ...]
    notes: tuple[str, ...]  # what the user should know

    @property
    def n_failed(self) -> int:
        """Files that have no grade."""
        return sum(not grade.grade for grade in self.grades)


def predict(
    bundle_or_run: str | os.PathLike[str],
    inputs: Sequence[str | os.PathLike[str]],
    *,
    weights: str | os.PathLike[str] | None = None,
    device: str = "auto",
    gpu_memory: float | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Graded:
    """Grade image files and folders of them.

    Parameters
    ----------
    bundle_or_run : path-like
        A bundle, or a run folder, which means its recommended head.
    inputs : sequence of path-like
        Files, and folders whose files are all graded, sub-folders included.
    weights : path-like, optional
        The backbone's weights, where they did not come along with the bundle.
    device : str
        ``auto``, ``cpu`` or ``gpu:N``.
    gpu_memory : float, optional
        Fraction of the GPU's memory to take; grows on demand by default.
    on_progress : callable, optional
        Called with (done, total) images.

    Returns
    -------
    Graded
        One row a file, in the order of the inputs and, within a folder, of its paths.

    Raises
    ------
    BundleError
        If the bundle cannot be used.
    DatasetError
        If an input does not exist, or a folder holds no file.
    """
    from classify.bundle import load_bundle

    files = _files([Path(one) for one in inputs])
    bundle = load_bundle(bundle_folder(bundle_or_run))
    features, notes = _features(
        bundle,
        [file for file, _, _ in files],
        weights=weights,
        device=device,
        gpu_memory=gpu_memory,
        on_progress=on_progress,
    )
    grades = _grades(bundle, files, features)
    entries = {grade.entry for grade in grades}
    if len(entries) < len(grades):
        notes = (
            *notes,
            f"{len(grades)} images of {len(entries)} entries: graded image by image, not entry by entry",
        )
    return Graded(
        bundle=bundle.path,
        head=str(bundle.manifest["head"]),
        store=str(bundle.manifest.get("store", "")),
        classes=bundle.classes,
        grades=grades,
        notes=notes,
    )


def bundle_folder(path: str | os.PathLike[str]) -> Path:
    """Return the bundle's folder; of a run, that of its recommended head.

    Raises
    ------
    BundleError
        If the path is neither, or the run recommends none.
    """
    folder = Path(path)
    if (folder / MANIFEST).is_file():
        return folder
    if not (folder / RESULTS).is_file():
        found = (
            "holds neither" if folder.is_dir() else "not a folder" if folder.exists() else "no such folder"
        )
        raise BundleError(
            f"{folder}: {found}; expected a bundle ({MANIFEST}) or a run ({RESULTS}). "
            "Make one with: classify compare STORE"
        )
    recommended = read_record(folder)["recommended"]
    if recommended is None:
        raise BundleError(f"{folder}: no head of this run could be fitted; see its {RESULTS}")
    return folder / recommended["bundle"]


def write_grades(path: Path, graded: Graded) -> None:
    """Write grades as CSV, UTF-8 with byte order mark, for spreadsheets.

    The columns are path, entry, grade, confidence, one probability a class, and problem.
    """
    header = ["path", "entry", "grade", "confidence", *probability_names(graded.classes), "problem"]
    empty = [""] * len(graded.classes)
    rows = [
        [
            grade.path,
            grade.entry,
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


def grades_json(graded: Graded) -> list[dict[str, Any]]:
    """Return grades as plain JSON: a file without a grade has nulls and its problem."""
    found: list[dict[str, Any]] = plain_json(
        [
            {
                "path": grade.path,
                "entry": grade.entry,
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


def _files(inputs: Sequence[Path]) -> list[tuple[Path, str, str]]:
    """Return file, path to show and entry of everything to grade."""
    from featurize import find_images

    if not inputs:
        raise DatasetError("no image to grade: name files or folders")
    files: list[tuple[Path, str, str]] = []
    for given in inputs:
        if given.is_dir():
            found = find_images(given)
            if not found:
                raise DatasetError(f"{given}: no file in this folder. Name image files, or a folder of them")
            for relative in found:
                first, _, rest = relative.partition("/")
                path = os.fspath(given / relative)
                files.append((given / relative, path, os.fspath(given / first) if rest else path))
        elif given.exists():
            files.append((given, os.fspath(given), os.fspath(given)))
        else:
            raise DatasetError(f"{given}: no such file or folder. Name image files, or a folder of them")
    return files


def _features(
    bundle: Bundle,
    files: Sequence[Path],
    *,
    weights: str | os.PathLike[str] | None,
    device: str,
    gpu_memory: float | None,
    on_progress: Callable[[int, int], None] | None,
) -> tuple[ImageFeatures, tuple[str, ...]]:
    from featurize import image_features

    carried = Path(weights) if weights is not None else bundle.weights
    missing = bundle.manifest["weights"].get("missing")
    if carried is None and missing and bundle.config["weights"]["kind"] != "random":
        raise BundleError(
            f"{bundle.path}: this bundle lacks the weights of its backbone ({missing}). Name the file with: "
            "--weights FILE"
        )

    def run(precision: str | None) -> ImageFeatures:
        return image_features(
            files,
            bundle.config,
            weights=carried,
            device=device,
            gpu_memory=gpu_memory,
            precision=precision,
            on_progress=on_progress,
        )

    made_in = bundle.config["precision"]
    try:
        return run(None), ()
    except EngineError:
        if made_in == "float32":
            raise
        return run("float32"), (f"made in {made_in}, which this machine lacks: graded in float32",)


def _grades(
    bundle: Bundle, files: Sequence[tuple[Path, str, str]], found: ImageFeatures
) -> tuple[Grade, ...]:
    by_position: dict[int, npt.NDArray[np.float64]] = {}
    if len(found.index):
        probabilities = bundle.predict_proba(found.features, bundle.manifest["config_digest"])
        by_position = dict(zip(found.index.tolist(), probabilities, strict=True))
    grades = []
    for position, (_, path, entry) in enumerate(files):
        if position not in by_position:
            problem = found.problems.get(position, "")
            grades.append(
                Grade(path=path, entry=entry, grade="", confidence=None, probabilities=(), problem=problem)
            )
            continue
        row = tuple(float(value) for value in by_position[position])
        grade = bundle.classes[row.index(max(row))]  # the first of equal ones
        grades.append(
            Grade(path=path, entry=entry, grade=grade, confidence=max(row), probabilities=row, problem="")
        )
    return tuple(grades)
