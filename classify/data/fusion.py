"""Fusion of stores of the same images: the features of several backbones, concatenated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from classify.data.samples import Samples, StorePart
from classify.errors import CompareError
from featurize.base.typing import Float32Array
from featurize.config import config_digest


def fuse(stores: Sequence[Samples]) -> Samples:
    """Return the fused samples of several stores: rows of an image are concatenated over the stores.

    Parameters
    ----------
    stores : sequence of Samples
        Two or more stores of the same images with equal groups, as `classify.data.load` checks. Rows of the
        same file content are concatenated.

    Returns
    -------
    Samples
        Named "a+b". The columns are the inner levels, store by store, followed by the final levels of all
        stores as one level. Augmented views are included if all stores have the same augmentation settings,
        as many as the store with the fewest; otherwise there are none, and `facts` has the reason.

    Raises
    ------
    CompareError
        If there are fewer than two stores, or their images differ.
    """
    if len(stores) < 2:
        raise CompareError(
            "--fuse concatenates the features of several stores, but only one was given. Give two or more"
        )
    first = stores[0]
    if any(other.path != first.path or not np.array_equal(other.y, first.y) for other in stores[1:]):
        names = ", ".join(samples.store for samples in stores)
        raise CompareError(f"{names}: not of the same images, so their features cannot be fused")
    parts = tuple(
        StorePart(
            store=samples.store,
            backbone=samples.backbone,
            config=samples.config,
            config_digest=samples.config_digest,
            level_ends=samples.level_ends,
        )
        for samples in stores
    )
    content, images = np.unique(first.content, return_index=True)  # one image of each content
    plain = [samples.plain[samples.content[images]] for samples in stores]
    augmented, augmented_row, notes = _views(stores, images)
    level_names, level_ends = _levels(stores)
    return replace(
        first,
        store="+".join(part.store for part in parts),
        backbone="+".join(part.backbone for part in parts),
        config={"parts": [part.config for part in parts]},
        config_digest=fused_digest(parts),
        content=np.searchsorted(content, first.content),
        plain=fuse_rows(plain, [part.level_ends for part in parts]),
        augmented=augmented,
        augmented_row=augmented_row,
        level_names=level_names,
        level_ends=level_ends,
        facts=replace(first.facts, notes=(*first.facts.notes, *notes)),
        parts=parts,
    )


def fused_digest(parts: Sequence[StorePart]) -> str:
    """Return the digest of the configs of all parts, in their order."""
    return config_digest({"parts": [part.config_digest for part in parts]})


def fuse_rows(blocks: Sequence[Float32Array], level_ends: Sequence[Sequence[int]]) -> Float32Array:
    """Concatenate rows of several backbones, scaled so that no backbone dominates.

    Each level of each backbone is divided by its Euclidean length and multiplied by the square root of its
    width, so that the mean square of its features is 1 in every row. Each row is scaled independently.

    Parameters
    ----------
    blocks : sequence of ndarray of shape (..., n_features), float32
        Rows of each backbone, for the same images.
    level_ends : sequence of sequence of int
        Per backbone, the column after the last column of each level. The last level is the final one.

    Returns
    -------
    ndarray of shape (..., sum of n_features), float32
        The inner levels, backbone by backbone, followed by the final levels.
    """
    inner: list[Float32Array] = []
    final: list[Float32Array] = []
    for block, ends in zip(blocks, level_ends, strict=True):
        levels = [_balanced(block[..., start:end]) for start, end in zip((0, *ends[:-1]), ends, strict=True)]
        inner += levels[:-1]
        final.append(levels[-1])
    return np.concatenate([*inner, *final], axis=-1)


def _balanced(block: Float32Array) -> Float32Array:
    """Return rows scaled to a mean square of 1; rows of zeros stay zero."""
    length = np.sqrt(np.einsum("...i,...i->...", block, block, dtype=np.float64))[..., None]
    scale = np.sqrt(block.shape[-1]) / np.where(length > 0, length, 1.0)
    return block * scale.astype(np.float32)


def _levels(stores: Sequence[Samples]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return names and end columns of the levels that `fuse_rows` returns."""
    names: list[str] = []
    widths: list[int] = []
    for samples in stores:
        names += [f"{samples.store} {name}" for name in samples.level_names[:-1]]
        widths += np.diff((0, *samples.level_ends[:-1])).tolist()
    final = sum(samples.n_features for samples in stores) - sum(widths)
    return (*names, stores[0].level_names[-1]), tuple(accumulate([*widths, final]))


def _views(
    stores: Sequence[Samples], images: npt.NDArray[np.int64]
) -> tuple[Float32Array, npt.NDArray[np.int64], tuple[str, ...]]:
    """Return the fused views, the row of each image's content in them, and a note if there are none."""
    n_features = sum(samples.n_features for samples in stores)
    augmented_row = np.full(len(images), -1, dtype=np.int64)
    same_settings = all(samples.config["views"] == stores[0].config["views"] for samples in stores[1:])
    n_views = min(samples.n_views for samples in stores)
    rows = np.stack([samples.augmented_row[samples.content[images]] for samples in stores])
    with_views = np.flatnonzero(np.all(rows >= 0, axis=0))
    if not same_settings or n_views == 0 or not len(with_views):
        has_any = any(samples.n_views for samples in stores)
        reason = "are missing in one store" if same_settings else "have different ranges or seeds"
        names = "+".join(samples.store for samples in stores)
        note = f"{names}: fitted on plain views only, because the augmented views {reason}"
        return np.zeros((0, 0, n_features), dtype=np.float32), augmented_row, (note,) if has_any else ()
    blocks = [
        samples.augmented[own[with_views], :n_views] for samples, own in zip(stores, rows, strict=True)
    ]  # (n_with_views, n_views, n_features of the store)
    augmented_row[with_views] = np.arange(len(with_views))
    return fuse_rows(blocks, [samples.level_ends for samples in stores]), augmented_row, ()
