"""Extraction on Dask workers: the client's part, which splits the work and collects the results."""

from __future__ import annotations

import secrets
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from featurize.base.dask_cluster import Cluster
from featurize.base.dask_jobs import JobResult, JobSpec, run_jobs
from featurize.base.files import write_synced
from featurize.config import AUTO
from featurize.engines.device import parse_device
from featurize.errors import StoreError
from featurize.extraction.assemble import ComputeStats, StoreFinisher
from featurize.extraction.dask_worker import (
    RUN_MARKER,
    RunRequirements,
    WorkUnitResult,
    check_worker,
    close_worker_state,
    fill_work_unit,
    local_versions,
    marker_path,
    progress_topic,
    resolve_on_worker,
    sum_pixels,
)
from featurize.extraction.execution import ExecutionOptions
from featurize.extraction.fill import StoreWork, WorkUnit
from featurize.extraction.plan import StorePlan, StoreRequest, StoreResult
from featurize.extraction.precision import SAMPLE_SIZE, sample_candidates
from featurize.extraction.produce import (
    PixelSums,
    channel_statistics,
    missing_work,
    split_finished,
    strict_error,
    training_requests,
)
from featurize.images.dataset import Dataset
from featurize.images.pool import DecodeRequest
from featurize.images.render import RenderSettings

_N_CHECKED_FILES = 8  # files of the data set that each worker must see
_SHUTDOWN_SECONDS = 15.0  # for workers to write the contents that they have finished
_VISIBLE_SECONDS = 90.0  # a network file system may take this long to show a file of another machine


