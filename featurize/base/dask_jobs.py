"""Jobs spread over the workers of a Dask cluster, each brought back once. Who does what, Dask decides.

What Dask does not settle is settled here: who may take part (each worker is looked at first), that a worker
does one job at a time, and what becomes of a job whose worker failed, died, or is much too slow, or that was
lost with the connection.
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

from featurize.base.dask_cluster import GPU, POLL, SLOT, Cluster, DaskWorkers, Inbox, WorkerReply
from featurize.errors import ClusterError, FolioError

if TYPE_CHECKING:
    from distributed import Future


AHEAD = 2  # jobs a worker: one under way, one that waits for it
TRIES = 3  # workers on which a job may fail
LOSSES = 5  # times that a job may be lost with its worker or the connection, and be given out again
SLOW, SLOW_SECONDS = 4.0, 60.0  # when none is left to give out: so many medians, and as long, is too slow


class JobSource(Protocol):
    """Where jobs come from, one after the other."""

    def take(self, n_workers: int) -> Any | None:
        """Return the next job, given how many workers there are; None when there is none left."""
        ...  # pragma: no cover - a protocol


@dataclass(frozen=True, kw_only=True)
class JobResult:
    """What a job brought."""

    job: Any
    value: Any
    worker: str  # address
    seconds: float  # that it took there


class WorkerRefusedError(Exception):
    """Raised by a job: this worker is not to take part, and another one may do better."""


@dataclass(frozen=True, kw_only=True)
class JobSpec:
    """What is done on workers; all of it is pickled on its way, and loaded from the installed Folio there.

    Parameters
    ----------
    check : callable
        Called on every worker before it gets a job; returns why the worker is not to take part, "" if it is.
    do : callable
        Called there with what `arguments` returns; may raise `WorkerRefusedError`.
    arguments : callable
        From a job, and the workers that may get it, to what `do` is called with; called in this process each
        time that the job is given out.
    gpu : str
        Whether workers must offer a GPU: "yes", "no", or "any": where some do, only those are taken.
    on_lost : callable
        Called when jobs were lost, with what workers held for them.
    what : callable
        From a job to how an error names it.
    beat : callable
        Called every second or so, in the thread that waits.
    """

    check: Callable[[], str]
    do: Callable[..., Any]
    arguments: Callable[[Any, Sequence[str]], tuple[Any, ...]] = lambda job, workers: (job,)
    gpu: str = "no"
    on_lost: Callable[[], None] = lambda: None
    what: Callable[[Any], str] = lambda job: "a task"
    beat: Callable[[], None] = lambda: None


def run_jobs(cluster: Cluster, source: JobSource, spreading: JobSpec) -> Generator[JobResult, None, None]:
    """Yield what each job brought, in the order in which they come back.

    A job may be done more than once, where a worker failed, died or was too slow; it is brought back once.
    Closed early, it gives out nothing more and calls back what no worker has begun.

    Parameters
    ----------
    cluster : Cluster
        Who does it. Workers may come and go.
    source : JobSource
        The jobs.
    spreading : JobSpec
        What is done with each.

    Raises
    ------
    ClusterError
        If no worker is there or may take part, a job fails on several workers, or the scheduler stays away.
    """
    with closing(_Run(cluster, source, spreading)) as run:
        while (brought := run.next()) is not None:
            yield brought


@dataclass(kw_only=True, eq=False)
class _Job:
    payload: Any
    failures: dict[str, str] = field(default_factory=dict)  # worker → why it failed there
    n_lost: int = 0
    futures: dict[str, Future] = field(default_factory=dict)  # under way, by key; two of a slow one
    workers: dict[str, set[str]] = field(default_factory=dict)  # by key, who may do it
    since: float = 0.0


class _Run:
    """The state of `run_jobs`."""

    def __init__(self, cluster: Cluster, source: JobSource, spreading: JobSpec) -> None:
        self.cluster, self.source, self.spreading = cluster, source, spreading
        self.inbox: Inbox = SimpleQueue()
        self.roster = DaskWorkers(cluster, check=spreading.check, gpu=spreading.gpu, inbox=self.inbox)
        self.again: deque[_Job] = deque()  # to be given out once more
        self.away: dict[str, _Job] = {}  # by Dask's key
        self.seconds: list[float] = []  # that jobs took
        self.exhausted = False
        self.name = f"folio-{secrets.token_hex(6)}"  # keys are the scheduler's, and other clients have theirs
        self.numbers = itertools.count()

    def next(self) -> JobResult | None:
        """Return what the next job brought; None when all are back."""
        while True:
            self.spreading.beat()
            if self.cluster.is_connected():
                self.roster.look()
                self._take_from_gone()
                self._give_out()
                if self.exhausted and not self.again and not self.away:
                    return None
                self._mind_slow_ones()
                self.roster.give_up_without_workers()
            else:
                self.roster.wait()
            try:
                heard = self.inbox.get(timeout=POLL)
            except Empty:
                continue
            if isinstance(heard, WorkerReply):
                self.roster.hear(heard)
            elif (brought := self._hear(heard)) is not None:
                return brought

    def close(self) -> None:
        """Call back what is under way."""
        for job in {id(job): job for job in self.away.values()}.values():
            self._call_back(job)

    def _take_from_gone(self) -> None:
        """Take back jobs that only workers may do that have gone: Dask would wait for them."""
        for job in set(self.away.values()):
            for key, allowed in list(job.workers.items()):
                if not allowed & self.roster.admitted.keys():
                    self._lost(key)

    def _give_out(self) -> None:
        able = self.roster.able()
        while able and len(self.away) < AHEAD * len(able):
            asked = self.roster.asked()
            job = next((one for one in self.again if able - one.failures.keys() or not asked), None)
            if job is not None:  # the others wait for a worker on which they have not failed
                self.again.remove(job)
            else:
                payload = None if self.exhausted else self.source.take(len(able))
                if payload is None:
                    self.exhausted = True
                    return
                job = _Job(payload=payload)
            if not self._send(job, (able - job.failures.keys()) or able):
                return

    def _send(self, job: _Job, workers: set[str]) -> bool:
        """Give a job out to one of some workers; return whether that worked."""
        demands = {SLOT: 1.0, GPU: 1.0} if self.roster.needs_gpu() else {SLOT: 1.0}
        key = f"{self.name}-{next(self.numbers)}"
        try:
            future = self.cluster.client.submit(
                _attempt,
                self.spreading.do,
                *self.spreading.arguments(job.payload, sorted(workers)),
                key=key,
                pure=False,
                workers=sorted(workers),
                allow_other_workers=False,
                resources=demands,
            )
        except Exception:  # a worker or the connection went just now; what else it is comes again
            job.n_lost += 1
            if job.n_lost > LOSSES:
                raise
            self.spreading.on_lost()
            self._again(job)
            self.roster.look_soon()
            return False
        job.since = time.monotonic()
        job.futures[key], job.workers[key] = future, workers
        self.away[key] = job
        future.add_done_callback(lambda _: self.inbox.put(key))
        return True

    def _hear(self, key: str) -> JobResult | None:
        job = self.away.get(key)
        if job is None:  # called back, or brought by another worker
            return None
        future = job.futures[key]
        if future.status == "error":
            self._forget(key)
            error = future.exception()
            killed = type(error).__name__ == "KilledWorker"
            why = "the worker process died (out of memory?)" if killed else f"{type(error).__name__}: {error}"
            self._failed(job, f"attempt {len(job.failures) + 1}", why, final=killed)
            return None
        if future.status != "finished":
            self._lost(key)
            return None
        try:
            attempt = future.result(timeout=30)
        except Exception:  # its worker died before it was brought; Dask does it again, or so do we
            self._lost(key)
            return None
        self._forget(key)
        if attempt.refused:
            self.roster.refuse(attempt.worker, attempt.refused)
            self._again(job)
        elif attempt.failed:
            self._failed(job, attempt.worker, attempt.failed)
        else:
            self._call_back(job)
            self.seconds.append(attempt.seconds)
            return JobResult(
                job=job.payload, value=attempt.value, worker=attempt.worker, seconds=attempt.seconds
            )
        return None

    def _failed(self, job: _Job, worker: str, why: str, *, final: bool = False) -> None:
        job.failures[worker] = why
        n_workers = len(self.roster.able() | self.roster.asked())
        if final or len(job.failures) >= min(TRIES, max(1, n_workers)):
            places = len(job.failures)
            where = f"on each of {places} workers" if places > 1 and not final else "on a worker"
            raise ClusterError(
                f"{self.spreading.what(job.payload)} failed {where}: {' '.join(why.split())[:500]}. "
                "What is finished is kept; when that is mended, the same command goes on from there"
            )
        self._again(job)

    def _lost(self, key: str) -> None:
        job = self.away[key]
        with suppress(Exception):  # a connection that is gone cannot take it back
            job.futures[key].cancel()
        self._forget(key)
        self.spreading.on_lost()
        job.n_lost += 1
        if job.n_lost > LOSSES:
            raise ClusterError(
                f"{self.spreading.what(job.payload)} was lost {job.n_lost} times, with its worker (out of "
                "memory?) or the connection. What is finished is kept: the same command goes on from there"
            )
        self._again(job)

    def _again(self, job: _Job) -> None:
        """Give a job out once more, unless it is under way elsewhere."""
        if not job.futures:
            self.again.append(job)

    def _forget(self, key: str) -> None:
        job = self.away.pop(key)
        del job.futures[key], job.workers[key]

    def _call_back(self, job: _Job) -> None:
        for key, future in list(job.futures.items()):
            self._forget(key)
            with suppress(Exception):
                future.cancel()

    def _mind_slow_ones(self) -> None:
        """Give a job that takes far too long to another worker as well, once there is nothing else to do."""
        if not (self.exhausted and self.seconds) or self.again:
            return
        too_long = max(SLOW_SECONDS, SLOW * statistics.median(self.seconds))
        late = [job for job in self.away.values() if time.monotonic() - job.since > too_long]
        if not late:
            return
        try:
            processing: Mapping[str, Any] = self.cluster.client.processing()
        except (OSError, TimeoutError, RuntimeError):
            return
        for job in late:
            if len(job.futures) == 1:
                (key,) = job.futures
                others = self.roster.able() - {name for name, keys in processing.items() if key in keys}
                if others:
                    self._send(job, others)


@dataclass(frozen=True, kw_only=True)
class _Attempt:
    """What a worker says of a job."""

    worker: str
    value: Any = None
    refused: str = ""
    failed: str = ""
    seconds: float = 0.0


def _attempt(do: Callable[..., Any], *arguments: Any) -> _Attempt:
    """Do a job, on a worker; an error comes back as text, so that no exception has to travel."""
    from distributed import get_worker

    worker, start = get_worker().address, time.perf_counter()
    try:
        value = do(*arguments)
    except WorkerRefusedError as error:
        return _Attempt(worker=worker, refused=str(error))
    except Exception as error:
        text = str(error) if isinstance(error, FolioError) else f"{type(error).__name__}: {error}"
        return _Attempt(worker=worker, failed=text or type(error).__name__)
    return _Attempt(worker=worker, value=value, seconds=time.perf_counter() - start)
