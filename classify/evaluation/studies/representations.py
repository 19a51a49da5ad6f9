"""What the levels of the network before the final one bring."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from classify.data.levels import LEVELS, levels_of
from classify.errors import CompareError
from classify.evaluation.studies.base import (
    StudyContext,
    choose_on_folds,
    fold_scores,
    out_of_fold_predictions,
)
from classify.evaluation.studies.compare import ERROR, Difference, change, metric_words, side_by_side
from classify.heads.registry import HEADS, get_head
from classify.model_selection.tasks import GridScores, SearchResult, choose_params

_NAMES = {"final": "final level", "all": "all levels"}


def study_levels(case: StudyContext) -> dict[str, Any]:
    """Compare the head on the final level alone with the head on all, each with its own hyper-parameters.

    Parameters
    ----------
    case : StudyContext

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
    ways = {
        _NAMES[levels]: out_of_fold_predictions(case, _best_at(levels, points, folds).params)
        for levels in LEVELS
    }
    sides = side_by_side(case, ways)
    text = (
        f"Levels ({case.head} on {samples.store}, out of fold, {metric_words(sides.metric)}): "
        f"{sides.words()}. {_levels_gain(sides.differences[_NAMES['all']])}"
    )
    return {**sides.record(), "level_names": list(samples.level_names), "text": text}


def _best_at(levels: str, points: tuple[dict[str, Any], ...], folds: list[GridScores]) -> SearchResult:
    """Choose among the grid points of one choice of levels, from scores of all."""
    mine = [number for number, point in enumerate(points) if levels_of(point) == levels]
    part = [GridScores(scores=tuple(fold.scores[i] for i in mine), seconds=fold.seconds) for fold in folds]
    return choose_params([points[i] for i in mine], part)


def _levels_gain(gained: Difference) -> str:
    if gained.verdict == "better":
        return "The further levels paid here."
    if gained.verdict == "worse":
        return "The further levels did harm here."
    return "Whether the further levels paid here is not settled: the interval holds zero."


def study_fusion(case: StudyContext) -> dict[str, Any]:
    """Compare the head on the fused store with the same head on the single store that suits it best.

    Which single store that is, its own search says: on the folds, never on test.

    Parameters
    ----------
    case : StudyContext

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
    chosen = [(single, choose_on_folds(single)) for single in singles]
    best, choice = max(chosen, key=lambda pair: round(pair[1].score or 0.0, 10))
    both = replace(case, samples=fused[0])
    alone, joined = best.samples.store, fused[0].store
    sides = side_by_side(
        case,
        {
            alone: out_of_fold_predictions(best, choice.params),
            joined: out_of_fold_predictions(both, choose_on_folds(both).params),
        },
    )
    text = (
        f"Fusion ({case.head}, out of fold, {metric_words(sides.metric)}): {sides.words()}. "
        f"{_fusion_gain(sides.differences[joined])}"
    )
    return {**sides.record(), "store": joined, "text": text}


def _fusion_gain(gained: Difference) -> str:
    if gained.verdict == "better":
        return "Fusing the stores paid here."
    if gained.verdict == "worse":
        return "Fusing the stores did harm here."
    return "Whether fusing the stores paid here is not settled: the interval holds zero."


def study_order(case: StudyContext) -> dict[str, Any]:
    """Compare an ordered head with its nominal sibling, both with their own hyper-parameters.

    Parameters
    ----------
    case : StudyContext

    Returns
    -------
    dict
        Figures and the paired difference in weighted kappa, and in grades off on average as ``error``.

    Raises
    ------
    CompareError
        If the classes have no order, or are two only.
    """
    samples = case.samples
    if not samples.ordered or len(samples.classes) < 3:
        raise CompareError(
            "it needs three ordered classes or more. Say their order, lowest first, with "
            f"--order {','.join(samples.classes)}"
        )
    ordered = _ordered_head(case)
    heads = (get_head(ordered).nominal, ordered)
    ways = {}
    for head in heads:
        mine = replace(case, head=head)
        ways[head] = out_of_fold_predictions(mine, choose_on_folds(mine).params)
    sides = side_by_side(case, ways)
    errors = side_by_side(case, ways, metric=ERROR)
    off = ", ".join(f"{head} {value:.3f}" for head, value in errors.figures.items() if value is not None)
    text = (
        f"Ordering ({samples.store}, out of fold, {metric_words(sides.metric)}): {sides.words()}; grades off "
        f"on average: {off} ({change(errors.differences[ordered], errors.metric)}). "
        f"{_helped(sides.differences[ordered])}"
    )
    return {"head": ordered, **sides.record(), "error": errors.record(), "text": text}


def _ordered_head(case: StudyContext) -> str:
    """Return the recommended head if it is ordered, else its ordered sibling, else the best of the others.

    Which is best, the search of those that were compared says.
    """
    siblings = {head.nominal: head.name for head in HEADS.values() if head.ordered and head.nominal}
    if not siblings:
        raise CompareError("no head takes the order of the classes into account")
    mine = siblings.get(case.head, case.head)
    if mine in siblings.values():
        return mine
    compared = dict.fromkeys(siblings.get(head, head) for head in case.heads)
    able = [head for head in compared if head in siblings.values()]
    if not able:
        return siblings.get("logreg", next(iter(siblings.values())))
    return max(able, key=lambda head: round(choose_on_folds(replace(case, head=head)).score or 0.0, 10))


def _helped(gained: Difference) -> str:
    if gained.verdict == "better":
        return "Knowing the order helped here."
    if gained.verdict == "worse":
        return "Knowing the order did harm here."
    return "Whether knowing the order helped here is not settled: the interval holds zero."
