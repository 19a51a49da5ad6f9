"""Bootstrap and jackknife over groups.

A resample is a row of group weights. Rows are generated in chunks that fit in memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from scipy.special import ndtr, ndtri, stdtrit

from featurize.base.typing import Float64Array, IntArray

Statistic = Callable[[Float64Array], Mapping[str, Float64Array]]  # rows of weights → metric → value per row

N_RESAMPLES = 2000
CONFIDENCE = 0.95
# With more groups than this, the jackknife leaves out blocks of groups: the acceleration is almost zero then.
JACKKNIFE_BLOCKS = 1000
# With more groups than this, groups are pooled at random, and each pool is resampled or swapped as a whole. A
# sum over many groups has the same standard error either way, and the cost stops growing with their number.
MAX_GROUPS = 50_000
_CHUNK_BYTES = 32 * 1024**2  # size of one array of weights, with a column per group or per entry


def bootstrap(
    statistics: Sequence[Statistic],
    *,
    n_groups: int,
    n_entries: int,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> list[dict[str, Float64Array]]:
    """Return each statistic on resamples of the groups, drawn with replacement.

    All statistics are computed on the same resamples.

    Parameters
    ----------
    statistics : sequence of callable
        Each takes weights (n_rows, n_groups) and returns arrays of shape (n_rows,).
    n_groups, n_entries : int
    n_resamples : int, default=2000
    seed : int, default=0

    Returns
    -------
    list of dict
        One per statistic: metric → ndarray of shape (n_resamples,).
    """
    n_rows = _rows_per_chunk(n_groups, n_entries)
    chunks = _bootstrap_weights(n_groups, n_rows=n_rows, n_resamples=n_resamples, seed=seed)
    return _evaluate_chunks(statistics, chunks)


def jackknife(
    statistics: Sequence[Statistic], *, n_groups: int, n_entries: int
) -> list[dict[str, Float64Array]]:
    """Return each statistic with each group, or each block of groups, left out in turn.

    Returns
    -------
    list of dict
        One per statistic: metric → ndarray of shape (min(n_groups, `JACKKNIFE_BLOCKS`),).

    Raises
    ------
    ValueError
        If there are fewer than two groups.
    """
    if n_groups < 2:
        raise ValueError(f"the jackknife needs two groups or more, got {n_groups}")
    chunks = _jackknife_weights(n_groups, n_rows=_rows_per_chunk(n_groups, n_entries))
    return _evaluate_chunks(statistics, chunks)


def pool_groups(group: IntArray, *, seed: int = 0) -> IntArray:
    """Return the groups (n,), merged at random into `MAX_GROUPS` where there are more than that."""
    names, number = np.unique(group, return_inverse=True)
    if len(names) <= MAX_GROUPS:
        return group
    pool = np.random.default_rng(seed).permutation(len(names)) % MAX_GROUPS
    return pool[number].astype(np.int64)


def bca_interval(
    estimate: float, resampled: Float64Array, left_out: Float64Array, *, level: float = CONFIDENCE
) -> tuple[float, float]:
    """Return the bias-corrected and accelerated (BCa) bootstrap interval, expanded.

    Resamples vary a little less than samples. To correct for that, normal quantiles are replaced by those of
    Student's t, times √(n / (n − 1)), where n is the number of jackknife values.

    Parameters
    ----------
    estimate : float
        Value of the metric on all groups.
    resampled : ndarray of shape (n_resamples,), float
        The metric on bootstrap resamples; all finite.
    left_out : ndarray of shape (n_blocks,), float
        The metric with each group or block left out; all finite.
    level : float, default=0.95

    Returns
    -------
    tuple of float
        Low and high end. Both equal the estimate if no resample differs from it.

    References
    ----------
    Efron, "Better bootstrap confidence intervals", Journal of the American Statistical Association 82, 1987;
    expanded: Hesterberg, "What teachers should know about the bootstrap", The American Statistician 69, 2015.
    """
    tolerance = 1e-12 * max(1.0, abs(estimate))
    ties = np.abs(resampled - estimate) <= tolerance
    below = np.mean(resampled < estimate - tolerance) + np.mean(ties) / 2
    smallest = 0.5 / len(resampled)
    bias = ndtri(np.clip(below, smallest, 1 - smallest))
    deviations = left_out.mean() - left_out
    variation = np.sum(deviations**2)
    acceleration = np.sum(deviations**3) / (6 * variation**1.5) if variation > tolerance**2 else 0.0
    quantile = expanded_quantile(len(left_out), level=level)
    tails = bias + np.array([-quantile, quantile])
    low, high = np.quantile(resampled, ndtr(bias + tails / (1 - acceleration * tails)))
    return float(low), float(high)


def expanded_quantile(n: int, *, level: float = CONFIDENCE) -> float:
    """Return the half-width of an interval over n groups, in standard errors."""
    return float(stdtrit(n - 1, (1 + level) / 2)) * math.sqrt(n / (n - 1))


def studentised_interval(
    estimate: float, error: float, resampled: Float64Array, errors: Float64Array, *, level: float = CONFIDENCE
) -> tuple[float, float]:
    """Return the bootstrap-t interval: each resample's error is divided by its own standard error.

    For means of long-tailed values, where a larger mean comes with a larger standard error.

    Parameters
    ----------
    estimate, error : float
        The metric and its standard error.
    resampled, errors : ndarray of shape (n_resamples,), float
        The same on resamples; all errors above 0.
    level : float, default=0.95

    Returns
    -------
    tuple of float
        Low and high end.

    References
    ----------
    Efron & Tibshirani, "An introduction to the bootstrap", 1993, section 12.5.
    """
    studentised = (resampled - estimate) / errors
    low, high = np.quantile(studentised, [(1 - level) / 2, (1 + level) / 2])
    return float(estimate - high * error), float(estimate - low * error)


def _bootstrap_weights(n_groups: int, *, n_rows: int, n_resamples: int, seed: int) -> Iterator[Float64Array]:
    """Yield how often each group was drawn, (n_rows, n_groups); the draws do not depend on ``n_rows``."""
    generator = np.random.default_rng(seed)
    for start in range(0, n_resamples, n_rows):
        size = min(n_rows, n_resamples - start)
        drawn = generator.integers(n_groups, size=(size, n_groups), dtype=np.int64)
        drawn += n_groups * np.arange(size)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=size * n_groups)
        yield counts.reshape(size, n_groups).astype(np.float64)


def _jackknife_weights(n_groups: int, *, n_rows: int) -> Iterator[Float64Array]:
    n_blocks = min(n_groups, JACKKNIFE_BLOCKS)
    block = np.arange(n_groups) % n_blocks
    for start in range(0, n_blocks, n_rows):
        rows = np.arange(start, min(start + n_rows, n_blocks))
        yield (block != rows[:, None]).astype(np.float64)


def _rows_per_chunk(n_groups: int, n_entries: int) -> int:
    return max(1, _CHUNK_BYTES // (8 * max(n_groups, n_entries)))


def _evaluate_chunks(
    statistics: Sequence[Statistic], chunks: Iterator[Float64Array]
) -> list[dict[str, Float64Array]]:
    """Return each statistic on all rows of weights: one dict per statistic."""
    collected: list[dict[str, list[Float64Array]]] = [{} for _ in statistics]
    for weights in chunks:
        for statistic, values in zip(statistics, collected, strict=True):
            for metric, value in statistic(weights).items():
                values.setdefault(metric, []).append(value)
    return [{metric: np.concatenate(value) for metric, value in values.items()} for values in collected]
