"""Features of new images as a bundle's head was fitted on them: by one backbone, or by several in turn."""

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


@dataclass(frozen=True, kw_only=True, eq=False)
class BundleFeatures:
    """Features of the files that every backbone could read, and why the others have none."""

    features: tuple[npt.NDArray[np.float32], ...]  # one a bundle, (n_readable, its n_features)
    index: npt.NDArray[np.int64]  # (n_readable,) position of each row in the list of files
    problems: Mapping[int, str]  # position → reason
    notes: tuple[str, ...]  # what the user should know
    parts: Mapping[str, npt.NDArray[np.float32]]  # config digest → rows of that backbone alone, as in index


class PartReaders:
    """The backbones of bundles, each kept ready once it has read files. Use as a context manager.

    Parameters
    ----------
    options : object
        Of `featurize.FeatureReader`, for all of them.
    """

    def __init__(self, **options: Any) -> None:
        self._options = options
        self._open: dict[tuple[str, str | None], FeatureReader] = {}

    def __enter__(self) -> PartReaders:
        return self

    def __exit__(self, *ended: object) -> None:
        self.close()

    def close(self) -> None:
        """End all their processes."""
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
        """Return what `featurize.image_features` does."""
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
    """Return the plain-view features of image files, as each of some bundles needs them.

    Every backbone reads all files, once; a file has features where all of them could read it.

    Parameters
    ----------
    bundles : sequence of Bundle
        That grade together; one alone as a rule.
    files : sequence of Path
    weights : path-like, optional
        The weights that did not come along with the bundles.
    device, gpu_memory, on_progress
        As in `classify.deploy.predict.predict`.
    readers : PartReaders, optional
        Backbones that stay ready, which then know the device; by default each is built for this call.
    precision : str, optional
        Instead of the one that features were made in.

    Raises
    ------
    BundleError
        If the weights of a backbone are missing.
    EngineError
        If this machine computes neither in the precision of the features nor in float32.
    """
    import numpy as np

    from classify.data.fusion import fuse_rows

    sources = {part.config_digest: part for bundle in bundles for part in bundle.parts}
    carried = part_weights(bundles[0].path, list(sources.values()), weights)
    found: dict[str, ImageFeatures] = {}
    notes: list[str] = []
    for k, part in enumerate(sources.values()):

        def told(done: int, total: int, before: int = k) -> None:
            if on_progress is not None:
                on_progress(before * total + done, len(sources) * total)

        found[part.config_digest], note = _part_features(
            part,
            files,
            weights=carried[k],
            device=device,
            gpu_memory=gpu_memory,
            on_progress=told,
            readers=readers,
            precision=precision,
        )
        notes += [f"{part.store}: {line}" if len(sources) > 1 else line for line in note]
    index = reduce(np.intersect1d, [one.index for one in found.values()]) if len(found) > 1 else None
    rows = {digest: _rows(one, index) for digest, one in found.items()}
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
            position: why for one in reversed(found.values()) for position, why in one.problems.items()
        },
        notes=tuple(dict.fromkeys(notes)),
        parts=rows,
    )


def _rows(found: ImageFeatures, index: npt.NDArray[np.int64] | None) -> npt.NDArray[np.float32]:
    """Return the features of the files at these positions, in their order; of all without positions."""
    if index is None:
        return found.features
    place = {position: row for row, position in enumerate(found.index.tolist())}
    return found.features[[place[position] for position in index.tolist()]]


def part_weights(
    where: Path, parts: Sequence[BundlePart], given: str | os.PathLike[str] | None
) -> list[Path | None]:
    """Return the weights file of each part, None for published ones; one that is given is for what lacks.

    Parameters
    ----------
    where : Path
        The bundle, for the message.
    parts : sequence of BundlePart
        Each once.
    given : path-like, optional
        A file that did not come along.

    Raises
    ------
    BundleError
        If weights are missing, or the one file could be those of several.
    """
    lacking = [part for part in parts if part.missing and part.config["weights"]["kind"] != "random"]
    if given is not None and len(parts) > 1 and len(lacking) != 1:
        which = ", ".join(part.store for part in lacking) or "none"
        raise BundleError(
            f"{where}: --weights {os.fspath(given)} is one file, but of this bundle's {len(parts)} "
            f"backbones {which} lack theirs. Make the bundle anew where the weights are"
        )
    for part in lacking if given is None else []:
        whose = f"its backbone ({part.missing})" if len(parts) == 1 else f"{part.store} ({part.missing})"
        raise BundleError(
            f"{where}: this bundle lacks the weights of {whose}. Name the file with: --weights FILE"
        )
    if given is None:
        return [part.weights for part in parts]
    return [Path(given) if len(parts) == 1 or part in lacking else part.weights for part in parts]


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

    made_in = part.config["precision"]
    try:
        return run(precision), ()
    except EngineError:
        if made_in == "float32" or precision is not None:
            raise
        return run("float32"), (f"made in {made_in}, which this machine lacks: graded in float32",)