class DaskExtraction:
    """Extraction of the stores of one input size by the workers of a cluster.

    Parameters
    ----------
    cluster : Cluster
        The connection to the workers.
    execution : ExecutionOptions
        Execution options.
    workers, image_timeout
        As in `featurize.extract`; apply to the decode processes of each Dask worker.
    rendering : RenderSettings
        Settings for decoding and augmentation.
    most_views : int
        Largest number of views per file.
    """

    def __init__(
        self,
        cluster: Cluster,
        *,
        execution: ExecutionOptions,
        workers: int | None,
        image_timeout: float,
        rendering: RenderSettings,
        most_views: int,
    ) -> None:
        self.cluster, self.execution = cluster, execution
        self._workers, self._image_timeout = workers, image_timeout
        self._rendering, self._most_views = rendering, most_views
        self._token = secrets.token_hex(8)
        kind, _ = parse_device(execution.device)
        self._gpu = {"cpu": "no", "gpu": "yes", "auto": "any"}[kind]
        self._reported: set[str] = set()  # messages

    def fit_statistics(
        self, dataset: Dataset, store_requests: Sequence[StoreRequest]
    ) -> dict[str, list[float]]:
        """Return the same as `featurize.extraction.produce.fit_statistics`; workers compute the sums."""
        requests = [_absolute(request) for request in training_requests(dataset)]
        chunks, requirements = AdaptiveChunks(requests), self._requirements(dataset, store_requests)
        sums, done = PixelSums(), 0
        for result in self._run_jobs(
            requirements, sum_pixels, chunks, lambda job, _: (requirements, job.items)
        ):
            chunks.record(result.job, result.seconds)
            sums, done = sums + result.value, done + len(result.job.items)
            self.execution.report("fitting statistics", done, len(requests))
        return channel_statistics(sums, dataset)

    def resolve_precision(
        self, dataset: Dataset, store_requests: Sequence[StoreRequest]
    ) -> tuple[list[StoreRequest], dict[Path, str]]:
        """Replace "auto" precision and engine on one worker; also return the engine's name by store path."""
        requirements = self._requirements(dataset, store_requests)
        picklable = [replace(request, store=None) for request in store_requests]
        candidates: Sequence[Sequence[DecodeRequest]] = ()
        if any(request.config["precision"] == AUTO for request in store_requests):
            self.execution.report("checking precision", 0, SAMPLE_SIZE)
            candidates = [[_absolute(request) for request in sample] for sample in sample_candidates(dataset)]
        (result,) = self._run_jobs(
            requirements,
            resolve_on_worker,
            AdaptiveChunks([picklable], size=1),
            lambda job, _: (requirements, job.items[0], candidates),
        )
        resolved_requests, engines = [], {}
        resolutions, on_gpu = result.value
        self._gpu = "yes" if on_gpu else "no"  # all workers must compute on the same kind of device
        for request, (resolved, engine) in zip(store_requests, resolutions, strict=True):
            precision = resolved.precision if request.store is None else request.precision
            resolved_requests.append(replace(request, config=resolved.config, precision=precision))
            engines[request.path] = engine
        return resolved_requests, engines

    def produce_stores(
        self, dataset: Dataset, plans: Sequence[StorePlan], *, engines: Mapping[Path, str]
    ) -> list[StoreResult]:
        """Create or update the stores of one input size; see `featurize.extraction.produce.produce_stores`.

        Parameters
        ----------
        dataset : Dataset
            The images.
        plans : sequence of StorePlan
            The stores.
        engines : mapping
            Path of a store → name of its engine.
        """
        results, unfinished = split_finished(dataset, plans, execution=self.execution)
        finishers = [StoreFinisher(plan, self.execution) for plan in unfinished]
        with ExitStack() as stack:
            for finisher in finishers:
                stack.callback(finisher.close)
            totals = ResultTotals(unfinished)
            work = missing_work(unfinished, dataset)
            if work.requests:
                self._fill(dataset, work, totals, engines=engines)
            totals.wait_for_parts()
            for finisher, stats in zip(finishers, totals.stats, strict=True):
                results[finisher.plan.path] = finisher.finish(dataset, stats)
        for result in results.values():
            result.seconds["decoding"] = totals.decoding
        return [results[plan.path] for plan in plans]

    def _fill(
        self, dataset: Dataset, work: WorkUnit, totals: ResultTotals, *, engines: Mapping[Path, str]
    ) -> None:
        requests = [_absolute(request) for request in work.requests]
        stores = [replace(store, folder=store.folder.absolute()) for store in work.stores]
        folders = tuple(store.folder for store in stores)
        requirements = self._requirements(dataset, stores, folders=folders, engines=engines)
        chunks, progress = AdaptiveChunks(requests), Progress(len(requests), self.execution)

        def arguments(job: Chunk, _: Sequence[str]) -> tuple[Any, ...]:
            return requirements, job.number, _work_unit(job.items, stores)

        with (
            self._worker_shutdown(),
            self._progress_events(progress.on_event),
            _run_markers(folders, self._token),
            closing(
                self._run_jobs(requirements, fill_work_unit, chunks, arguments, on_poll=progress.report)
            ) as results,
        ):
            for result in results:
                unit_result: WorkUnitResult = result.value
                if unit_result.unusable is not None:
                    raise strict_error(*unit_result.unusable)
                chunks.record(result.job, result.seconds)
                totals.add(result)
                progress.finish(result.job)
                self._report_notes(unit_result, totals)

    def _report_notes(self, unit_result: WorkUnitResult, totals: ResultTotals) -> None:
        """Report messages about engines and processors to the user, each once."""
        notes = list(unit_result.notes)
        if len(totals.cpu_flags) > 1:
            sets = "; ".join(" ".join(flags) or "unknown" for flags in sorted(totals.cpu_flags))
            notes.append(
                f"the processors of the workers differ ({sets}): their features agree up to rounding errors, "
                "not exactly"
            )
        for text in notes:
            if text not in self._reported:
                self._reported.add(text)
                self.execution.note(text)

    @contextmanager
    def _progress_events(self, on_event: Callable[[tuple[Any, Mapping[str, int]]], None]) -> Iterator[None]:
        """Subscribe to the progress events of the workers."""
        client, name = self.cluster.client, progress_topic(self._token)
        client.subscribe_topic(name, on_event)
        try:
            yield
        finally:
            with suppress(Exception):  # the connection has been closed or replaced
                client.unsubscribe_topic(name)

    @contextmanager
    def _worker_shutdown(self) -> Iterator[None]:
        """At the end, let workers write the contents that they have finished, and close their run state."""
        try:
            yield
        finally:
            thread = threading.Thread(target=self._close_worker_states, daemon=True)  # a worker may hang
            thread.start()
            thread.join(_SHUTDOWN_SECONDS)

    def _close_worker_states(self) -> None:
        with suppress(Exception):  # a worker may be unreachable
            self.cluster.client.run(close_worker_state, self._token, on_error="ignore")

    def _run_jobs(
        self,
        requirements: RunRequirements,
        function: Callable[..., Any],
        chunks: AdaptiveChunks,
        arguments: Callable[[Chunk, Sequence[str]], tuple[Any, ...]],
        *,
        on_poll: Callable[[], None] = lambda: None,
    ) -> Generator[JobResult, None, None]:
        spec = JobSpec(
            check=partial(check_worker, requirements),
            function=function,
            arguments=arguments,
            gpu=self._gpu,
            on_poll=on_poll,
            describe=lambda job: f"work unit {job.number + 1} ({self._rendering.size}-pixel input)",
        )
        with closing(run_jobs(self.cluster, chunks, spec)) as results:
            yield from results

    def _requirements(
        self,
        dataset: Dataset,
        stores: Sequence[StoreRequest] | Sequence[StoreWork],
        *,
        folders: tuple[Path, ...] = (),
        engines: Mapping[Path, str] | None = None,
    ) -> RunRequirements:
        root = dataset.root.absolute()
        readable = [image.path for image in dataset.images if not image.problem]
        paths = readable[:: max(1, len(readable) // _N_CHECKED_FILES)][:_N_CHECKED_FILES]
        execution = self.execution
        return RunRequirements(
            token=self._token,
            root=root,
            file_sizes=tuple((root / path, (root / path).stat().st_size) for path in paths),
            folders=folders,
            versions=local_versions(),
            backbones=tuple((store.backbone, store.weights) for store in stores),
            rendering=self._rendering,
            most_views=self._most_views,
            engines=dict(engines or {}),
            engine=execution.engine,
            device=execution.device,
            gpu_memory=execution.gpu_memory,
            batch_size=execution.batch_size,
            workers=self._workers,
            image_timeout=self._image_timeout,
            strict=execution.strict,
        )


@contextmanager
def _run_markers(folders: Sequence[Path], token: str) -> Iterator[None]:
    """Mark this run as active in every folder of parts, and earlier runs as ended."""
    for folder in folders:
        for stale in folder.glob(RUN_MARKER.format(token="*")):
            stale.unlink(missing_ok=True)  # stops workers whose client was killed
        write_synced(marker_path(folder, token), token.encode("ascii"))
    try:
        yield
    finally:
        for folder in folders:
            with suppress(OSError):
                marker_path(folder, token).unlink(missing_ok=True)


def _work_unit(requests: Sequence[DecodeRequest], stores: Sequence[StoreWork]) -> WorkUnit:
    """Return the work unit of some of the files, with only their missing views."""
    names = [str(request.sha256) for request in requests]
    return WorkUnit(
        requests=tuple(requests),
        stores=tuple(
            replace(store, missing={name: store.missing[name] for name in names if name in store.missing})
            for store in stores
        ),
    )


def _absolute(request: DecodeRequest) -> DecodeRequest:
    return replace(request, path=request.path.absolute())


class Progress:
    """Number of decoded files: of finished work units, and of running ones from the workers' events."""

    def __init__(self, total: int, execution: ExecutionOptions) -> None:
        self._total, self._execution = total, execution
        self._done = 0
        self._finished: set[int] = set()
        self._running: dict[int, int] = {}  # number of the unit → decoded files

    def on_event(self, event: tuple[Any, Mapping[str, int]]) -> None:
        """Update a running unit from a worker's event; called in another thread."""
        if event[1]["unit"] not in self._finished:
            self._running[event[1]["unit"]] = event[1]["done"]

    def finish(self, job: Chunk) -> None:
        """Count a finished unit."""
        self._finished.add(job.number)
        self._running.pop(job.number, None)
        self._done += len(job.items)
        self.report()

    def report(self) -> None:
        """Report the number of decoded files to the user."""
        done = min(self._total, self._done + sum(list(self._running.values())))
        self._execution.report("extracting", done, self._total)


class ResultTotals:
    """Results of work units, added up per store."""

    def __init__(self, plans: Sequence[StorePlan]) -> None:
        self.plans = plans
        self.stats = [ComputeStats() for _ in plans]
        self.decoding = 0.0
        self.cpu_flags: set[tuple[str, ...]] = set()
        self.part_paths: list[Path] = []

    def add(self, result: JobResult) -> None:
        """Add the result of one work unit."""
        unit_result: WorkUnitResult = result.value
        self.decoding += unit_result.decoding
        self.cpu_flags.add(unit_result.cpu_flags)
        for plan, stats, store in zip(self.plans, self.stats, unit_result.stores, strict=True):
            for keys in store.parts:
                plan.parts.add_keys(keys)
                self.part_paths.append(plan.parts.folder / keys.name)
            stats.skipped |= store.skipped
            stats.engine = store.engine or stats.engine
            stats.device = store.device or stats.device
            stats.columns = store.columns or stats.columns
            stats.n_decoded += unit_result.n_decoded
            stats.n_forward += store.n_forward
            for step, seconds in store.seconds.items():
                stats.seconds[step] += seconds
            worker = stats.workers.setdefault(result.worker, {"images": 0, "seconds": 0.0})
            worker["images"] += unit_result.n_decoded
            worker["seconds"] += result.seconds

    def wait_for_parts(self) -> None:
        """Return when all parts are visible on this machine.

        Raises
        ------
        StoreError
            If a part does not become visible.
        """
        deadline = time.monotonic() + _VISIBLE_SECONDS
        for path in self.part_paths:
            while not path.exists():
                if time.monotonic() > deadline:
                    raise StoreError(
                        f"{path}: a worker has written this file, but it is not visible on this machine. Is "
                        "the folder shared? Run the same command again to compute what is missing"
                    )
                time.sleep(0.2)


CHUNK_SECONDS = 15.0  # target duration of a chunk, and the work lost when a worker dies
FIRST_CHUNK = 16  # items, until durations are known
MIN_CHUNK = 4  # items; each chunk has a fixed overhead
MAX_CHUNK = 256  # items
_N_RECENT = 16  # durations of the last chunks that count


@dataclass(frozen=True, kw_only=True, eq=False)
class Chunk:
    """Consecutive items."""

    number: int
    items: tuple[Any, ...]


class AdaptiveChunks:
    """Items in chunks, in their order; a `featurize.base.dask_jobs.JobSource`.

    Parameters
    ----------
    items : sequence
        The items.
    size : int, optional
        Number of items per chunk. By default chunks take about `CHUNK_SECONDS`; those at the end are smaller,
        so that all workers finish at about the same time.
    """

    def __init__(self, items: Sequence[Any], *, size: int | None = None) -> None:
        self._items, self._size = items, size
        self._position = self._number = 0
        self._seconds: deque[float] = deque(maxlen=_N_RECENT)  # per item

    def take(self, n_workers: int) -> Chunk | None:
        """Return the next chunk, given the number of workers; None if no items are left."""
        n_left = len(self._items) - self._position
        if not n_left:
            return None
        size = self._size or min(self._target_size(), max(MIN_CHUNK, n_left // (2 * n_workers)))
        start, self._position = self._position, self._position + min(size, n_left)
        self._number += 1
        return Chunk(number=self._number - 1, items=tuple(self._items[start : self._position]))

    def record(self, chunk: Chunk, seconds: float) -> None:
        """Record the duration of a chunk."""
        self._seconds.append(seconds / len(chunk.items))

    def _target_size(self) -> int:
        if not self._seconds:
            return FIRST_CHUNK
        item_seconds = max(statistics.median(self._seconds), 1e-6)
        return max(MIN_CHUNK, min(MAX_CHUNK, round(CHUNK_SECONDS / item_seconds)))
