"""Paired permutation tests of two heads, which swap their predictions by group; Holm's correction."""

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

MIN_SWAPS = 9_999  # minimum number of random swaps
_SWAPS_PER_PAIR = (
    100  # more pairs need smaller p-values, because Holm multiplies the smallest by their number
)
_CHUNK_BYTES = 32 * 1024**2
_MAX_DIRECT = 10**8  # products in a convolution; larger ones use Fourier transforms


def accuracy_swap_test(difference: npt.ArrayLike) -> float:
    """Return the exact p-value of a difference in accuracy.

    Under the null hypothesis, the predictions of the two heads can be swapped in any group, which only
    changes the sign of the group's difference. The distribution of the total over all 2^n swaps is computed
    by convolving one binomial distribution per absolute difference. If no group differs by more than one,
    this is McNemar's exact test.

    Parameters
    ----------
    difference : array-like of shape (n_groups,), int
        Correct predictions of the first head minus those of the second, per group.

    Returns
    -------
    float
        Two-sided p-value.

    References
    ----------
    McNemar, "Note on the sampling error of the difference between correlated proportions", Psychometrika 12,
    1947; Fisher, "The design of experiments", 1935, section 21.
    """
    values = np.asarray(difference, dtype=np.int64)
    sizes, counts = np.unique(np.abs(values[values != 0]), return_counts=True)
    probabilities = np.ones(1)  # probability of each total from -largest to largest
    for size, count in zip(sizes, counts, strict=True):
        steps = np.zeros(2 * size * count + 1)
        steps[:: 2 * size] = binom.pmf(np.arange(count + 1), count, 0.5)
        probabilities = _convolve(probabilities, steps)
    largest = len(probabilities) // 2
    observed = abs(int(values.sum()))
    as_extreme = np.abs(np.arange(-largest, largest + 1)) >= observed
    return min(1.0, float(probabilities[as_extreme].sum()))


def _convolve(a: Float64Array, b: Float64Array) -> Float64Array:
    """Return the convolution. Long arrays use Fourier transforms, with errors of about 1e-15 of the total."""
    if len(a) * len(b) <= _MAX_DIRECT:
        return np.convolve(a, b)
    return np.maximum(fftconvolve(a, b), 0.0)


def kappa_swap_test(
    sums: Sequence[GroupSums], pairs: Sequence[Pair], *, n_swaps: int | None = None, seed: int = 0
) -> Float64Array:
    """Return the p-values of differences in quadratic-weighted kappa, from random swaps by group.

    The true classes are not swapped, so both parts of kappa, the observed and the expected squared distance,
    are sums over groups.

    Parameters
    ----------
    sums : sequence of GroupSums
        One per head, over the same entries and groups. Two or more classes are present.
    pairs : sequence of (int, int)
        Heads to compare, as indices into ``sums``.
    n_swaps : int, optional
        By default 100 per pair, and at least `MIN_SWAPS`.
    seed : int, default=0
        The swaps are the same for all pairs.

    Returns
    -------
    ndarray of shape (n_pairs,)
        Two-sided p-values: (1 + number of swaps with at least the observed difference) / (1 + swaps).

    References
    ----------
    Phipson & Smyth, "Permutation p-values should never be zero", Statistical Applications in Genetics and
    Molecular Biology 9, 2010.
    """
    if not pairs:
        return np.empty(0)
    n = n_swaps or max(MIN_SWAPS, _SWAPS_PER_PAIR * len(pairs) - 1)
    observed, expected = _kappa_parts(sums)  # (n_groups, n_heads)
    a, b = (np.array(heads) for heads in zip(*pairs, strict=True))
    changes = np.concatenate(
        [observed[:, b] - observed[:, a], expected[:, b] - expected[:, a]], axis=1
    )  # (n_groups, 2 * n_pairs)
    totals = [part.sum(axis=0)[heads] for part in (observed, expected) for heads in (a, b)]
    generator = np.random.default_rng(seed)
    n_as_extreme = np.zeros(len(pairs), dtype=np.int64)
    size = max(1, _CHUNK_BYTES // (8 * max(len(observed), 2 * len(pairs))))
    limit = np.abs(_kappa_difference(*totals)) - 1e-10
    for start in range(0, n, size):
        swaps = generator.random((min(size, n - start), len(observed)), dtype=np.float32) < 0.5
        moved = swaps.astype(np.float64) @ changes  # (n_rows, 2 * n_pairs)
        moved_observed, moved_expected = moved[:, : len(pairs)], moved[:, len(pairs) :]
        differences = _kappa_difference(
            totals[0] + moved_observed,
            totals[1] - moved_observed,
            totals[2] + moved_expected,
            totals[3] - moved_expected,
        )
        n_as_extreme += np.sum(np.abs(differences) >= limit, axis=0)
    p: Float64Array = (1 + n_as_extreme) / (1 + n)
    return p


def holm(p: npt.ArrayLike) -> Float64Array:
    """Return p-values corrected for multiple comparisons by Holm's step-down method.

    Parameters
    ----------
    p : array-like of shape (n,), float

    Returns
    -------
    ndarray of shape (n,)
        Reject where the corrected value is at or below the family-wise error rate.

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
    """Return each group's observed and expected sum of squared distances: two arrays (n_groups, n_heads)."""
    squared = grade_distances(len(sums[0].classes)) ** 2
    frequencies = sums[0].confusions.sum(axis=(0, 2)) / sums[0].n_entries  # frequencies of the true classes
    observed = [np.sum(squared * head.confusions, axis=(1, 2)) for head in sums]
    expected = [head.confusions.sum(axis=1) @ (frequencies @ squared) for head in sums]
    return np.column_stack(observed), np.column_stack(expected)


def _kappa_difference(
    observed_a: Float64Array, observed_b: Float64Array, expected_a: Float64Array, expected_b: Float64Array
) -> Float64Array:
    """Return kappa of head a minus kappa of head b."""
    difference: Float64Array = observed_b / expected_b - observed_a / expected_a
    return difference
