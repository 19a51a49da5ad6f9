"""Duplicate and near-duplicate images: re-encoded, rescaled or slightly brightened copies.

Two images are near duplicates if their perceptual hashes differ in at most ``HASH_BITS`` of 64 bits and their
32 × 32 thumbnails match. The hash alone is not sufficient: it ignores colour, and images with little
structure can have the same hash by chance.

The limits were chosen on 1,080 photographs and 420 drawn pages (text, posters, almost empty, flat). For their
copies (JPEG quality 30 to 70, scaled down to a third, 10 % brighter, 15 % darker, 20 % more contrast) all
thumbnails have a correlation of at least 0.975 and differ by at most 39 gray levels; copies that are 20 %
brighter have a correlation of 0.946. Different photographs have a correlation of at most 0.82 and differ by
at least 34 levels; pages of one template with different words have a correlation of at most 0.944.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array, csgraph

from featurize.base.typing import BoolArray, Float32Array, IntArray
from featurize.errors import StoreError
from featurize.images.pool import DecodeResult

if TYPE_CHECKING:
    from featurize.images.dataset import ImageFile

HASH_BITS = 4  # largest number of different bits
CORRELATION = 0.95  # smallest correlation, after subtracting the mean of each channel (the background)
DIFFERENCE = 40.0  # largest root mean square difference, in gray levels
# A featureless thumbnail has no structure to correlate and is compared by colour only.
FEATURELESS = 0.1  # root mean square deviation from the mean of each channel, in gray levels
FLAT_DIFFERENCE = 3.0  # gray levels; the effect of JPEG on a flat colour

_BLOCK = 256  # images whose hashes are compared with all later images at once
_BATCH = 1024  # later images whose thumbnails are compared with those of a block at once
# More images than this are compared by parts of their hashes: if the bits are divided into 6 parts, hashes
# that differ in at most 4 bits are equal in at least 2 parts (Manku, Jain & Das Sarma, "Detecting
# near-duplicates for web crawling", 2007).
TABLES_ABOVE = 20_000
_PARTS, _EQUAL_PARTS = HASH_BITS + 2, 2
_PAIRS = 1 << 15  # pairs whose thumbnails are in memory at once
_COMPARED = 1 << 22  # hashes compared at once


class Thumbnails(Protocol):
    """Thumbnails in memory, or rows of a store that are read when indexed."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: IntArray) -> npt.NDArray[np.uint8]: ...


def near_duplicates(
    phash: npt.NDArray[np.uint64],
    thumbnail: Thumbnails,
    *,
    rows: IntArray | None = None,
) -> IntArray:
    """Return pairs of near duplicates.

    Up to `TABLES_ABOVE` images, all pairs of hashes are compared block by block, which takes seconds. For
    more images, only hashes with enough equal bits are compared. Memory grows linearly with the number of
    images, and thumbnails are read only for images whose hashes match.

    Parameters
    ----------
    phash : ndarray of shape (n,), uint64
        Perceptual hashes.
    thumbnail : array-like of shape (n, 32, 32, 3), uint8
        Thumbnails, to confirm matches of the hashes.
    rows : ndarray of shape (n,), int64, optional
        Row of `thumbnail` for each hash; `thumbnail` may then have any number of rows.

    Returns
    -------
    ndarray of shape (n_pairs, 2), int64
        Pairs ``a < b``. Their connected components are the sets of near duplicates; pairs within a component
        that is already connected may be missing.

    Raises
    ------
    StoreError
        If the numbers of thumbnails and hashes differ.
    """
    n = len(phash)
    if rows is None and len(thumbnail) != n:
        raise StoreError(
            f"{n} perceptual hashes but {len(thumbnail)} thumbnails: expected one of each per image"
        )
    rows = np.arange(n) if rows is None else rows
    matches = _Matches(n)
    for pairs in _by_tables(phash, matches) if n > TABLES_ABOVE else _by_blocks(phash):
        pairs = pairs[matches.unconnected(pairs)]
        if len(pairs):
            matches.add(pairs[_rows_match(thumbnail, rows, pairs)])
    return np.concatenate(matches.pairs)


class _Matches:
    """Near duplicates found so far, and the components that they connect."""

    def __init__(self, n: int) -> None:
        self.pairs: list[IntArray] = [np.empty((0, 2), dtype=np.int64)]
        self.component = np.arange(n, dtype=np.int64)  # (n,)

    def unconnected(self, pairs: IntArray) -> BoolArray:
        """Return, per pair, whether its images are not yet connected."""
        return self.component[pairs[:, 0]] != self.component[pairs[:, 1]]

    def add(self, pairs: IntArray) -> None:
        """Add near duplicates."""
        if len(pairs):
            self.pairs.append(pairs)
            self.component = connected_components(len(self.component), np.concatenate(self.pairs))


