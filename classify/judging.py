"""How far test figures can be trusted: the interval of each, and a verdict on every pair of heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from classify.head_choice import BASELINE
from classify.metrics import checked
from classify.predicted import Predicted
from classify.significance.intervals import FEW_GROUPS, head_intervals
from classify.significance.resampling import LEVEL, MOST_PARTS, N_RESAMPLES, pooled
from classify.significance.weighted import group_sums
from classify.verdicts import make_verdicts, primary_metric

_INTERVALS = (
    "Shares of entries (accuracy, share off by two, precision, recall, error of a class): Wilson's score "
    "interval, for as many entries as they are worth where groups hold several. Expected calibration error: "
    "inverted tests. Log loss: studentised bootstrap over groups. All else: BCa bootstrap over groups."
)
_TESTS = {
    "accuracy": "exact test over swaps of two heads' predictions, group by group (McNemar's where groups are "
    "single entries)",
    "quadratic_kappa": "random swaps of two heads' predictions, group by group: (1 + as far) / (1 + swaps)",
}


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What is said of the certainty of the figures of several heads."""

    intervals: tuple[dict[str, dict[str, Any]], ...]  # one a head: metric → interval
    verdicts: list[dict[str, Any]]
    described: dict[str, Any]  # methods, for results.json


def judge(
    names: Sequence[Mapping[str, str]],
    predictions: Sequence[Predicted],
    *,
    classes: Sequence[str],
    ordered: bool,
    nested: bool,
    seed: int,
) -> Judged:
    """Return intervals of every metric of every head, and verdicts on pairs of heads.

    The baseline stands among the heads: a head that is not detectably better than it has learned nothing that
    can be shown. It says the same of all stores, so that it is compared once.

    Parameters
    ----------
    names : sequence of mapping
        ``store`` and ``head`` of each.
    predictions : sequence of Predicted
        Of the same entries in the same order.
    classes : sequence of str
    ordered : bool
    nested : bool
        Whether the predictions are out of fold: then all is approximate.
    seed : int
        Of resamples and swaps.

    Returns
    -------
    Judged

    Raises
    ------
    ValueError
        If the predictions are of different entries.
    """
    for one in predictions:
        if one.entry != predictions[0].entry or not np.array_equal(one.group, predictions[0].group):
            raise ValueError("only predictions of the same entries can be compared")
    n_groups = len(np.unique(predictions[0].group)) if predictions else 0
    sums = [
        group_sums(
            *checked(one.y, one.probabilities, n_classes=len(classes)),
            pooled(one.group, seed=seed),
            classes=tuple(classes),
            ordered=ordered,
            predicted=np.argmax(one.probabilities, axis=1),
        )
        for one in predictions
    ]
    baselines = [k for k, name in enumerate(names) if name["head"] == BASELINE]
    compared = [k for k in range(len(names)) if k not in baselines[1:]]
    found = make_verdicts([names[k] for k in compared], [sums[k] for k in compared], seed=seed)
    metric = primary_metric(graded=sums[0].graded) if sums else None
    whys = ["the heads of two folds share training images"] if nested else []
    if sums and sums[0].n_groups < FEW_GROUPS:
        whys.append(f"fewer than {FEW_GROUPS} groups")
    in_parts = f"; resampled and swapped in {MOST_PARTS:,} random parts" if n_groups > MOST_PARTS else ""
    return Judged(
        intervals=tuple(head_intervals(sums, nested=nested, seed=seed)) if sums else (),
        verdicts=found,
        described={
            "level": LEVEL,
            "intervals": _INTERVALS + in_parts,
            "n_resamples": N_RESAMPLES,
            "seed": seed,
            "primary_metric": metric,
            "test": _TESTS[metric] if metric else None,
            "correction": f"Holm-corrected over {len(found)} pairs",
            "n_entries": sums[0].n_entries if sums else 0,
            "n_groups": n_groups,
            "approximate": bool(whys),
            "why": "; ".join(whys),
        },
    )
