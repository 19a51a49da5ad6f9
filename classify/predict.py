"""New images graded by a bundle: every input has its row, and a file that could not be read says why."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from classify.grades import Grade, Graded
from classify.manifest import MANIFEST
from classify.results import RESULTS, read_record
from featurize import BundleError, DatasetError, EngineError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from classify.bundle import Bundle
    from featurize import ImageFeatures


@dataclass(frozen=True, kw_only=True)
class _Listed:
    """A file to grade, or a path where there is none."""

    file: Path
    path: str  # to show
    entry: str
    problem: str = ""


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
        ``auto``, ``cpu``, ``gpu``, ``gpu:N``, or several as in ``gpu:0,gpu:2``.
    gpu_memory : float, optional
        Fraction of the GPU's memory to take; grows on demand by default.
    on_progress : callable, optional
        Called with (done, total) images.

    Returns
    -------
    Graded
        One row a file, in the order of the inputs and, within a folder, of its paths; a file that is given
        twice has one row, and a path where nothing is has one with its problem.

    Raises
    ------
    BundleError
        If the bundle cannot be used.
    ConfigError
        If the device or the share of its memory is not written as one.
    DatasetError
        If none of the inputs is a file or a folder with files.
    """
    from classify.bundle import load_bundle
    from classify.compare import check_device

    check_device(device, gpu_memory=gpu_memory)
    listed, notes = _listed([Path(one) for one in inputs])
    bundle = load_bundle(bundle_folder(bundle_or_run))
    features, more = _features(
        bundle,
        [one.file for one in listed if not one.problem],
        weights=weights,
        device=device,
        gpu_memory=gpu_memory,
        on_progress=on_progress,
    )
    grades = _grades(bundle, listed, features)
    notes = (*notes, *more, *_by_image(listed))
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
    record = read_record(folder)
    recommended = record.get("recommended", "missing")
    if recommended is None:
        raise BundleError(
            f"{folder}: this run recommends no head: only the baseline could be fitted; see its {RESULTS}"
        )
    place = recommended.get("bundle") if isinstance(recommended, dict) else None
    if not isinstance(place, str) or PurePosixPath(place).is_absolute() or ".." in PurePosixPath(place).parts:
        raise BundleError(
            f"{folder / RESULTS}: 'recommended' does not name a bundle of this run. Make the run anew, or "
            "name one of its bundles"
        )
    return folder / place


def _listed(inputs: Sequence[Path]) -> tuple[list[_Listed], tuple[str, ...]]:
    """Return everything that will have a row, once each, and what else the user should know."""
    from featurize import find_images

    if not inputs:
        raise DatasetError("no image to grade: name files or folders")
    found: dict[str, _Listed] = {}  # by absolute path: an image that is named twice is graded once
    notes: list[str] = []
    for given in inputs:
        if not given.is_dir():
            problem = "" if given.exists() else "no such file"
            one = _Listed(file=given, path=os.fspath(given), entry=os.fspath(given), problem=problem)
            found.setdefault(os.path.abspath(given), one)
            continue
        images = find_images(given)
        if not images:
            notes.append(f"{given}: no file in this folder")
        for relative in images:
            first, _, rest = relative.partition("/")
            path = os.fspath(given / relative)
            one = _Listed(file=given / relative, path=path, entry=os.fspath(given / first) if rest else path)
            found.setdefault(os.path.abspath(path), one)
    if all(one.problem for one in found.values()):
        reason = notes[0] if notes else f"{inputs[0]}: no such file or folder"
        raise DatasetError(f"{reason}. Name image files, or a folder of them")
    return list(found.values()), tuple(notes)


def _by_image(listed: Sequence[_Listed]) -> tuple[str, ...]:
    """Say that entries of several images are not graded as a whole, where there are any."""
    sizes = Counter(one.entry for one in listed if one.entry != one.path)
    if max(sizes.values(), default=0) < 2:
        return ()
    n_images, n_entries = sum(sizes.values()), len(sizes)
    entries = "1 entry" if n_entries == 1 else f"{n_entries} entries"
    return (f"{n_images} images of {entries}: graded image by image, not entry by entry",)


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


def _grades(bundle: Bundle, listed: Sequence[_Listed], found: ImageFeatures) -> tuple[Grade, ...]:
    by_position: dict[int, npt.NDArray[np.float64]] = {}
    if len(found.index):
        probabilities = bundle.predict_proba(found.features, bundle.manifest["config_digest"])
        by_position = dict(zip(found.index.tolist(), probabilities, strict=True))
    grades = []
    position = -1  # among the files that were read
    for one in listed:
        position += not one.problem
        if one.problem or position not in by_position:
            problem = one.problem or found.problems.get(position, "")
            grades.append(
                Grade(
                    path=one.path,
                    entry=one.entry,
                    grade="",
                    confidence=None,
                    probabilities=(),
                    problem=problem,
                )
            )
            continue
        row = tuple(float(value) for value in by_position[position])
        grades.append(
            Grade(
                path=one.path,
                entry=one.entry,
                grade=bundle.classes[row.index(max(row))],  # the first of equal ones
                confidence=max(row),
                probabilities=row,
                problem="",
            )
        )
    return tuple(grades)
