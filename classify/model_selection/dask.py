"""Tasks run on Dask workers, as `parallel` runs them in processes and threads of this machine.

By Dask's client, not by joblib's Dask backend: that one runs tasks of a worker beside each other in threads,
where scikit-learn's warnings mix; it looks for arrays to share among arguments only, and ours lie within
`Samples`; and it does not outlive a scheduler that is started anew.
"""

from __future__ import annotations

import dataclasses
import secrets
import sys
import tempfile
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from classify.heads.registry import get_head
from classify.model_selection.cache import versions_here
from classify.model_selection.parallel import Failure, longest_first, run_alone, start_networks
from classify.model_selection.tasks import FitTask, ScoreTask
from featurize.base.dask_cluster import Cluster
from featurize.base.dask_jobs import JobSpec, WorkerRefusedError, run_jobs
from featurize.engines.device import use_device

_LARGE = 2**18  # bytes from which an array travels by itself, once, instead of with each task


@dataclass(frozen=True, kw_only=True, eq=False)
class DaskJobs:
    """The workers of a cluster, in the place of a number of jobs."""

    cluster: Cluster
    device: str = "cpu"  # of TensorFlow heads: "cpu", or GPUs that workers offer as a resource
    gpu_memory: float | None = None
    token: str = field(default_factory=lambda: secrets.token_hex(6))
    held: dict[int, Any] = field(default_factory=dict)  # what workers hold: by id, the future of it

    def run(
        self,
        tasks: Sequence[Task],
        *,
        on_progress: Callable[[int], None] | None = None,
        on_outcome: Callable[[int, Any], None] | None = None,
    ) -> list[Any]:
        """Run tasks on the workers; see `run_on_dask`."""
        return run_on_dask(tasks, jobs=self, on_progress=on_progress, on_outcome=on_outcome)


Task = ScoreTask | FitTask
Logs = Mapping[str, bytes]


def run_on_dask(
    tasks: Sequence[Task],
    *,
    jobs: DaskJobs,
    on_progress: Callable[[int], None] | None = None,
    on_outcome: Callable[[int, Any], None] | None = None,
) -> list[Any]:
    """Run tasks on Dask workers, each worker one at a time and in one thread.

    Parameters
    ----------
    tasks : sequence of ScoreTask or FitTask
    jobs : DaskJobs
        Who runs them. Results do not depend on it.
    on_progress : callable, optional
        Called with 1 after each task.
    on_outcome : callable, optional
        Called with the number of a task and what it brought, unless it failed; its TensorBoard logs are in
        their place.

    Returns
    -------
    list
        What each task brought, in order; a `Failure` where it raised.

    Raises
    ------
    ClusterError
        If the workers cannot do it; see `featurize.spread`.
    """
    outcomes: list[Any] = [None] * len(tasks)
    networks = [index for index, task in enumerate(tasks) if get_head(task.head).tensorflow]
    others = [index for index, task in enumerate(tasks) if not get_head(task.head).tensorflow]
    on_gpu = jobs.device != "cpu"
    # The networks take longest, so they go first; on GPUs they are for other workers, and go by themselves.
    ordered = [*networks, *longest_first(others, tasks)]
    for part in [networks, longest_first(others, tasks)] if on_gpu else [ordered]:
        spreading = JobSpec(
            check=partial(check_worker, versions_here()),
            function=run_task,
            arguments=lambda index, workers: _arguments(tasks[index], jobs, workers),
            gpu="yes" if on_gpu and part is networks else "no",
            on_lost=jobs.held.clear,
            describe=lambda index: f"a task of head {tasks[index].head}",
        )
        try:
            with closing(run_jobs(jobs.cluster, _InOrder(part), spreading)) as stream:
                for brought in stream:
                    outcome, logs = brought.value
                    _place(tasks[brought.job], logs)
                    outcomes[brought.job] = outcome
                    if on_outcome is not None and not isinstance(outcome, Failure):
                        on_outcome(brought.job, outcome)
                    if on_progress is not None:
                        on_progress(1)
        except BaseException:  # Ctrl-C, SIGTERM: nobody waits for the rest
            with suppress(Exception):
                jobs.cluster.client.run(stop, jobs.token, on_error="ignore")
            raise
    return outcomes


