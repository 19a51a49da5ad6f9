"""An export run in its own runtime, held against Folio's own grades of the same image files."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from classify.deploy.export.formats import pixel_inputs
from featurize.base.project import installed_versions
from featurize.errors import DatasetError, EngineError
from featurize.images.dataset import find_images
from featurize.images.thumbnails import image_squares

if TYPE_CHECKING:
    from classify.deploy.export.formats import Run
    from classify.io.bundle import Bundle


TOLERANCE = 1e-4  # largest difference of a probability
ROWS_A_PASS = 32


@dataclass(frozen=True, kw_only=True, eq=False)
class Expected:
    """Squares, and what Folio says of the files they are of."""

    pixels: Mapping[str, npt.NDArray[np.uint8]]  # input → (n, size, size, 3)
    probabilities: npt.NDArray[np.float64]  # (n, n_classes), of features in float32
    as_fitted: npt.NDArray[np.float64] | None  # of features in the bundle's own format, where that is another
    drawn: bool  # by us, for want of others
    problems: tuple[str, ...]  # files that could not be read, and why


@dataclass(frozen=True, kw_only=True)
class Check:
    """How an export compares."""

    runtime: str  # name and version; "" where it is not installed, and nothing was compared
    n_images: int
    drawn: bool
    difference: float | None  # largest, of any probability
    from_as_fitted: float | None  # the same from grades in the bundle's own format, where that is another


def expected_grades(
    bundle: Bundle,
    images: Sequence[str | os.PathLike[str]] = (),
    *,
    weights: str | os.PathLike[str] | None = None,
) -> Expected:
    """Return what Folio makes of image files, each graded by itself, and the squares they become.

    Parameters
    ----------
    bundle : Bundle
    images : sequence of path-like
        Files, and folders of them; by default some are drawn.
    weights : path-like, optional
        As in `classify.deploy.predict.predict`.

    Raises
    ------
    DatasetError
        If none of the files can be read.
    """
    with _files(images) as files:
        own = _grades(bundle, files, weights=weights, precision="float32")
        fast = any(part.config["precision"] != "float32" for part in _parts(bundle).values())
        try:
            as_fitted = _grades(bundle, files, weights=weights, precision=None) if fast else None
        except EngineError:
            as_fitted = None
        read = sorted(own)
        problems = tuple(
            f"{files[k]}: could not be read, and is not compared" for k in range(len(files)) if k not in own
        )
        if not read:
            raise DatasetError(f"{files[0]}: none of the images to compare on can be read. Name others")
        return Expected(
            pixels=_squares(bundle, [files[k] for k in read]),
            probabilities=_stacked(own, read),
            as_fitted=None if as_fitted is None else _stacked(as_fitted, read),
            drawn=not images,
            problems=problems,
        )


def compare_outputs(run: Run | None, expected: Expected, *, runtime: str) -> Check:
    """Return how far what an export says is from what is expected.

    Parameters
    ----------
    run : callable or None
        The loaded export; None where its runtime is not installed.
    expected : Expected
    runtime : str
        Package that runs it.
    """
    import numpy as np

    n_images = len(expected.probabilities)
    if run is None:
        return Check(runtime="", n_images=0, drawn=expected.drawn, difference=None, from_as_fitted=None)
    said = run_in_passes(run, expected.pixels)
    fast = expected.as_fitted
    return Check(
        runtime=_with_version(runtime),
        n_images=n_images,
        drawn=expected.drawn,
        difference=float(np.max(np.abs(said - expected.probabilities))),
        from_as_fitted=None if fast is None else float(np.max(np.abs(said - fast))),
    )


def run_in_passes(
    run: Run, pixels: Mapping[str, npt.NDArray[np.uint8]], *, rows: int = ROWS_A_PASS
) -> npt.NDArray[np.float32]:
    """Return the probabilities of squares, so many at a time."""
    import numpy as np

    n = len(next(iter(pixels.values())))
    parts = [
        run({name: one[start : start + rows] for name, one in pixels.items()}) for start in range(0, n, rows)
    ]
    return np.concatenate(parts)


def image_files(images: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """Return files as they are, and all those of folders.

    Raises
    ------
    DatasetError
        If there are none.
    """
    files: list[Path] = []
    for one in map(Path, images):
        files += [one / name for name in find_images(one)] if one.is_dir() else [one]
    if not files:
        raise DatasetError(f"{images[0]}: no file in this folder. Name image files, or a folder of them")
    return files


def is_installed(package: str) -> bool:
    """Return whether a runtime is here, without importing it."""
    return find_spec(package) is not None


def _with_version(package: str) -> str:
    found = installed_versions([package])  # empty where it has another name, such as onnxruntime-gpu
    return f"{package} {found[package]}" if found else package


@contextmanager
def _files(images: Sequence[str | os.PathLike[str]]) -> Iterator[list[Path]]:
    if images:
        yield image_files(images)
        return
    with tempfile.TemporaryDirectory(prefix="folio-", ignore_cleanup_errors=True) as folder:
        yield draw_pictures(Path(folder))


def _parts(bundle: Bundle) -> dict[str, Any]:
    return {part.config_digest: part for member in bundle.members or (bundle,) for part in member.parts}


def _grades(
    bundle: Bundle,
    files: Sequence[Path],
    *,
    weights: str | os.PathLike[str] | None,
    precision: str | None,
) -> dict[int, tuple[float, ...]]:
    """Return the probabilities of the files that can be read, by their position."""
    from classify.deploy.features import bundle_features
    from classify.deploy.predict import InputFile, predict_files

    found = bundle_features(
        bundle.members or (bundle,),
        files,
        weights=weights,
        device="cpu",
        gpu_memory=None,
        on_progress=None,
        precision=precision,
    )
    listed = [InputFile(file=file, path=os.fspath(file), entry=os.fspath(file)) for file in files]
    grades = predict_files(bundle, listed, found, entry_keys=[str(k) for k in range(len(files))])
    return {k: grade.probabilities for k, grade in enumerate(grades) if grade.probabilities}


def _stacked(grades: Mapping[int, tuple[float, ...]], order: Sequence[int]) -> npt.NDArray[np.float64]:
    import numpy as np

    return np.array([grades[k] for k in order], dtype=np.float64)


def _squares(bundle: Bundle, files: Sequence[Path]) -> dict[str, npt.NDArray[np.uint8]]:
    """Return the squares of files, which can all be read, for each input."""
    parts = _parts(bundle)
    found = {}
    for digest, one in pixel_inputs(bundle).items():
        if one.name not in found:
            found[one.name] = image_squares(files, parts[digest].config).pixels
    return found


SIDE = 256  # pixels
N_DRAWN = 8
_COARSENESS = (1, 4, 16, 64)  # pixels a patch of one colour is wide


def draw_pictures(folder: Path, *, seed: int = 0) -> list[Path]:
    """Write pictures of patches of random colours, fine and coarse, pale and full; return the files."""
    from PIL import Image

    generator = np.random.default_rng(seed)
    files = []
    for number in range(N_DRAWN):
        patch = _COARSENESS[number % len(_COARSENESS)]
        n = SIDE // patch
        colours = generator.integers(0, 256, (n, n, 3), dtype=np.uint8)
        if number >= len(_COARSENESS):
            colours = (192 + colours // 4).astype(np.uint8)
        pixels: npt.NDArray[np.uint8] = np.repeat(np.repeat(colours, patch, axis=0), patch, axis=1)
        file = folder / f"drawn_{number + 1}.png"
        Image.fromarray(pixels).save(file)
        files.append(file)
    return files
