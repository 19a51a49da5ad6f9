"""Tasks run in parallel on the cores of this machine; results do not depend on the number of jobs.

A task of a TensorFlow head runs in a thread of this process, so that one import and one compiled function
serve all fits. Any other task runs in a worker process: scikit-learn holds Python's global lock, and it
catches warnings, which is not safe in threads. Threads and processes together never run more tasks at once
than `jobs`, and each task computes in one thread.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from classify.heads.registry import get_head, make_head
from featurize.base.cores import available_cores

if TYPE_CHECKING:
    from classify.data.samples import Samples


SMALL_BYTES = 2**22  # with fewer bytes of features, starting worker processes costs more than it saves
_SHARED_BYTES = 2**20  # arrays of at least this size go to workers as memory-mapped files
_IDLE_SECONDS = 300  # an idle worker process ends after this time
_ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS"), "1"
)


class Executor(Protocol):
    """Runs tasks elsewhere than in processes of this machine, such as on Dask workers."""

    def run(
        self,
        tasks: Sequence[Any],
        *,
        on_progress: Callable[[int], None] | None = None,
        on_result: Callable[[int, Any], None] | None = None,
    ) -> list[Any]:
        """Return the result of each task, in order; a `Failure` where it raised."""
        ...  # pragma: no cover - a protocol


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Stands for the result of a task that failed."""

    reason: str


_one_call_at_a_time = threading.Lock()  # calls share the job count, the array files and the worker pool
_shared: dict[Any, Any] = {}  # "folder": folder of the array files; id of an array: (its file, the array)
_DIED = Failure(reason="a worker process died (out of memory?); try --jobs 1")


class Task(Protocol):
    """A unit of work that depends on its own fields only."""

    @property
    def head(self) -> str:
        """Name of the head."""
        ...

    @property
    def n_points(self) -> int:
        """Number of grid points to score; 0 for a fit."""
        ...

    def run(self) -> Any:
        """Return the result."""
        ...


def default_jobs(samples: Sequence[Samples]) -> int:
    """Return one job per usable core, or 1 if starting processes would take longer than the work."""
    most = max((item.plain.nbytes + item.augmented.nbytes for item in samples), default=0)
    return 1 if most < SMALL_BYTES else available_cores()


def run_tasks(
    tasks: Sequence[Task],
    *,
    jobs: int,
    on_progress: Callable[[int], None] | None = None,
    before_tensorflow: Callable[[], object] | None = None,
) -> list[Any]:
    """Run tasks, up to `jobs` of them at once.

    Parameters
    ----------
    tasks : sequence of Task
    jobs : int
        Results do not depend on it, because each task computes in one thread.
    on_progress : callable, optional
        Called with 1 after each task.
    before_tensorflow : callable, optional
        Called before TensorFlow is first needed. An error that it raises is passed on.

    Returns
    -------
    list
        The result of each task, in order; a `Failure` where it raised.
    """
    results: list[Any] = [_DIED] * len(tasks)

    def set_result(index: int, result: Any) -> None:
        results[index] = result
        if on_progress is not None:
            on_progress(1)

    networks = [index for index, task in enumerate(tasks) if get_head(task.head).tensorflow]
    others = [index for index, task in enumerate(tasks) if not get_head(task.head).tensorflow]
    # Tasks of the baseline, which has no grid, take no time and need no worker process.
    for_workers = longest_first([index for index in others if any(get_head(tasks[index].head).grid)], tasks)
    if min(jobs, len(networks) + len(for_workers)) < 2:
        for_workers = []
    for index in others:
        if index not in for_workers:
            set_result(*run_alone(index, tasks[index]))
    if min(jobs, len(networks) + len(for_workers)) > 1:
        _ParallelRun(tasks, networks, for_workers, jobs).run(set_result, before_tensorflow)
    elif networks:
        start_networks(before_tensorflow)
        for index in networks:
            set_result(*run_alone(index, tasks[index]))
    return results


