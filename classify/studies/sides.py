"""Two or more ways side by side on the same out-of-fold predictions, as data and in words."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from classify.predicted import Predicted
from classify.studies.case import Case
from classify.studies.paired import ACCURACY, ERROR, KAPPA, Difference, difference, figure, primary_metric

NOTE = (
    "hyper-parameters of each side were chosen on the same folds, so all figures are a little high; "
    "the difference is what counts"
)


@dataclass(frozen=True, kw_only=True)
class Sides:
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


def side_by_side(case: Case, ways: Mapping[str, Predicted], *, metric: str | None = None) -> Sides:
    """Return figures of several sets of predictions of the same entries, each against the one before.

    Parameters
    ----------
    case : Case
    ways : mapping
        Name → predictions, the simplest first.
    metric : str, optional
        By default weighted kappa where classes are ordered, else accuracy.
    """
    metric = metric or primary_metric(case.samples)
    names = list(ways)
    return Sides(
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
