"""95 % confidence intervals of every metric of a head: Wilson, test inversion, bootstrap-t or BCa."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import chi2, norm, t

from classify.evaluation.bootstrap import (
    CONFIDENCE,
    N_RESAMPLES,
    Statistic,
    bca_interval,
    bootstrap,
    jackknife,
    studentised_interval,
)
from classify.evaluation.weighted_metrics import (
    GroupSums,
    log_loss_standard_error,
    weighted_gaps,
    weighted_metrics,
)
from featurize.base.typing import Float64Array

FEW_GROUPS = 30  # an interval from fewer groups is approximate
_MAX_UNDEFINED = 0.05  # fraction of resamples on which a metric may be undefined
# Further values that are resampled along with the metrics.
_GAPS, _ERROR = "gaps", "standard error of log_loss"


def head_intervals(
    sums: Sequence[GroupSums], *, nested: bool = False, n_resamples: int = N_RESAMPLES, seed: int = 0
) -> list[dict[str, dict[str, Any]]]:
    """Return the interval of every metric of every head.

    Proportions (accuracy, proportion off by two, precision, recall and error of a class) have Wilson's
    interval, with an effective number of entries where groups hold several. The calibration error has an
    interval by test inversion, and the log loss, which is long-tailed, a bootstrap-t interval. All other
    metrics have a BCa bootstrap interval over groups.

    Parameters
    ----------
    sums : sequence of GroupSums
        One per head, over the same entries and groups.
    nested : bool, default=False
        Whether the predictions come from a nested cross-validation. All intervals are approximate then.
    n_resamples : int, default=2000
    seed : int, default=0

    Returns
    -------
    list of dict
        One per head: metric → ``low`` and ``high`` (None if there is no interval), ``method``, ``n_groups``
        (the groups that the metric depends on), ``approximate`` (bool) and ``why``: the reason why the
        interval is approximate or missing, else "". Metrics of a class are named ``"recall of NAME"``.
    """
    n_groups, n_entries = sums[0].n_groups, sums[0].n_entries
    statistics = [_statistic(head_sums) for head_sums in sums]
    resampled = bootstrap(
        statistics, n_groups=n_groups, n_entries=n_entries, n_resamples=n_resamples, seed=seed
    )
    left_out: Sequence[Mapping[str, Float64Array]] = [{} for _ in sums]
    if n_groups > 1:
        left_out = jackknife(statistics, n_groups=n_groups, n_entries=n_entries)
    intervals = []
    for head_sums, head_resampled, head_left_out in zip(sums, resampled, left_out, strict=True):
        estimates = weighted_metrics(head_sums, np.ones((1, n_groups)))
        intervals.append(
            {
                metric: _interval(
                    head_sums, metric, float(value[0]), head_resampled, head_left_out, nested=nested
                )
                for metric, value in estimates.items()
            }
        )
    return intervals


def _statistic(sums: GroupSums) -> Statistic:
    return lambda weights: {
        **weighted_metrics(sums, weights),
        _GAPS: weighted_gaps(sums, weights),
        _ERROR: log_loss_standard_error(sums, weights),
    }


def _interval(
    sums: GroupSums,
    metric: str,
    estimate: float,
    resampled: Mapping[str, Float64Array],
    left_out: Mapping[str, Float64Array],
    *,
    nested: bool,
) -> dict[str, Any]:
    counts = _counts_by_group(sums, metric)
    n_groups = _n_groups(sums, metric, counts)
    cautions = []
    if nested:
        cautions.append("nested cross-validation: the heads of two folds share training images")
    if n_groups < FEW_GROUPS:
        cautions.append(f"fewer than {FEW_GROUPS} groups")
    if np.isnan(estimate):
        ends, method, reason = None, "none", "the metric is undefined"
    elif counts is not None:
        ends, method, reason = *_proportion_interval(estimate, *counts), ""
    elif n_groups < 2:
        ends, method, reason = None, "none", "there is only one group"
    elif metric == "calibration_error":
        ones = np.ones((1, sums.n_groups))
        ends = calibration_interval(weighted_gaps(sums, ones)[0], resampled[_GAPS], sums.bin_fractions)
        method, reason = "test inversion", ""
    else:
        ends, reason = _bootstrap_interval(estimate, resampled[metric], left_out[metric])
        method = "bca" if ends else "none"
        if metric == "log_loss" and ends and resampled[_ERROR].min() > 0:
            error = float(log_loss_standard_error(sums, np.ones((1, sums.n_groups)))[0])
            low, high = studentised_interval(estimate, error, resampled[metric], resampled[_ERROR])
            ends, method = (max(0.0, low), high), "studentised"
    return {
        "low": ends[0] if ends else None,
        "high": ends[1] if ends else None,
        "method": method,
        "n_groups": n_groups,
        "approximate": bool(ends and cautions),
        "why": reason or "; ".join(cautions),
    }


def _counts_by_group(sums: GroupSums, metric: str) -> tuple[Float64Array, Float64Array] | None:
    """Return the numerator and denominator of a proportion in each group, or None for other metrics."""
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
    correct = counts[:, k, k]
    total = counts[:, :, k].sum(axis=1) if kind == "precision" else counts[:, k].sum(axis=1)
    return (total - correct if kind == "error" else correct), total


def _proportion_interval(
    estimate: float, part: Float64Array, total: Float64Array
) -> tuple[tuple[float, float], str]:
    if total.max() <= 1:
        return wilson_interval(estimate, float(total.sum())), "wilson"
    return wilson_interval(estimate, effective_n(part, total)), "wilson, effective n"


def _bootstrap_interval(
    estimate: float, resampled: Float64Array, left_out: Float64Array
) -> tuple[tuple[float, float] | None, str]:
    undefined = np.isnan(resampled)
    if undefined.mean() > _MAX_UNDEFINED:
        return None, f"undefined in {undefined.mean():.0%} of the resamples: too few entries of a class"
    resampled, left_out = resampled[~undefined], left_out[~np.isnan(left_out)]
    if np.ptp(resampled) <= 1e-12 * max(1.0, abs(estimate)) or not len(left_out):
        return None, "all resamples have the same value, so its uncertainty cannot be estimated"
    return bca_interval(estimate, resampled, left_out), ""


def _n_groups(sums: GroupSums, metric: str, counts: tuple[Float64Array, Float64Array] | None) -> int:
    """Return how many groups a metric depends on; for a metric of one class, the groups of that class."""
    if counts is not None:
        return int((counts[1] > 0).sum())
    kind, _, name = metric.partition(" of ")
    if kind != "f1":
        return sums.n_groups
    k = sums.classes.index(name)
    return int((sums.confusions[:, k].sum(axis=1) + sums.confusions[:, :, k].sum(axis=1) > 0).sum())


_MAX_POISSON_COUNT = 3.5  # entries: three, with a margin because an effective count is not an integer


def wilson_interval(proportion: float, n: float, *, level: float = CONFIDENCE) -> tuple[float, float]:
    """Return Wilson's score interval of a proportion, widened for counts of three or fewer.

    For such counts Wilson's nearer end is too close to the estimate: one in 180 would exclude a true value of
    one in a thousand. That end is replaced by the Poisson limit, as Brown, Cai and DasGupta propose. The same
    holds for counts of ``n`` minus three or more, at the other end.

    Parameters
    ----------
    proportion : float
        Between 0 and 1.
    n : float
        Number of entries; above 0. Not an integer where it is an effective number.
    level : float, default=0.95

    Returns
    -------
    tuple of float
        Low and high end, both in [0, 1].

    References
    ----------
    Wilson, "Probable inference, the law of succession, and statistical inference", Journal of the American
    Statistical Association 22, 1927; Brown, Cai & DasGupta, "Interval estimation for a binomial proportion",
    Statistical Science 16, 2001, section 4.1.1.
    """
    z = float(norm.ppf((1 + level) / 2))
    centre = (proportion + z**2 / (2 * n)) / (1 + z**2 / n)
    half_width = z / (1 + z**2 / n) * math.sqrt(proportion * (1 - proportion) / n + z**2 / (4 * n**2))
    low, high = centre - half_width, centre + half_width
    hits, misses = proportion * n, (1 - proportion) * n
    if 0 < hits <= _MAX_POISSON_COUNT:
        low = min(low, float(chi2.ppf(1 - level, 2 * hits)) / 2 / n)
    if 0 < misses <= _MAX_POISSON_COUNT:
        high = max(high, 1 - float(chi2.ppf(1 - level, 2 * misses)) / 2 / n)
    # Near 0 and 1, rounding must not put the estimate outside its interval.
    return max(0.0, min(proportion, low)), min(1.0, max(proportion, high))


def effective_n(part: Float64Array, total: Float64Array, *, level: float = CONFIDENCE) -> float:
    """Return the effective number of independent entries of a proportion over groups.

    It is the number of independent entries that would have the same variance as the proportion over groups,
    which is estimated by linearising the ratio. With few groups, it is reduced by the ratio of the normal to
    the Student t quantile, for their degrees of freedom. If all entries are hits, or all are misses, there is
    no variance to estimate: then each group counts as one entry.

    Parameters
    ----------
    part, total : ndarray of shape (n_groups,), float
        Numerator and denominator of the proportion in each group; both sums above 0.

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
    present = total > 0
    n_groups, n = int(present.sum()), float(total.sum())
    proportion = float(part.sum() / n)
    residuals = (part - proportion * total)[present]
    variance = float(np.sum(residuals**2)) / n**2
    if n_groups < 2 or proportion in (0.0, 1.0) or variance == 0:
        return float(n_groups)
    variance *= n_groups / (n_groups - 1)
    tail = (1 + level) / 2
    correction = float(norm.ppf(tail) / t.ppf(tail, n_groups - 1)) ** 2
    return min(n, proportion * (1 - proportion) / variance * correction)