class _ParallelRun:
    """State of one parallel run: waiting and running tasks, threads and worker processes."""

    def __init__(
        self, tasks: Sequence[Task], networks: Sequence[int], for_workers: Sequence[int], jobs: int
    ) -> None:
        self.tasks, self.jobs = tasks, jobs
        self.networks = deque(networks)  # waiting for a thread
        self.for_workers = deque(for_workers)  # waiting for a process
        self.threads = ThreadPoolExecutor(max_workers=jobs)
        self.n_workers = min(jobs, len(for_workers))
        self.processes: Any = None
        self.running: dict[Future, int | None] = {}  # index of the task; None: TensorFlow is starting
        self.max_networks = 0  # networks trained at once

    def run(
        self, set_result: Callable[[int, Any], None], before_tensorflow: Callable[[], object] | None
    ) -> None:
        """Run all tasks; if interrupted, stop the running ones before the error is passed on."""
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

        with _one_call_at_a_time, _shared_arrays(), threadpool_limits(limits=1):
            try:
                if self.networks:
                    self.running[self.threads.submit(start_networks, before_tensorflow)] = None
                while self.networks or self.for_workers or self.running:
                    self._submit()
                    done, _ = wait(self.running, return_when=FIRST_COMPLETED)
                    for future in done:
                        self._take(future, set_result)
            except BaseException:  # Ctrl-C or SIGTERM: the other results are not needed any more
                self._stop()
                raise
            self.threads.shutdown()

    def _submit(self) -> None:
        """Start tasks until `jobs` are running; networks first, because they take longest."""
        while len(self.running) < self.jobs:
            if self.networks and self._n_running_networks() < self.max_networks:
                index = self.networks.popleft()
                future = self.threads.submit(_attempt, index, self.tasks[index])
            elif self.for_workers:
                index = self.for_workers.popleft()
                future = self._submit_to_process(index)
            else:
                return
            self.running[future] = index

    def _submit_to_process(self, index: int) -> Future:
        while True:
            self.processes = _workers(self.n_workers)
            with contextlib.suppress(BrokenExecutor):  # the pool has just broken: submit to a new one
                return self.processes.submit(run_alone, index, self.tasks[index])

    def _n_running_networks(self) -> int:
        indices = (index for index in self.running.values() if index is not None)
        return sum(get_head(self.tasks[index].head).tensorflow for index in indices)

    def _take(self, future: Future, set_result: Callable[[int, Any], None]) -> None:
        index = self.running.pop(future)
        if index is None:
            on_gpu = future.result()
            self.max_networks = 1 if on_gpu else self.jobs  # the memory of a GPU is for one network at a time
        elif isinstance(future.exception(), BrokenExecutor):
            set_result(index, _DIED)
        else:
            set_result(*future.result())

    def _stop(self) -> None:
        training = sys.modules.get("classify.heads.dense_training")
        if training is not None:
            training.stop_requested.set()
        # Loky's own thread fails if the pool is killed while a task is still in its queue: wait up to 1 s.
        deadline = time.monotonic() + 1.0
        while time.monotonic() < deadline and not all(f.running() or f.done() for f in self.running):
            time.sleep(0.01)
        if self.processes is not None:
            with contextlib.suppress(Exception):  # an error of the killed pool must not hide why we stop
                self.processes.shutdown(wait=True, kill_workers=True)
        self.threads.shutdown(cancel_futures=True)
        if training is not None:
            training.stop_requested.clear()


def longest_first(indices: Sequence[int], tasks: Sequence[Task]) -> list[int]:
    """Return tasks sorted by expected duration, so that no long one runs alone at the end.

    Searches come first, those with most grid points first; then fits of heads that fit several times on parts
    of their rows; then other fits.
    """

    def length(index: int) -> tuple[int, bool]:
        return tasks[index].n_points, get_head(tasks[index].head).holds_out_groups

    return sorted(indices, key=length, reverse=True)


def start_networks(before: Callable[[], object] | None) -> bool:
    """Call `before`, then start TensorFlow; return whether it runs on a GPU."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from classify.heads.dense_training import start_tensorflow

    if before is not None:
        before()
    return start_tensorflow()


def run_alone(index: int, task: Task) -> tuple[int, Any]:
    """Run a task in this process, in one thread; return its index and its result or `Failure`."""
    from threadpoolctl import threadpool_limits

    make_head(task.head)  # imports the libraries whose threads are limited next
    with threadpool_limits(limits=1):
        return _attempt(index, task)


def _attempt(index: int, task: Task) -> tuple[int, Any]:
    try:
        return index, task.run()
    except Exception as error:  # of any solver: one head that fails must not stop the others
        text = " ".join(str(error).split()) or "no message"
        return index, Failure(reason=f"{type(error).__name__}: {text}"[:300])


def _workers(n_workers: int) -> Any:
    """Return the pool of worker processes; a new one if there is none or it is broken."""
    from joblib.externals.loky import get_reusable_executor

    return get_reusable_executor(
        max_workers=n_workers,
        timeout=_IDLE_SECONDS,
        env=_ONE_THREAD,
        job_reducers={np.ndarray: _reduce_array},
    )


@contextlib.contextmanager
def _shared_arrays() -> Iterator[None]:
    """Write each large array to a file once, for workers to map; the files are removed at the end.

    Loky's resource tracker removes them if this process is killed.
    """
    from joblib.externals.loky.backend import resource_tracker

    with tempfile.TemporaryDirectory(prefix="folio-", ignore_cleanup_errors=True) as folder:
        resource_tracker.register(folder, "folder")
        _shared["folder"] = Path(folder)
        try:
            yield
        finally:
            _shared.clear()
            resource_tracker.unregister(folder, "folder")


def _reduce_array(array: np.ndarray) -> Any:
    """Return the pickle reduction of an array: a memory-mapped file if it is large, else the array itself."""
    if array.nbytes < _SHARED_BYTES or array.dtype.hasobject or "folder" not in _shared:
        return array.__reduce__()
    if id(array) not in _shared:
        path = _shared["folder"] / f"{len(_shared)}.npy"
        try:
            np.save(path, array)
        except OSError:  # disk full: send the array itself
            return array.__reduce__()
        _shared[id(array)] = (path, array)  # a reference, so that no other array gets the same id
    return np.load, (_shared[id(array)][0], "r")
