"""A 95 % interval for every metric of one head: which method serves which, and what cannot be said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from classify.significance.calibration_interval import calibration_interval
from classify.significance.proportions import effective_n, wilson_interval
from classify.significance.resampling import (
    N_RESAMPLES,
    Statistic,
    bca_interval,
    bootstrap,
    jackknife,
    studentised_interval,
)
from classify.significance.weighted import Sums, log_loss_error, weighted_gaps, weighted_metrics

FloatArray = npt.NDArray[np.float64]

FEW_GROUPS = 30  # an interval that rests on fewer is approximate
_MOST_UNDEFINED = 0.05  # share of the resamples that may leave a metric undefined
# What resamples yield beside metrics.
_GAPS, _ERROR = "gaps", "standard error of log_loss"


def head_intervals(
    sums: Sequence[Sums], *, nested: bool = False, n_resamples: int = N_RESAMPLES, seed: int = 0
) -> list[dict[str, dict[str, Any]]]:
    """Return the interval of every metric of every head.

    Shares of entries (accuracy, share off by two, precision, recall and error of a class) have Wilson's, for
    as many entries as they are worth where groups hold several; the calibration error has its own, the log
    loss, whose tail is long, the bootstrap-t; all else BCa over groups.

    Parameters
    ----------
    sums : sequence of Sums
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
    left_out: Sequence[Mapping[str, FloatArray]] = [{} for _ in sums]
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


def _statistic(sums: Sums) -> Statistic:
    return lambda weights: {
        **weighted_metrics(sums, weights),
        _GAPS: weighted_gaps(sums, weights),
        _ERROR: log_loss_error(sums, weights),
    }


def _interval(
    sums: Sums,
    metric: str,
    estimate: float,
    draws: Mapping[str, FloatArray],
    parts: Mapping[str, FloatArray],
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


def _share_by_group(sums: Sums, metric: str) -> tuple[FloatArray, FloatArray] | None:
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


def _of_share(estimate: float, part: FloatArray, whole: FloatArray) -> tuple[tuple[float, float], str]:
    if whole.max() <= 1:
        return wilson_interval(estimate, float(whole.sum())), "wilson"
    return wilson_interval(estimate, effective_n(part, whole)), "wilson, effective n"


def _of_resamples(
    estimate: float, draws: FloatArray, parts: FloatArray
) -> tuple[tuple[float, float] | None, str]:
    undefined = np.isnan(draws)
    if undefined.mean() > _MOST_UNDEFINED:
        return None, f"undefined in {undefined.mean():.0%} of the resamples: too few entries of a class"
    kept, parts = draws[~undefined], parts[~np.isnan(parts)]
    if np.ptp(kept) <= 1e-12 * max(1.0, abs(estimate)) or not len(parts):
        return None, "the same in every resample: there is nothing to see how far it may be off"
    return bca_interval(estimate, kept, parts), ""


def _n_groups(sums: Sums, metric: str, share: tuple[FloatArray, FloatArray] | None) -> int:
    """Return how many groups bear on a metric: those of its class alone, where it is of a class."""
    if share is not None:
        return int((share[1] > 0).sum())
    kind, _, name = metric.partition(" of ")
    if kind != "f1":
        return sums.n_groups
    k = sums.classes.index(name)
    return int((sums.confusions[:, k].sum(axis=1) + sums.confusions[:, :, k].sum(axis=1) > 0).sum())
