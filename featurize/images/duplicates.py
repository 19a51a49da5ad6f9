"""Pictures that show the same thing though their files differ: re-encoded, rescaled, slightly brightened.

Two pictures are near duplicates when their perceptual hashes differ in at most ``HASH_BITS`` of 64 bits and
their 32 × 32 thumbnails agree. The hash alone is no proof: it sees no colour, and bland pictures share one by
accident.

The limits were set on 1,080 photographs and 420 drawn pages (text, posters, almost empty, flat). Of their
copies (JPEG quality 30 to 70, shrunk to a third, 10 % brighter, 15 % darker, 20 % more contrast) all
thumbnails correlate at 0.975 or more and differ by 39 gray levels or fewer; 20 % brighter still at 0.946. Two
different photographs correlate at 0.82 or less and differ by 34 levels or more; two pages of one template
with other words correlate at 0.944 or less.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array, csgraph

from featurize.base.typing import Float32Array, IntArray
from featurize.errors import StoreError
from featurize.images.dataset import ImageFile
from featurize.images.pool import DecodeResult

HASH_BITS = 4
CORRELATION = 0.95  # about the mean of each channel, so that a common background is no likeness
DIFFERENCE = 40.0  # gray levels, root mean square
# A featureless thumbnail has no structure to correlate: it is compared by colour alone.
FEATURELESS = 0.1  # gray levels, root mean square about the mean of each channel
FLAT_DIFFERENCE = 3.0  # gray levels: what JPEG does to a flat colour

_BLOCK = 256  # pictures whose hashes are compared with all later ones at a time
_BATCH = 1024  # later pictures whose thumbnails are compared with those of a block at a time
# More pictures than these are looked up in tables by parts of their hashes: hashes that differ in 4 bits at
# most agree in 2 at least of any 6 parts, whichever they are (Manku, Jain & Das Sarma, "Detecting
# near-duplicates for web crawling", 2007).
TABLES_ABOVE = 20_000
_PARTS, _AGREEING = HASH_BITS + 2, 2
_PAIRS = 1 << 15  # looked at together; their thumbnails are in memory
_COMPARED = 1 << 22  # hashes compared at a time


class Thumbnails(Protocol):
    """An array of pictures in memory, or rows of a store that are read when they are indexed."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: IntArray) -> npt.NDArray[np.uint8]: ...


def near_duplicates(
    phash: npt.NDArray[np.uint64],
    thumbnail: Thumbnails,
    *,
    rows: IntArray | None = None,
) -> IntArray:
    """Find near duplicates.

    Up to `TABLES_ABOVE` pictures every hash is compared with every other, a block at a time, which takes
    seconds; of more, those that share enough bits to be within reach. Memory grows with their number, and
    thumbnails are read of pictures only whose hashes agree.

    Parameters
    ----------
    phash : ndarray of shape (n,), uint64
        Perceptual hashes.
    thumbnail : array-like of shape (n, 32, 32, 3), uint8
        What confirms a match of the hashes.
    rows : ndarray of shape (n,), int64, optional
        The row of `thumbnail` of each picture, which then may have others.

    Returns
    -------
    ndarray of shape (n_pairs, 2), int64
        Pairs ``a < b``, enough to join all that belongs together: of pictures that are joined through others
        already, not every pair is listed.

    Raises
    ------
    StoreError
        If there are not as many thumbnails as hashes.
    """
    n = len(phash)
    if rows is None and len(thumbnail) != n:
        raise StoreError(
            f"{n} perceptual hashes but {len(thumbnail)} thumbnails: expected one of each a picture"
        )
    rows = np.arange(n) if rows is None else rows
    found = _Found(n)
    for pairs in _by_tables(phash, found) if n > TABLES_ABOVE else _by_blocks(phash):
        pairs = pairs[found.apart(pairs)]
        if len(pairs):
            found.add(pairs[_agree_at(thumbnail, rows, pairs)])
    return np.concatenate(found.pairs)


