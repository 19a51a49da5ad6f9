"""What the studies share: folds of the training images, a search over them, and predictions out of them."""

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

Pairs = tuple[tuple[IntArray, IntArray], ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class StudyContext:
    """One head on one store, the folds of its training images, and the way tasks are run."""

    samples: Samples
    head: str
    heads: tuple[str, ...]  # all that could be fitted on this store
    pairs: Pairs  # images to fit on and held out; every training image is held out once
    settings: SearchSettings
    run: Run
    chosen: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # head → params of its bundle
    stores: tuple[Samples, ...] = ()  # all that were compared, a fused one last
    folder: Path | None = None  # of the run, where lists are written

    @property
    def seed(self) -> int:
        """Of folds, heads and resamples."""
        return self.settings.seed

    @property
    def images(self) -> IntArray:
        """All training images, ascending."""
        return np.sort(np.concatenate([held_out for _, held_out in self.pairs]))


def make_context(
    candidates: Sequence[CandidateResult],
    protocol: EvaluationProtocol,
    *,
    recommended: Mapping[str, Any] | None,
    settings: SearchSettings,
    run: Run,
    folder: Path | None = None,
) -> StudyContext:
    """Return the recommended head on its store, or the best one of the registry where that is none.

    Raises
    ------
    CompareError
        If no head could be fitted.
    """
    able = [candidate for candidate in candidates if candidate.final is not None and candidate.head in HEADS]
    able = [candidate for candidate in able if get_head(candidate.head).grid != ({},)]  # not the baseline
    if recommended is None or not able:
        raise CompareError("no head could be fitted. Compare others: --heads NAMES. See: classify heads")
    place = (recommended["store"], recommended["head"])

    def rank(candidate: CandidateResult) -> tuple[bool, bool, float]:
        score = candidate.searches[0].score
        mine = (candidate.samples.store, candidate.head)
        return mine != place, mine[0] != place[0], 0.0 if score is None else -round(score, 10)

    best = min(able, key=rank)
    return StudyContext(
        samples=best.samples,
        head=best.head,
        heads=tuple(candidate.head for candidate in able if candidate.samples is best.samples),
        pairs=study_pairs(best.samples, protocol, seed=settings.seed),
        settings=settings,
        run=run,
        chosen={
            candidate.head: candidate.final_params or {}
            for candidate in able
            if candidate.samples is best.samples
        },
        stores=tuple({candidate.samples.store: candidate.samples for candidate in able}.values()),
        folder=folder,
    )


def study_pairs(samples: Samples, protocol: EvaluationProtocol, *, seed: int) -> Pairs:
    """Return grouped folds of all training images: those of the comparison, whose outcomes are remembered.

    Where a val split chose the hyper-parameters there are none; they are made over train and val.
    """
    last = protocol.outer_folds[0] if protocol.final is None else protocol.final
    if last.inner_folds:
        return last.inner_folds
    images = samples.fit_images
    folds = grouped_folds(
        samples.y[images], samples.group[images], n_folds=OUTER_FOLDS, seed=seed, classes=samples.classes
    )
    return tuple((images[fitted], images[held_out]) for fitted, held_out in folds.pairs)


def fold_scores(case: StudyContext) -> tuple[tuple[dict[str, Any], ...], list[GridScores]]:
    """Return the head's grid points, and of each fold their scores (no fold where it cannot be searched)."""
    samples, nothing = case.samples, np.empty(0, dtype=np.int64)
    options = case.settings.options(case.head, n_rows=samples.n_rows(samples.fit_images))
    points = search_points(case.head, options, n_levels=len(samples.level_names))
    work = OuterFold(inner_folds=case.pairs, fit=samples.fit_images, val=None, test=nothing)
    tasks = score_tasks(samples, case.head, work, settings=case.settings, options=options)
    return points, run_all(case, list(tasks))


def choose_on_folds(case: StudyContext) -> SearchResult:
    """Return the hyper-parameters chosen on the folds."""
    return choose_params(*fold_scores(case))


def fit_tasks(case: StudyContext, params: Mapping[str, Any], pairs: Pairs) -> list[FitTask]:
    """Return the tasks of fitting on one part of each pair and grading the other."""
    return [
        FitTask(
            samples=case.samples,
            head=case.head,
            params=params,
            fit=fitted,
            test=held_out,
            val=None,
            class_weight=case.settings.class_weight,
            seed=case.seed,
            return_head=False,
        )
        for fitted, held_out in pairs
    ]


def out_of_fold(case: StudyContext, params: Mapping[str, Any]) -> Float64Array:
    """Return the probabilities of every training image by heads that were not fitted on its fold.

    Returns
    -------
    ndarray of shape (n_images, n_classes), float64
        In the order of ``case.images``.

    Raises
    ------
    CompareError
        If the head cannot be fitted on one of the folds.
    """
    outcomes = run_all(case, list(fit_tasks(case, params, case.pairs)))
    held_out = np.concatenate([images for _, images in case.pairs])
    probabilities = np.concatenate([outcome.probabilities for outcome in outcomes])
    return np.asarray(probabilities[np.argsort(held_out, kind="stable")])


def out_of_fold_predictions(case: StudyContext, params: Mapping[str, Any]) -> EntryPredictions:
    """Return the out-of-fold predictions of every training entry."""
    return average_entries(case.samples, case.images, out_of_fold(case, params))


def run_all(case: StudyContext, tasks: list[Any]) -> list[Any]:
    """Run tasks.

    Raises
    ------
    CompareError
        If one of them failed.
    """
    outcomes = case.run(tasks) if tasks else []
    if reason := first_failure(outcomes):
        raise CompareError(f"{case.head} on {case.samples.store}: {reason}")
    return outcomes
