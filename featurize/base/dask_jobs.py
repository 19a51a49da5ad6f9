"""Jobs run on the workers of a Dask cluster; each returns one result. Dask schedules them.

This module adds what Dask does not do: it checks workers before they get jobs, gives each worker one job at a
time, and handles jobs that fail, are lost with their worker or connection, or are much too slow.
"""

from __future__ import annotations

import itertools
import secrets
import statistics
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol

from featurize.base.dask_cluster import (
    GPU,
    POLL,
    RESUME,
    SLOT,
    Cluster,
    DaskWorkers,
    Inbox,
    WorkerReply,
)
from featurize.errors import ClusterError, FolioError

if TYPE_CHECKING:
    from distributed import Future


AHEAD = 2  # jobs per worker: one running and one waiting for it
TRIES = 3  # different workers on which a job may fail
LOSSES = 5  # times that a job may be lost with its worker or the connection and submitted again
# When no jobs are left to submit, a job that runs longer than SLOW medians and SLOW_SECONDS is duplicated.
SLOW, SLOW_SECONDS = 4.0, 60.0


class JobSource(Protocol):
    """Source of jobs, one after the other."""

    def take(self, n_workers: int) -> Any | None:
        """Return the next job, given the number of usable workers; None if none is left."""
        ...  # pragma: no cover - a protocol


@dataclass(frozen=True, kw_only=True)
class JobResult:
    """Result of one job."""

    job: Any
    value: Any  # return value of `JobSpec.function`
    worker: str  # address
    seconds: float  # run time on the worker


class WorkerRefusedError(Exception):
    """Raised by a job whose worker must not be used any more; the job is given to another worker."""


@dataclass(frozen=True, kw_only=True)
class JobSpec:
    """Functions that run on workers. They are pickled by name and loaded from Folio as installed there.

    Parameters
    ----------
    check : callable
        Called once on every worker before it gets jobs; returns "" if the worker is usable, else the reason
        why not.
    function : callable
        Called on a worker with the values that `arguments` returns; may raise `WorkerRefusedError`.
    arguments : callable
        Called with a job and the addresses of the workers that may get it; returns the arguments of
        `function`. Runs in this process each time the job is submitted.
    gpu : str
        Whether workers must offer a GPU: "yes", "no", or "any" (only if at least one worker offers one).
    on_lost : callable
        Called when a job was lost, and with it data that workers stored for this client.
    describe : callable
        Called with a job; returns the name of the job in error messages.
    on_poll : callable
        Called about once per second in the thread that waits for results.
    """

    check: Callable[[], str]
    function: Callable[..., Any]
    arguments: Callable[[Any, Sequence[str]], tuple[Any, ...]] = lambda job, workers: (job,)
    gpu: str = "no"
    on_lost: Callable[[], None] = lambda: None
    describe: Callable[[Any], str] = lambda job: "a task"
    on_poll: Callable[[], None] = lambda: None


def run_jobs(cluster: Cluster, source: JobSource, spec: JobSpec) -> Generator[JobResult, None, None]:
    """Yield the result of each job, in order of completion.

    A job may run more than once if a worker fails, dies or is too slow; its result is yielded once. If the
    generator is closed early, no more jobs are submitted and jobs that have not started are cancelled.

    Parameters
    ----------
    cluster : Cluster
        Connection to the cluster. Workers may come and go.
    source : JobSource
        The jobs.
    spec : JobSpec
        What to run for each job.

    Raises
    ------
    ClusterError
        If no worker is usable, a job fails on several workers, or the scheduler stays unreachable.
    """
    with closing(_Run(cluster, source, spec)) as run:
        while (result := run.next_result()) is not None:
            yield result


@dataclass(kw_only=True, eq=False)
class _Job:
    payload: Any
    failures: dict[str, str] = field(default_factory=dict)  # worker → error message
    n_lost: int = 0
    futures: dict[str, Future] = field(default_factory=dict)  # by Dask key; two if the job was duplicated
    workers: dict[str, set[str]] = field(default_factory=dict)  # Dask key → workers that may run it
    submitted_at: float = 0.0


