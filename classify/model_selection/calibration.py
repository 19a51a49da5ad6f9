"""Temperature scaling: calibrated probabilities, with one temperature per head fitted on training folds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from classify.heads.registry import get_head
from classify.heads.solvers.temperature import apply_temperature, fit_temperature
from classify.model_selection.grid_search import CandidateResult, Run, SearchSettings, first_failure, fit_task
from classify.model_selection.protocol import EvaluationProtocol, OuterFold
from classify.model_selection.tasks import FittedHead, SearchResult


def apply_temperatures(
    candidates: Sequence[CandidateResult],
    protocol: EvaluationProtocol,
    *,
    settings: SearchSettings,
    run: Run,
) -> list[CandidateResult]:
    """Scale each head's probabilities by a temperature fitted on predictions of held-out training images.

    For these predictions the head is fitted once more on every inner fold. Test images have no influence, and
    no predicted class changes.

    Parameters
    ----------
    candidates : sequence of CandidateResult
    protocol : EvaluationProtocol
    settings : SearchSettings
    run : callable
        Function that runs tasks.

    Returns
    -------
    list of CandidateResult
        With `temperature` of the head in the bundle, and a note about it. The baseline and heads that were
        not tuned stay as they are; so does a head that cannot be fitted on some fold, with a note.
    """
    return [_scale(candidate, protocol, settings=settings, run=run) for candidate in candidates]


def _scale(
    candidate: CandidateResult, protocol: EvaluationProtocol, *, settings: SearchSettings, run: Run
) -> CandidateResult:
    if candidate.final is None or not any(get_head(candidate.head).grid):
        return candidate
    per_fold = [
        _temperature(candidate, search, fold, settings=settings, run=run)
        for search, fold in zip(candidate.searches, protocol.outer_folds, strict=True)
    ]
    last = per_fold[0]
    if protocol.final is not None and protocol.final.inner_folds and candidate.final_params is not None:
        search = SearchResult(params=candidate.final_params, score=None, seconds=0.0)
        last = _temperature(candidate, search, protocol.final, settings=settings, run=run)
    temperatures = [value for value in (*per_fold, last) if value is not None]
    if len(temperatures) <= len(per_fold):  # at least one is None
        note = "no temperature scaling: the head cannot be fitted on some of the inner folds"
        return replace(candidate, final=replace(candidate.final, notes=(*candidate.final.notes, note)))
    fits = tuple(_at(fit, value) for fit, value in zip(candidate.fits, temperatures, strict=False))
    note = f"probabilities scaled by temperature {temperatures[-1]:.3g}, fitted on held-out training images"
    final = _at(candidate.final, temperatures[-1])
    return replace(
        candidate, fits=fits, final=replace(final, notes=(*final.notes, note)), temperature=temperatures[-1]
    )


def _at(fitted: FittedHead, temperature: float) -> FittedHead:
    return replace(fitted, probabilities=apply_temperature(fitted.probabilities, temperature))


def _temperature(
    candidate: CandidateResult,
    search: SearchResult,
    fold: OuterFold,
    *,
    settings: SearchSettings,
    run: Run,
) -> float | None:
    """Return the temperature for an outer fold; None if the head cannot be fitted on its inner folds."""
    tasks = [
        fit_task(
            candidate.samples.search_samples,
            candidate.head,
            search.params,
            OuterFold(inner_folds=(), fit=fitted, val=None, test=held_out),
            settings=replace(settings, log_folder=None),
            return_head=False,
        )
        for fitted, held_out in fold.inner_folds
    ]
    results = run(tasks)
    if not tasks or first_failure(results):
        return None
    y = np.concatenate([candidate.samples.search_samples.y[held_out] for _, held_out in fold.inner_folds])
    return fit_temperature(y, np.concatenate([result.probabilities for result in results]))
