"""Features of new images as a bundle's head was fitted on them: by one backbone, or by several in turn."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from featurize import BundleError, EngineError

if TYPE_CHECKING:
    from classify.bundle import Bundle, BundlePart
    from featurize import ImageFeatures


def bundle_features(
    bundle: Bundle,
    files: Sequence[Path],
    *,
    weights: str | os.PathLike[str] | None,
    device: str,
    gpu_memory: float | None,
    on_progress: Callable[[int, int], None] | None,
) -> tuple[ImageFeatures, tuple[str, ...]]:
    """Return the plain-view features of image files, and what the user should know.

    Several backbones each read all files; a file has features where all of them could read it.

    Parameters
    ----------
    bundle : Bundle
    files : sequence of Path
    weights : path-like, optional
        The weights that did not come along with the bundle.
    device, gpu_memory, on_progress
        As in `classify.predict.predict`.

    Raises
    ------
    BundleError
        If the weights of a backbone are missing.
    EngineError
        If this machine computes neither in the precision of the features nor in float32.
    """
    import numpy as np

    from classify.fusion import fuse_rows
    from featurize import ImageFeatures

    sources = _weights(bundle, weights)
    parts, found, notes = bundle.parts, [], []
    for k, part in enumerate(parts):

        def told(done: int, total: int, before: int = k) -> None:
            if on_progress is not None:
                on_progress(before * total + done, len(parts) * total)

        features, note = _part_features(
            part, files, weights=sources[k], device=device, gpu_memory=gpu_memory, on_progress=told
        )
        found.append(features)
        notes += [f"{part.store}: {line}" if len(parts) > 1 else line for line in note]
    if len(parts) == 1:
        return found[0], tuple(notes)
    index = found[0].index
    for one in found[1:]:
        index = np.intersect1d(index, one.index)
    places = [{position: row for row, position in enumerate(one.index.tolist())} for one in found]
    blocks = [
        one.features[[place[position] for position in index.tolist()]]
        for one, place in zip(found, places, strict=True)
    ]
    joined = ImageFeatures(
        features=fuse_rows(blocks, [part.level_ends for part in parts]),
        index=index,
        problems={position: why for one in reversed(found) for position, why in one.problems.items()},
    )
    return joined, tuple(dict.fromkeys(notes))


def _weights(bundle: Bundle, given: str | os.PathLike[str] | None) -> list[Path | None]:
    """Return the weights file of each part, None for published ones; one that is given is for what lacks."""
    parts = bundle.parts
    lacking = [part for part in parts if part.missing and part.config["weights"]["kind"] != "random"]
    if given is not None and len(parts) > 1 and len(lacking) != 1:
        which = ", ".join(part.store for part in lacking) or "none"
        raise BundleError(
            f"{bundle.path}: --weights {os.fspath(given)} is one file, but of this bundle's {len(parts)} "
            f"backbones {which} lack theirs. Make the bundle anew where the weights are"
        )
    for part in lacking if given is None else []:
        whose = f"its backbone ({part.missing})" if len(parts) == 1 else f"{part.store} ({part.missing})"
        raise BundleError(
            f"{bundle.path}: this bundle lacks the weights of {whose}. Name the file with: --weights FILE"
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
) -> tuple[ImageFeatures, tuple[str, ...]]:
    from featurize import image_features

    def run(precision: str | None) -> ImageFeatures:
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
        return run(None), ()
    except EngineError:
        if made_in == "float32":
            raise
        return run("float32"), (f"made in {made_in}, which this machine lacks: graded in float32",)