class _Found:
    """Near duplicates so far, and which pictures they join."""

    def __init__(self, n: int) -> None:
        self.pairs: list[IntArray] = [np.empty((0, 2), dtype=np.int64)]
        self.joined = np.arange(n, dtype=np.int64)  # (n,) equal numbers: joined

    def apart(self, pairs: IntArray) -> npt.NDArray[np.bool_]:
        """Tell of which pairs it is not known yet."""
        return self.joined[pairs[:, 0]] != self.joined[pairs[:, 1]]

    def add(self, pairs: IntArray) -> None:
        """Join more pairs."""
        if len(pairs):
            self.pairs.append(pairs)
            self.joined = connected_components(len(self.joined), np.concatenate(self.pairs))


def _by_blocks(phash: npt.NDArray[np.uint64]) -> Iterator[IntArray]:
    """Yield pairs ``a < b`` whose hashes agree, each once."""
    for start in range(0, len(phash), _BLOCK):
        # (block, this and all later pictures)
        bits = np.bitwise_count(phash[start : start + _BLOCK, None] ^ phash[None, start:])
        pairs = np.argwhere(bits <= HASH_BITS) + start
        yield pairs[pairs[:, 0] < pairs[:, 1]]


def _by_tables(phash: npt.NDArray[np.uint64], found: _Found) -> Iterator[IntArray]:
    """Yield pairs ``a < b`` whose hashes agree, at least those that are apart; n log n where few agree.

    First the pictures of one hash, such as blank pages: each with the first of them, so that all other pairs
    are mostly spared. Then different hashes within reach of each other.
    """
    order = np.argsort(phash, kind="stable")
    known, start, size = np.unique(phash[order], return_index=True, return_counts=True)
    first = order[np.repeat(start, size)]  # of the pictures of its hash
    yield from _batches(iter([np.column_stack([first, order])[first != order]]))
    several = np.flatnonzero(size > 2)
    yield from _members(np.column_stack([several, several]), order, start, size, found)
    for hashes in _batches(_hashes_within_reach(known)):
        yield from _members(hashes, order, start, size, found)


