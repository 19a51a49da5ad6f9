"""Soft-voting ensemble of the best heads, which are chosen on training folds only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from classify.data.samples import Samples
from classify.heads.registry import get_head
from classify.heads.scoring import balanced_accuracy
from classify.heads.select import ENSEMBLE
from classify.heads.solvers.temperature import apply_temperature
from classify.model_selection.grid_search import CandidateResult, Run, SearchSettings, first_failure, fit_task
from classify.model_selection.predictions import average_entries
from classify.model_selection.protocol import EvaluationProtocol, OuterFold
from classify.model_selection.tasks import FittedHead, SearchResult
from featurize.base.typing import Float64Array

MAX_MEMBERS = 3  # more members hardly improve the predictions and make them slower


def make_ensemble(
    candidates: Sequence[CandidateResult],
    protocol: EvaluationProtocol,
    *,
    settings: SearchSettings,
    run: Run,
) -> CandidateResult | None:
    """Return the ensemble of the heads with the best search scores: the mean of their probabilities.

    In every outer fold the members are chosen by their scores on its inner folds. Test images have no
    influence.

    Parameters
    ----------
    candidates : sequence of CandidateResult
        All heads on all stores.
    protocol : EvaluationProtocol
    settings : SearchSettings
    run : callable
        Function that runs tasks. To score the ensemble, its members are fitted once more on each inner fold.

    Returns
    -------
    CandidateResult or None
        With its `members`; None if fewer than two heads could be tuned. The baseline, which has nothing to
        tune, is never a member.
    """
    able = [
        candidate
        for candidate in candidates
        if candidate.final is not None and _scores(candidate) and get_head(candidate.head).grid != ({},)
    ]
    if len(able) < 2:
        return None
    chosen = [
        _best(able, [candidate.searches[k].score for candidate in able])
        for k in range(len(protocol.outer_folds))
    ]
    final = (
        chosen[0]
        if not protocol.nested
        else _best(able, [float(np.mean(_scores(candidate))) for candidate in able])
    )
    score = (
        None if protocol.nested else _score(chosen[0], protocol.outer_folds[0], settings=settings, run=run)
    )
    searches = tuple(
        SearchResult(
            params={"members": [member_name(member) for member in members]},
            score=score,
            seconds=sum(member.searches[k].seconds for member in members),
        )
        for k, members in enumerate(chosen)
    )
    return CandidateResult(
        samples=_samples(final),
        head=ENSEMBLE,
        searches=searches,
        fits=tuple(_vote([member.fits[k] for member in members]) for k, members in enumerate(chosen)),
        final=_vote([member.final for member in final if member.final is not None]),
        final_params={"members": [member_name(member) for member in final]},
        n_tasks=sum(member.n_tasks for member in final),
        n_cached_tasks=sum(member.n_cached_tasks for member in final),
        members=tuple(final),
    )


def member_name(candidate: CandidateResult) -> str:
    """Return head and store of a member as text."""
    return f"{candidate.head} on {candidate.samples.store}"


def _scores(candidate: CandidateResult) -> list[float]:
    return [search.score for search in candidate.searches if search.score is not None]


def _best(candidates: Sequence[CandidateResult], scores: Sequence[float | None]) -> list[CandidateResult]:
    """Return the members, best score first; of equal scores the first candidate."""
    scored = [(k, score) for k, score in enumerate(scores) if score is not None]
    ranked = sorted(scored, key=lambda item: -round(item[1], 10))
    return [candidates[k] for k, _ in ranked[:MAX_MEMBERS]]


def _score(
    members: Sequence[CandidateResult],
    fold: OuterFold,
    *,
    settings: SearchSettings,
    run: Run,
) -> float | None:
    """Return the mean balanced accuracy of the ensemble over the inner folds; None if a member fails."""
    without_logs = replace(settings, log_folder=None)
    tasks = [
        fit_task(
            member.samples.search_samples,
            member.head,
            member.searches[0].params,
            OuterFold(inner_folds=(), fit=fitted, val=None, test=scored),
            settings=without_logs,
            return_head=False,
        )
        for fitted, scored in fold.inner_folds
        for member in members
    ]
    results = run(tasks)
    if not tasks or first_failure(results):
        return None
    scores = []
    for k, (_, scored) in enumerate(fold.inner_folds):
        fitted_members = results[k * len(members) : (k + 1) * len(members)]
        votes = [
            apply_temperature(fitted.probabilities, member.temperature)
            for fitted, member in zip(fitted_members, members, strict=True)
        ]
        predictions = average_entries(members[0].samples.search_samples, scored, _mean(votes))
        scores.append(balanced_accuracy(predictions.y, np.argmax(predictions.probabilities, axis=1)))
    return float(np.mean(scores))


def _vote(fits: Sequence[FittedHead]) -> FittedHead:
    return FittedHead(
        saved=None,
        probabilities=_mean([fitted.probabilities for fitted in fits]),
        fit_seconds=sum(fitted.fit_seconds for fitted in fits),
        predict_seconds=sum(fitted.predict_seconds for fitted in fits),
    )


def _mean(parts: Sequence[Float64Array]) -> Float64Array:
    return np.mean(np.stack(parts), axis=0)  # (n_images, n_classes)


def _samples(members: Sequence[CandidateResult]) -> Samples:
    """Return the samples of the first member, named after the stores of all members."""
    stores = list(dict.fromkeys(member.samples.store for member in members))
    backbones = list(dict.fromkeys(member.samples.backbone for member in members))
    return replace(members[0].samples, store=", ".join(stores), backbone=", ".join(backbones))
