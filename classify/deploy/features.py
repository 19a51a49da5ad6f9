"""Features of new images under the config that a bundle's head was fitted with."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

from classify.errors import BundleError
from featurize.errors import EngineError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from classify.io.bundle import Bundle, BundlePart
    from featurize.extraction.inference import FeatureReader, ImageFeatures


def bundle_parts(bundle: Bundle) -> dict[str, BundlePart]:
    """Return the parts of a bundle and of its members by config digest, each once."""
    return {part.config_digest: part for member in bundle.members or (bundle,) for part in member.parts}


@dataclass(frozen=True, kw_only=True, eq=False)
class BundleFeatures:
    """Features of the files that every backbone could read, and the problems of the others."""

    features: tuple[npt.NDArray[np.float32], ...]  # one per bundle, (n_readable, n_features of the bundle)
    index: npt.NDArray[np.int64]  # (n_readable,) position of each row in the list of files
    problems: Mapping[int, str]  # position → reason
    notes: tuple[str, ...]  # messages for the user
    parts: Mapping[str, npt.NDArray[np.float32]]  # config digest → features of that backbone, rows as `index`


class PartReaders:
    """Feature readers of several backbones, each loaded on first use. Use as a context manager.

    Parameters
    ----------
    **options
        Options of `featurize.extraction.inference.FeatureReader`, the same for all backbones.
    """

    def __init__(self, **options: Any) -> None:
        self._options = options
        self._open: dict[tuple[str, str | None], FeatureReader] = {}

    def __enter__(self) -> PartReaders:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the processes of all readers."""
        while self._open:
            self._open.popitem()[1].close()

    def read(
        self,
        part: BundlePart,
        files: Sequence[Path],
        *,
        weights: Path | None,
        precision: str | None,
        on_progress: Callable[[int, int], None] | None,
    ) -> ImageFeatures:
        """Return the features of files; see `featurize.extraction.inference.image_features`."""
        from featurize.extraction.inference import FeatureReader

        key = part.config_digest, precision
        if key not in self._open:
            reader = FeatureReader(part.config, weights=weights, precision=precision, **self._options)
            try:
                reader.prepare(len(files))
            except BaseException:
                reader.close()
                raise
            self._open[key] = reader
        return self._open[key].features(files, on_progress=on_progress)


def bundle_features(
    bundles: Sequence[Bundle],
    files: Sequence[Path],
    *,
    weights: str | os.PathLike[str] | None,
    device: str,
    gpu_memory: float | None,
    on_progress: Callable[[int, int], None] | None,
    readers: PartReaders | None = None,
    precision: str | None = None,
) -> BundleFeatures:
    """Return the plain-view features of image files, for each of several bundles.

    Every backbone reads each file once. A file has features if all backbones could read it.

    Parameters
    ----------
    bundles : sequence of Bundle
        The members of an ensemble, or one bundle.
    files : sequence of Path
    weights : path-like, optional
        Weights that the bundles do not contain.
    device, gpu_memory, on_progress
        As in `classify.deploy.predict.predict`.
    readers : PartReaders, optional
        Loaded backbones to use; their device then applies. By default each backbone is loaded for this call.
    precision : str, optional
        Precision of the networks; by default the one in which the features were extracted.

    Raises
    ------
    BundleError
        If the weights of a backbone are missing.
    EngineError
        If this machine supports neither the precision of the features nor float32.
    """
    import numpy as np

    from classify.data.fusion import fuse_rows

    parts = {part.config_digest: part for bundle in bundles for part in bundle.parts}
    weights_files = part_weights(bundles[0].path, list(parts.values()), weights)
    found: dict[str, ImageFeatures] = {}
    notes: list[str] = []
    for k, part in enumerate(parts.values()):

        def progress_of_part(done: int, total: int, n_before: int = k) -> None:
            if on_progress is not None:
                on_progress(n_before * total + done, len(parts) * total)

        found[part.config_digest], part_notes = _part_features(
            part,
            files,
            weights=weights_files[k],
            device=device,
            gpu_memory=gpu_memory,
            on_progress=progress_of_part,
            readers=readers,
            precision=precision,
        )
        notes += [f"{part.store}: {note}" if len(parts) > 1 else note for note in part_notes]
    index = reduce(np.intersect1d, [part.index for part in found.values()]) if len(found) > 1 else None
    rows = {digest: _rows(part, index) for digest, part in found.items()}
    return BundleFeatures(
        features=tuple(
            rows[bundle.parts[0].config_digest]
            if len(bundle.parts) == 1
            else fuse_rows(
                [rows[part.config_digest] for part in bundle.parts],
                [part.level_ends for part in bundle.parts],
            )
            for bundle in bundles
        ),
        index=next(iter(found.values())).index if index is None else index,
        problems={
            position: reason
            for part in reversed(found.values())
            for position, reason in part.problems.items()
        },
        notes=tuple(dict.fromkeys(notes)),
        parts=rows,
    )


def _rows(found: ImageFeatures, index: npt.NDArray[np.int64] | None) -> npt.NDArray[np.float32]:
    """Return the features of the files at these positions, in their order; all features for None."""
    if index is None:
        return found.features
    row_of = {position: row for row, position in enumerate(found.index.tolist())}
    return found.features[[row_of[position] for position in index.tolist()]]


def part_weights(
    bundle: Path, parts: Sequence[BundlePart], weights: str | os.PathLike[str] | None
) -> list[Path | None]:
    """Return the weights file of each part; None stands for published weights.

    Parameters
    ----------
    bundle : Path
        Folder of the bundle, for error messages.
    parts : sequence of BundlePart
        Parts of different configs.
    weights : path-like, optional
        Weights file for the part whose weights the bundle does not contain.

    Raises
    ------
    BundleError
        If weights are missing, or it is unclear which part `weights` belongs to.
    """
    missing = [part for part in parts if part.missing and part.config["weights"]["kind"] != "random"]
    if weights is not None and len(parts) > 1 and len(missing) != 1:
        names = ", ".join(part.store for part in missing) or "no backbone"
        raise BundleError(
            f"{bundle}: --weights {os.fspath(weights)} is one file, but this bundle has {len(parts)} "
            f"backbones; without weights: {names}. Create the bundle again where the weights are installed"
        )
    for part in missing if weights is None else []:
        owner = f"its backbone ({part.missing})" if len(parts) == 1 else f"{part.store} ({part.missing})"
        raise BundleError(
            f"{bundle}: this bundle lacks the weights of {owner}. Name the file with: --weights FILE"
        )
    if weights is None:
        return [part.weights for part in parts]
    return [Path(weights) if len(parts) == 1 or part in missing else part.weights for part in parts]


def _part_features(
    part: BundlePart,
    files: Sequence[Path],
    *,
    weights: Path | None,
    device: str,
    gpu_memory: float | None,
    on_progress: Callable[[int, int], None] | None,
    readers: PartReaders | None,
    precision: str | None,
) -> tuple[ImageFeatures, tuple[str, ...]]:
    from featurize.extraction.inference import image_features

    def run(precision: str | None) -> ImageFeatures:
        if readers is not None:
            return readers.read(part, files, weights=weights, precision=precision, on_progress=on_progress)
        return image_features(
            files,
            part.config,
            weights=weights,
            device=device,
            gpu_memory=gpu_memory,
            precision=precision,
            on_progress=on_progress,
        )

    fitted_in = part.config["precision"]
    try:
        return run(precision), ()
    except EngineError:
        if fitted_in == "float32" or precision is not None:
            raise
        note = f"features for fitting are in {fitted_in}, not supported by this machine: float32 is used"
        return run("float32"), (note,)
