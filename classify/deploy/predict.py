"""Predicted grades of new images: one row per file or entry, with the reason where there is no prediction."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from classify.data import ENTRIES, JOINS
from classify.errors import BundleError
from classify.io.grades import PredictedGrade, PredictResult
from classify.io.manifest import MANIFEST
from classify.io.results import RESULTS, read_record
from featurize.base.files import as_paths
from featurize.base.text import plural
from featurize.errors import ConfigError, DatasetError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from classify.deploy.features import BundleFeatures
    from classify.io.bundle import Bundle


def predict(
    bundle_or_run: str | os.PathLike[str],
    inputs: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    weights: str | os.PathLike[str] | None = None,
    entries: str | None = None,
    device: str = "auto",
    gpu_memory: float | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> PredictResult:
    """Predict the grades of image files and of folders of images.

    Parameters
    ----------
    bundle_or_run : path-like
        A bundle, or a run folder: its recommended head.
    inputs : path-like or iterable of path-like
        Image files, and folders searched with their sub-folders.
    weights : path-like, optional
        The backbone's weights, if the bundle does not contain them.
    entries : {"folder", "image"}, optional
        "folder": the images of one sub-folder of a given folder are one entry with one grade. "image": each
        image is an entry. By default as in fitting.
    device : str
        ``auto``, ``cpu``, ``gpu``, ``gpu:N``, or several as in ``gpu:0,gpu:2``.
    gpu_memory : float, optional
        Fraction of the GPU's memory to take; grows on demand by default.
    on_progress : callable, optional
        Called with (done, total) images.

    Returns
    -------
    PredictResult
        One row per entry, in the order of the inputs and, within a folder, of its paths. A file given twice
        has one row; a missing file has a row with its problem.

    Raises
    ------
    BundleError
        If the bundle cannot be used.
    ConfigError
        If `device`, `gpu_memory` or `entries` is invalid.
    DatasetError
        If no input is a file or a folder with files.
    """
    from classify.deploy.features import bundle_features
    from classify.io.bundle import load_bundle
    from featurize.engines.device import check_device

    check_device(device, gpu_memory=gpu_memory)
    if entries not in (None, *ENTRIES):
        raise ConfigError(f"entries is {entries!r}: expected {' or '.join(ENTRIES)}")
    files, notes = _find_files(as_paths(inputs))
    bundle = load_bundle(bundle_folder(bundle_or_run))
    by_entry = entries == "folder" or (entries is None and bool(bundle.join))
    features = bundle_features(
        bundle.members or (bundle,),
        [file.file for file in files if not file.problem],
        weights=weights,
        device=device,
        gpu_memory=gpu_memory,
        on_progress=on_progress,
    )
    entry_keys = [file.entry if by_entry else str(k) for k, file in enumerate(files)]
    grades = predict_files(bundle, files, features, entry_keys=entry_keys)
    entry_notes = _entry_notes(bundle, files, by_entry=by_entry, is_chosen=entries is not None)
    return PredictResult(
        bundle=bundle.path,
        head=str(bundle.manifest["head"]),
        store=str(bundle.manifest.get("store", "")),
        classes=bundle.classes,
        grades=grades,
        notes=(*notes, *features.notes, *entry_notes),
    )


def bundle_folder(path: str | os.PathLike[str]) -> Path:
    """Return a bundle's folder; for a run, the folder of its recommended bundle.

    Raises
    ------
    BundleError
        If the path is neither a bundle nor a run, or the run has no recommended head.
    """
    folder = Path(path)
    if (folder / MANIFEST).is_file():
        return folder
    if not (folder / RESULTS).is_file():
        problem = (
            "no bundle or run" if folder.is_dir() else "not a folder" if folder.exists() else "no such folder"
        )
        raise BundleError(
            f"{folder}: {problem}; expected a bundle ({MANIFEST}) or a run ({RESULTS}). "
            "Create one with: classify compare STORE"
        )
    record = read_record(folder)
    recommended = record.get("recommended", "missing")
    if recommended is None:
        raise BundleError(
            f"{folder}: no recommended head: only the baseline could be fitted; see its {RESULTS}"
        )
    name = recommended.get("bundle") if isinstance(recommended, dict) else None
    if not isinstance(name, str) or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise BundleError(
            f"{folder / RESULTS}: 'recommended' is not a bundle of this run. Run the comparison again, or "
            "name one of its bundles"
        )
    return folder / name


def _find_files(inputs: Sequence[Path]) -> tuple[list[InputFile], tuple[str, ...]]:
    """Return the input files, each once, and notes for the user."""
    from featurize.images.dataset import find_images

    if not inputs:
        raise DatasetError("no input: name image files or folders")
    found: dict[str, InputFile] = {}  # by absolute path, so that each file occurs once
    notes: list[str] = []
    for path in inputs:
        if not path.is_dir():
            problem = "" if path.exists() else "no such file"
            shown = os.fspath(path)
            file = InputFile(file=path, path=shown, entry=shown, problem=problem)
            found.setdefault(os.path.abspath(path), file)
            continue
        images = find_images(path)
        if not images:
            notes.append(f"{path}: no file in this folder")
        for relative in images:
            first, _, rest = relative.partition("/")
            shown = os.fspath(path / relative)
            entry = os.fspath(path / first) if rest else shown
            file = InputFile(file=path / relative, path=shown, entry=entry, folder=os.fspath(path))
            found.setdefault(os.path.abspath(shown), file)
    if all(file.problem for file in found.values()):
        reason = notes[0] if notes else f"{inputs[0]}: no such file or folder"
        raise DatasetError(f"{reason}. Name image files, or a folder of them")
    return list(found.values()), tuple(notes)


def _entry_notes(
    bundle: Bundle, files: Sequence[InputFile], *, by_entry: bool, is_chosen: bool
) -> tuple[str, ...]:
    """Return notes about entries of several images, and about images directly in a given folder."""
    from classify.data.entries import portfolio_line

    notes = []
    sizes = Counter(file.entry for file in files if file.entry != file.path)
    if max(sizes.values(), default=0) > 1:
        n_images, n_entries = sum(sizes.values()), len(sizes)
        if by_entry:
            line = portfolio_line(n_images=n_images, n_entries=n_entries, join=bundle.join or JOINS[0])
        else:
            entries = plural(n_entries, "entry", "entries")
            line = f"{n_images:,} images of {entries}: one prediction per image, not per entry"
            if not is_chosen:
                line += "; use --entries folder for one per entry"
        notes.append(line)
    direct = Counter(file.folder for file in files if file.entry == file.path and file.folder)
    for folder, n_images in direct.items() if by_entry else ():
        if n_images > 1:
            notes.append(
                f"{n_images:,} images are directly in {folder}: each is an entry of its own. If they are one "
                "entry, name the parent folder"
            )
    return tuple(notes)


@dataclass(frozen=True, kw_only=True)
class InputFile:
    """A file to predict, or a missing one."""

    file: Path
    path: str  # for display
    entry: str  # for display: the sub-folder of the given folder, or the file
    folder: str = ""  # the given folder that contains it
    problem: str = ""  # reason why it cannot be read


def predict_files(
    bundle: Bundle, files: Sequence[InputFile], features: BundleFeatures, *, entry_keys: Sequence[str]
) -> tuple[PredictedGrade, ...]:
    """Predict the grade of each entry from the features of its files.

    Parameters
    ----------
    bundle : Bundle
    files : sequence of InputFile
    features : BundleFeatures
        Features of the files without a problem, in their order.
    entry_keys : sequence of str
        One per file; files with equal keys are one entry.

    Returns
    -------
    tuple of PredictedGrade
        One per entry, in the order of each entry's first file.
    """
    import numpy as np

    from classify.data.entries import number_names

    problems = [file.problem for file in files]
    candidates = np.flatnonzero([not file.problem for file in files])
    for position, reason in features.problems.items():
        problems[candidates[position]] = reason
    entry = number_names(entry_keys)
    probabilities: dict[int, npt.NDArray[np.float64]] = {}
    if len(features.index):
        order = np.argsort(features.index)  # so that sums do not depend on the order of decoding
        readable, row = np.unique(entry[candidates[features.index[order]]], return_inverse=True)
        members = zip(bundle.members or (bundle,), features.features, strict=True)
        mean = np.mean(
            [_entry_probabilities(member, X[order], row, n=len(readable)) for member, X in members],
            axis=0,
        )  # (n_entries, n_classes)
        probabilities = dict(zip(readable.tolist(), mean, strict=True))
    images: dict[int, list[tuple[InputFile, str]]] = {}
    for number, file, problem in zip(entry.tolist(), files, problems, strict=True):
        images.setdefault(number, []).append((file, problem))
    return tuple(_predicted_grade(bundle, images[number], probabilities.get(number)) for number in images)


def _entry_probabilities(
    bundle: Bundle, features: npt.NDArray[np.float32], entry: npt.NDArray[np.int64], *, n: int
) -> npt.NDArray[np.float64]:
    """Return the class probabilities of n entries from the features of their images."""
    from classify.data.entries import group_means

    digest = bundle.manifest["config_digest"]
    if bundle.join == "features":
        return bundle.predict_proba(group_means(features, entry, n=n), digest)
    return group_means(bundle.predict_proba(features, digest), entry, n=n)


def _predicted_grade(
    bundle: Bundle,
    images: Sequence[tuple[InputFile, str]],
    probabilities: npt.NDArray[np.float64] | None,
) -> PredictedGrade:
    """Return the row of one entry from its images, each with its problem or ""."""
    several = len(images) > 1
    bad = [f"{file.path}: {problem}" if several else problem for file, problem in images if problem]
    row = () if probabilities is None else tuple(probabilities.tolist())
    return PredictedGrade(
        path="" if several else images[0][0].path,
        entry=images[0][0].entry,
        n_images=len(images) - len(bad),
        grade=bundle.classes[row.index(max(row))] if row else "",  # the first of equal maxima
        confidence=max(row) if row else None,
        probabilities=row,
        problem="; ".join(bad),
    )
