"""What the features of several backbones side by side bring."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from classify.studies.case import Case, graded, searched
from classify.studies.paired import Difference
from classify.studies.sides import metric_words, side_by_side
from featurize import CompareError


def study(case: Case) -> dict[str, Any]:
    """Compare the head on the fused store with the same head on the single store that suits it best.

    Which single store that is, its own search says: on the folds, never on test.

    Parameters
    ----------
    case : Case

    Returns
    -------
    dict
        Figures and the paired difference.

    Raises
    ------
    CompareError
        If no stores were fused.
    """
    fused = [samples for samples in case.stores if samples.parts]
    if not fused:
        raise CompareError("no stores were fused. Name two stores or more and add --fuse")
    singles = [replace(case, samples=samples) for samples in case.stores if not samples.parts]
    chosen = [(single, searched(single)) for single in singles]
    best, choice = max(chosen, key=lambda pair: round(pair[1].score or 0.0, 10))
    both = replace(case, samples=fused[0])
    alone, joined = best.samples.store, fused[0].store
    sides = side_by_side(
        case, {alone: graded(best, choice.params), joined: graded(both, searched(both).params)}
    )
    text = (
        f"Fusion ({case.head}, out of fold, {metric_words(sides.metric)}): {sides.words()}. "
        f"{_paid(sides.differences[joined])}"
    )
    return {**sides.record(), "store": joined, "text": text}


def _paid(gained: Difference) -> str:
    if gained.verdict == "better":
        return "Fusing the stores paid here."
    if gained.verdict == "worse":
        return "Fusing the stores did harm here."
    return "Whether fusing the stores paid here is not settled: the interval holds zero."
