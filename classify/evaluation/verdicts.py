"""Statistics of a comparison: intervals of all metrics, and verdicts on pairs of heads."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from scipy.special import ndtri

from classify.evaluation.bootstrap import (
    CONFIDENCE,
    MAX_GROUPS,
    N_RESAMPLES,
    bca_interval,
    bootstrap,
    jackknife,
    pool_groups,
)
from classify.evaluation.intervals import FEW_GROUPS, head_intervals
from classify.evaluation.metrics import check_predictions
from classify.evaluation.paired_tests import accuracy_swap_test, holm, kappa_swap_test
from classify.evaluation.weighted_metrics import GroupSums, confusion_metrics, group_sums
from classify.heads.select import BASELINE
from classify.model_selection.predictions import EntryPredictions
from featurize.base.text import plural
from featurize.base.typing import Float64Array

ALPHA = 0.05  # family-wise error rate over all pairs
POWER = 0.8
BETTER = "better"
NO_DIFFERENCE = "no detectable difference"
NOT_ESTIMABLE = "not estimable: the interval of the difference contains zero"
_DETECTED = "the difference is already detectable"
_INTERVAL_METHODS = (
    "Proportions (accuracy, proportion off by two, precision, recall, error of a class): Wilson score "
    "interval, with the effective number of entries if groups have several. Expected calibration error: test "
    "inversion. Log loss: studentised bootstrap over groups. All other metrics: BCa bootstrap over groups."
)
_TEST_METHODS = {
    "accuracy": "exact test over swaps of the predictions of two heads, group by group (McNemar's test if "
    "all groups have one entry)",
    "quadratic_kappa": "random swaps of the predictions of two heads, group by group: p = (1 + number of "
    "swaps with at least this difference) / (1 + number of swaps)",
}


@dataclass(frozen=True, kw_only=True)
class HeadStatistics:
    """Intervals and verdicts of several heads."""

    intervals: tuple[dict[str, dict[str, Any]], ...]  # per head: metric → interval
    verdicts: list[dict[str, Any]]
    description: dict[str, Any]  # methods and sizes: "statistics" in results.json


def head_statistics(
    names: Sequence[Mapping[str, str]],
    predictions: Sequence[EntryPredictions],
    *,
    classes: Sequence[str],
    ordered: bool,
    nested: bool,
    seed: int,
) -> HeadStatistics:
    """Return intervals of all metrics of all heads, and verdicts on pairs of heads.

    The baseline is included in the pairs: a head that is not detectably better than the baseline has not been
    shown to learn anything. Its predictions are equal on all stores, so it is included once.

    Parameters
    ----------
    names : sequence of mapping
        ``store`` and ``head`` of each head.
    predictions : sequence of EntryPredictions
        One per head, of the same entries in the same order.
    classes : sequence of str
    ordered : bool
    nested : bool
        Whether the predictions are out of fold; if so, intervals and tests are approximate.
    seed : int
        Seed of resamples and swaps.

    Returns
    -------
    HeadStatistics

    Raises
    ------
    ValueError
        If the predictions are of different entries.
    """
    for head in predictions:
        if head.entry != predictions[0].entry or not np.array_equal(head.group, predictions[0].group):
            raise ValueError("only predictions of the same entries can be compared")
    sums = [
        group_sums(
            *check_predictions(head.y, head.probabilities, n_classes=len(classes)),
            pool_groups(head.group, seed=seed),
            classes=tuple(classes),
            ordered=ordered,
            predicted=np.argmax(head.probabilities, axis=1),
        )
        for head in predictions
    ]
    baselines = [k for k, name in enumerate(names) if name["head"] == BASELINE]
    compared = [k for k in range(len(names)) if k not in baselines[1:]]
    verdicts = make_verdicts([names[k] for k in compared], [sums[k] for k in compared], seed=seed)
    return HeadStatistics(
        intervals=tuple(head_intervals(sums, nested=nested, seed=seed)) if sums else (),
        verdicts=verdicts,
        description=_description(
            sums[0] if sums else None,
            n_groups=len(np.unique(predictions[0].group)) if predictions else 0,
            n_pairs=len(verdicts),
            nested=nested,
            seed=seed,
        ),
    )


def _description(
    sums: GroupSums | None, *, n_groups: int, n_pairs: int, nested: bool, seed: int
) -> dict[str, Any]:
    """Return the methods and sizes behind intervals and verdicts."""
    metric = None if sums is None else primary_metric(ordinal=sums.ordinal)
    cautions = ["the heads of two folds share training images"] if nested else []
    if sums is not None and sums.n_groups < FEW_GROUPS:
        cautions.append(f"fewer than {FEW_GROUPS} groups")
    pooled = f" Groups are pooled at random into {MAX_GROUPS:,} parts." if n_groups > MAX_GROUPS else ""
    return {
        "level": CONFIDENCE,
        "intervals": _INTERVAL_METHODS + pooled,
        "n_resamples": N_RESAMPLES,
        "seed": seed,
        "primary_metric": metric,
        "test": _TEST_METHODS[metric] if metric else None,
        "correction": f"Holm-corrected over {plural(n_pairs, 'pair')}",
        "n_entries": 0 if sums is None else sums.n_entries,
        "n_groups": n_groups,
        "approximate": bool(cautions),
        "why": "; ".join(cautions),
    }


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
        better = bool(corrected[k] <= ALPHA and difference > 0)
        more = None
        if not better and ends is not None and ends[0] > 0:
            more = _more_entries(ends, error, n=sums[0].n_entries, level=ALPHA / int(steps[k]))
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
