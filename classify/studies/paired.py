"""Two sets of predictions of the same entries side by side: one figure, the difference, its interval."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from classify.ordered import has_grades
from classify.predicted import Predicted
from classify.samples import Samples
from classify.significance.resampling import bca_interval, bootstrap, jackknife
from classify.significance.weighted import Sums, from_confusions, group_sums

FloatArray = npt.NDArray[np.float64]

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
    return KAPPA if has_grades(ordered=samples.ordered, n_classes=len(samples.classes)) else ACCURACY


def figure(predicted: Predicted, *, samples: Samples, metric: str) -> float | None:
    """Return one metric of some predictions, None where it is undefined."""
    sums = _sums(predicted, samples)
    value = float(from_confusions(sums, np.ones((1, sums.n_groups)))[metric][0])
    return value if np.isfinite(value) else None


def difference(one: Predicted, other: Predicted, *, samples: Samples, metric: str, seed: int) -> Difference:
    """Return how much the second set's figure is above that of the first.

    Parameters
    ----------
    one, other : Predicted
        Of the same entries, in the same order.
    samples : Samples
        For the classes and their order.
    metric : str
        Of predicted classes, as in `classify.significance.weighted.from_confusions`.
    seed : int
        Of the resamples.

    Returns
    -------
    Difference
        With a BCa bootstrap interval over groups.
    """
    here, there = _sums(one, samples), _sums(other, samples)

    def statistic(weights: FloatArray) -> Mapping[str, FloatArray]:
        return {metric: from_confusions(there, weights)[metric] - from_confusions(here, weights)[metric]}

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


def _sums(predicted: Predicted, samples: Samples) -> Sums:
    return group_sums(
        predicted.y,
        predicted.probabilities,
        predicted.group,
        classes=samples.classes,
        ordered=samples.ordered,
    )
