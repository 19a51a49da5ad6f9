"""Shared steps of the studies: folds of the training images, grid search, out-of-fold predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from classify.data.folds import grouped_folds
from classify.data.samples import Samples
from classify.errors import CompareError
from classify.heads.registry import HEADS, get_head
from classify.model_selection.grid_search import (
    CandidateResult,
    Run,
    SearchSettings,
    first_failure,
    score_tasks,
)
from classify.model_selection.predictions import EntryPredictions, average_entries
from classify.model_selection.protocol import OUTER_FOLDS, EvaluationProtocol, OuterFold
from classify.model_selection.tasks import FitTask, GridScores, SearchResult, choose_params, search_points
from featurize.base.typing import Float64Array, IntArray

Folds = tuple[tuple[IntArray, IntArray], ...]  # (images to fit on, images held out) of each fold


@dataclass(frozen=True, kw_only=True, eq=False)
class StudyContext:
    """The head and store that a study is about, the folds of its training images, and how to run tasks."""

    samples: Samples
    head: str
    heads: tuple[str, ...]  # all heads that could be fitted on this store
    folds: Folds  # every training image is held out once
    settings: SearchSettings
    run: Run
    chosen: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # head → params of its bundle
    stores: tuple[Samples, ...] = ()  # all stores that were compared; a fused one is last
    folder: Path | None = None  # run folder, for tables that a study writes

    @property
    def seed(self) -> int:
        """Seed of folds, heads and resamples."""
        return self.settings.seed

    @property
    def images(self) -> IntArray:
        """All training images, in ascending order."""
        return np.sort(np.concatenate([held_out for _, held_out in self.folds]))


def make_context(
    candidates: Sequence[CandidateResult],
    protocol: EvaluationProtocol,
    *,
    recommended: Mapping[str, Any] | None,
    settings: SearchSettings,
    run: Run,
    folder: Path | None = None,
) -> StudyContext:
    """Return the context of the recommended head on its store.

    If the recommended head is not in the registry (an ensemble), the head of the same store with the best
    score takes its place.

    Parameters
    ----------
    candidates : sequence of CandidateResult
        All heads that were compared.
    protocol : EvaluationProtocol
    recommended : mapping, optional
        Store and head, as in ``results.json``.
    settings : SearchSettings
    run : callable
        Runs tasks.
    folder : Path, optional
        The run folder.

    Raises
    ------
    CompareError
        If no head could be fitted.
    """
    fitted = [
        candidate for candidate in candidates if candidate.final is not None and candidate.head in HEADS
    ]
    fitted = [candidate for candidate in fitted if get_head(candidate.head).grid != ({},)]  # no baseline
    if recommended is None or not fitted:
        raise CompareError("no head could be fitted. Compare others: --heads NAMES. See: classify heads")
    store, head = recommended["store"], recommended["head"]

    def rank(candidate: CandidateResult) -> tuple[bool, bool, float]:
        score = candidate.searches[0].score
        name = (candidate.samples.store, candidate.head)
        return name != (store, head), name[0] != store, 0.0 if score is None else -round(score, 10)

    best = min(fitted, key=rank)
    on_same_store = [candidate for candidate in fitted if candidate.samples is best.samples]
    return StudyContext(
        samples=best.samples,
        head=best.head,
        heads=tuple(candidate.head for candidate in on_same_store),
        folds=study_folds(best.samples, protocol, seed=settings.seed),
        settings=settings,
        run=run,
        chosen={candidate.head: candidate.final_params or {} for candidate in on_same_store},
        stores=tuple({candidate.samples.store: candidate.samples for candidate in fitted}.values()),
        folder=folder,
    )


def study_folds(samples: Samples, protocol: EvaluationProtocol, *, seed: int) -> Folds:
    """Return grouped folds of all training images.

    They are the folds of the comparison, so that its cached results are used. If a val split chose the
    hyper-parameters, the comparison had no folds, and new ones are made over train and val.
    """
    last = protocol.outer_folds[0] if protocol.final is None else protocol.final
    if last.inner_folds:
        return last.inner_folds
    images = samples.fit_images
    folds = grouped_folds(
        samples.y[images], samples.group[images], n_folds=OUTER_FOLDS, seed=seed, classes=samples.classes
    )
    return tuple((images[fitted], images[held_out]) for fitted, held_out in folds.pairs)


def fold_scores(context: StudyContext) -> tuple[tuple[dict[str, Any], ...], list[GridScores]]:
    """Return the grid points of the head and their scores on each fold; no scores if nothing is searched."""
    samples, no_images = context.samples, np.empty(0, dtype=np.int64)
    options = context.settings.options(context.head, n_rows=samples.n_rows(samples.fit_images))
    points = search_points(context.head, options, n_levels=len(samples.level_names))
    fold = OuterFold(inner_folds=context.folds, fit=samples.fit_images, val=None, test=no_images)
    tasks = score_tasks(samples, context.head, fold, settings=context.settings, options=options)
    return points, run_all(context, list(tasks))


def choose_on_folds(context: StudyContext) -> SearchResult:
    """Return the hyper-parameters chosen on the folds."""
    return choose_params(*fold_scores(context))


def fit_tasks(context: StudyContext, params: Mapping[str, Any], folds: Folds) -> list[FitTask]:
    """Return one task per fold: fit on its training images, predict its held-out images."""
    return [
        FitTask(
            samples=context.samples,
            head=context.head,
            params=params,
            fit=fitted,
            test=held_out,
            val=None,
            class_weight=context.settings.class_weight,
            seed=context.seed,
            return_head=False,
        )
        for fitted, held_out in folds
    ]


def out_of_fold(context: StudyContext, params: Mapping[str, Any]) -> Float64Array:
    """Return out-of-fold probabilities of every training image.

    Returns
    -------
    ndarray of shape (n_images, n_classes), float64
        In the order of ``context.images``.

    Raises
    ------
    CompareError
        If the head cannot be fitted on one of the folds.
    """
    results = run_all(context, list(fit_tasks(context, params, context.folds)))
    held_out = np.concatenate([images for _, images in context.folds])
    probabilities = np.concatenate([result.probabilities for result in results])
    return np.asarray(probabilities[np.argsort(held_out, kind="stable")])


def out_of_fold_predictions(context: StudyContext, params: Mapping[str, Any]) -> EntryPredictions:
    """Return the out-of-fold predictions of every training entry."""
    return average_entries(context.samples, context.images, out_of_fold(context, params))


def run_all(context: StudyContext, tasks: list[Any]) -> list[Any]:
    """Run tasks and return their results.

    Raises
    ------
    CompareError
        If one of them failed.
    """
    results = context.run(tasks) if tasks else []
    if reason := first_failure(results):
        raise CompareError(f"{context.head} on {context.samples.store}: {reason}")
    return results
