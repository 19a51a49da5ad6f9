"""Grid search, fit and test of every head on every store, by one evaluation protocol. Writes no files."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from classify.data.samples import Samples
from classify.heads.registry import get_head, solver_params
from classify.model_selection.cache import TaskCache, cached, n_cached
from classify.model_selection.parallel import Failure
from classify.model_selection.protocol import EvaluationProtocol, OuterFold
from classify.model_selection.tasks import (
    FitTask,
    FittedHead,
    ScoreTask,
    SearchResult,
    choose_params,
    reason_unfittable,
    reason_unstreamable,
    release_workers,
    search_points,
)

if TYPE_CHECKING:
    from classify.model_selection.dask import DaskJobs


Run = Callable[[list[Any]], list[Any]]  # from tasks to their results


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """Settings that all heads of a comparison share."""

    seed: int
    class_weight: str | None
    dense_options: Mapping[str, Any]  # parameters of TensorFlow heads; not searched
    log_folder: Path | None  # for TensorBoard logs

    def options(self, head: str, *, n_rows: int) -> dict[str, Any]:
        """Return the parameters of a head that are not searched; some depend on the number of rows."""
        dense_options = dict(self.dense_options) if get_head(head).tensorflow else {}
        return {**dense_options, **solver_params(head, n_rows)}


@dataclass(frozen=True, kw_only=True)
class CandidateResult:
    """One head on one store, tuned, fitted and tested; `reason` is set where that failed."""

    samples: Samples
    head: str
    reason: str = ""
    searches: tuple[SearchResult, ...] = ()  # one per outer fold
    fits: tuple[FittedHead, ...] = ()  # one per outer fold
    final: FittedHead | None = None  # the head of the bundle
    final_params: Mapping[str, Any] | None = None
    temperature: float = 1.0  # of the bundle's probabilities
    members: tuple[CandidateResult, ...] = ()  # the members of an ensemble
    n_tasks: int = 0  # number of folds scored and heads fitted
    n_cached_tasks: int = 0  # how many of them come from the cache


def run_candidates(
    stores: Sequence[Samples],
    heads: Sequence[str],
    protocol: EvaluationProtocol,
    *,
    settings: SearchSettings,
    jobs: int | DaskJobs,
    cache: TaskCache | None = None,
    before_tensorflow: Callable[[], object] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[CandidateResult]:
    """Tune, fit and test every head on every store; a head that fails does not stop the others.

    Parameters
    ----------
    stores : sequence of Samples
        Stores of one data set, with equal groups.
    heads : sequence of str
    protocol : EvaluationProtocol
    settings : SearchSettings
    jobs : int or DaskJobs
        Number of processes, or Dask workers.
    cache : TaskCache, optional
        Results of earlier runs; by default every task is run.
    before_tensorflow : callable, optional
        Called before TensorFlow is first needed.
    on_progress : callable, optional
        Called with (done, total) tasks.

    Returns
    -------
    list of CandidateResult
        Store by store, heads in the order given.
    """
    cases = [(samples, head) for samples in stores for head in heads]
    last = protocol.outer_folds[0] if protocol.final is None else protocol.final
    options = [settings.options(head, n_rows=samples.n_rows(last.fit)) for samples, head in cases]
    tasks = [
        _search_tasks(*case, protocol, settings=settings, options=given)
        for case, given in zip(cases, options, strict=True)
    ]  # per case: one list of tasks per search
    n_fits = len(cases) * (len(protocol.outer_folds) + (protocol.final is not None))
    n_scores = sum(len(search) for searches in tasks for search in searches)
    run = partial(
        cached,
        cache=cache,
        jobs=jobs,
        on_progress=ProgressCounter(n_scores + n_fits, on_progress),
        before_tensorflow=before_tensorflow,
    )
    scored = _run_grouped([list(itertools.chain(*searches)) for searches in tasks], run)
    chosen = [
        _choose(*case, given, searches, scores)
        for case, given, searches, scores in zip(cases, options, tasks, scored, strict=True)
    ]
    if any(samples.on_disk is not None for samples in stores):  # one fit at a time, with all of the memory
        release_workers()
        run = partial(run, jobs=1)
    fitted = _run_grouped(
        [
            []
            if isinstance(searches, str)
            else _fit_tasks(samples, head, protocol, searches, settings=settings)
            for (samples, head), searches in zip(cases, chosen, strict=True)
        ],
        run,
    )
    return [
        replace(
            _candidate_result(samples, head, protocol, searches, fits),
            n_tasks=len(scores) + len(fits),
            n_cached_tasks=n_cached([*scores, *fits]),
        )
        for (samples, head), searches, scores, fits in zip(cases, chosen, scored, fitted, strict=True)
    ]


def _search_tasks(
    samples: Samples,
    head: str,
    protocol: EvaluationProtocol,
    *,
    settings: SearchSettings,
    options: Mapping[str, Any],
) -> list[list[ScoreTask]]:
    """Return the tasks of each search of the protocol; no search where the head cannot read from disk."""
    if reason_unstreamable(samples, head):
        return []
    folds = list(protocol.outer_folds)
    if protocol.final is not None and protocol.final.inner_folds:
        folds.append(protocol.final)
    return [score_tasks(samples, head, fold, settings=settings, options=options) for fold in folds]


def _choose(
    samples: Samples,
    head: str,
    options: Mapping[str, Any],
    searches: Sequence[Sequence[ScoreTask]],
    scores: Sequence[Any],
) -> tuple[SearchResult, ...] | str:
    """Return the hyper-parameters chosen by each search, or why the head cannot be fitted."""
    if reason := reason_unstreamable(samples, head) or first_failure(scores):
        return reason
    points = search_points(head, options, n_levels=len(samples.level_names))
    ends = np.cumsum([0, *map(len, searches)])
    return tuple(choose_params(points, scores[start:end]) for start, end in itertools.pairwise(ends))


def score_tasks(
    samples: Samples, head: str, fold: OuterFold, *, settings: SearchSettings, options: Mapping[str, Any]
) -> list[ScoreTask]:
    """Return the tasks of one search, one per inner fold; none if the head cannot be fitted on one of them.

    The training part of an inner fold may hold a single group of a class; a head that holds out groups of its
    own needs two. `options` is from `SearchSettings.options`.
    """
    samples = samples.search_samples
    if get_head(head).tensorflow and any(
        reason_unfittable(samples, head, fitted, seed=settings.seed) for fitted, _ in fold.inner_folds
    ):
        return []
    return [
        ScoreTask(
            samples=samples,
            head=head,
            points=search_points(head, options, n_levels=len(samples.level_names)),
            fit=fitted,
            score=scored,
            class_weight=settings.class_weight,
            seed=settings.seed,
        )
        for fitted, scored in fold.inner_folds
    ]


def fit_task(
    samples: Samples,
    head: str,
    params: Mapping[str, Any],
    fold: OuterFold,
    *,
    settings: SearchSettings,
    return_head: bool,
) -> FitTask:
    """Return the task of fitting a head on an outer fold."""
    logs = (
        settings.log_folder / f"{samples.store}__{head}"
        if return_head and settings.log_folder is not None
        else None
    )
    return FitTask(
        samples=samples,
        head=head,
        params=params,
        fit=fold.fit,
        test=fold.test,
        val=fold.val,
        class_weight=settings.class_weight,
        seed=settings.seed,
        return_head=return_head,
        log_dir=logs,
    )


def first_failure(results: Sequence[Any]) -> str:
    """Return why the first failed task failed; "" if none did."""
    return next((result.reason for result in results if isinstance(result, Failure)), "")


class ProgressCounter:
    """Count of finished tasks, reported to a progress bar."""

    def __init__(self, total: int, on_progress: Callable[[int, int], None] | None) -> None:
        self.done, self.total, self._report = 0, total, on_progress

    def __call__(self, more: int) -> None:
        """Count more finished tasks."""
        self.done += more
        if self._report is not None:
            self._report(self.done, self.total)


def make_runner(
    *,
    cache: TaskCache | None,
    jobs: int | DaskJobs,
    before_tensorflow: Callable[[], object] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Run:
    """Return a function that runs lists of tasks or reads their results from the cache.

    Progress is reported over all lists together.
    """
    counter = ProgressCounter(0, on_progress)

    def run(tasks: list[Any]) -> list[Any]:
        counter.total += len(tasks)
        return cached(tasks, cache=cache, jobs=jobs, on_progress=counter, before_tensorflow=before_tensorflow)

    return run


def _fit_tasks(
    samples: Samples,
    head: str,
    protocol: EvaluationProtocol,
    searches: Sequence[SearchResult],
    *,
    settings: SearchSettings,
) -> list[FitTask]:
    tasks = [
        fit_task(samples, head, search.params, fold, settings=settings, return_head=protocol.final is None)
        for fold, search in zip(protocol.outer_folds, searches, strict=False)
    ]
    if protocol.final is not None:  # its own search if there was one, else that of the single outer fold
        tasks.append(
            fit_task(samples, head, searches[-1].params, protocol.final, settings=settings, return_head=True)
        )
    return tasks


def _candidate_result(
    samples: Samples,
    head: str,
    protocol: EvaluationProtocol,
    searches: tuple[SearchResult, ...] | str,
    fits: Sequence[FittedHead | Failure],
) -> CandidateResult:
    if isinstance(searches, str):
        return CandidateResult(samples=samples, head=head, reason=searches)
    if reason := first_failure(fits):
        return CandidateResult(samples=samples, head=head, reason=reason)
    fitted = [result for result in fits if isinstance(result, FittedHead)]
    return CandidateResult(
        samples=samples,
        head=head,
        searches=searches[: len(protocol.outer_folds)],
        fits=tuple(fitted[: len(protocol.outer_folds)]),
        final=fitted[-1],
        final_params=searches[-1].params,
    )


def _run_grouped(
    tasks: Sequence[Sequence[ScoreTask | FitTask]], run: Callable[[list[ScoreTask | FitTask]], list[Any]]
) -> list[list[Any]]:
    """Run several lists of tasks as one, so that no core idles at the end of a list."""
    results = iter(run([task for group in tasks for task in group]))
    return [[next(results) for _ in group] for group in tasks]
