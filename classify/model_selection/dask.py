"""Tasks run on Dask workers, as `parallel` runs them in processes and threads of this machine.

This uses Dask's client rather than joblib's Dask backend. The backend runs the tasks of a worker in several
threads, where scikit-learn's warnings mix; it shares large arrays only if they are arguments, and ours are
attributes of `Samples`; and it does not survive a restart of the scheduler.
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

_LARGE = 2**18  # bytes; a larger array is sent to the workers once, instead of with each task


@dataclass(frozen=True, kw_only=True, eq=False)
class DaskJobs:
    """The workers of a cluster: an executor of tasks, given instead of a number of processes."""

    cluster: Cluster
    device: str = "cpu"  # device of TensorFlow heads: "cpu", or GPUs that workers offer as a resource
    gpu_memory: float | None = None
    token: str = field(default_factory=lambda: secrets.token_hex(6))
    scattered: dict[int, Any] = field(default_factory=dict)  # id of a large object: its future on the workers

    def run(
        self,
        tasks: Sequence[Task],
        *,
        on_progress: Callable[[int], None] | None = None,
        on_result: Callable[[int, Any], None] | None = None,
    ) -> list[Any]:
        """Run tasks on the workers; see `run_on_dask`."""
        return run_on_dask(tasks, jobs=self, on_progress=on_progress, on_result=on_result)


Task = ScoreTask | FitTask
Logs = Mapping[str, bytes]


def run_on_dask(
    tasks: Sequence[Task],
    *,
    jobs: DaskJobs,
    on_progress: Callable[[int], None] | None = None,
    on_result: Callable[[int, Any], None] | None = None,
) -> list[Any]:
    """Run tasks on Dask workers, each worker one at a time and in one thread.

    Parameters
    ----------
    tasks : sequence of ScoreTask or FitTask
    jobs : DaskJobs
        The workers. Results do not depend on them.
    on_progress : callable, optional
        Called with 1 after each task.
    on_result : callable, optional
        Called with the index of a task and its result, unless it failed. Its TensorBoard logs have been
        written by then.

    Returns
    -------
    list
        The result of each task, in order; a `Failure` where it raised.

    Raises
    ------
    ClusterError
        If no worker is usable and none can still join.
    """
    results: list[Any] = [None] * len(tasks)
    networks = [index for index, task in enumerate(tasks) if get_head(task.head).tensorflow]
    others = [index for index, task in enumerate(tasks) if not get_head(task.head).tensorflow]
    on_gpu = jobs.device != "cpu"
    # Networks take longest, so they run first. On GPUs they need other workers, so they run separately.
    ordered = [*networks, *longest_first(others, tasks)]
    for part in [networks, longest_first(others, tasks)] if on_gpu else [ordered]:
        job_spec = JobSpec(
            check=partial(check_worker, versions_here()),
            function=run_task,
            arguments=lambda index, workers: _arguments(tasks[index], jobs, workers),
            gpu="yes" if on_gpu and part is networks else "no",
            on_lost=jobs.scattered.clear,
            describe=lambda index: f"a task of head {tasks[index].head}",
        )
        try:
            with closing(run_jobs(jobs.cluster, _TaskQueue(part), job_spec)) as stream:
                for done in stream:
                    result, logs = done.value
                    _write_logs(tasks[done.job], logs)
                    results[done.job] = result
                    if on_result is not None and not isinstance(result, Failure):
                        on_result(done.job, result)
                    if on_progress is not None:
                        on_progress(1)
        except BaseException:  # Ctrl-C or SIGTERM: the other results are not needed any more
            with suppress(Exception):
                jobs.cluster.client.run(stop, jobs.token, on_error="ignore")
            raise
    return results


class _TaskQueue:
    """A `featurize.base.dask_jobs.JobSource` of task indices."""

    def __init__(self, indices: Sequence[int]) -> None:
        self._waiting = deque(indices)

    def take(self, n_workers: int) -> int | None:
        return self._waiting.popleft() if self._waiting else None


def _arguments(task: Task, jobs: DaskJobs, workers: Sequence[str]) -> tuple[Any, ...]:
    """Return the arguments of `run_task`: the task without its large fields, and the futures of these."""
    large: dict[str, Any] = {"samples": task.samples}
    for each in dataclasses.fields(task):
        value = getattr(task, each.name)
        if isinstance(value, np.ndarray) and value.nbytes >= _LARGE:
            large[each.name] = value
    empty: dict[str, Any] = dict.fromkeys(large)
    small_task = dataclasses.replace(task, **empty)
    futures = [_scatter(value, jobs, workers) for value in large.values()]
    return small_task, jobs.token, jobs.device, jobs.gpu_memory, tuple(large), *futures


def _scatter(value: Any, jobs: DaskJobs, workers: Sequence[str]) -> Any:
    """Return the future of an object that one worker stores; each other worker fetches it from there once."""
    if id(value) not in jobs.scattered:
        jobs.scattered[id(value)] = jobs.cluster.client.scatter(value, workers=list(workers), hash=False)
        weakref.finalize(value, jobs.scattered.pop, id(value), None)
    return jobs.scattered[id(value)]


def check_worker(versions: Mapping[str, str]) -> str:
    """Return why this worker must not take part in the run; "" if it may."""
    here = versions_here()
    differing = [
        f"{name} {here.get(name, 'none')} (this run: {versions.get(name, 'none')})"
        for name in {**versions, **here}
        if here.get(name) != versions.get(name)
    ]
    return f"has {', '.join(differing)}. Install the same versions there as here" if differing else ""


_running: dict[str, str] = {}  # "token": the token of the client whose task this process is running


def run_task(
    small_task: Task, token: str, device: str, gpu_memory: float | None, names: Sequence[str], *values: Any
) -> tuple[Any, Logs]:
    """Run a task on this worker; return its result and its TensorBoard logs.

    Raises
    ------
    WorkerRefusedError
        If TensorFlow has been started here with several threads, so that results would be different.
    """
    task = dataclasses.replace(small_task, **dict(zip(names, values, strict=True)))
    if get_head(task.head).tensorflow:
        start_networks(partial(use_device, device, gpu_memory=gpu_memory))
        training = sys.modules["classify.heads.dense_training"]
        if not training.is_single_threaded():
            raise WorkerRefusedError("has used TensorFlow in several threads before. Restart it")
        training.stop_requested.clear()
    _running["token"] = token
    try:
        with tempfile.TemporaryDirectory(prefix="folio-") as folder:
            log_dir = Path(folder)
            if isinstance(task, FitTask) and task.log_dir is not None:
                task = dataclasses.replace(task, log_dir=log_dir)
            _, result = run_alone(0, task)
            files = sorted(path for path in log_dir.rglob("*") if path.is_file())
            logs = {path.relative_to(log_dir).as_posix(): path.read_bytes() for path in files}
    finally:
        _running.clear()
    return result, logs


def stop(token: str) -> None:
    """Stop the training that this worker runs, if it runs it for this client."""
    training = sys.modules.get("classify.heads.dense_training")
    if training is not None and _running.get("token") == token:
        training.stop_requested.set()


def _write_logs(task: Task, logs: Logs) -> None:
    """Write the TensorBoard logs of a result into the log folder of its task."""
    if isinstance(task, FitTask) and task.log_dir is not None:
        for name, data in logs.items():
            path = task.log_dir / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
