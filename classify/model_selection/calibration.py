"""Probabilities made as sure as they deserve: one temperature a head, fitted on training folds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from classify.heads.registry import get_head
from classify.heads.solvers.temperature import at_temperature, fit_temperature
from classify.model_selection.grid_search import CandidateResult, Run, SearchSettings, first_failure, fit_task
from classify.model_selection.protocol import EvaluationProtocol, OuterFold
from classify.model_selection.tasks import FittedHead, SearchResult


def apply_temperatures(
    trials: Sequence[CandidateResult],
    plan: EvaluationProtocol,
    *,
    settings: SearchSettings,
    run: Run,
) -> list[CandidateResult]:
    """Scale each head's probabilities by a temperature fitted on predictions for held out training images.

    For these the head is fitted once more in every fold it was tuned on. Tested images decide nothing, and
    no image's class changes.

    Parameters
    ----------
    trials : sequence of CandidateResult
    plan : EvaluationProtocol
    settings : SearchSettings
    run : callable
        Runs tasks.

    Returns
    -------
    list of CandidateResult
        With `temperature`, that of the head in the bundle, and a note of it. The baseline, and a head that
        was not tuned or fails in a fold, stay as they are; the latter is noted.
    """
    return [_tempered(trial, plan, settings=settings, run=run) for trial in trials]


def _tempered(
    trial: CandidateResult, plan: EvaluationProtocol, *, settings: SearchSettings, run: Run
) -> CandidateResult:
    if trial.final is None or not any(get_head(trial.head).grid):
        return trial
    found = [
        _temperature(trial, choice, one, settings=settings, run=run)
        for choice, one in zip(trial.choices, plan.rounds, strict=True)
    ]
    last = found[0]
    if plan.final is not None and plan.final.pairs and trial.final_params is not None:
        choice = SearchResult(params=trial.final_params, score=None, seconds=0.0)
        last = _temperature(trial, choice, plan.final, settings=settings, run=run)
    known = [value for value in (*found, last) if value is not None]
    if len(known) <= len(found):
        note = "no temperature: the head cannot be fitted on some of the folds it was tuned on"
        return replace(trial, final=replace(trial.final, notes=(*trial.final.notes, note)))
    fits = tuple(_at(fit, value) for fit, value in zip(trial.fits, known, strict=False))
    note = f"probabilities at temperature {known[-1]:.3g}, fitted on held out training images"
    final = _at(trial.final, known[-1])
    return replace(trial, fits=fits, final=replace(final, notes=(*final.notes, note)), temperature=known[-1])


def _at(fitted: FittedHead, temperature: float) -> FittedHead:
    return replace(fitted, probabilities=at_temperature(fitted.probabilities, temperature))


def _temperature(
    trial: CandidateResult,
    choice: SearchResult,
    work: OuterFold,
    *,
    settings: SearchSettings,
    run: Run,
) -> float | None:
    """Return the temperature for a round; None where the head could not be fitted in its folds."""
    tasks = [
        fit_task(
            trial.samples.for_search,
            trial.head,
            choice.params,
            OuterFold(pairs=(), fit=fitted, val=None, test=held_out),
            settings=replace(settings, log_folder=None),
            keep=False,
        )
        for fitted, held_out in work.pairs
    ]
    outcomes = run(tasks)
    if not tasks or first_failure(outcomes):
        return None
    y = np.concatenate([trial.samples.for_search.y[held_out] for _, held_out in work.pairs])
    return fit_temperature(y, np.concatenate([one.probabilities for one in outcomes]))
