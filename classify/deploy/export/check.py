"""Comparison of an export, run in its own runtime, with the predictions of `classify predict`."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from classify.deploy.export.formats import pixel_inputs
from classify.deploy.features import bundle_features, bundle_parts
from classify.deploy.predict import InputFile, predict_files
from featurize.base.project import installed_versions
from featurize.errors import DatasetError, EngineError
from featurize.images.dataset import find_images
from featurize.images.thumbnails import image_squares

if TYPE_CHECKING:
    from classify.deploy.export.formats import Run
    from classify.io.bundle import Bundle


TOLERANCE = 1e-4  # largest accepted difference of a probability
IMAGES_PER_BATCH = 32


@dataclass(frozen=True, kw_only=True, eq=False)
class ExpectedOutputs:
    """Input images of an export, and the probabilities of `classify predict` for them."""

    pixels: Mapping[str, npt.NDArray[np.uint8]]  # input → (n, size, size, 3)
    probabilities: npt.NDArray[np.float64]  # (n, n_classes), from features in float32
    as_fitted: npt.NDArray[np.float64] | None  # from features in the bundle's precision, if that is another
    is_synthetic: bool  # no images were given
    problems: tuple[str, ...]  # notes about files that could not be read


@dataclass(frozen=True, kw_only=True)
class OutputCheck:
    """Largest differences between an export's probabilities and those of `classify predict`."""

    runtime: str  # name and version; "" if it is not installed, and nothing was compared
    n_images: int
    is_synthetic: bool
    difference: float | None  # from features in float32
    difference_as_fitted: float | None  # from features in the bundle's precision, if that is another


def expected_outputs(
    bundle: Bundle,
    images: Sequence[Path] = (),
    *,
    weights: str | os.PathLike[str] | None = None,
) -> ExpectedOutputs:
    """Return the input images of an export and Folio's own probabilities for them.

    Parameters
    ----------
    bundle : Bundle
    images : sequence of Path
        Files and folders, each image an entry of its own; synthetic images by default.
    weights : path-like, optional
        As in `classify.deploy.predict.predict`.

    Raises
    ------
    DatasetError
        If none of the files can be read.
    """
    with _files(images) as files:
        in_float32 = _probabilities(bundle, files, weights=weights, precision="float32")
        is_reduced = any(part.config["precision"] != "float32" for part in bundle_parts(bundle).values())
        try:
            as_fitted = _probabilities(bundle, files, weights=weights, precision=None) if is_reduced else None
        except EngineError:  # this machine does not support the bundle's precision
            as_fitted = None
        readable = sorted(in_float32)
        problems = tuple(
            f"{file}: could not be read, and is not compared"
            for k, file in enumerate(files)
            if k not in in_float32
        )
        if not readable:
            raise DatasetError(f"{files[0]}: none of the images to compare on can be read. Name others")
        return ExpectedOutputs(
            pixels=_input_images(bundle, [files[k] for k in readable]),
            probabilities=np.array([in_float32[k] for k in readable]),
            as_fitted=None if as_fitted is None else np.array([as_fitted[k] for k in readable]),
            is_synthetic=not images,
            problems=problems,
        )


def compare_outputs(run: Run | None, expected: ExpectedOutputs, *, runtime: str) -> OutputCheck:
    """Return the largest differences between an export's outputs and the expected ones.

    Parameters
    ----------
    run : callable or None
        The loaded export; None if its runtime is not installed.
    expected : ExpectedOutputs
    runtime : str
        Name of the runtime's package.
    """
    if run is None:
        return OutputCheck(
            runtime="",
            n_images=0,
            is_synthetic=expected.is_synthetic,
            difference=None,
            difference_as_fitted=None,
        )
    outputs = run_in_batches(run, expected.pixels)
    as_fitted = expected.as_fitted
    return OutputCheck(
        runtime=_with_version(runtime),
        n_images=len(expected.probabilities),
        is_synthetic=expected.is_synthetic,
        difference=float(np.max(np.abs(outputs - expected.probabilities))),
        difference_as_fitted=None if as_fitted is None else float(np.max(np.abs(outputs - as_fitted))),
    )


