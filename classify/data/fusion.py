"""Several stores of the same images as one more: the features of all backbones side by side."""

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
    """Join stores of the same images: each image's rows are those of all stores side by side.

    Parameters
    ----------
    stores : sequence of Samples
        Two or more of the same images with equal groups, as `classify.data.load` checks: rows are joined
        where they are of the same file content.

    Returns
    -------
    Samples
        Named "a+b". First all columns but the final ones, store by store, then the final ones of all as one
        level. Augmented views are joined where all stores drew them alike, as many as the fewest have;
        otherwise there are none, and `facts` says why.

    Raises
    ------
    CompareError
        If there are fewer than two stores, or they are of different images.
    """
    if len(stores) < 2:
        raise CompareError("--fuse joins the features of several stores, but there is one. Name two or more")
    first = stores[0]
    if any(other.path != first.path or not np.array_equal(other.y, first.y) for other in stores[1:]):
        names = ", ".join(samples.store for samples in stores)
        raise CompareError(f"{names}: not of the same images, so their features cannot be joined")
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
    content, known = np.unique(first.content, return_index=True)  # one image of each content
    plain = [samples.plain[samples.content[known]] for samples in stores]
    augmented, augmented_row, why = _views(stores, known)
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
        facts=replace(first.facts, notes=(*first.facts.notes, *why)),
        parts=parts,
    )


def fused_digest(parts: Sequence[StorePart]) -> str:
    """Return the digest that stands for the configs of all parts, in their order."""
    return config_digest({"parts": [part.config_digest for part in parts]})


def fuse_rows(blocks: Sequence[Float32Array], level_ends: Sequence[Sequence[int]]) -> Float32Array:
    """Put rows of several backbones side by side so that none drowns the others.

    Each level of each backbone is divided by its length and multiplied by the square root of its width: the
    mean square of its features is 1 in every row. Nothing is learned from other rows.

    Parameters
    ----------
    blocks : sequence of ndarray of shape (..., n_features), float32
        Rows of each backbone, of the same images.
    level_ends : sequence of sequence of int
        Of each backbone, the column after the last one of each level; the last level is the final one.

    Returns
    -------
    ndarray of shape (..., sum of n_features), float32
        All columns but the final ones, backbone by backbone, then the final ones.
    """
    inner: list[Float32Array] = []
    final: list[Float32Array] = []
    for block, ends in zip(blocks, level_ends, strict=True):
        levels = [_balanced(block[..., start:end]) for start, end in zip((0, *ends[:-1]), ends, strict=True)]
        inner += levels[:-1]
        final.append(levels[-1])
    return np.concatenate([*inner, *final], axis=-1)


def _balanced(block: Float32Array) -> Float32Array:
    """Return rows whose features have a mean square of 1; a row of zeros stays one."""
    length = np.sqrt(np.einsum("...i,...i->...", block, block, dtype=np.float64))[..., None]
    scale = np.sqrt(block.shape[-1]) / np.where(length > 0, length, 1.0)
    return block * scale.astype(np.float32)


def _levels(stores: Sequence[Samples]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return names and ends of the columns of `fuse_rows`."""
    names: list[str] = []
    widths: list[int] = []
    for samples in stores:
        names += [f"{samples.store} {name}" for name in samples.level_names[:-1]]
        widths += np.diff((0, *samples.level_ends[:-1])).tolist()
    final = sum(samples.n_features for samples in stores) - sum(widths)
    return (*names, stores[0].level_names[-1]), tuple(accumulate([*widths, final]))


def _views(
    stores: Sequence[Samples], known: npt.NDArray[np.int64]
) -> tuple[Float32Array, npt.NDArray[np.int64], tuple[str, ...]]:
    """Return the joined views of these images' contents, the row of each content, and why there are none."""
    n_features = sum(samples.n_features for samples in stores)
    nothing = np.full(len(known), -1, dtype=np.int64)
    alike = all(samples.config["views"] == stores[0].config["views"] for samples in stores[1:])
    n_views = min(samples.n_views for samples in stores)
    rows = np.stack([samples.augmented_row[samples.content[known]] for samples in stores])
    seen = np.flatnonzero(np.all(rows >= 0, axis=0))
    if not alike or n_views == 0 or not len(seen):
        given = any(samples.n_views for samples in stores)
        reason = "lack them in one store" if alike else "were drawn by other ranges or another seed"
        names = "+".join(samples.store for samples in stores)
        why = (f"{names}: fitted on plain views alone, because the augmented ones {reason}",) if given else ()
        return np.zeros((0, 0, n_features), dtype=np.float32), nothing, why
    blocks = [
        samples.augmented[own[seen], :n_views] for samples, own in zip(stores, rows, strict=True)
    ]  # (n_seen, n_views, n_features of the store)
    place = nothing.copy()
    place[seen] = np.arange(len(seen))
    return fuse_rows(blocks, [samples.level_ends for samples in stores]), place, ()
