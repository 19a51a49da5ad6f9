"""Tasks spread over the cores without changing their results.

A task of a TensorFlow head runs in a thread of this process: one import, one compiled function serve all
fits. Any other runs in a worker process: scikit-learn holds Python's lock, and catches warnings, which
threads must not. Of both together there are never more at once than jobs, and each computes in one thread.
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


SMALL_BYTES = 2**22  # below this, starting worker processes costs more than it saves
_SHARED_BYTES = 2**20  # arrays from this size on go to workers as files that they map
_IDLE_SECONDS = 300  # that a worker waits for the next tasks
_ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS"), "1"
)


class Executor(Protocol):
    """Something that runs tasks elsewhere than in processes of this machine."""

    def run(
        self,
        tasks: Sequence[Any],
        *,
        on_progress: Callable[[int], None] | None = None,
        on_outcome: Callable[[int, Any], None] | None = None,
    ) -> list[Any]:
        """Return the outcome of each task, in order; a `Failure` where it raised."""
        ...  # pragma: no cover - a protocol


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a task brought no result."""

    reason: str


_one_at_a_time = threading.Lock()  # jobs are counted, arrays shared and workers reused for one call
_shared: dict[Any, Any] = {}  # the folder of shared arrays, and by id the file and the array
_DIED = Failure(reason="a worker process died (out of memory?); try --jobs 1")


class Task(Protocol):
    """Work that depends on nothing but its own fields."""

    @property
    def head(self) -> str:
        """Name of the head."""
        ...

    @property
    def n_points(self) -> int:
        """How many grid points it scores; 0 where it fits."""
        ...

    def run(self) -> Any:
        """Do it."""
        ...


def default_jobs(samples: Sequence[Samples]) -> int:
    """Return one job a usable core, or 1 where starting processes would take longer than the work."""
    most = max((item.plain.nbytes + item.augmented.nbytes for item in samples), default=0)
    return 1 if most < SMALL_BYTES else available_cores()


def run_tasks(
    tasks: Sequence[Task],
    *,
    jobs: int,
    on_progress: Callable[[int], None] | None = None,
    before_tensorflow: Callable[[], object] | None = None,
) -> list[Any]:
    """Run tasks, up to ``jobs`` of them at once.

    Parameters
    ----------
    tasks : sequence of Task
    jobs : int
        Results do not depend on it: each task computes in one thread whatever the number.
    on_progress : callable, optional
        Called with 1 after each task.
    before_tensorflow : callable, optional
        Called before TensorFlow is first needed, if it is; what it raises is raised.

    Returns
    -------
    list
        What each task brought, in order; a `Failure` where it raised.
    """
    outcomes: list[Any] = [_DIED] * len(tasks)

    def keep(index: int, outcome: Any) -> None:
        outcomes[index] = outcome
        if on_progress is not None:
            on_progress(1)

    networks = [index for index, task in enumerate(tasks) if get_head(task.head).tensorflow]
    others = [index for index, task in enumerate(tasks) if not get_head(task.head).tensorflow]
    apart = longest_first([index for index in others if any(get_head(tasks[index].head).grid)], tasks)
    if min(jobs, len(networks) + len(apart)) < 2:
        apart = []
    for index in others:
        if index not in apart:
            keep(*run_alone(index, tasks[index]))
    if min(jobs, len(networks) + len(apart)) > 1:
        _Spread(tasks, networks, apart, jobs).run(keep, before_tensorflow)
    elif networks:
        start_networks(before_tensorflow)
        for index in networks:
            keep(*run_alone(index, tasks[index]))
    return outcomes


