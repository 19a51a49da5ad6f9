"""Two sets of predictions of the same entries side by side: one figure, the difference, its interval."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from classify.data.samples import Samples
from classify.evaluation.bootstrap import bca_interval, bootstrap, jackknife
from classify.evaluation.metrics import is_ordinal
from classify.evaluation.studies.base import StudyContext
from classify.evaluation.weighted_metrics import GroupSums, confusion_metrics, group_sums
from classify.model_selection.predictions import EntryPredictions
from featurize.base.typing import Float64Array

ACCURACY, KAPPA, ERROR = "accuracy", "quadratic_kappa", "mean_absolute_error"
_LEAST_DEFINED = 0.95  # share of the resamples without which there is no interval


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How much more the second set's figure is, with the 95 % interval; None where it cannot be known."""

    value: float | None
    low: float | None
    high: float | None

    @property
    def verdict(self) -> str:
        """One of "better", "worse" and "unsettled", where more is better."""
        if self.low is not None and self.low > 0:
            return "better"
        return "worse" if self.high is not None and self.high < 0 else "unsettled"


def primary_metric(samples: Samples) -> str:
    """Return what side-by-side figures rest on: weighted kappa where classes are ordered, else accuracy."""
    return KAPPA if is_ordinal(ordered=samples.ordered, n_classes=len(samples.classes)) else ACCURACY


def figure(predicted: EntryPredictions, *, samples: Samples, metric: str) -> float | None:
    """Return one metric of some predictions, None where it is undefined."""
    sums = _sums(predicted, samples)
    value = float(confusion_metrics(sums, np.ones((1, sums.n_groups)))[metric][0])
    return value if np.isfinite(value) else None


def difference(
    one: EntryPredictions, other: EntryPredictions, *, samples: Samples, metric: str, seed: int
) -> Difference:
    """Return how much the second set's figure is above that of the first.

    Parameters
    ----------
    one, other : EntryPredictions
        Of the same entries, in the same order.
    samples : Samples
        For the classes and their order.
    metric : str
        Of predicted classes, as in `classify.evaluation.weighted_metrics.confusion_metrics`.
    seed : int
        Of the resamples.

    Returns
    -------
    Difference
        With a BCa bootstrap interval over groups.
    """
    here, there = _sums(one, samples), _sums(other, samples)

    def statistic(weights: Float64Array) -> Mapping[str, Float64Array]:
        return {metric: confusion_metrics(there, weights)[metric] - confusion_metrics(here, weights)[metric]}

    value = float(statistic(np.ones((1, here.n_groups)))[metric][0])
    if not np.isfinite(value):
        return Difference(value=None, low=None, high=None)
    if here.n_groups < 2:
        return Difference(value=value, low=None, high=None)
    size = {"n_groups": here.n_groups, "n_entries": here.n_entries}
    draws = bootstrap([statistic], **size, seed=seed)[0][metric]
    left_out = jackknife([statistic], **size)[0][metric]
    defined = np.isfinite(draws)
    if defined.mean() < _LEAST_DEFINED or not np.isfinite(left_out).all():
        return Difference(value=value, low=None, high=None)
    low, high = bca_interval(value, draws[defined], left_out)
    return Difference(value=value, low=low, high=high)


def _sums(predicted: EntryPredictions, samples: Samples) -> GroupSums:
    return group_sums(
        predicted.y,
        predicted.probabilities,
        predicted.group,
        classes=samples.classes,
        ordered=samples.ordered,
    )


NOTE = (
    "hyper-parameters of each side were chosen on the same folds, so all figures are a little high; "
    "the difference is what counts"
)


@dataclass(frozen=True, kw_only=True)
class SideBySide:
    """Figures of several ways, and how each differs from the one before it."""

    metric: str
    figures: Mapping[str, float | None]
    differences: Mapping[str, Difference]  # way → against the way before it

    def record(self) -> dict[str, Any]:
        """Return plain data for results.json."""
        return {
            "metric": self.metric,
            "figures": dict(self.figures),
            "differences": {
                way: {
                    "difference": one.value,
                    "low": one.low,
                    "high": one.high,
                    "method": "BCa bootstrap over groups",
                    "verdict": one.verdict,
                }
                for way, one in self.differences.items()
            },
            "note": NOTE,
        }

    def words(self) -> str:
        """Return the figures in one line: ``a 0.812, b 0.840 (+2.8 points, 95 % interval +0.3 to +5.4)``."""
        parts = []
        for way, value in self.figures.items():
            shown = "undefined" if value is None else f"{value:.3f}"
            if way in self.differences:
                shown = f"{shown} ({change(self.differences[way], self.metric)})"
            parts.append(f"{way} {shown}")
        return ", ".join(parts)


def side_by_side(
    case: StudyContext, ways: Mapping[str, EntryPredictions], *, metric: str | None = None
) -> SideBySide:
    """Return figures of several sets of predictions of the same entries, each against the one before.

    Parameters
    ----------
    case : StudyContext
    ways : mapping
        Name → predictions, the simplest first.
    metric : str, optional
        By default weighted kappa where classes are ordered, else accuracy.
    """
    metric = metric or primary_metric(case.samples)
    names = list(ways)
    return SideBySide(
        metric=metric,
        figures={name: figure(ways[name], samples=case.samples, metric=metric) for name in names},
        differences={
            name: difference(ways[before], ways[name], samples=case.samples, metric=metric, seed=case.seed)
            for before, name in itertools.pairwise(names)
        },
    )


def metric_words(metric: str) -> str:
    """Return a metric's name in words."""
    return {KAPPA: "quadratic-weighted kappa", ERROR: "grades off on average"}.get(metric, metric)


def change(one: Difference, metric: str) -> str:
    """Return a difference with its interval: of accuracy in points, else as it is."""
    if one.value is None:
        return "difference undefined"
    if one.low is None or one.high is None:
        return f"{_signed(one.value, metric)}, no interval"
    return (
        f"{_signed(one.value, metric)}, 95 % interval {_bare(one.low, metric)} to {_bare(one.high, metric)}"
    )


def _signed(value: float, metric: str) -> str:
    return f"{_bare(value, metric)} points" if metric == ACCURACY else _bare(value, metric)


def _bare(value: float, metric: str) -> str:
    shown = f"{100 * value:+.1f}" if metric == ACCURACY else f"{value:+.3f}"
    return shown.replace("-", "−")