class _InOrder:
    """A `featurize.base.dask_jobs.JobSource` of tasks, by number."""

    def __init__(self, indices: Sequence[int]) -> None:
        self._left = deque(indices)

    def take(self, n_workers: int) -> int | None:
        return self._left.popleft() if self._left else None


def _arguments(task: Task, jobs: DaskJobs, workers: Sequence[str]) -> tuple[Any, ...]:
    """Return what `run_task` is called with: a task without what is large, and the places where that is."""
    large: dict[str, Any] = {"samples": task.samples}
    for each in dataclasses.fields(task):
        value = getattr(task, each.name)
        if isinstance(value, np.ndarray) and value.nbytes >= _LARGE:
            large[each.name] = value
    nothing: dict[str, Any] = dict.fromkeys(large)
    bare = dataclasses.replace(task, **nothing)
    held = [_held(value, jobs, workers) for value in large.values()]
    return bare, jobs.token, jobs.device, jobs.gpu_memory, tuple(large), *held


def _held(value: Any, jobs: DaskJobs, workers: Sequence[str]) -> Any:
    """Return the future of something that a worker holds, and that the others fetch from it, once each."""
    if id(value) not in jobs.held:
        jobs.held[id(value)] = jobs.cluster.client.scatter(value, workers=list(workers), hash=False)
        weakref.finalize(value, jobs.held.pop, id(value), None)
    return jobs.held[id(value)]


def check_worker(versions: Mapping[str, str]) -> str:
    """Return why a worker is not to take part, "" if it is."""
    here = versions_here()
    differing = [
        f"{name} {here.get(name, 'none')} (this run: {versions.get(name, 'none')})"
        for name in {**versions, **here}
        if here.get(name) != versions.get(name)
    ]
    return f"has {', '.join(differing)}. Install there what is installed here" if differing else ""


_under_way: dict[str, str] = {}  # "token": whose task this process is at


def run_task(
    bare: Task, token: str, device: str, gpu_memory: float | None, names: Sequence[str], *values: Any
) -> tuple[Any, Logs]:
    """Run a task on the worker that this is called on; return what it brought, and its logs.

    Raises
    ------
    WorkerRefusedError
        If TensorFlow has been started here in another way, so that results would depend on that.
    """
    task = dataclasses.replace(bare, **dict(zip(names, values, strict=True)))
    if get_head(task.head).tensorflow:
        start_networks(partial(use_device, device, gpu_memory=gpu_memory))
        training = sys.modules["classify.heads.dense_training"]
        if not training.in_one_thread():
            raise WorkerRefusedError("has computed with TensorFlow in several threads before. Start it anew")
        training.stopping.clear()
    _under_way["token"] = token
    try:
        with tempfile.TemporaryDirectory(prefix="folio-") as folder:
            place = Path(folder)
            if isinstance(task, FitTask) and task.log_dir is not None:
                task = dataclasses.replace(task, log_dir=place)
            _, outcome = run_alone(0, task)
            files = sorted(path for path in place.rglob("*") if path.is_file())
            logs = {path.relative_to(place).as_posix(): path.read_bytes() for path in files}
    finally:
        _under_way.clear()
    return outcome, logs


def stop(token: str) -> None:
    """End the training that this worker is at, if it is for that client."""
    training = sys.modules.get("classify.heads.dense_training")
    if training is not None and _under_way.get("token") == token:
        training.stopping.set()


def _place(task: Task, logs: Logs) -> None:
    """Write the TensorBoard logs that came with an outcome where the task wanted them."""
    if isinstance(task, FitTask) and task.log_dir is not None:
        for name, data in logs.items():
            path = task.log_dir / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
