"""Images that lie too close together, or too far from all others, in the space of features."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

N_NEIGHBOURS = 10
_CHUNK = 2**24  # cosines at once
_LEAST = 1e-6  # distance below which rounding decides
_FENCE, _OUTER_FENCE = 1.5, 3.0  # Tukey's, in distances between the quartiles


@dataclass(frozen=True, kw_only=True, eq=False)
class Neighbours:
    """What lies around each image; those of its own group do not count."""

    nearest: FloatArray  # (n,) cosine distance to the nearest of them
    typical: FloatArray  # (n,) mean cosine distance to the nearest 10
    usual: FloatArray  # (2,) first and third quartile of log `nearest`
    pairs: IntArray  # (n_pairs, 2) images that lie far closer than usual, the closest first
    distance: FloatArray  # (n_pairs,) of each pair


def neighbours(X: npt.NDArray[np.float32], group: IntArray) -> Neighbours:
    """Return how close images are in direction from the mean of all.

    Near duplicates are pairs whose distance is below the outer fence of the distances to the nearest
    neighbour, on a logarithmic scale: first quartile less three times the distance between the quartiles.

    Parameters
    ----------
    X : ndarray of shape (n, n_features), float32
        Plain features.
    group : ndarray of shape (n,), int
        Images that are known to belong together, and are no pair.

    Returns
    -------
    Neighbours

    References
    ----------
    Fences: Tukey, "Exploratory Data Analysis" (1977), section 2C. Distance to the nearest neighbours as a
    measure of outliers: Kuan & Mueller, "Back to the basics: revisiting out-of-distribution detection
    baselines", arXiv:2207.03061.
    """
    unit = _directions(X)
    nearest, typical = np.full(len(X), np.inf), np.full(len(X), np.inf)
    k = min(N_NEIGHBOURS, len(X) - 1)
    for rows, distance in _distances(unit, group):
        closest = np.sort(np.partition(distance, k - 1, axis=1)[:, :k], axis=1)
        there = np.isfinite(closest)
        nearest[rows] = closest[:, 0]
        total, count = np.where(there, closest, 0.0).sum(axis=1), there.sum(axis=1)
        np.divide(total, count, out=typical[rows], where=count > 0)
    known = nearest[np.isfinite(nearest)]
    if not len(known):
        nothing = np.empty((0, 2), dtype=np.int64)
        return Neighbours(
            nearest=nearest, typical=typical, usual=np.zeros(2), pairs=nothing, distance=np.empty(0)
        )
    low, high = np.quantile(np.log(known), (0.25, 0.75))
    limit = np.exp(low - _OUTER_FENCE * (high - low))
    pairs = _closer_than(unit, group, limit) if high > low else []
    pairs.sort()
    return Neighbours(
        nearest=nearest,
        typical=typical,
        usual=np.array([low, high]),
        pairs=np.array([pair[1:] for pair in pairs], dtype=np.int64).reshape(-1, 2),
        distance=np.array([pair[0] for pair in pairs], dtype=np.float64),
    )


def outliers(typical: FloatArray) -> IntArray:
    """Return images far from all others, the farthest first: beyond the fence of these distances.

    The inner fence, as cosine distances end soon after 1 and so have no long tail.
    """
    known = np.isfinite(typical)
    if not known.any():
        return np.empty(0, dtype=np.int64)
    low, high = np.quantile(typical[known], (0.25, 0.75))
    found = np.flatnonzero(known & (typical > high + _FENCE * (high - low)))
    return found[np.argsort(-typical[found], kind="stable")]


def _directions(X: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    centred = X.astype(np.float64) - X.mean(axis=0, dtype=np.float64)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    unit = np.divide(centred, length, out=np.zeros_like(centred), where=length > 0)
    return unit.astype(np.float32)


def _distances(
    unit: npt.NDArray[np.float32], group: IntArray
) -> Iterator[tuple[slice, npt.NDArray[np.float64]]]:
    """Yield the cosine distances of some images to all; infinite within a group."""
    at_once = max(1, _CHUNK // len(unit))
    for start in range(0, len(unit), at_once):
        rows = slice(start, min(start + at_once, len(unit)))
        distance = np.maximum(1.0 - unit[rows] @ unit.T, _LEAST).astype(np.float64)
        distance[group[rows, None] == group] = np.inf
        yield rows, distance


def _closer_than(
    unit: npt.NDArray[np.float32], group: IntArray, limit: float
) -> list[tuple[float, int, int]]:
    found = []
    for rows, distance in _distances(unit, group):
        for here, there in zip(*np.nonzero(distance < limit), strict=True):
            one, other = rows.start + int(here), int(there)
            if one < other:
                found.append((float(distance[here, other]), one, other))
    return found