def _members(
    hashes: IntArray, order: IntArray, start: IntArray, size: IntArray, found: _Found
) -> Iterator[IntArray]:
    """Yield the pairs of pictures that pairs of hashes stand for, few at a time."""
    n_pairs = size[hashes[:, 0]] * size[hashes[:, 1]]
    few, many = hashes[n_pairs <= _PAIRS], hashes[n_pairs > _PAIRS]

    def expanded() -> Iterator[IntArray]:
        counts = n_pairs[n_pairs <= _PAIRS]
        for some in np.split(
            np.arange(len(few)), np.flatnonzero(np.diff(np.cumsum(counts) // _COMPARED)) + 1
        ):
            which = np.repeat(some, counts[some])
            place = np.arange(len(which)) - np.repeat(np.cumsum(counts[some]) - counts[some], counts[some])
            left, right = few[which].T
            pairs = np.column_stack(
                [order[start[left] + place // size[right]], order[start[right] + place % size[right]]]
            )
            yield np.sort(pairs[found.apart(pairs)], axis=1)

    yield from _batches(expanded())
    for left, right in many:
        sides = [order[start[k] : start[k] + size[k]] for k in (left, right)]
        yield from _between(sides[0], sides[1], found)


def _between(left: IntArray, right: IntArray, found: _Found) -> Iterator[IntArray]:
    """Yield the pairs of two sets that are apart, a block at a time: what one block joins the next spares."""
    for first in range(0, len(left), _BLOCK):
        for second in range(0, len(right), _PAIRS // _BLOCK):
            block, others = left[first : first + _BLOCK], right[second : second + _PAIRS // _BLOCK]
            pairs = np.stack(np.meshgrid(block, others, indexing="ij"), axis=-1).reshape(-1, 2)
            pairs = np.sort(pairs[found.apart(pairs)], axis=1)
            if len(pairs):
                yield np.unique(pairs, axis=0)
        every = found.joined[np.concatenate([left, right])]
        if (every == every[0]).all():
            return


def _hashes_within_reach(known: npt.NDArray[np.uint64]) -> Iterator[IntArray]:
    """Yield pairs of different hashes that differ in few bits, each pair once at least."""
    bits = np.array_split(np.arange(64, dtype=np.uint64), _PARTS)
    parts = [np.bitwise_or.reduce(np.uint64(1) << part) for part in bits]
    for masks in itertools.combinations(parts, _AGREEING):
        yield from _alike_under(known, np.bitwise_or.reduce(masks))


def _alike_under(phash: npt.NDArray[np.uint64], mask: np.uint64) -> Iterator[IntArray]:
    """Yield the pairs whose hashes agree, and are equal where the mask has ones: neighbours once sorted."""
    key = phash & mask
    order = np.argsort(key, kind="stable")
    key, sorted_hash = key[order], phash[order]
    starts = np.flatnonzero(np.r_[True, key[1:] != key[:-1]])
    end = np.repeat(np.r_[starts[1:], len(key)], np.diff(np.r_[starts, len(key)]))  # of each one's run
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
    """Yield different pairs, as many at a time as are looked at together."""
    waiting: list[IntArray] = []
    for part in itertools.chain(parts, [None]):
        if part is not None:
            waiting.append(part)
        if waiting and (part is None or sum(map(len, waiting)) >= _PAIRS):
            every = np.unique(np.concatenate(waiting), axis=0)
            yield from (every[k : k + _PAIRS] for k in range(0, len(every), _PAIRS))
            waiting = []


def connected_components(n: int, pairs: IntArray) -> IntArray:
    """Give things that are connected by pairs, directly or through others, the same number.

    Parameters
    ----------
    n : int
        How many things.
    pairs : ndarray of shape (n_pairs, 2), int64
        What belongs together.

    Returns
    -------
    ndarray of shape (n,), int64
        Numbers from 0, in the order in which the sets first appear.
    """
    graph = coo_array((np.ones(len(pairs), dtype=bool), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    labels = csgraph.connected_components(graph, directed=False)[1]
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse]


def _agree_at(thumbnail: Thumbnails, rows: IntArray, pairs: IntArray) -> npt.NDArray[np.bool_]:
    """Tell for each pair whether the thumbnails agree, a block of left ones at a time; read each once."""
    known, place = np.unique(pairs, return_inverse=True)
    pictures, place = thumbnail[rows[known]], place.reshape(pairs.shape)
    agree = np.zeros(len(pairs), dtype=bool)
    block = np.unique(pairs[:, 0], return_inverse=True)[1] // _BLOCK
    order = np.argsort(block, kind="stable")
    for some in np.split(order, np.flatnonzero(np.diff(block[order])) + 1):
        agree[some] = _agree(pictures, place[some])
    return agree


def _agree(thumbnail: npt.NDArray[np.uint8], pairs: IntArray) -> npt.NDArray[np.bool_]:
    """Tell for each pair whether the thumbnails show the same picture.

    Distances come from one matrix product a batch, so that thousands of blank pages whose hashes all agree
    stay affordable.
    """
    agree = np.zeros(len(pairs), dtype=bool)
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
        alike = (weak >= FEATURELESS**2) & (product >= CORRELATION * np.sqrt(weak * strong))
        both_flat = strong < FEATURELESS**2
        agree[here] = np.where(both_flat, square <= FLAT_DIFFERENCE**2, alike & (square <= DIFFERENCE**2))
    return agree


def _centred(thumbnail: npt.NDArray[np.uint8]) -> tuple[Float32Array, Float32Array, Float32Array]:
    """Take thumbnails apart: mean colour (n, 3), what is left of each (n, 3072), its mean square (n,)."""
    pixels = thumbnail.reshape(len(thumbnail), -1, 3).astype(np.float32)  # (n, pixels, channels)
    mean = pixels.mean(axis=1)
    pixels -= mean[:, None]
    shape = pixels.reshape(len(thumbnail), -1)
    return mean, shape, np.einsum("ij,ij->i", shape, shape) / shape.shape[1]


@dataclass(frozen=True, kw_only=True)
class ImagePlace:
    """Where an image stands."""

    path: str
    split: str
    class_name: str  # "" when ungraded


@dataclass(frozen=True, kw_only=True)
class DuplicateSet:
    """Images that show the same picture, by path."""

    places: tuple[ImagePlace, ...]

    @property
    def paths(self) -> tuple[str, ...]:
        """Their paths."""
        return tuple(place.path for place in self.places)

    @property
    def classes(self) -> frozenset[str]:
        """The grades they stand under; ungraded ones have none."""
        return frozenset(place.class_name for place in self.places if place.class_name)

    @property
    def splits(self) -> frozenset[str]:
        """The splits they stand in, "new" (ungraded) among them."""
        return frozenset(place.split for place in self.places)


@dataclass(frozen=True, kw_only=True)
class Duplicates:
    """What shows the same picture as what."""

    copies: tuple[DuplicateSet, ...]  # one file in several places
    near: tuple[
        DuplicateSet, ...
    ]  # different files, near duplicates directly or through others; with their copies
    groups: Mapping[str, int]  # class → groups of images that can be fitted on


def find_duplicates(images: Sequence[ImageFile], pictures: Mapping[str, DecodeResult]) -> Duplicates:
    """Find copies and near duplicates among the images of a data set.

    Parameters
    ----------
    images : sequence of ImageFile
        Those that could be decoded, sorted by path.
    pictures : mapping of str to Decoded
        What was seen of each content.

    Returns
    -------
    Duplicates
        Sets in the order of their first paths.
    """
    number = {sha256: k for k, sha256 in enumerate(dict.fromkeys(image.sha256 for image in images))}
    content = np.array([number[image.sha256] for image in images], dtype=np.int64)
    seen = [pictures[sha256] for sha256 in number]
    near = near_duplicates(
        np.array([picture.phash for picture in seen], dtype=np.uint64),
        np.array([picture.thumbnail for picture in seen], dtype=np.uint8).reshape(-1, 32, 32, 3),
    )
    alike = connected_components(len(number), near)[content]
    return Duplicates(
        copies=tuple(_alike(images, rows) for rows in _sets(content)),
        near=tuple(_alike(images, rows) for rows in _sets(alike) if len(np.unique(content[rows])) > 1),
        groups=_groups(images, content, alike),
    )


def _sets(label: IntArray) -> list[IntArray]:
    """Return the rows of each label that several rows have, by first row."""
    order = np.argsort(label, kind="stable")
    starts = np.flatnonzero(np.diff(label[order])) + 1
    sets = [rows for rows in np.split(order, starts) if len(rows) > 1]
    return sorted(sets, key=lambda rows: int(rows[0]))


def _alike(images: Sequence[ImageFile], rows: IntArray) -> DuplicateSet:
    return DuplicateSet(
        places=tuple(
            ImagePlace(path=images[k].path, split=images[k].split, class_name=images[k].class_name)
            for k in rows.tolist()
        )
    )


def _groups(images: Sequence[ImageFile], content: IntArray, alike: IntArray) -> dict[str, int]:
    """Count per class the groups that a comparison can fit on.

    A group is what no fold may split: an entry, copies, near duplicates. Not fitted on: a file under two
    grades, a training image like a val or test image. Without a test split, val is fitted on as train is.
    """
    names = np.array([image.class_name for image in images], dtype=np.str_)
    split = np.array([image.split for image in images], dtype=np.str_)
    graded = names != ""
    grades = {(c, name) for c, name in zip(content.tolist(), names.tolist(), strict=True) if name}
    n_grades = np.bincount([c for c, _ in grades], minlength=int(content.max(initial=-1)) + 1)
    held_out = graded & (split != "train") & np.any(graded & (split == "test"))
    fit = graded & ~held_out & (n_grades[content] < 2) & ~np.isin(alike, alike[held_out])

    number: dict[str, int] = {}
    entry = np.array([number.setdefault(image.entry, len(number)) for image in images], dtype=np.int64)
    links = np.column_stack([entry, len(number) + alike])[graded]  # entries and pictures as one graph
    group = connected_components(len(number) + int(alike.max(initial=-1)) + 1, links)[entry]
    return {str(name): len(np.unique(group[fit & (names == name)])) for name in np.unique(names[fit])}
