"""Which head is better than which, on one metric named beforehand: tests of all pairs, and how far apart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from scipy.special import ndtri

from classify.evaluation.bootstrap import N_RESAMPLES, bca_interval, bootstrap, jackknife
from classify.evaluation.paired_tests import accuracy_swap_test, holm, kappa_swap_test
from classify.evaluation.weighted_metrics import GroupSums, from_confusions
from featurize.base.typing import Float64Array

LEVEL = 0.05  # of the family of all pairs
POWER = 0.8
BETTER = "better"
NO_DIFFERENCE = "no detectable difference"
NOT_ESTIMABLE = "not estimable: the interval of the difference holds zero"
_SETTLED = "settled"


def primary_metric(*, graded: bool) -> str:
    """Return the one metric that verdicts rest on: named before anything is compared."""
    return "quadratic_kappa" if graded else "accuracy"


def make_verdicts(
    names: Sequence[Mapping[str, str]],
    sums: Sequence[GroupSums],
    *,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Return a verdict on every pair of heads, Holm-corrected over all of them.

    Parameters
    ----------
    names : sequence of mapping
        ``store`` and ``head`` of each.
    sums : sequence of GroupSums
        Over the same entries and groups.
    n_resamples : int, default=2000
        For the intervals of the differences.
    seed : int, default=0

    Returns
    -------
    list of dict
        ``a`` (the head with the higher figure; of equal ones the first) and ``b``, ``metric``,
        ``difference`` a − b, its ``low`` and ``high`` end (95 %; None where all resamples are equal), ``p``,
        ``p_holm``, ``verdict`` ("better": a is; or "no detectable difference"), ``more_images``: None, or the
        least and most further test entries with which the difference would be found with a power of 80 %, if
        it is as large as the high or as small as the low end; ``why`` that is None. Empty where there is no
        pair, or the metric is undefined.
    """
    if len(sums) < 2 or (sums[0].graded and np.count_nonzero(sums[0].confusions.sum(axis=(0, 2))) < 2):
        return []
    metric = primary_metric(graded=sums[0].graded)
    ones = np.ones((1, sums[0].n_groups))
    figures = np.array([from_confusions(one, ones)[metric][0] for one in sums])
    pairs = [(i, j) if figures[i] >= figures[j] else (j, i) for i, j in combinations(range(len(sums)), 2)]
    p = _tested(sums, pairs, seed=seed)
    corrected = holm(p)
    steps = np.empty(len(pairs), dtype=np.int64)
    steps[np.argsort(p, kind="stable")] = np.arange(len(pairs), 0, -1)
    draws, parts = _resampled(sums, metric, n_resamples=n_resamples, seed=seed)
    found = []
    for k, (i, j) in enumerate(pairs):
        difference = float(figures[i] - figures[j])
        ends, error = _interval(difference, draws[i] - draws[j], parts[i] - parts[j])
        better = bool(corrected[k] <= LEVEL and difference > 0)
        more = None
        if not better and ends is not None and ends[0] > 0:
            more = _more(ends, error, n=sums[0].n_entries, level=LEVEL / int(steps[k]))
        found.append(
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
                "why": "" if more else _SETTLED if better else NOT_ESTIMABLE,
            }
        )
    return found


def _tested(sums: Sequence[GroupSums], pairs: Sequence[tuple[int, int]], *, seed: int) -> Float64Array:
    if sums[0].graded:
        return kappa_swap_test(sums, pairs, seed=seed)
    right = [np.trace(one.confusions, axis1=1, axis2=2).astype(np.int64) for one in sums]
    return np.array([accuracy_swap_test(right[i] - right[j]) for i, j in pairs])


def _resampled(
    sums: Sequence[GroupSums], metric: str, *, n_resamples: int, seed: int
) -> tuple[list[Float64Array], list[Float64Array]]:
    """Return the metric of each head on resamples, the same ones for all, and with parts left out."""
    size = {"n_groups": sums[0].n_groups, "n_entries": sums[0].n_entries}
    statistics = [lambda weights, one=one: {metric: from_confusions(one, weights)[metric]} for one in sums]
    draws = bootstrap(statistics, **size, n_resamples=n_resamples, seed=seed)
    parts = jackknife(statistics, **size) if size["n_groups"] > 1 else [{metric: np.empty(0)}] * len(sums)
    return [one[metric] for one in draws], [one[metric] for one in parts]


def _interval(
    difference: float, draws: Float64Array, parts: Float64Array
) -> tuple[tuple[float, float] | None, float]:
    """Return the interval of a difference and its standard error."""
    kept, parts = draws[~np.isnan(draws)], parts[~np.isnan(parts)]
    if len(kept) < len(draws) / 2 or not len(parts) or np.ptp(kept) < 1e-12:
        return None, 0.0
    return bca_interval(difference, kept, parts), float(kept.std(ddof=1))


def _more(ends: tuple[float, float], error: float, *, n: int, level: float) -> list[int]:
    """Return how many more entries either end of a difference above 0 calls for; errors shrink as 1/√n."""
    reach = (float(ndtri(1 - level / 2)) + float(ndtri(POWER))) * error
    return [max(1, math.ceil(n * ((reach / end) ** 2 - 1))) for end in reversed(ends)]