def _by_blocks(phash: npt.NDArray[np.uint64]) -> Iterator[IntArray]:
    """Yield each pair ``a < b`` of matching hashes once."""
    for start in range(0, len(phash), _BLOCK):
        # (images of the block, these and all later images)
        bits = np.bitwise_count(phash[start : start + _BLOCK, None] ^ phash[None, start:])
        pairs = np.argwhere(bits <= HASH_BITS) + start
        yield pairs[pairs[:, 0] < pairs[:, 1]]


def _by_tables(phash: npt.NDArray[np.uint64], matches: _Matches) -> Iterator[IntArray]:
    """Yield pairs ``a < b`` of matching hashes, all unconnected ones included; O(n log n) if few match.

    First come images with equal hashes, such as blank pages: each is paired with the first of them, which
    usually makes all other pairs unnecessary. Then come different hashes within `HASH_BITS`.
    """
    order = np.argsort(phash, kind="stable")
    distinct, start, size = np.unique(phash[order], return_index=True, return_counts=True)
    first = order[np.repeat(start, size)]  # first image with the same hash
    yield from _batches(iter([np.column_stack([first, order])[first != order]]))
    repeated = np.flatnonzero(size > 2)
    yield from _image_pairs(np.column_stack([repeated, repeated]), order, start, size, matches)
    for hashes in _batches(_similar_hashes(distinct)):
        yield from _image_pairs(hashes, order, start, size, matches)