def run_in_batches(
    run: Run, pixels: Mapping[str, npt.NDArray[np.uint8]], *, batch_size: int = IMAGES_PER_BATCH
) -> npt.NDArray[np.float32]:
    """Return an export's probabilities of all images, computed batch by batch."""
    n = len(next(iter(pixels.values())))
    batches = [
        {name: images[start : start + batch_size] for name, images in pixels.items()}
        for start in range(0, n, batch_size)
    ]
    return np.concatenate([run(batch) for batch in batches])


def image_files(paths: Sequence[Path]) -> list[Path]:
    """Return the given files, and all files of the given folders.

    Raises
    ------
    DatasetError
        If there are none.
    """
    files: list[Path] = []
    for path in paths:
        files += [path / name for name in find_images(path)] if path.is_dir() else [path]
    if not files:
        raise DatasetError(f"{paths[0]}: no file in this folder. Name image files, or a folder of them")
    return files


def is_installed(package: str) -> bool:
    """Return whether a package is installed, without importing it."""
    return find_spec(package) is not None


def _with_version(package: str) -> str:
    found = installed_versions([package])  # empty if the distribution has another name: onnxruntime-gpu
    return f"{package} {found[package]}" if found else package


@contextmanager
def _files(images: Sequence[Path]) -> Iterator[list[Path]]:
    if images:
        yield image_files(images)
        return
    with tempfile.TemporaryDirectory(prefix="folio-", ignore_cleanup_errors=True) as folder:
        yield write_synthetic_images(Path(folder))


def _probabilities(
    bundle: Bundle,
    files: Sequence[Path],
    *,
    weights: str | os.PathLike[str] | None,
    precision: str | None,
) -> dict[int, tuple[float, ...]]:
    """Return the class probabilities of the readable files by their position."""
    features = bundle_features(
        bundle.members or (bundle,),
        files,
        weights=weights,
        device="cpu",
        gpu_memory=None,
        on_progress=None,
        precision=precision,
    )
    inputs = [InputFile(file=file, path=os.fspath(file), entry=os.fspath(file)) for file in files]
    grades = predict_files(bundle, inputs, features, entry_keys=[str(k) for k in range(len(files))])
    return {k: grade.probabilities for k, grade in enumerate(grades) if grade.probabilities}


def _input_images(bundle: Bundle, files: Sequence[Path]) -> dict[str, npt.NDArray[np.uint8]]:
    """Return the pixels of readable files for each input of the export."""
    parts = bundle_parts(bundle)
    found = {}
    for digest, pixel_input in pixel_inputs(bundle).items():
        if pixel_input.name not in found:
            found[pixel_input.name] = image_squares(files, parts[digest].config).pixels
    return found


SIDE = 256  # pixels
N_SYNTHETIC = 8
_PATCH_SIZES = (1, 4, 16, 64)  # pixels


def write_synthetic_images(folder: Path, *, seed: int = 0) -> list[Path]:
    """Write images of randomly coloured patches, from fine to coarse, then pale ones; return the files."""
    from PIL import Image

    generator = np.random.default_rng(seed)
    files = []
    for number in range(N_SYNTHETIC):
        patch = _PATCH_SIZES[number % len(_PATCH_SIZES)]
        n = SIDE // patch
        colours = generator.integers(0, 256, (n, n, 3), dtype=np.uint8)
        if number >= len(_PATCH_SIZES):
            colours = (192 + colours // 4).astype(np.uint8)
        pixels: npt.NDArray[np.uint8] = np.repeat(np.repeat(colours, patch, axis=0), patch, axis=1)
        file = folder / f"synthetic_{number + 1}.png"
        Image.fromarray(pixels).save(file)
        files.append(file)
    return files
