"""New images graded by a bundle: every input is in a row, and a file that could not be read says why."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from classify.data import ENTRIES, JOINS
from classify.errors import BundleError
from classify.io.grades import PredictedGrade, PredictResult
from classify.io.manifest import MANIFEST
from classify.io.results import RESULTS, read_record
from featurize.errors import ConfigError, DatasetError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from classify.deploy.features import BundleFeatures
    from classify.io.bundle import Bundle


def predict(
    bundle_or_run: str | os.PathLike[str],
    inputs: Sequence[str | os.PathLike[str]],
    *,
    weights: str | os.PathLike[str] | None = None,
    entries: str | None = None,
    device: str = "auto",
    gpu_memory: float | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> PredictResult:
    """Grade image files and folders of them.

    Parameters
    ----------
    bundle_or_run : path-like
        A bundle, or a run folder, which means its recommended head.
    inputs : sequence of path-like
        Files, and folders whose files are all graded, sub-folders included.
    weights : path-like, optional
        The backbone's weights, where they did not come along with the bundle.
    entries : {"folder", "image"}, optional
        Whether the images of one sub-folder of a given folder are one entry, graded as a whole, or each
        image is graded by itself. By default as it was when the head was fitted.
    device : str
        ``auto``, ``cpu``, ``gpu``, ``gpu:N``, or several as in ``gpu:0,gpu:2``.
    gpu_memory : float, optional
        Fraction of the GPU's memory to take; grows on demand by default.
    on_progress : callable, optional
        Called with (done, total) images.

    Returns
    -------
    PredictResult
        One row an entry, or a file where images are graded by themselves, in the order of the inputs and,
        within a folder, of its paths; a file that is given twice counts once, and a path where nothing is
        has a row with its problem.

    Raises
    ------
    BundleError
        If the bundle cannot be used.
    ConfigError
        If the device, the share of its memory or what an entry is are not written as they should be.
    DatasetError
        If none of the inputs is a file or a folder with files.
    """
    from classify.deploy.features import bundle_features
    from classify.io.bundle import load_bundle
    from featurize.engines.device import check_device

    check_device(device, gpu_memory=gpu_memory)
    if entries not in (None, *ENTRIES):
        raise ConfigError(f"entries is {entries!r}: expected {' or '.join(ENTRIES)}")
    listed, notes = _listed([Path(one) for one in inputs])
    bundle = load_bundle(bundle_folder(bundle_or_run))
    by_entry = entries == "folder" or (entries is None and bool(bundle.join))
    members = bundle.members or (bundle,)
    found = bundle_features(
        members,
        [one.file for one in listed if not one.problem],
        weights=weights,
        device=device,
        gpu_memory=gpu_memory,
        on_progress=on_progress,
    )
    together = [one.entry if by_entry else str(k) for k, one in enumerate(listed)]
    grades = predict_files(bundle, listed, found, together=together)
    notes = (*notes, *found.notes, *_said(bundle, listed, by_entry=by_entry, asked=entries is not None))
    return PredictResult(
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


def _listed(inputs: Sequence[Path]) -> tuple[list[InputFile], tuple[str, ...]]:
    """Return everything that will have a row, once each, and what else the user should know."""
    from featurize.images.dataset import find_images

    if not inputs:
        raise DatasetError("no image to grade: name files or folders")
    found: dict[str, InputFile] = {}  # by absolute path: an image that is named twice is graded once
    notes: list[str] = []
    for given in inputs:
        if not given.is_dir():
            problem = "" if given.exists() else "no such file"
            one = InputFile(file=given, path=os.fspath(given), entry=os.fspath(given), problem=problem)
            found.setdefault(os.path.abspath(given), one)
            continue
        images = find_images(given)
        if not images:
            notes.append(f"{given}: no file in this folder")
        for relative in images:
            first, _, rest = relative.partition("/")
            path = os.fspath(given / relative)
            entry = os.fspath(given / first) if rest else path
            one = InputFile(file=given / relative, path=path, entry=entry, folder=os.fspath(given))
            found.setdefault(os.path.abspath(path), one)
    if all(one.problem for one in found.values()):
        reason = notes[0] if notes else f"{inputs[0]}: no such file or folder"
        raise DatasetError(f"{reason}. Name image files, or a folder of them")
    return list(found.values()), tuple(notes)


def _said(bundle: Bundle, listed: Sequence[InputFile], *, by_entry: bool, asked: bool) -> tuple[str, ...]:
    """Say how entries of several images are graded, and which images are in no folder of their entry."""
    from classify.data.entries import portfolio_line

    notes = []
    sizes = Counter(one.entry for one in listed if one.entry != one.path)
    if max(sizes.values(), default=0) > 1:
        line = portfolio_line(
            n_images=sum(sizes.values()), n_entries=len(sizes), join=bundle.join or JOINS[0]
        )
        if not by_entry:
            line = f"{line.partition(':')[0]}: graded image by image, not entry by entry"
        notes.append(line if by_entry or asked else f"{line} (--entries folder does that)")
    alone = Counter(one.folder for one in listed if one.entry == one.path and one.folder)
    for folder, n_images in alone.items() if by_entry else ():
        if n_images > 1:
            notes.append(
                f"{n_images} images lie in {folder} itself: each is an entry of its own. If they are one "
                "entry, name the folder above"
            )
    return tuple(notes)


@dataclass(frozen=True, kw_only=True)
class InputFile:
    """A file to grade, or a path where there is none."""

    file: Path
    path: str  # to show
    entry: str
    folder: str = ""  # the given one that it is in
    problem: str = ""


def predict_files(
    bundle: Bundle, listed: Sequence[InputFile], found: BundleFeatures, *, together: Sequence[str]
) -> tuple[PredictedGrade, ...]:
    """Grade files; those that are one entry, as one.

    Parameters
    ----------
    bundle : Bundle
    listed : sequence of InputFile
    found : BundleFeatures
        Of those listed without a problem, in their order.
    together : sequence of str
        One a file: equal ones are graded as one.

    Returns
    -------
    tuple of PredictedGrade
        In the order in which each first occurs.
    """
    import numpy as np

    from classify.data.entries import number_names

    problems = [one.problem for one in listed]
    given = np.flatnonzero([not one.problem for one in listed])
    for position, reason in found.problems.items():
        problems[given[position]] = reason
    row = number_names(together)
    probabilities: dict[int, npt.NDArray[np.float64]] = {}
    if len(found.index):
        order = np.argsort(found.index)  # so that sums do not depend on which file was read first
        graded, place = np.unique(row[given[found.index[order]]], return_inverse=True)
        said = [
            _entry_probabilities(member, features[order], place, n=len(graded))
            for member, features in zip(bundle.members or (bundle,), found.features, strict=True)
        ]
        probabilities = dict(zip(graded.tolist(), np.mean(said, axis=0), strict=True))
    images: dict[int, list[int]] = {}
    for k, number in enumerate(row.tolist()):
        images.setdefault(number, []).append(k)
    return tuple(
        _grade(bundle, [(listed[k], problems[k]) for k in members], probabilities.get(number))
        for number, members in images.items()
    )


def _entry_probabilities(
    bundle: Bundle, features: npt.NDArray[np.float32], entry: npt.NDArray[np.int64], *, n: int
) -> npt.NDArray[np.float64]:
    """Return the probabilities of n entries from the features of their images (n_images, n_features)."""
    from classify.data.entries import group_means

    digest = bundle.manifest["config_digest"]
    if bundle.join == "features":
        return bundle.predict_proba(group_means(features, entry, n=n), digest)
    return group_means(bundle.predict_proba(features, digest), entry, n=n)


def _grade(
    bundle: Bundle,
    images: Sequence[tuple[InputFile, str]],
    probabilities: npt.NDArray[np.float64] | None,
) -> PredictedGrade:
    """Return the row of images that are graded as one, each with its problem or ""."""
    several = len(images) > 1
    bad = [f"{one.path}: {problem}" if several else problem for one, problem in images if problem]
    row = () if probabilities is None else tuple(probabilities.tolist())
    return PredictedGrade(
        path="" if several else images[0][0].path,
        entry=images[0][0].entry,
        n_images=len(images) - len(bad),
        grade=bundle.classes[row.index(max(row))] if row else "",  # the first of equal ones
        confidence=max(row) if row else None,
        probabilities=row,
        problem="; ".join(bad),
    )
