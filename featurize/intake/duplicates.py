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

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from featurize.errors import StoreError

HASH_BITS = 4
CORRELATION = 0.95  # about the mean of each channel, so that a common background is no likeness
DIFFERENCE = 40.0  # gray levels, root mean square
# A featureless thumbnail has no structure to correlate: it is compared by colour alone.
FEATURELESS = 0.1  # gray levels, root mean square about the mean of each channel
FLAT_DIFFERENCE = 3.0  # gray levels: what JPEG does to a flat colour

_BLOCK = 256  # pictures whose hashes are compared with all later ones at a time
_BATCH = 1024  # later pictures whose thumbnails are compared with those of a block at a time

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]


def near_duplicates(phash: npt.NDArray[np.uint64], thumbnail: npt.NDArray[np.uint8]) -> IntArray:
    """Find near duplicates.

    Every hash is compared with every other, a block at a time: 20,000 pictures take seconds, and memory grows
    with their number, not with its square.

    Parameters
    ----------
    phash : ndarray of shape (n,), uint64
        Perceptual hashes.
    thumbnail : ndarray of shape (n, 32, 32, 3), uint8
        What confirms a match of the hashes.

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
    if len(thumbnail) != n:
        raise StoreError(
            f"{n} perceptual hashes but {len(thumbnail)} thumbnails: expected one of each a picture"
        )
    found: list[IntArray] = [np.empty((0, 2), dtype=np.int64)]
    joined = np.arange(n, dtype=np.int64)
    for start in range(0, n, _BLOCK):
        block = slice(start, start + _BLOCK)
        bits = np.bitwise_count(
            phash[block, None] ^ phash[None, start:]
        )  # (block, this and all later pictures)
        pairs = np.argwhere(bits <= HASH_BITS) + start
        pairs = pairs[(pairs[:, 0] < pairs[:, 1]) & (joined[pairs[:, 0]] != joined[pairs[:, 1]])]
        if len(pairs) and len(confirmed := pairs[_agree(thumbnail, pairs)]):
            found.append(confirmed)
            joined = join(n, np.concatenate(found))
    return np.concatenate(found)


def join(n: int, pairs: IntArray) -> IntArray:
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
    labels = connected_components(graph, directed=False)[1]
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse]


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


def _centred(thumbnail: npt.NDArray[np.uint8]) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Take thumbnails apart: mean colour (n, 3), what is left of each (n, 3072), its mean square (n,)."""
    pixels = thumbnail.reshape(len(thumbnail), -1, 3).astype(np.float32)  # (n, pixels, channels)
    mean = pixels.mean(axis=1)
    pixels -= mean[:, None]
    shape = pixels.reshape(len(thumbnail), -1)
    return mean, shape, np.einsum("ij,ij->i", shape, shape) / shape.shape[1]
