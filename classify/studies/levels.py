"""What the levels of the network before the final one bring."""

from __future__ import annotations

from typing import Any

from classify.levels import LEVELS, levels_of
from classify.studies.case import Case, fold_scores, graded
from classify.studies.paired import Difference
from classify.studies.sides import metric_words, side_by_side
from classify.tuning import Choice, Scores, choose
from featurize import CompareError

_NAMES = {"final": "final level", "all": "all levels"}


def study(case: Case) -> dict[str, Any]:
    """Compare the head on the final level alone with the head on all, each with its own hyper-parameters.

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
        If the store holds one level.
    """
    samples = case.samples
    if len(samples.level_names) < 2:
        raise CompareError(
            f"store {samples.store!r} holds the network's final features alone. Make one with all levels: "
            "featurize extract DATA --levels"
        )
    points, folds = fold_scores(case)
    ways = {_NAMES[levels]: graded(case, _best_at(levels, points, folds).params) for levels in LEVELS}
    sides = side_by_side(case, ways)
    text = (
        f"Levels ({case.head} on {samples.store}, out of fold, {metric_words(sides.metric)}): "
        f"{sides.words()}. {_paid(sides.differences[_NAMES['all']])}"
    )
    return {**sides.record(), "level_names": list(samples.level_names), "text": text}


def _best_at(levels: str, points: tuple[dict[str, Any], ...], folds: list[Scores]) -> Choice:
    """Choose among the grid points of one choice of levels, from scores of all."""
    mine = [number for number, point in enumerate(points) if levels_of(point) == levels]
    part = [Scores(scores=tuple(fold.scores[i] for i in mine), seconds=fold.seconds) for fold in folds]
    return choose([points[i] for i in mine], part)


def _paid(gained: Difference) -> str:
    if gained.verdict == "better":
        return "The further levels paid here."
    if gained.verdict == "worse":
        return "The further levels did harm here."
    return "Whether the further levels paid here is not settled: the interval holds zero."
