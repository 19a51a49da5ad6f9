"""Whether two heads differ: predictions swapped group by group, and Holm's correction for many pairs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.signal import fftconvolve
from scipy.stats import binom

from classify.evaluation.metrics import grade_distances
from classify.evaluation.weighted_metrics import GroupSums
from featurize.base.typing import Float64Array

Pair = tuple[int, int]

N_SWAPS = 9_999  # the least number of random swaps
_SWAPS_A_PAIR = 100  # more pairs need smaller p: Holm multiplies the smallest by their number
_PART_BYTES = 32 * 1024**2
_DIRECT = 10**8  # products up to which a convolution is a sum of products


def accuracy_swap_test(difference: npt.ArrayLike) -> float:
    """Return the exact p of a difference in accuracy: how likely swaps group by group are to bring as much.

    Under the null hypothesis the two heads could be exchanged in any group, which changes the sign of the
    group's difference and nothing else. The distribution of the sum over all 2^n swaps is the convolution of
    those of groups with one absolute difference: McNemar's exact test where no group differs by more than
    one.

    Parameters
    ----------
    difference : array-like of shape (n_groups,), int
        Right answers of the one head minus those of the other, in each group.

    Returns
    -------
    float
        Two-sided.

    References
    ----------
    McNemar, "Note on the sampling error of the difference between correlated proportions", Psychometrika 12,
    1947; Fisher, "The design of experiments", 1935, section 21.
    """
    values = np.asarray(difference, dtype=np.int64)
    sizes, counts = np.unique(np.abs(values[values != 0]), return_counts=True)
    chances = np.ones(1)  # of the sums -reach, -reach + 1, …, reach
    for size, count in zip(sizes, counts, strict=True):
        steps = np.zeros(2 * size * count + 1)
        steps[:: 2 * size] = binom.pmf(np.arange(count + 1), count, 0.5)
        chances = _convolved(chances, steps)
    reach = len(chances) // 2
    seen = abs(int(values.sum()))
    far = np.abs(np.arange(-reach, reach + 1)) >= seen
    return min(1.0, float(chances[far].sum()))


def _convolved(one: Float64Array, other: Float64Array) -> Float64Array:
    """Return the convolution; of long ones by Fourier transforms, which round to 1e-15 of the whole."""
    if len(one) * len(other) <= _DIRECT:
        return np.convolve(one, other)
    return np.maximum(fftconvolve(one, other), 0.0)


def kappa_swap_test(
    sums: Sequence[GroupSums], pairs: Sequence[Pair], *, n_swaps: int | None = None, seed: int = 0
) -> Float64Array:
    """Return the p of differences in quadratic-weighted kappa, from random swaps group by group.

    Labels stay where they are, so both parts of kappa, distances seen and expected, are sums over groups.

    Parameters
    ----------
    sums : sequence of GroupSums
        One a head, over the same entries and groups, of which two classes or more are present.
    pairs : sequence of (int, int)
    n_swaps : int, optional
        By default as many as the number of pairs calls for, `N_SWAPS` at least.
    seed : int, default=0
        The swaps are the same for all pairs.

    Returns
    -------
    ndarray of shape (n_pairs,)
        Two-sided: (1 + swaps that bring as much) / (1 + swaps).

    References
    ----------
    Phipson & Smyth, "Permutation p-values should never be zero", Statistical Applications in Genetics and
    Molecular Biology 9, 2010.
    """
    if not pairs:
        return np.empty(0)
    n = n_swaps or max(N_SWAPS, _SWAPS_A_PAIR * len(pairs) - 1)
    seen, expected = _kappa_parts(sums)  # (n_groups, n_heads)
    one, other = (np.array(side) for side in zip(*pairs, strict=True))
    changes = np.concatenate([seen[:, other] - seen[:, one], expected[:, other] - expected[:, one]], axis=1)
    starts = [part.sum(axis=0)[side] for part in (seen, expected) for side in (one, other)]
    generator = np.random.default_rng(seed)
    as_far = np.zeros(len(pairs), dtype=np.int64)
    size = max(1, _PART_BYTES // (8 * max(len(seen), 2 * len(pairs))))
    limit = np.abs(_kappa_gap(*starts)) - 1e-10
    for start in range(0, n, size):
        swaps = generator.random((min(size, n - start), len(seen)), dtype=np.float32) < 0.5
        moved = swaps.astype(np.float64) @ changes  # (n_rows, 2 * n_pairs)
        of_seen, of_expected = moved[:, : len(pairs)], moved[:, len(pairs) :]
        gaps = _kappa_gap(
            starts[0] + of_seen, starts[1] - of_seen, starts[2] + of_expected, starts[3] - of_expected
        )
        as_far += np.sum(np.abs(gaps) >= limit, axis=0)
    p: Float64Array = (1 + as_far) / (1 + n)
    return p


def holm(p: npt.ArrayLike) -> Float64Array:
    """Return p-values corrected for their number, by Holm's steps.

    Parameters
    ----------
    p : array-like of shape (n,), float

    Returns
    -------
    ndarray of shape (n,)
        At or below a level where a family-wise error rate of that level allows to reject.

    References
    ----------
    Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6,
    1979.
    """
    values = np.asarray(p, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    corrected = np.empty(len(values))
    corrected[order] = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    return np.minimum(corrected, 1.0)


def _kappa_parts(sums: Sequence[GroupSums]) -> tuple[Float64Array, Float64Array]:
    """Return the squared distances seen, and expected by chance, that each group adds for each head."""
    squared = grade_distances(len(sums[0].classes)) ** 2
    shares = sums[0].confusions.sum(axis=(0, 2)) / sums[0].n_entries  # of the true classes
    seen = [np.sum(squared * one.confusions, axis=(1, 2)) for one in sums]
    expected = [one.confusions.sum(axis=1) @ (shares @ squared) for one in sums]
    return np.column_stack(seen), np.column_stack(expected)


def _kappa_gap(
    seen: Float64Array, seen_other: Float64Array, expected: Float64Array, expected_other: Float64Array
) -> Float64Array:
    gap: Float64Array = seen_other / expected_other - seen / expected
    return gap
