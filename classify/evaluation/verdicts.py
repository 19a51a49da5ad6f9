"""Verdicts on pairs of heads: paired tests and intervals of the difference in one predefined metric."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from scipy.special import ndtri

from classify.evaluation.bootstrap import N_RESAMPLES, bca_interval, bootstrap, jackknife
from classify.evaluation.paired_tests import accuracy_swap_test, holm, kappa_swap_test
from classify.evaluation.weighted_metrics import GroupSums, confusion_metrics
from featurize.base.typing import Float64Array

LEVEL = 0.05  # family-wise error rate over all pairs
POWER = 0.8
BETTER = "better"
NO_DIFFERENCE = "no detectable difference"
NOT_ESTIMABLE = "not estimable: the interval of the difference contains zero"
_DETECTED = "the difference is already detectable"


def primary_metric(*, ordinal: bool) -> str:
    """Return the metric that verdicts are based on. It depends on the classes only, never on results."""
    return "quadratic_kappa" if ordinal else "accuracy"


def make_verdicts(
    names: Sequence[Mapping[str, str]],
    sums: Sequence[GroupSums],
    *,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Return a verdict on every pair of heads, Holm-corrected over all pairs.

    Parameters
    ----------
    names : sequence of mapping
        ``store`` and ``head`` of each head.
    sums : sequence of GroupSums
        One per head, over the same entries and groups.
    n_resamples : int, default=2000
        Bootstrap resamples for the intervals of the differences.
    seed : int, default=0

    Returns
    -------
    list of dict
        One per pair; empty if there is no pair or if the metric is undefined.

        - ``a``: the head with the higher metric, or the first of two equal ones; ``b``: the other head.
        - ``metric``, ``difference`` (a − b), its ``low`` and ``high`` end (95 %; None if all resamples have
          the same value), ``p`` and ``p_holm``.
        - ``verdict``: "better" (a is better than b) or "no detectable difference".
        - ``more_images``: the minimum and maximum number of additional test entries with which the difference
          would be detected with a power of 80 %. The minimum assumes that the true difference is the high end
          of the interval, the maximum that it is the low end. None if not applicable; ``why`` has the reason.
    """
    if len(sums) < 2 or (sums[0].ordinal and np.count_nonzero(sums[0].confusions.sum(axis=(0, 2))) < 2):
        return []
    metric = primary_metric(ordinal=sums[0].ordinal)
    ones = np.ones((1, sums[0].n_groups))
    values = np.array([confusion_metrics(head_sums, ones)[metric][0] for head_sums in sums])
    pairs = [(i, j) if values[i] >= values[j] else (j, i) for i, j in combinations(range(len(sums)), 2)]
    p = _p_values(sums, pairs, seed=seed)
    corrected = holm(p)
    steps = np.empty(len(pairs), dtype=np.int64)
    steps[np.argsort(p, kind="stable")] = np.arange(len(pairs), 0, -1)
    resampled, left_out = _resample_metric(sums, metric, n_resamples=n_resamples, seed=seed)
    verdicts = []
    for k, (i, j) in enumerate(pairs):
        difference = float(values[i] - values[j])
        ends, error = _difference_interval(difference, resampled[i] - resampled[j], left_out[i] - left_out[j])
        better = bool(corrected[k] <= LEVEL and difference > 0)
        more = None
        if not better and ends is not None and ends[0] > 0:
            more = _more_entries(ends, error, n=sums[0].n_entries, level=LEVEL / int(steps[k]))
        verdicts.append(
            {
                "a": dict(names[i]),
                "b": dict(names[j]),
                "metric": metric,
                "difference": difference,
                "low": ends[0] if ends else None,
                "high": ends[1] if ends else None,
                "p": float(p[k]),
                "p_holm": float(corrected[k]),
                "verdict": BETTER if better else NO_DIFFERENCE,
                "more_images": more,
                "why": "" if more else _DETECTED if better else NOT_ESTIMABLE,
            }
        )
    return verdicts


def _p_values(sums: Sequence[GroupSums], pairs: Sequence[tuple[int, int]], *, seed: int) -> Float64Array:
    if sums[0].ordinal:
        return kappa_swap_test(sums, pairs, seed=seed)
    correct = [np.trace(head.confusions, axis1=1, axis2=2).astype(np.int64) for head in sums]
    return np.array([accuracy_swap_test(correct[i] - correct[j]) for i, j in pairs])


def _resample_metric(
    sums: Sequence[GroupSums], metric: str, *, n_resamples: int, seed: int
) -> tuple[list[Float64Array], list[Float64Array]]:
    """Return the bootstrap and the jackknife values of each head; all heads share the same resamples."""
    size = {"n_groups": sums[0].n_groups, "n_entries": sums[0].n_entries}
    statistics = [
        lambda weights, head=head: {metric: confusion_metrics(head, weights)[metric]} for head in sums
    ]
    resampled = bootstrap(statistics, **size, n_resamples=n_resamples, seed=seed)
    left_out = jackknife(statistics, **size) if size["n_groups"] > 1 else [{metric: np.empty(0)}] * len(sums)
    return [values[metric] for values in resampled], [values[metric] for values in left_out]


def _difference_interval(
    difference: float, resampled: Float64Array, left_out: Float64Array
) -> tuple[tuple[float, float] | None, float]:
    """Return the interval of a difference, or None, and its standard error."""
    defined, left_out = resampled[~np.isnan(resampled)], left_out[~np.isnan(left_out)]
    if len(defined) < len(resampled) / 2 or not len(left_out) or np.ptp(defined) < 1e-12:
        return None, 0.0
    return bca_interval(difference, defined, left_out), float(defined.std(ddof=1))


def _more_entries(ends: tuple[float, float], error: float, *, n: int, level: float) -> list[int]:
    """Return how many more entries are needed to detect a true difference of the high and of the low end.

    The standard error is assumed to shrink with 1/√n.
    """
    detectable = (float(ndtri(1 - level / 2)) + float(ndtri(POWER))) * error
    return [max(1, math.ceil(n * ((detectable / end) ** 2 - 1))) for end in reversed(ends)]