class _Run:
    """State of `run_jobs`."""

    def __init__(self, cluster: Cluster, source: JobSource, spec: JobSpec) -> None:
        self.cluster, self.source, self.spec = cluster, source, spec
        self.inbox: Inbox = SimpleQueue()
        self.workers = DaskWorkers(cluster, check=spec.check, gpu=spec.gpu, inbox=self.inbox)
        self.to_retry: deque[_Job] = deque()
        self.submitted: dict[str, _Job] = {}  # by Dask key
        self.durations: list[float] = []  # of finished jobs, in seconds
        self.exhausted = False  # whether the source has no more jobs
        self.name = f"folio-{secrets.token_hex(6)}"  # prefix of keys, which all clients of a scheduler share
        self.numbers = itertools.count()

    def next_result(self) -> JobResult | None:
        """Wait for the next result and return it; None if all jobs are done."""
        while True:
            self.spec.on_poll()
            if self.cluster.is_connected():
                self.workers.update()
                self._reclaim_from_lost_workers()
                self._submit_jobs()
                if self.exhausted and not self.to_retry and not self.submitted:
                    return None
                self._duplicate_slow_jobs()
                self.workers.raise_if_none()
            else:
                self.workers.restart_timeout()
            try:
                message = self.inbox.get(timeout=POLL)
            except Empty:
                continue
            if isinstance(message, WorkerReply):
                self.workers.handle_reply(message)
            elif (result := self._collect(message)) is not None:
                return result

    def close(self) -> None:
        """Cancel all submitted jobs."""
        for job in {id(job): job for job in self.submitted.values()}.values():
            self._cancel(job)

    def _reclaim_from_lost_workers(self) -> None:
        """Take back jobs whose allowed workers are all gone; Dask would wait for those workers."""
        for job in set(self.submitted.values()):
            for key, allowed in list(job.workers.items()):
                if not allowed & self.workers.accepted.keys():
                    self._handle_loss(key)

    def _submit_jobs(self) -> None:
        usable = self.workers.usable()
        while usable and len(self.submitted) < AHEAD * len(usable):
            unchecked = self.workers.unchecked()
            # A job that failed on all usable workers waits while other workers are being checked.
            job = next((job for job in self.to_retry if usable - job.failures.keys() or not unchecked), None)
            if job is not None:
                self.to_retry.remove(job)
            else:
                payload = None if self.exhausted else self.source.take(len(usable))
                if payload is None:
                    self.exhausted = True
                    return
                job = _Job(payload=payload)
            if not self._submit(job, (usable - job.failures.keys()) or usable):
                return

    def _submit(self, job: _Job, workers: set[str]) -> bool:
        """Submit a job to be run by one of these workers; return whether that succeeded."""
        resources = {SLOT: 1.0, GPU: 1.0} if self.workers.needs_gpu() else {SLOT: 1.0}
        key = f"{self.name}-{next(self.numbers)}"
        try:
            future = self.cluster.client.submit(
                _run_on_worker,
                self.spec.function,
                *self.spec.arguments(job.payload, sorted(workers)),
                key=key,
                pure=False,
                workers=sorted(workers),
                allow_other_workers=False,
                resources=resources,
            )
        except Exception:  # usually a lost worker or connection; other errors are raised after some tries
            job.n_lost += 1
            if job.n_lost > LOSSES:
                raise
            self.spec.on_lost()
            self._retry(job)
            self.workers.update_soon()
            return False
        job.submitted_at = time.monotonic()
        job.futures[key], job.workers[key] = future, workers
        self.submitted[key] = job
        future.add_done_callback(lambda _: self.inbox.put(key))
        return True

    def _collect(self, key: str) -> JobResult | None:
        """Return the result of a finished job; None if the job failed, was lost or is to run again."""
        job = self.submitted.get(key)
        if job is None:  # cancelled, or finished by another worker
            return None
        future = job.futures[key]
        if future.status == "error":
            self._discard(key)
            error = future.exception()
            killed = type(error).__name__ == "KilledWorker"
            why = "the worker process died (out of memory?)" if killed else f"{type(error).__name__}: {error}"
            self._handle_failure(job, f"attempt {len(job.failures) + 1}", why, final=killed)
            return None
        if future.status != "finished":
            self._handle_loss(key)
            return None
        try:
            attempt = future.result(timeout=30)
        except Exception:  # its worker died before the result was transferred
            self._handle_loss(key)
            return None
        self._discard(key)
        if attempt.refused:
            self.workers.refuse(attempt.worker, attempt.refused)
            self._retry(job)
        elif attempt.failed:
            self._handle_failure(job, attempt.worker, attempt.failed)
        else:
            self._cancel(job)
            self.durations.append(attempt.seconds)
            return JobResult(
                job=job.payload, value=attempt.value, worker=attempt.worker, seconds=attempt.seconds
            )
        return None

    def _handle_failure(self, job: _Job, worker: str, why: str, *, final: bool = False) -> None:
        job.failures[worker] = why
        n_workers = len(self.workers.usable() | self.workers.unchecked())
        if final or len(job.failures) >= min(TRIES, max(1, n_workers)):
            n_failures = len(job.failures)
            where = f"on each of {n_failures} workers" if n_failures > 1 and not final else "on a worker"
            raise ClusterError(
                f"{self.spec.describe(job.payload)} failed {where}: {' '.join(why.split())[:500]}. "
                "Finished work is kept: solve the problem, then run the same command again to continue"
            )
        self._retry(job)

    def _handle_loss(self, key: str) -> None:
        job = self.submitted[key]
        with suppress(Exception):  # the connection may be lost
            job.futures[key].cancel()
        self._discard(key)
        self.spec.on_lost()
        job.n_lost += 1
        if job.n_lost > LOSSES:
            raise ClusterError(
                f"{self.spec.describe(job.payload)} was lost {job.n_lost} times, with its worker (out of "
                f"memory?) or the connection. {RESUME}"
            )
        self._retry(job)

    def _retry(self, job: _Job) -> None:
        """Let a job be submitted again, unless a duplicate of it is still running."""
        if not job.futures:
            self.to_retry.append(job)

    def _discard(self, key: str) -> None:
        job = self.submitted.pop(key)
        del job.futures[key], job.workers[key]

    def _cancel(self, job: _Job) -> None:
        for key, future in list(job.futures.items()):
            self._discard(key)
            with suppress(Exception):
                future.cancel()

    def _duplicate_slow_jobs(self) -> None:
        """Submit jobs that take far too long to a second worker, once no other jobs are left."""
        if not (self.exhausted and self.durations) or self.to_retry:
            return
        limit = max(SLOW_SECONDS, SLOW * statistics.median(self.durations))
        late = [job for job in self.submitted.values() if time.monotonic() - job.submitted_at > limit]
        if not late:
            return
        try:
            processing: Mapping[str, Any] = self.cluster.client.processing()
        except (OSError, TimeoutError, RuntimeError):
            return
        for job in late:
            if len(job.futures) == 1:
                (key,) = job.futures
                others = self.workers.usable() - {name for name, keys in processing.items() if key in keys}
                if others:
                    self._submit(job, others)


@dataclass(frozen=True, kw_only=True)
class _Attempt:
    """Outcome of a job on a worker: a value, a refusal or an error message."""

    worker: str
    value: Any = None
    refused: str = ""
    failed: str = ""
    seconds: float = 0.0


def _run_on_worker(function: Callable[..., Any], *arguments: Any) -> _Attempt:
    """Run a job on a worker; errors are returned as text, so that no exception has to be pickled."""
    from distributed import get_worker

    worker, start = get_worker().address, time.perf_counter()
    try:
        value = function(*arguments)
    except WorkerRefusedError as error:
        return _Attempt(worker=worker, refused=str(error))
    except Exception as error:
        text = str(error) if isinstance(error, FolioError) else f"{type(error).__name__}: {error}"
        return _Attempt(worker=worker, failed=text or type(error).__name__)
    return _Attempt(worker=worker, value=value, seconds=time.perf_counter() - start)