_MAX_MULTIPLE = 8.0  # upper limit of an interval, as a multiple of the observed gaps
_N_BISECTIONS = 40


def calibration_interval(
    gaps: Float64Array, resampled: Float64Array, bin_fractions: Float64Array, *, level: float = CONFIDENCE
) -> tuple[float, float]:
    """Return the interval of the expected calibration error, by test inversion.

    Noise inflates a sum of absolute gaps, most of all where the true gaps are near zero, and bootstrap
    intervals of it are too high for the same reason. Instead, the true gaps are assumed to be t times the
    observed ones, with the noise of the resamples added. The interval holds the error of every t ≥ 0 for
    which the observed error is neither improbably large nor improbably small; it starts at 0 where the
    predictions may be perfectly calibrated. The effect of noise depends on how the true gaps are spread over
    the bins, and noise also makes the observed ones uneven. The high end is therefore computed a second time
    from gaps that are moved half-way to an equal gap in every bin, and the larger value is returned.

    Parameters
    ----------
    gaps : ndarray of shape (n_bins,), float
        Correct predictions minus confidence in each bin, divided by the number of entries.
    resampled : ndarray of shape (n_resamples, n_bins), float
        The same on resamples.
    bin_fractions : ndarray of shape (n_bins,), float
        Fraction of the entries in each bin.
    level : float, default=0.95

    Returns
    -------
    tuple of float
        Low and high end.

    References
    ----------
    Carpenter, "Test inversion bootstrap confidence intervals", Journal of the Royal Statistical Society B 61,
    1999; why plain resampling fails here: Sun, Chaudhari, Barnett & Dobriban, arXiv:2408.08998.
    """
    observed = float(np.abs(gaps).sum())
    noise = resampled - gaps
    tail = (1 - level) / 2
    evened = np.where(gaps < 0, -1.0, 1.0) * (np.abs(gaps) + observed * bin_fractions) / 2
    low = _multiple_with_p(tail, gaps, noise, observed=observed)
    high = max(_multiple_with_p(1 - tail, shape, noise, observed=observed) for shape in (gaps, evened))
    return low * observed, high * observed


def _multiple_with_p(p: float, gaps: Float64Array, noise: Float64Array, *, observed: float) -> float:
    """Return t such that a fraction ``p`` of the errors of ``t * gaps + noise`` is at least ``observed``."""

    def p_value(multiple: float) -> float:
        return float(np.mean(np.abs(multiple * gaps + noise).sum(axis=1) >= observed))

    if p_value(0.0) > p:
        return 0.0
    low, high = 0.0, _MAX_MULTIPLE
    for _ in range(_N_BISECTIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if p_value(middle) > p else (middle, high)
    return (low + high) / 2
