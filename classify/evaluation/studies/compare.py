"""Paired comparisons of predictions for the same entries: metric, difference and its interval."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from classify.data.samples import Samples
from classify.evaluation.bootstrap import bca_interval, bootstrap, jackknife
from classify.evaluation.studies.base import StudyContext
from classify.evaluation.verdicts import NO_DIFFERENCE, primary_metric
from classify.evaluation.weighted_metrics import GroupSums, confusion_metrics, group_sums
from classify.heads.select import is_ordinal
from classify.model_selection.predictions import EntryPredictions
from featurize.base.typing import Float64Array

ACCURACY, KAPPA, ERROR = "accuracy", "quadratic_kappa", "mean_absolute_error"
_MIN_DEFINED = 0.95  # fraction of resamples on which the metric must be defined for an interval


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Difference of a metric, second minus first, with its 95 % interval; None where undefined."""

    value: float | None
    low: float | None
    high: float | None

    @property
    def verdict(self) -> str:
        """One of "better", "worse" and "no detectable difference", if a higher metric is better."""
        if self.low is not None and self.low > 0:
            return "better"
        return "worse" if self.high is not None and self.high < 0 else NO_DIFFERENCE


def metric_value(predictions: EntryPredictions, *, samples: Samples, metric: str) -> float | None:
    """Return one metric of a set of predictions, or None if it is undefined."""
    sums = _sums(predictions, samples)
    value = float(confusion_metrics(sums, np.ones((1, sums.n_groups)))[metric][0])
    return value if np.isfinite(value) else None


def difference(
    first: EntryPredictions, second: EntryPredictions, *, samples: Samples, metric: str, seed: int
) -> Difference:
    """Return the metric of the second set of predictions minus the metric of the first.

    Parameters
    ----------
    first, second : EntryPredictions
        Predictions for the same entries, in the same order.
    samples : Samples
        For the classes and their order.
    metric : str
        One of the metrics of `classify.evaluation.weighted_metrics.confusion_metrics`.
    seed : int
        Seed of the resamples.

    Returns
    -------
    Difference
        With a BCa bootstrap interval over groups.
    """
    a, b = _sums(first, samples), _sums(second, samples)

    def statistic(weights: Float64Array) -> Mapping[str, Float64Array]:
        return {metric: confusion_metrics(b, weights)[metric] - confusion_metrics(a, weights)[metric]}

    value = float(statistic(np.ones((1, a.n_groups)))[metric][0])
    if not np.isfinite(value):
        return Difference(value=None, low=None, high=None)
    if a.n_groups < 2:
        return Difference(value=value, low=None, high=None)
    size = {"n_groups": a.n_groups, "n_entries": a.n_entries}
    resampled = bootstrap([statistic], **size, seed=seed)[0][metric]
    left_out = jackknife([statistic], **size)[0][metric]
    defined = np.isfinite(resampled)
    if defined.mean() < _MIN_DEFINED or not np.isfinite(left_out).all():
        return Difference(value=value, low=None, high=None)
    low, high = bca_interval(value, resampled[defined], left_out)
    return Difference(value=value, low=low, high=high)


def _sums(predictions: EntryPredictions, samples: Samples) -> GroupSums:
    return group_sums(
        predictions.y,
        predictions.probabilities,
        predictions.group,
        classes=samples.classes,
        ordered=samples.ordered,
    )


NOTE = (
    "the hyper-parameters of each variant were chosen on the same folds, so all figures are slightly "
    "optimistic; interpret the differences, not the figures"
)


@dataclass(frozen=True, kw_only=True)
class PairedComparison:
    """Metric of several variants, and the difference of each variant to the previous one."""

    metric: str
    figures: Mapping[str, float | None]  # variant → metric
    differences: Mapping[str, Difference]  # variant → difference to the previous variant

    def record(self) -> dict[str, Any]:
        """Return plain data for results.json."""
        return {
            "metric": self.metric,
            "figures": dict(self.figures),
            "differences": {
                name: {
                    "difference": difference.value,
                    "low": difference.low,
                    "high": difference.high,
                    "method": "BCa bootstrap over groups",
                    "verdict": difference.verdict,
                }
                for name, difference in self.differences.items()
            },
            "note": NOTE,
        }

    def text(self) -> str:
        """Return the figures in one line: ``a 0.812, b 0.840 (+2.8 points, 95 % interval +0.3 to +5.4)``."""
        parts = []
        for name, value in self.figures.items():
            text = "undefined" if value is None else f"{value:.3f}"
            if name in self.differences:
                text = f"{text} ({difference_text(self.differences[name], self.metric)})"
            parts.append(f"{name} {text}")
        return ", ".join(parts)


def compare_predictions(
    context: StudyContext, variants: Mapping[str, EntryPredictions], *, metric: str | None = None
) -> PairedComparison:
    """Return the metric of several sets of predictions for the same entries, and their differences.

    Parameters
    ----------
    context : StudyContext
    variants : mapping
        Name → predictions, the simplest first.
    metric : str, optional
        By default the primary metric: weighted kappa if the classes are ordered, else accuracy.
    """
    samples = context.samples
    ordinal = is_ordinal(len(samples.classes), ordered=samples.ordered)
    metric = metric or primary_metric(ordinal=ordinal)
    names = list(variants)
    return PairedComparison(
        metric=metric,
        figures={name: metric_value(variants[name], samples=samples, metric=metric) for name in names},
        differences={
            name: difference(
                variants[previous], variants[name], samples=samples, metric=metric, seed=context.seed
            )
            for previous, name in itertools.pairwise(names)
        },
    )


def metric_name(metric: str) -> str:
    """Return the name of a metric for a sentence."""
    return {KAPPA: "quadratic-weighted kappa", ERROR: "mean absolute error"}.get(metric, metric)


def difference_text(difference: Difference, metric: str) -> str:
    """Return a difference with its interval; a difference in accuracy is in percentage points."""
    if difference.value is None:
        return "difference undefined"
    unit = " points" if metric == ACCURACY else ""
    value = f"{_signed(difference.value, metric)}{unit}"
    if difference.low is None or difference.high is None:
        return f"{value}, no interval"
    return f"{value}, 95 % interval {_signed(difference.low, metric)} to {_signed(difference.high, metric)}"


def effect_text(subject: str, difference: Difference) -> str:
    """Return a sentence on the effect of a variant, where a higher metric is better."""
    if difference.verdict == "better":
        return f"{subject} improved the predictions."
    if difference.verdict == "worse":
        return f"{subject} made the predictions worse."
    reason = "no interval could be computed" if difference.low is None else "the interval contains zero"
    return f"{subject} made no detectable difference: {reason}."


def _signed(value: float, metric: str) -> str:
    text = f"{100 * value:+.1f}" if metric == ACCURACY else f"{value:+.3f}"
    return text.replace("-", "−")
