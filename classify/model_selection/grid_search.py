"""Every head on every store by one plan: the tasks, and what their outcomes say. Knows no files."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from classify.data.samples import Samples
from classify.heads.registry import get_head, size_params
from classify.model_selection.cache import TaskCache, cached, n_cached
from classify.model_selection.parallel import Failure
from classify.model_selection.protocol import EvaluationProtocol, OuterFold
from classify.model_selection.tasks import (
    FitTask,
    FittedHead,
    ScoreTask,
    SearchResult,
    choose_params,
    lacking_groups,
    lacking_stream,
    release_workers,
    search_points,
)

if TYPE_CHECKING:
    from classify.model_selection.dask import DaskJobs


Run = Callable[[list[Any]], list[Any]]  # tasks to their outcomes


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """What holds for all heads of a comparison."""

    seed: int
    class_weight: str | None
    dense_options: Mapping[str, Any]  # of TensorFlow heads; not searched
    log_folder: Path | None  # of TensorBoard

    def options(self, head: str, *, n_rows: int) -> dict[str, Any]:
        """Return the parameters of a head that are not searched; some depend on the rows it is fitted on."""
        given = dict(self.dense_options) if get_head(head).tensorflow else {}
        return {**given, **size_params(head, n_rows)}


@dataclass(frozen=True, kw_only=True)
class CandidateResult:
    """One head on one store, tuned, fitted and tested; `reason` says why not."""

    samples: Samples
    head: str
    reason: str = ""
    choices: tuple[SearchResult, ...] = ()  # one a round
    fits: tuple[FittedHead, ...] = ()  # one a round
    final: FittedHead | None = None  # what becomes the bundle
    final_params: Mapping[str, Any] | None = None
    temperature: float = 1.0  # that the bundle's probabilities are scaled by
    members: tuple[CandidateResult, ...] = ()  # of an ensemble: those whose bundles grade together
    n_tasks: int = 0  # folds scored and heads fitted
    n_remembered: int = 0  # those of them that an earlier run had done


def run_candidates(
    stores: Sequence[Samples],
    heads: Sequence[str],
    plan: EvaluationProtocol,
    *,
    settings: SearchSettings,
    jobs: int | DaskJobs,
    memory: TaskCache | None = None,
    before_tensorflow: Callable[[], object] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[CandidateResult]:
    """Tune, fit and test; a head that fails takes no other with it.

    Parameters
    ----------
    stores : sequence of Samples
        Of one data set, with equal groups.
    heads : sequence of str
    plan : EvaluationProtocol
    settings : SearchSettings
    jobs : int or DaskJobs
        Processes, or Dask workers.
    memory : TaskCache, optional
        Outcomes of earlier runs; without one nothing is remembered.
    before_tensorflow : callable, optional
        Called before TensorFlow is needed, if it is.
    on_progress : callable, optional
        Called with (done, total) tasks.

    Returns
    -------
    list of CandidateResult
        Store by store, in the order of the heads.
    """
    cases = [(samples, head) for samples in stores for head in heads]
    searched = (*plan.rounds, *((plan.final,) if plan.final is not None and plan.final.pairs else ()))
    n_fits = len(plan.rounds) + (plan.final is not None)
    in_the_end = plan.rounds[0].fit if plan.final is None else plan.final.fit
    options = [settings.options(head, n_rows=samples.n_rows(in_the_end)) for samples, head in cases]
    tasks = [
        []
        if lacking_stream(*case)
        else [score_tasks(*case, one, settings=settings, options=given) for one in searched]
        for case, given in zip(cases, options, strict=True)
    ]
    total = sum(len(part) for parts in tasks for part in parts) + len(cases) * n_fits
    run = partial(
        cached,
        memory=memory,
        jobs=jobs,
        on_progress=Counter(total, on_progress),
        before_tensorflow=before_tensorflow,
    )
    scored = _grouped([[task for part in parts for task in part] for parts in tasks], run)
    chosen: list[tuple[SearchResult, ...] | str] = []
    for (samples, head), given, parts, outcomes in zip(cases, options, tasks, scored, strict=True):
        if reason := lacking_stream(samples, head):
            chosen.append(reason)
            continue
        ends = np.cumsum([0, *map(len, parts)])
        points = search_points(head, given, n_levels=len(samples.level_names))
        folds = [outcomes[start:end] for start, end in itertools.pairwise(ends)]
        chosen.append(first_failure(outcomes) or tuple(choose_params(points, part) for part in folds))
    if any(samples.stored is not None for samples in stores):  # one after another, all memory for each
        release_workers()
        run = partial(run, jobs=1)
    fitted = _grouped(
        [
            [] if isinstance(choices, str) else _fit_tasks(samples, head, plan, choices, settings=settings)
            for (samples, head), choices in zip(cases, chosen, strict=True)
        ],
        run,
    )
    return [
        replace(
            _trial(samples, head, plan, choices, fits),
            n_tasks=len(scores) + len(fits),
            n_remembered=n_cached([*scores, *fits]),
        )
        for (samples, head), choices, scores, fits in zip(cases, chosen, scored, fitted, strict=True)
    ]


def score_tasks(
    samples: Samples, head: str, work: OuterFold, *, settings: SearchSettings, options: Mapping[str, Any]
) -> list[ScoreTask]:
    """Return the tasks of one search: one a fold; none where a head cannot be fitted in some fold.

    Folds keep one group of each class for fitting; a head that sets groups aside for every fit needs two.
    `options` are `Settings.options`.
    """
    samples = samples.for_search
    if get_head(head).tensorflow and any(
        lacking_groups(samples, head, fitted, seed=settings.seed) for fitted, _ in work.pairs
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
        for fitted, scored in work.pairs
    ]


def fit_task(
    samples: Samples,
    head: str,
    params: Mapping[str, Any],
    work: OuterFold,
    *,
    settings: SearchSettings,
    keep: bool,
) -> FitTask:
    """Return the task of one fit."""
    logs = (
        settings.log_folder / f"{samples.store}__{head}" if keep and settings.log_folder is not None else None
    )
    return FitTask(
        samples=samples,
        head=head,
        params=params,
        fit=work.fit,
        test=work.test,
        val=work.val,
        class_weight=settings.class_weight,
        seed=settings.seed,
        keep=keep,
        log_dir=logs,
    )


def first_failure(outcomes: Sequence[Any]) -> str:
    """Return why a task failed, "" when none did."""
    return next((outcome.reason for outcome in outcomes if isinstance(outcome, Failure)), "")


class Counter:
    """Counts tasks for a progress bar."""

    def __init__(self, total: int, on_progress: Callable[[int, int], None] | None) -> None:
        self.done, self.total, self._tell = 0, total, on_progress

    def __call__(self, more: int) -> None:
        """Count some more."""
        self.done += more
        if self._tell is not None:
            self._tell(self.done, self.total)


def runner(
    *,
    memory: TaskCache | None,
    jobs: int | DaskJobs,
    before_tensorflow: Callable[[], object] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Run:
    """Return what runs tasks, or recalls them, and tells the progress over all lists it is given."""
    counter = Counter(0, on_progress)

    def run(tasks: list[Any]) -> list[Any]:
        counter.total += len(tasks)
        return cached(
            tasks, memory=memory, jobs=jobs, on_progress=counter, before_tensorflow=before_tensorflow
        )

    return run


def _fit_tasks(
    samples: Samples,
    head: str,
    plan: EvaluationProtocol,
    choices: Sequence[SearchResult],
    *,
    settings: SearchSettings,
) -> list[FitTask]:
    tasks = [
        fit_task(samples, head, choice.params, one, settings=settings, keep=plan.final is None)
        for one, choice in zip(plan.rounds, choices, strict=False)
    ]
    if plan.final is not None:  # its own choice where it was searched, else that of the one round
        tasks.append(fit_task(samples, head, choices[-1].params, plan.final, settings=settings, keep=True))
    return tasks


def _trial(
    samples: Samples,
    head: str,
    plan: EvaluationProtocol,
    choices: tuple[SearchResult, ...] | str,
    fits: Sequence[FittedHead | Failure],
) -> CandidateResult:
    if isinstance(choices, str):
        return CandidateResult(samples=samples, head=head, reason=choices)
    if reason := first_failure(fits):
        return CandidateResult(samples=samples, head=head, reason=reason)
    done = [one for one in fits if isinstance(one, FittedHead)]
    return CandidateResult(
        samples=samples,
        head=head,
        choices=choices[: len(plan.rounds)],
        fits=tuple(done[: len(plan.rounds)]),
        final=done[-1],
        final_params=choices[-1].params,
    )


def _grouped(
    tasks: Sequence[Sequence[ScoreTask | FitTask]], run: Callable[[list[ScoreTask | FitTask]], list[Any]]
) -> list[list[Any]]:
    """Run lists of tasks as one, so that no core waits for the end of a list."""
    outcomes = iter(run([task for group in tasks for task in group]))
    return [[next(outcomes) for _ in group] for group in tasks]
