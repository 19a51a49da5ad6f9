"""Studies of the representation: earlier network levels, fused stores, ordered classes."""

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
from classify.evaluation.studies.compare import (
    ERROR,
    compare_predictions,
    difference_text,
    effect_text,
    metric_name,
)
from classify.heads.registry import HEADS, get_head
from classify.heads.select import is_ordinal
from classify.model_selection.tasks import GridScores, SearchResult, choose_params

_NAMES = {"final": "final level", "all": "all levels"}


def study_levels(context: StudyContext) -> dict[str, Any]:
    """Compare the head on the final level with the same head on all levels.

    Hyper-parameters are chosen separately for both.

    Parameters
    ----------
    context : StudyContext

    Returns
    -------
    dict
        Both figures and their paired difference.

    Raises
    ------
    CompareError
        If the store has one level only.
    """
    samples = context.samples
    if len(samples.level_names) < 2:
        raise CompareError(
            f"store {samples.store!r} has the final level of the network only. Extract all levels with: "
            "featurize extract DATA --levels"
        )
    points, folds = fold_scores(context)
    comparison = compare_predictions(
        context,
        {
            _NAMES[levels]: out_of_fold_predictions(context, _best_at(levels, points, folds).params)
            for levels in LEVELS
        },
    )
    text = (
        f"Levels ({context.head} on {samples.store}, out of fold, {metric_name(comparison.metric)}): "
        f"{comparison.text()}. {effect_text('Earlier levels', comparison.differences[_NAMES['all']])}"
    )
    return {**comparison.record(), "level_names": list(samples.level_names), "text": text}


def _best_at(levels: str, points: tuple[dict[str, Any], ...], folds: list[GridScores]) -> SearchResult:
    """Return the best grid point that uses these levels, given the scores of all grid points."""
    indices = [index for index, point in enumerate(points) if levels_of(point) == levels]
    scores = [
        GridScores(scores=tuple(fold.scores[i] for i in indices), seconds=fold.seconds) for fold in folds
    ]
    return choose_params([points[i] for i in indices], scores)


def study_fusion(context: StudyContext) -> dict[str, Any]:
    """Compare the head on the fused store with the same head on the best single store.

    The best single store has the highest search score on the folds of the training images.

    Parameters
    ----------
    context : StudyContext

    Returns
    -------
    dict
        Both figures and their paired difference.

    Raises
    ------
    CompareError
        If no stores were fused.
    """
    fused = [samples for samples in context.stores if samples.parts]
    if not fused:
        raise CompareError("no stores were fused. Pass two or more stores and add --fuse")
    searches = []
    for samples in context.stores:
        if not samples.parts:
            single = replace(context, samples=samples)
            searches.append((single, choose_on_folds(single)))
    best, search = max(searches, key=lambda pair: round(pair[1].score or 0.0, 10))
    fused_context = replace(context, samples=fused[0])
    name = fused[0].store
    comparison = compare_predictions(
        context,
        {
            best.samples.store: out_of_fold_predictions(best, search.params),
            name: out_of_fold_predictions(fused_context, choose_on_folds(fused_context).params),
        },
    )
    text = (
        f"Fusion ({context.head}, out of fold, {metric_name(comparison.metric)}): {comparison.text()}. "
        f"{effect_text('Fusing the stores', comparison.differences[name])}"
    )
    return {**comparison.record(), "store": name, "text": text}


def study_order(context: StudyContext) -> dict[str, Any]:
    """Compare an ordered head with its nominal counterpart, each with its own hyper-parameters.

    Parameters
    ----------
    context : StudyContext

    Returns
    -------
    dict
        Both figures and their paired difference in weighted kappa; the same for the mean absolute error as
        ``error``.

    Raises
    ------
    CompareError
        If the classes are not ordered, or if there are only two.
    """
    samples = context.samples
    if not is_ordinal(len(samples.classes), ordered=samples.ordered):
        raise CompareError(
            "it needs three or more ordered classes. Give their order, lowest first, with: "
            f"--order {','.join(samples.classes)}"
        )
    ordered = _ordered_head(context)
    predictions = {}
    for head in (get_head(ordered).nominal, ordered):
        head_context = replace(context, head=head)
        predictions[head] = out_of_fold_predictions(head_context, choose_on_folds(head_context).params)
    comparison = compare_predictions(context, predictions)
    errors = compare_predictions(context, predictions, metric=ERROR)
    values = ", ".join(f"{head} {value:.3f}" for head, value in errors.figures.items() if value is not None)
    text = (
        f"Ordering ({samples.store}, out of fold, {metric_name(comparison.metric)}): {comparison.text()}; "
        f"{metric_name(ERROR)}: {values} ({difference_text(errors.differences[ordered], ERROR)}). "
        f"{effect_text('Using the order of the classes', comparison.differences[ordered])}"
    )
    return {"head": ordered, **comparison.record(), "error": errors.record(), "text": text}


def _ordered_head(context: StudyContext) -> str:
    """Return the ordered head to study.

    It is the recommended head if that is ordered, else its ordered counterpart, else the ordered head with
    the best search score among the compared heads and their counterparts.
    """
    counterparts = {head.nominal: head.name for head in HEADS.values() if head.ordered and head.nominal}
    if not counterparts:
        raise CompareError("no head uses the order of the classes")
    recommended = counterparts.get(context.head, context.head)
    if recommended in counterparts.values():
        return recommended
    heads = dict.fromkeys(counterparts.get(head, head) for head in context.heads)
    ordered = [head for head in heads if head in counterparts.values()]
    if not ordered:
        return counterparts.get("logreg", next(iter(counterparts.values())))
    return max(ordered, key=lambda head: round(choose_on_folds(replace(context, head=head)).score or 0.0, 10))