def _image_pairs(
    hashes: IntArray, order: IntArray, start: IntArray, size: IntArray, matches: _Matches
) -> Iterator[IntArray]:
    """Yield, in small batches, the unconnected pairs of images that have these pairs of hashes.

    ``order[start[k] : start[k] + size[k]]`` are the images with hash k.
    """
    n_pairs = size[hashes[:, 0]] * size[hashes[:, 1]]
    few, many = hashes[n_pairs <= _PAIRS], hashes[n_pairs > _PAIRS]

    def expanded() -> Iterator[IntArray]:
        counts = n_pairs[n_pairs <= _PAIRS]
        for some in np.split(
            np.arange(len(few)), np.flatnonzero(np.diff(np.cumsum(counts) // _COMPARED)) + 1
        ):
            which = np.repeat(some, counts[some])
            # position of each pair of images within its pair of hashes
            position = np.arange(len(which)) - np.repeat(np.cumsum(counts[some]) - counts[some], counts[some])
            left, right = few[which].T
            pairs = np.column_stack(
                [order[start[left] + position // size[right]], order[start[right] + position % size[right]]]
            )
            yield np.sort(pairs[matches.unconnected(pairs)], axis=1)

    yield from _batches(expanded())
    for left, right in many:
        sides = [order[start[k] : start[k] + size[k]] for k in (left, right)]
        yield from _pairs_between(sides[0], sides[1], matches)


def _pairs_between(left: IntArray, right: IntArray, matches: _Matches) -> Iterator[IntArray]:
    """Yield the unconnected pairs of two sets in blocks; matches of one block shorten the next."""
    for first in range(0, len(left), _BLOCK):
        for second in range(0, len(right), _PAIRS // _BLOCK):
            block, others = left[first : first + _BLOCK], right[second : second + _PAIRS // _BLOCK]
            pairs = np.stack(np.meshgrid(block, others, indexing="ij"), axis=-1).reshape(-1, 2)
            pairs = np.sort(pairs[matches.unconnected(pairs)], axis=1)
            if len(pairs):
                yield np.unique(pairs, axis=0)
        component = matches.component[np.concatenate([left, right])]
        if (component == component[0]).all():
            return


def _similar_hashes(phash: npt.NDArray[np.uint64]) -> Iterator[IntArray]:
    """Yield pairs of distinct hashes that differ in at most `HASH_BITS`, each pair at least once."""
    bits = np.array_split(np.arange(64, dtype=np.uint64), _PARTS)
    parts = [np.bitwise_or.reduce(np.uint64(1) << part) for part in bits]
    for masks in itertools.combinations(parts, _EQUAL_PARTS):
        yield from _similar_under_mask(phash, np.bitwise_or.reduce(masks))


def _similar_under_mask(phash: npt.NDArray[np.uint64], mask: np.uint64) -> Iterator[IntArray]:
    """Yield pairs of matching hashes that are equal in the bits of a mask: neighbours in sorted order."""
    key = phash & mask
    order = np.argsort(key, kind="stable")
    key, sorted_hash = key[order], phash[order]
    starts = np.flatnonzero(np.r_[True, key[1:] != key[:-1]])
    end = np.repeat(
        np.r_[starts[1:], len(key)], np.diff(np.r_[starts, len(key)])
    )  # end of the run of equal keys
    left = np.arange(len(key))
    for step in range(1, len(key)):
        left = left[left + step < end[left]]
        if not len(left):
            return
        for some in np.array_split(left, -(-len(left) // _COMPARED)):
            near = some[np.bitwise_count(sorted_hash[some] ^ sorted_hash[some + step]) <= HASH_BITS]
            if len(near):
                yield np.sort(np.column_stack([order[near], order[near + step]]), axis=1)


def _batches(parts: Iterator[IntArray]) -> Iterator[IntArray]:
    """Yield distinct pairs in batches of at most `_PAIRS`."""
    waiting: list[IntArray] = []
    for part in itertools.chain(parts, [None]):
        if part is not None:
            waiting.append(part)
        if waiting and (part is None or sum(map(len, waiting)) >= _PAIRS):
            every = np.unique(np.concatenate(waiting), axis=0)
            yield from (every[k : k + _PAIRS] for k in range(0, len(every), _PAIRS))
            waiting = []


def connected_components(n: int, pairs: IntArray) -> IntArray:
    """Return the connected component of each node of an undirected graph.

    Parameters
    ----------
    n : int
        Number of nodes.
    pairs : ndarray of shape (n_pairs, 2), int64
        Edges.

    Returns
    -------
    ndarray of shape (n,), int64
        Component of each node, numbered from 0 in order of first appearance.
    """
    graph = coo_array((np.ones(len(pairs), dtype=bool), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    labels = csgraph.connected_components(graph, directed=False)[1]
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse]


def _rows_match(thumbnail: Thumbnails, rows: IntArray, pairs: IntArray) -> BoolArray:
    """Return, per pair, whether the thumbnails match; each thumbnail is read once."""
    images, position = np.unique(pairs, return_inverse=True)
    pixels, position = thumbnail[rows[images]], position.reshape(pairs.shape)
    match = np.zeros(len(pairs), dtype=bool)
    block = np.unique(pairs[:, 0], return_inverse=True)[1] // _BLOCK
    order = np.argsort(block, kind="stable")
    for some in np.split(order, np.flatnonzero(np.diff(block[order])) + 1):
        match[some] = _thumbnails_match(pixels, position[some])
    return match


def _thumbnails_match(thumbnail: npt.NDArray[np.uint8], pairs: IntArray) -> BoolArray:
    """Return, per pair, whether the thumbnails show the same image.

    Distances come from one matrix product per batch, so that thousands of blank pages with equal hashes take
    little time.
    """
    match = np.zeros(len(pairs), dtype=bool)
    left, row = np.unique(pairs[:, 0], return_inverse=True)
    right, column = np.unique(pairs[:, 1], return_inverse=True)
    mean_a, shape_a, power_a = _centred(thumbnail[left])
    for start in range(0, len(right), _BATCH):
        mean_b, shape_b, power_b = _centred(thumbnail[right[start : start + _BATCH]])
        here = np.flatnonzero((column >= start) & (column < start + _BATCH))
        i, j = row[here], column[here] - start
        product = (shape_a @ shape_b.T)[i, j] / shape_a.shape[1]
        weak, strong = np.minimum(power_a[i], power_b[j]), np.maximum(power_a[i], power_b[j])
        square = weak + strong - 2 * product + np.mean((mean_a[i] - mean_b[j]) ** 2, axis=1)
        similar = (weak >= FEATURELESS**2) & (product >= CORRELATION * np.sqrt(weak * strong))
        both_flat = strong < FEATURELESS**2
        match[here] = np.where(both_flat, square <= FLAT_DIFFERENCE**2, similar & (square <= DIFFERENCE**2))
    return match


def _centred(thumbnail: npt.NDArray[np.uint8]) -> tuple[Float32Array, Float32Array, Float32Array]:
    """Return mean colours (n, 3), pixels minus the mean colour (n, 3072) and their mean squares (n,)."""
    pixels = thumbnail.reshape(len(thumbnail), -1, 3).astype(np.float32)  # (n, pixels, channels)
    mean = pixels.mean(axis=1)
    pixels -= mean[:, None]
    shape = pixels.reshape(len(thumbnail), -1)
    return mean, shape, np.einsum("ij,ij->i", shape, shape) / shape.shape[1]


@dataclass(frozen=True, kw_only=True)
class ImagePlace:
    """Location of an image: path, split and class."""

    path: str
    split: str
    class_name: str  # "" if ungraded


@dataclass(frozen=True, kw_only=True)
class DuplicateSet:
    """Images that are duplicates of each other, sorted by path."""

    places: tuple[ImagePlace, ...]

    @property
    def paths(self) -> tuple[str, ...]:
        """Paths of the images."""
        return tuple(place.path for place in self.places)

    @property
    def classes(self) -> frozenset[str]:
        """Classes of the graded images."""
        return frozenset(place.class_name for place in self.places if place.class_name)

    @property
    def splits(self) -> frozenset[str]:
        """Splits of the images; "new" for ungraded images."""
        return frozenset(place.split for place in self.places)


@dataclass(frozen=True, kw_only=True)
class Duplicates:
    """Copies and near duplicates of a data set."""

    copies: tuple[DuplicateSet, ...]  # files with the same content
    near: tuple[DuplicateSet, ...]  # connected near duplicates, including copies of these files
    groups: Mapping[str, int]  # class → number of groups that heads can be fitted on


def find_duplicates(images: Sequence[ImageFile], decoded: Mapping[str, DecodeResult]) -> Duplicates:
    """Find copies and near duplicates among the images of a data set.

    Parameters
    ----------
    images : sequence of ImageFile
        The readable images, sorted by path.
    decoded : mapping of str to DecodeResult
        Result of decoding each content, by SHA-256.

    Returns
    -------
    Duplicates
        Sets are in the order of their first paths.
    """
    number = {sha256: k for k, sha256 in enumerate(dict.fromkeys(image.sha256 for image in images))}
    content = np.array([number[image.sha256] for image in images], dtype=np.int64)
    results = [decoded[sha256] for sha256 in number]
    near = near_duplicates(
        np.array([result.phash for result in results], dtype=np.uint64),
        np.array([result.thumbnail for result in results], dtype=np.uint8).reshape(-1, 32, 32, 3),
    )
    component = connected_components(len(number), near)[content]
    return Duplicates(
        copies=tuple(_duplicate_set(images, rows) for rows in _sets(content)),
        near=tuple(
            _duplicate_set(images, rows) for rows in _sets(component) if len(np.unique(content[rows])) > 1
        ),
        groups=_count_groups(images, content, component),
    )


def _sets(label: IntArray) -> list[IntArray]:
    """Return the rows of each label that more than one row has, sorted by first row."""
    order = np.argsort(label, kind="stable")
    starts = np.flatnonzero(np.diff(label[order])) + 1
    sets = [rows for rows in np.split(order, starts) if len(rows) > 1]
    return sorted(sets, key=lambda rows: int(rows[0]))


def _duplicate_set(images: Sequence[ImageFile], rows: IntArray) -> DuplicateSet:
    return DuplicateSet(
        places=tuple(
            ImagePlace(path=images[k].path, split=images[k].split, class_name=images[k].class_name)
            for k in rows.tolist()
        )
    )


def _count_groups(images: Sequence[ImageFile], content: IntArray, component: IntArray) -> dict[str, int]:
    """Return the number of groups per class that a comparison can fit heads on.

    A group is what no fold may separate: an entry, copies, near duplicates. Files under two grades are
    excluded, and so are training images that duplicate a val or test image. Without a test split, val is
    used for fitting like train.
    """
    names = np.array([image.class_name for image in images], dtype=np.str_)
    split = np.array([image.split for image in images], dtype=np.str_)
    graded = names != ""
    grades = {(c, name) for c, name in zip(content.tolist(), names.tolist(), strict=True) if name}
    n_grades = np.bincount([c for c, _ in grades], minlength=int(content.max(initial=-1)) + 1)
    held_out = graded & (split != "train") & np.any(graded & (split == "test"))
    fit = graded & ~held_out & (n_grades[content] < 2) & ~np.isin(component, component[held_out])

    number: dict[str, int] = {}
    entry = np.array([number.setdefault(image.entry, len(number)) for image in images], dtype=np.int64)
    links = np.column_stack([entry, len(number) + component])[graded]  # edges from entries to components
    group = connected_components(len(number) + int(component.max(initial=-1)) + 1, links)[entry]
    return {str(name): len(np.unique(group[fit & (names == name)])) for name in np.unique(names[fit])}
