"""Bootstrap and jackknife over groups, as weights, in parts that fit in memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from scipy.special import ndtr, ndtri, stdtrit

from featurize.base.typing import Float64Array, IntArray

Statistic = Callable[[Float64Array], Mapping[str, Float64Array]]  # rows of weights → metric → a value a row

N_RESAMPLES = 2000
LEVEL = 0.95
# More groups than these are left out in blocks: the acceleration is nearly nothing by then.
JACKKNIFE_PARTS = 1000
# More groups than these are drawn and swapped in random parts, each as a whole: the spread of a sum over many
# groups is that of the sum over parts, at a cost that no longer grows with them.
MOST_PARTS = 50_000
_PART_BYTES = 32 * 1024**2  # of one array of weights, or of the entries they are handed on to


def bootstrap(
    statistics: Sequence[Statistic],
    *,
    n_groups: int,
    n_entries: int,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> list[dict[str, Float64Array]]:
    """Return each statistic on resamples of groups, drawn with replacement and equal for all statistics.

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
        One a statistic: metric → ndarray of shape (n_resamples,).
    """
    parts = _draws(n_groups, n_rows=_rows_at_once(n_groups, n_entries), n_resamples=n_resamples, seed=seed)
    return _gathered(statistics, parts)


def jackknife(
    statistics: Sequence[Statistic], *, n_groups: int, n_entries: int
) -> list[dict[str, Float64Array]]:
    """Return each statistic with one group left out after another, or one block of groups.

    Returns
    -------
    list of dict
        One a statistic: metric → ndarray of shape (min(n_groups, `JACKKNIFE_PARTS`),).
    """
    if n_groups < 2:
        raise ValueError(f"{n_groups} group: nothing is left when it is left out")
    parts = _left_out(n_groups, n_rows=_rows_at_once(n_groups, n_entries))
    return _gathered(statistics, parts)


def pooled(group: IntArray, *, seed: int = 0) -> IntArray:
    """Return the groups (n,), as they are or, where they are more than `MOST_PARTS`, as so many parts."""
    names, number = np.unique(group, return_inverse=True)
    if len(names) <= MOST_PARTS:
        return group
    return (np.random.default_rng(seed).permutation(len(names)) % MOST_PARTS)[number].astype(np.int64)


def bca_interval(
    estimate: float, resampled: Float64Array, left_out: Float64Array, *, level: float = LEVEL
) -> tuple[float, float]:
    """Return the bias-corrected and accelerated bootstrap interval, expanded.

    Resamples spread a little less than samples: Student's t, times √(n / (n − 1)) with n the number of parts
    left out, stands in for the normal distribution.

    Parameters
    ----------
    estimate : float
        The figure itself.
    resampled : ndarray of shape (n_resamples,), float
        The figure on resamples; all finite.
    left_out : ndarray of shape (n_parts,), float
        The figure with one part left out; all finite.
    level : float, default=0.95

    Returns
    -------
    tuple of float
        Low and high end; the estimate twice where no resample differs from it.

    References
    ----------
    Efron, "Better bootstrap confidence intervals", Journal of the American Statistical Association 82, 1987;
    expanded: Hesterberg, "What teachers should know about the bootstrap", The American Statistician 69, 2015.
    """
    near = 1e-12 * max(1.0, abs(estimate))
    below = np.mean(resampled < estimate - near) + np.mean(np.abs(resampled - estimate) <= near) / 2
    least = 0.5 / len(resampled)
    shift = ndtri(np.clip(below, least, 1 - least))
    away = left_out.mean() - left_out
    spread = np.sum(away**2)
    bend = np.sum(away**3) / (6 * spread**1.5) if spread > near**2 else 0.0
    reach = expanded_quantile(len(left_out), level=level)
    tails = shift + np.array([-reach, reach])
    low, high = np.quantile(resampled, ndtr(shift + tails / (1 - bend * tails)))
    return float(low), float(high)


def expanded_quantile(n: int, *, level: float = LEVEL) -> float:
    """Return how many standard errors an interval over n groups reaches."""
    return float(stdtrit(n - 1, (1 + level) / 2)) * math.sqrt(n / (n - 1))


def studentised_interval(
    estimate: float, error: float, resampled: Float64Array, errors: Float64Array, *, level: float = LEVEL
) -> tuple[float, float]:
    """Return the bootstrap-t interval: each resample is off by so many of its own standard errors.

    For means with a long tail, where an interval must know that a large error comes with a large mean.

    Parameters
    ----------
    estimate, error : float
        The figure and its standard error.
    resampled, errors : ndarray of shape (n_resamples,), float
        The same on resamples; errors above 0.
    level : float, default=0.95

    References
    ----------
    Efron & Tibshirani, "An introduction to the bootstrap", 1993, section 12.5.
    """
    off = (resampled - estimate) / errors
    low, high = np.quantile(off, [(1 - level) / 2, (1 + level) / 2])
    return float(estimate - high * error), float(estimate - low * error)


def _draws(n_groups: int, *, n_rows: int, n_resamples: int, seed: int) -> Iterator[Float64Array]:
    """Yield how often each group was drawn; what is drawn does not depend on the size of the parts."""
    generator = np.random.default_rng(seed)
    for start in range(0, n_resamples, n_rows):
        size = min(n_rows, n_resamples - start)
        drawn = generator.integers(n_groups, size=(size, n_groups), dtype=np.int64)
        drawn += n_groups * np.arange(size)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=size * n_groups)
        yield counts.reshape(size, n_groups).astype(np.float64)


def _left_out(n_groups: int, *, n_rows: int) -> Iterator[Float64Array]:
    n_parts = min(n_groups, JACKKNIFE_PARTS)
    part = np.arange(n_groups) % n_parts
    for start in range(0, n_parts, n_rows):
        rows = np.arange(start, min(start + n_rows, n_parts))
        yield (part != rows[:, None]).astype(np.float64)


def _rows_at_once(n_groups: int, n_entries: int) -> int:
    return max(1, _PART_BYTES // (8 * max(n_groups, n_entries)))


def _gathered(
    statistics: Sequence[Statistic], parts: Iterator[Float64Array]
) -> list[dict[str, Float64Array]]:
    found: list[dict[str, list[Float64Array]]] = [{} for _ in statistics]
    for weights in parts:
        for statistic, values in zip(statistics, found, strict=True):
            for metric, value in statistic(weights).items():
                values.setdefault(metric, []).append(value)
    return [{metric: np.concatenate(value) for metric, value in values.items()} for values in found]