class _Spread:
    """Tasks on their way through threads and processes."""

    def __init__(
        self, tasks: Sequence[Task], networks: Sequence[int], apart: Sequence[int], jobs: int
    ) -> None:
        self.tasks, self.jobs = tasks, jobs
        self.networks, self.apart = deque(networks), deque(apart)  # waiting for a thread, for a process
        self.threads = ThreadPoolExecutor(max_workers=jobs)
        self.n_workers = min(jobs, len(apart))
        self.processes: Any = None
        self.running: dict[Future, int | None] = {}  # the index of the task; None: TensorFlow starts
        self.networks_at_once = 0

    def run(self, keep: Callable[[int, Any], None], before_tensorflow: Callable[[], object] | None) -> None:
        """Run them all; when stopped, leave nothing under way."""
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

        with _one_at_a_time, _shared_arrays(), threadpool_limits(limits=1):
            try:
                if self.networks:
                    self.running[self.threads.submit(start_networks, before_tensorflow)] = None
                while self.networks or self.apart or self.running:
                    self._submit()
                    done, _ = wait(self.running, return_when=FIRST_COMPLETED)
                    for future in done:
                        self._take(future, keep)
            except BaseException:  # Ctrl-C, SIGTERM: nobody waits for the rest
                self._stop()
                raise
            self.threads.shutdown()

    def _submit(self) -> None:
        """Put as many tasks under way as there is room for; those of networks, the longest, first."""
        while len(self.running) < self.jobs:
            if self.networks and self._networks_under_way() < self.networks_at_once:
                index = self.networks.popleft()
                future = self.threads.submit(_attempt, index, self.tasks[index])
            elif self.apart:
                index = self.apart.popleft()
                future = self._submit_apart(index)
            else:
                return
            self.running[future] = index

    def _submit_apart(self, index: int) -> Future:
        while True:
            self.processes = _workers(self.n_workers)
            with contextlib.suppress(BrokenExecutor):  # since a moment ago: then there will be a new one
                return self.processes.submit(run_alone, index, self.tasks[index])

    def _networks_under_way(self) -> int:
        indices = (index for index in self.running.values() if index is not None)
        return sum(get_head(self.tasks[index].head).tensorflow for index in indices)

    def _take(self, future: Future, keep: Callable[[int, Any], None]) -> None:
        index = self.running.pop(future)
        if index is None:
            on_gpu = future.result()
            self.networks_at_once = 1 if on_gpu else self.jobs  # its memory is for one
        elif isinstance(future.exception(), BrokenExecutor):
            keep(index, _DIED)
        else:
            keep(*future.result())

    def _stop(self) -> None:
        training = sys.modules.get("classify.heads.dense_training")
        if training is not None:
            training.stopping.set()
        # Loky's own thread fails on a pool that is killed with a task that it has not yet handed on.
        patience = time.monotonic() + 1.0
        while time.monotonic() < patience and not all(f.running() or f.done() for f in self.running):
            time.sleep(0.01)
        if self.processes is not None:
            with contextlib.suppress(Exception):  # a pool that breaks as it is killed is not why we stop
                self.processes.shutdown(wait=True, kill_workers=True)
        self.threads.shutdown(cancel_futures=True)
        if training is not None:
            training.stopping.clear()


def longest_first(indices: Sequence[int], tasks: Sequence[Task]) -> list[int]:
    """Order tasks so that no long one is left at the end, when the other cores have nothing more to do.

    Searches by their grid points; before other fits those that a head repeats on parts of its rows.
    """

    def length(index: int) -> tuple[int, bool]:
        return tasks[index].n_points, get_head(tasks[index].head).splits

    return sorted(indices, key=length, reverse=True)


def start_networks(before: Callable[[], object] | None) -> bool:
    """Start TensorFlow for heads that need it, after `before`; return whether that is on a GPU."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from classify.heads.dense_training import start_tensorflow

    if before is not None:
        before()
    return start_tensorflow()


def run_alone(index: int, task: Task) -> tuple[int, Any]:
    """Attempt a task when nothing else is under way in this process."""
    from threadpoolctl import threadpool_limits

    make_head(task.head)  # loads the libraries that are to be limited
    with threadpool_limits(limits=1):
        return _attempt(index, task)


def _attempt(index: int, task: Task) -> tuple[int, Any]:
    try:
        return index, task.run()
    except Exception as error:  # any solver's error: one head must not take the others with it
        text = " ".join(str(error).split()) or "no message"
        return index, Failure(reason=f"{type(error).__name__}: {text}"[:300])


def _workers(n_workers: int) -> Any:
    """Return the pool of worker processes: the one there is, or a new one where there is none or it broke."""
    from joblib.externals.loky import get_reusable_executor

    return get_reusable_executor(
        max_workers=n_workers,
        timeout=_IDLE_SECONDS,
        env=_ONE_THREAD,
        job_reducers={np.ndarray: _reduce_array},
    )


@contextlib.contextmanager
def _shared_arrays() -> Iterator[None]:
    """Have large arrays written once, for workers to map; remove the files in the end, or when killed."""
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
    """Say how a worker gets at an array: the reduction that pickling asks for."""
    if array.nbytes < _SHARED_BYTES or array.dtype.hasobject or "folder" not in _shared:
        return array.__reduce__()
    if id(array) not in _shared:
        path = _shared["folder"] / f"{len(_shared)}.npy"
        try:
            np.save(path, array)
        except OSError:  # no room there: through the pipe then
            return array.__reduce__()
        _shared[id(array)] = (path, array)  # kept alive, so that no other array gets this id
    return np.load, (_shared[id(array)][0], "r")
