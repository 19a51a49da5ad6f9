"""A soft-voting ensemble of the best heads, chosen on training folds alone, as one more head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from classify.data.samples import Samples
from classify.heads.registry import get_head
from classify.heads.scoring import balanced_accuracy
from classify.heads.select import ENSEMBLE
from classify.heads.solvers.temperature import at_temperature
from classify.model_selection.grid_search import CandidateResult, Run, SearchSettings, first_failure, fit_task
from classify.model_selection.predictions import join_entries
from classify.model_selection.protocol import EvaluationProtocol, OuterFold
from classify.model_selection.tasks import FittedHead, SearchResult
from featurize.base.typing import Float64Array

MEMBERS = 3  # more of them add little but what is slower to grade with


def make_ensemble(
    trials: Sequence[CandidateResult],
    plan: EvaluationProtocol,
    *,
    settings: SearchSettings,
    run: Run,
) -> CandidateResult | None:
    """Let the heads with the best scores of their searches vote: the mean of their probabilities.

    In every round the members are chosen anew, by that round's training folds. What they were tested on
    decides nothing.

    Parameters
    ----------
    trials : sequence of CandidateResult
        Of all heads on all stores.
    plan : EvaluationProtocol
    settings : SearchSettings
    run : callable
        Runs tasks; for the score of the ensemble its members are fitted once more in each fold.

    Returns
    -------
    Trial or None
        With its `members`; None where fewer than two heads could be tuned. The baseline, which has nothing
        to tune, never votes.
    """
    able = [
        trial
        for trial in trials
        if trial.final is not None and _scores(trial) and get_head(trial.head).grid != ({},)
    ]
    if len(able) < 2:
        return None
    chosen = [_best(able, [trial.choices[k].score for trial in able]) for k in range(len(plan.rounds))]
    final = chosen[0] if not plan.nested else _best(able, [float(np.mean(_scores(trial))) for trial in able])
    score = None if plan.nested else _score(chosen[0], plan.rounds[0], settings=settings, run=run)
    choices = tuple(
        SearchResult(
            params={"members": [name_of(member) for member in members]},
            score=score,
            seconds=sum(member.choices[k].seconds for member in members),
        )
        for k, members in enumerate(chosen)
    )
    return CandidateResult(
        samples=_samples(final),
        head=ENSEMBLE,
        choices=choices,
        fits=tuple(_vote([member.fits[k] for member in members]) for k, members in enumerate(chosen)),
        final=_vote([member.final for member in final if member.final is not None]),
        final_params={"members": [name_of(member) for member in final]},
        n_tasks=sum(member.n_tasks for member in final),
        n_remembered=sum(member.n_remembered for member in final),
        members=tuple(final),
    )


def name_of(trial: CandidateResult) -> str:
    """Return head and store, as they are shown."""
    return f"{trial.head} on {trial.samples.store}"


def _scores(trial: CandidateResult) -> list[float]:
    return [choice.score for choice in trial.choices if choice.score is not None]


def _best(trials: Sequence[CandidateResult], scores: Sequence[float | None]) -> list[CandidateResult]:
    """Return the members: best score first, of equal ones the first."""
    known = [(k, score) for k, score in enumerate(scores) if score is not None]
    ranked = sorted(known, key=lambda item: -round(item[1], 10))
    return [trials[k] for k, _ in ranked[:MEMBERS]]


def _score(
    members: Sequence[CandidateResult],
    work: OuterFold,
    *,
    settings: SearchSettings,
    run: Run,
) -> float | None:
    """Return the mean balanced accuracy over the folds that the members were tuned on; None if one fails."""
    without_logs = replace(settings, log_folder=None)
    tasks = [
        fit_task(
            member.samples.for_search,
            member.head,
            member.choices[0].params,
            OuterFold(pairs=(), fit=fitted, val=None, test=scored),
            settings=without_logs,
            keep=False,
        )
        for fitted, scored in work.pairs
        for member in members
    ]
    outcomes = run(tasks)
    if not tasks or first_failure(outcomes):
        return None
    found = []
    for k, (_, scored) in enumerate(work.pairs):
        fold = outcomes[k * len(members) : (k + 1) * len(members)]
        votes = [
            at_temperature(one.probabilities, member.temperature)
            for one, member in zip(fold, members, strict=True)
        ]
        joined = join_entries(members[0].samples.for_search, scored, _mean(votes))
        found.append(balanced_accuracy(joined.y, np.argmax(joined.probabilities, axis=1)))
    return float(np.mean(found))


def _vote(fits: Sequence[FittedHead]) -> FittedHead:
    return FittedHead(
        saved=None,
        probabilities=_mean([one.probabilities for one in fits]),
        fit_seconds=sum(one.fit_seconds for one in fits),
        predict_seconds=sum(one.predict_seconds for one in fits),
    )


def _mean(parts: Sequence[Float64Array]) -> Float64Array:
    return np.mean(np.stack(parts), axis=0)  # (n_images, n_classes)


def _samples(members: Sequence[CandidateResult]) -> Samples:
    """Return the samples of the first member, under the names of all their stores."""
    stores = list(dict.fromkeys(member.samples.store for member in members))
    backbones = list(dict.fromkeys(member.samples.backbone for member in members))
    return replace(members[0].samples, store=", ".join(stores), backbone=", ".join(backbones))
