"""A 95 % interval for every metric of one head: which method serves which, and what cannot be said."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import chi2, norm, t

from classify.evaluation.bootstrap import (
    LEVEL,
    N_RESAMPLES,
    Statistic,
    bca_interval,
    bootstrap,
    jackknife,
    studentised_interval,
)
from classify.evaluation.weighted_metrics import GroupSums, log_loss_error, weighted_gaps, weighted_metrics
from featurize.base.typing import Float64Array

FEW_GROUPS = 30  # an interval that rests on fewer is approximate
_MOST_UNDEFINED = 0.05  # share of the resamples that may leave a metric undefined
# What resamples yield beside metrics.
_GAPS, _ERROR = "gaps", "standard error of log_loss"


def head_intervals(
    sums: Sequence[GroupSums], *, nested: bool = False, n_resamples: int = N_RESAMPLES, seed: int = 0
) -> list[dict[str, dict[str, Any]]]:
    """Return the interval of every metric of every head.

    Shares of entries (accuracy, share off by two, precision, recall and error of a class) have Wilson's, for
    as many entries as they are worth where groups hold several; the calibration error has its own, the log
    loss, whose tail is long, the bootstrap-t; all else BCa over groups.

    Parameters
    ----------
    sums : sequence of GroupSums
        One a head, over the same entries and groups.
    nested : bool, default=False
        Whether the figures are those of a nested cross-validation: then all intervals are approximate.
    n_resamples : int, default=2000
    seed : int, default=0

    Returns
    -------
    list of dict
        One a head: metric → ``low`` and ``high`` (None where there is no interval), ``method``, ``n_groups``
        (those that the metric rests on), ``approximate`` (bool), and ``why`` it is that or there is none
        ("" otherwise). Metrics of a class are named ``"recall of NAME"``.
    """
    n_groups, n_entries = sums[0].n_groups, sums[0].n_entries
    statistics = [_statistic(one) for one in sums]
    resampled = bootstrap(
        statistics, n_groups=n_groups, n_entries=n_entries, n_resamples=n_resamples, seed=seed
    )
    left_out: Sequence[Mapping[str, Float64Array]] = [{} for _ in sums]
    if n_groups > 1:
        left_out = jackknife(statistics, n_groups=n_groups, n_entries=n_entries)
    found = []
    for one, draws, parts in zip(sums, resampled, left_out, strict=True):
        estimates = weighted_metrics(one, np.ones((1, n_groups)))
        found.append(
            {
                metric: _interval(one, metric, float(value[0]), draws, parts, nested=nested)
                for metric, value in estimates.items()
            }
        )
    return found


def _statistic(sums: GroupSums) -> Statistic:
    return lambda weights: {
        **weighted_metrics(sums, weights),
        _GAPS: weighted_gaps(sums, weights),
        _ERROR: log_loss_error(sums, weights),
    }


def _interval(
    sums: GroupSums,
    metric: str,
    estimate: float,
    draws: Mapping[str, Float64Array],
    parts: Mapping[str, Float64Array],
    *,
    nested: bool,
) -> dict[str, Any]:
    share = _share_by_group(sums, metric)
    n_groups = _n_groups(sums, metric, share)
    whys = []
    if nested:
        whys.append("nested cross-validation: the heads of two folds share training images")
    if n_groups < FEW_GROUPS:
        whys.append(f"fewer than {FEW_GROUPS} groups")
    if np.isnan(estimate):
        ends, method, reason = None, "none", "the metric is undefined"
    elif share is not None:
        ends, method, reason = *_of_share(estimate, *share), ""
    elif n_groups < 2:
        ends, method, reason = None, "none", "there is one group only"
    elif metric == "calibration_error":
        ones = np.ones((1, sums.n_groups))
        ends = calibration_interval(weighted_gaps(sums, ones)[0], draws[_GAPS], sums.filled)
        method, reason = "test inversion", ""
    else:
        ends, reason = _of_resamples(estimate, draws[metric], parts[metric])
        method = "bca" if ends else "none"
        if metric == "log_loss" and ends and draws[_ERROR].min() > 0:
            error = float(log_loss_error(sums, np.ones((1, sums.n_groups)))[0])
            low, high = studentised_interval(estimate, error, draws[metric], draws[_ERROR])
            ends, method = (max(0.0, low), high), "studentised"
    return {
        "low": ends[0] if ends else None,
        "high": ends[1] if ends else None,
        "method": method,
        "n_groups": n_groups,
        "approximate": bool(ends and whys),
        "why": reason or "; ".join(whys),
    }


def _share_by_group(sums: GroupSums, metric: str) -> tuple[Float64Array, Float64Array] | None:
    """Return the entries of each group that a share counts and those it is a share of; None for others."""
    kind, _, name = metric.partition(" of ")
    counts = sums.confusions
    if kind == "accuracy":
        return np.trace(counts, axis1=1, axis2=2), counts.sum(axis=(1, 2))
    if kind == "off_by_two":
        grade = np.arange(len(sums.classes))
        far = np.abs(grade[:, None] - grade) >= 2
        return counts[:, far].sum(axis=1), counts.sum(axis=(1, 2))
    if kind not in ("precision", "recall", "error"):
        return None
    k = sums.classes.index(name)
    right, whole = (
        counts[:, k, k],
        counts[:, :, k].sum(axis=1) if kind == "precision" else counts[:, k].sum(axis=1),
    )
    return (whole - right if kind == "error" else right), whole


def _of_share(estimate: float, part: Float64Array, whole: Float64Array) -> tuple[tuple[float, float], str]:
    if whole.max() <= 1:
        return wilson_interval(estimate, float(whole.sum())), "wilson"
    return wilson_interval(estimate, effective_n(part, whole)), "wilson, effective n"


def _of_resamples(
    estimate: float, draws: Float64Array, parts: Float64Array
) -> tuple[tuple[float, float] | None, str]:
    undefined = np.isnan(draws)
    if undefined.mean() > _MOST_UNDEFINED:
        return None, f"undefined in {undefined.mean():.0%} of the resamples: too few entries of a class"
    kept, parts = draws[~undefined], parts[~np.isnan(parts)]
    if np.ptp(kept) <= 1e-12 * max(1.0, abs(estimate)) or not len(parts):
        return None, "the same in every resample: there is nothing to see how far it may be off"
    return bca_interval(estimate, kept, parts), ""


def _n_groups(sums: GroupSums, metric: str, share: tuple[Float64Array, Float64Array] | None) -> int:
    """Return how many groups bear on a metric: those of its class alone, where it is of a class."""
    if share is not None:
        return int((share[1] > 0).sum())
    kind, _, name = metric.partition(" of ")
    if kind != "f1":
        return sums.n_groups
    k = sums.classes.index(name)
    return int((sums.confusions[:, k].sum(axis=1) + sums.confusions[:, :, k].sum(axis=1) > 0).sum())


_FEW = 3.5  # entries; whole ones up to three, and what lies about as near where they are not whole


def wilson_interval(share: float, n: float, *, level: float = LEVEL) -> tuple[float, float]:
    """Return Wilson's score interval of a share, with a further end where it counts three entries or fewer.

    There Wilson's near end is too close to the figure: with one in 180 it would leave out a truth of one in a
    thousand. As proposed by Brown, Cai and DasGupta it is Poisson's then.

    Parameters
    ----------
    share : float
        Between 0 and 1.
    n : float
        Entries that it is a share of; above 0, and whole only where they are independent.
    level : float, default=0.95

    References
    ----------
    Wilson, "Probable inference, the law of succession, and statistical inference", Journal of the American
    Statistical Association 22, 1927; Brown, Cai & DasGupta, "Interval estimation for a binomial proportion",
    Statistical Science 16, 2001, section 4.1.1.
    """
    z = float(norm.ppf((1 + level) / 2))
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    reach = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    low, high = centre - reach, centre + reach
    few, lacking = share * n, (1 - share) * n
    if 0 < few <= _FEW:
        low = min(low, float(chi2.ppf(1 - level, 2 * few)) / 2 / n)
    if 0 < lacking <= _FEW:
        high = max(high, 1 - float(chi2.ppf(1 - level, 2 * lacking)) / 2 / n)
    # At the ends of the scale rounding must not leave the figure outside its interval.
    return max(0.0, min(share, low)), min(1.0, max(share, high))


def effective_n(part: Float64Array, whole: Float64Array, *, level: float = LEVEL) -> float:
    """Return how many independent entries a share over groups is worth.

    The variance of the share from group to group (linearised, as of a ratio) is held against that of
    independent entries; few groups pay for their degrees of freedom with the quantile of Student's t. Where
    all groups are right, or all are wrong, nothing can be measured: then each group counts as one entry.

    Parameters
    ----------
    part, whole : ndarray of shape (n_groups,), float
        Entries of a group that the share counts, and all it is a share of; sums above 0.

    Returns
    -------
    float
        At most the number of entries.

    References
    ----------
    Korn & Graubard, "Confidence intervals for proportions with small expected number of positive counts
    estimated from survey data", Survey Methodology 24, 1998; with Wilson's in place of the exact interval:
    Franco, Little, Louis & Slud, Journal of Survey Statistics and Methodology 7, 2019.
    """
    there = whole > 0
    n_groups, n = int(there.sum()), float(whole.sum())
    share = float(part.sum() / n)
    residuals = (part - share * whole)[there]
    variance = float(np.sum(residuals**2)) / n**2
    if n_groups < 2 or share in (0.0, 1.0) or variance == 0:
        return float(n_groups)
    variance *= n_groups / (n_groups - 1)
    tail = (1 + level) / 2
    freedom = float(norm.ppf(tail) / t.ppf(tail, n_groups - 1)) ** 2
    return min(n, share * (1 - share) / variance * freedom)


_MOST = 8.0  # times the gaps that were seen: no interval reaches further
_STEPS = 40  # halvings on the way to an end


def calibration_interval(
    gaps: Float64Array, resampled: Float64Array, filled: Float64Array, *, level: float = LEVEL
) -> tuple[float, float]:
    """Return the interval of a sum of absolute gaps, by inverting tests.

    The sum of absolute values of noisy gaps is above that of the true gaps, by far where these are near zero,
    and so are bootstrap intervals of it. Instead, true gaps are supposed to be t times those seen, for each
    t from 0 on, with the noise that resampling shows; the interval holds the sums of those with which the sum
    that was seen is neither too large nor too small. 0 is in it where perfect calibration would do. How much
    noise adds depends on how true gaps are spread over the bins, and those seen are spread unevenly by noise
    too: for the high end they are also drawn half-way to an equal gap in every bin, and the higher one holds.

    Parameters
    ----------
    gaps : ndarray of shape (n_bins,), float
        Right answers minus confidence in each bin, as a share of all entries.
    resampled : ndarray of shape (n_resamples, n_bins), float
        The same on resamples.
    filled : ndarray of shape (n_bins,), float
        Share of all entries in each bin.
    level : float, default=0.95

    Returns
    -------
    tuple of float

    References
    ----------
    Carpenter, "Test inversion bootstrap confidence intervals", Journal of the Royal Statistical Society B 61,
    1999; why plain resampling fails here: Sun, Chaudhari, Barnett & Dobriban, arXiv:2408.08998.
    """
    seen = float(np.abs(gaps).sum())
    tail = (1 - level) / 2
    even = np.where(gaps < 0, -1.0, 1.0) * (np.abs(gaps) + seen * filled) / 2
    low = _supposed(gaps, resampled - gaps, seen=seen, share=tail)
    high = max(_supposed(shape, resampled - gaps, seen=seen, share=1 - tail) for shape in (gaps, even))
    return low * seen, high * seen


def _supposed(shape: Float64Array, noise: Float64Array, *, seen: float, share: float) -> float:
    """Return how many times true gaps would be `shape` for that share of sums to be as large as that seen."""

    def above(times: float) -> float:
        return float(np.mean(np.abs(times * shape + noise).sum(axis=1) >= seen))

    if above(0.0) > share:
        return 0.0
    low, high = 0.0, _MOST
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if above(middle) > share else (middle, high)
    return (low + high) / 2
