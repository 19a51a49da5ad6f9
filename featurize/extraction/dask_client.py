"""An extraction whose shares Dask workers fill: what the client does in the place of engines and decoders."""

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
from typing import TYPE_CHECKING, Any

from featurize.base.dask_cluster import Cluster
from featurize.base.dask_jobs import JobResult, JobSpec, run_jobs
from featurize.base.files import write_synced
from featurize.config import AUTO
from featurize.engines.device import parse_device
from featurize.errors import StoreError
from featurize.extraction.assemble import ComputeStats, StoreFinisher
from featurize.extraction.dask_worker import (
    PERMIT,
    RunRequirements,
    WorkUnitResult,
    check_worker,
    fill_work_unit,
    leave,
    permit_path,
    resolve_on_worker,
    sum_pixels,
    topic,
    versions_here,
)
from featurize.extraction.execution import ExecutionOptions
from featurize.extraction.fill import StoreWork, WorkUnit
from featurize.extraction.plan import StorePlan, StoreResult
from featurize.extraction.precision import SAMPLE, sample_images
from featurize.extraction.produce import (
    PixelSums,
    split_finished,
    statistics_of,
    strict_error,
    training_requests,
    whole_work_unit,
)
from featurize.images.dataset import Dataset
from featurize.images.pool import DecodeRequest
from featurize.images.render import RenderSettings

if TYPE_CHECKING:
    from featurize.extraction.plan import StoreRequest


_LOOKED_AT = 8  # files of the data set that workers are asked for
_PARTING = 15.0  # seconds for workers to put in place what they have finished


class DaskExtraction:
    """Workers of a cluster that compute the stores of one input size.

    Parameters
    ----------
    cluster : Cluster
        Who they are.
    execution : ExecutionOptions
        How they compute.
    workers, image_timeout
        As in `featurize.extract`; the decode processes of each Dask worker.
    rendering : RenderSettings
        How files become pixels.
    most_views : int
        Views of one file, at most.
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
        self._noted: set[str] = set()

    def fit_statistics(self, dataset: Dataset, drafts: Sequence[StoreRequest]) -> dict[str, list[float]]:
        """Return what `featurize.extraction.produce.fit_statistics` does; the sums are the workers'."""
        requests = [_absolute(request) for request in training_requests(dataset)]
        cut, terms = AdaptiveChunks(requests), self._terms(dataset, drafts)
        sums, done = PixelSums(), 0
        for brought in self._spread(terms, sum_pixels, cut, lambda job, _: (terms, job.items)):
            cut.returned(brought.job, brought.seconds)
            sums, done = sums + brought.value, done + len(brought.job.items)
            self.execution.report("fitting statistics", done, len(requests))
        return statistics_of(sums, dataset)

    def settle(
        self, dataset: Dataset, drafts: Sequence[StoreRequest]
    ) -> tuple[list[StoreRequest], dict[Path, str]]:
        """Have a worker settle what is open of precision and engine; return the engines' names by store."""
        terms = self._terms(dataset, drafts)
        travelling = [replace(draft, store=None) for draft in drafts]
        rounds: Sequence[Sequence[DecodeRequest]] = ()
        if any(draft.config["precision"] == AUTO for draft in drafts):
            self.execution.report("checking precision", 0, SAMPLE)
            rounds = [[_absolute(request) for request in one] for one in sample_images(dataset)]
        (brought,) = self._spread(
            terms,
            resolve_on_worker,
            AdaptiveChunks([travelling], size=1),
            lambda job, _: (terms, job.items[0], rounds),
        )
        settled, names = [], {}
        found, on_gpu = brought.value
        self._gpu = "yes" if on_gpu else "no"  # all workers are to be of one kind
        for draft, (there, name) in zip(drafts, found, strict=True):
            precision = there.precision if draft.store is None else draft.precision
            settled.append(replace(draft, config=there.config, precision=precision))
            names[draft.path] = name
        return settled, names

    def produce(
        self, dataset: Dataset, targets: Sequence[StorePlan], *, engines: Mapping[Path, str]
    ) -> list[StoreResult]:
        """Make or update the stores of one input size; see `featurize.extraction.produce.produce`.

        Parameters
        ----------
        dataset : Dataset
            The images.
        targets : sequence of StorePlan
            The stores to be.
        engines : mapping
            From the path of a store to the name of what computes it.
        """
        finished, open_ones = split_finished(dataset, targets, execution=self.execution)
        finishers = [StoreFinisher(target, self.execution) for target in open_ones]
        with ExitStack() as stack:
            for finisher in finishers:
                stack.callback(finisher.close)
            tally = ResultTotals(open_ones)
            whole = whole_work_unit(open_ones, dataset)
            if whole.requests:
                self._fill(dataset, whole, tally, engines=engines)
            tally.await_parts()
            for finisher, computed in zip(finishers, tally.computed, strict=True):
                finished[finisher.target.path] = finisher.finish(dataset, computed)
        for outcome in finished.values():
            outcome.seconds["decoding"] = tally.decoding
        return [finished[target.path] for target in targets]

    def _fill(
        self, dataset: Dataset, whole: WorkUnit, tally: ResultTotals, *, engines: Mapping[Path, str]
    ) -> None:
        requests = [_absolute(request) for request in whole.requests]
        stores = [replace(store, folder=store.folder.absolute()) for store in whole.stores]
        folders = tuple(store.folder for store in stores)
        terms = self._terms(dataset, stores, folders=folders, engines=engines)
        cut, progress = AdaptiveChunks(requests), Progress(len(requests), self.execution)

        def arguments(job: Chunk, _: Sequence[str]) -> tuple[Any, ...]:
            return terms, job.number, _share(job.items, stores)

        with (
            self._parting(),
            self._hearing(progress.heard),
            _permits(folders, self._token),
            closing(self._spread(terms, fill_work_unit, cut, arguments, beat=progress.tell)) as stream,
        ):
            for brought in stream:
                if brought.value.unusable is not None:
                    raise strict_error(*brought.value.unusable)
                cut.returned(brought.job, brought.seconds)
                tally.add(brought)
                progress.returned(brought.job)
                self._note(brought.value, tally)

    def _note(self, filled: WorkUnitResult, tally: ResultTotals) -> None:
        """Say what the user should know of the engines, once."""
        notes = list(filled.notes)
        if len(tally.instructions) > 1:
            sets = "; ".join(" ".join(one) or "unknown" for one in sorted(tally.instructions))
            notes.append(
                f"the workers' processors differ ({sets}): features of one agree with those of another to "
                "rounding, not to the byte"
            )
        for text in notes:
            if text not in self._noted:
                self._noted.add(text)
                self.execution.note(text)

    @contextmanager
    def _hearing(self, heard: Callable[[tuple[Any, Mapping[str, int]]], None]) -> Iterator[None]:
        """Have workers tell how far they are, for as long as the connection lasts."""
        client, name = self.cluster.client, topic(self._token)
        client.subscribe_topic(name, heard)
        try:
            yield
        finally:
            with suppress(Exception):  # the connection has been made anew, or is gone
                client.unsubscribe_topic(name)

    @contextmanager
    def _parting(self) -> Iterator[None]:
        """Have workers put in place what they have finished, and end what they keep for the run."""
        try:
            yield
        finally:
            everyone = threading.Thread(target=self._part, daemon=True)  # one that hangs holds nobody up
            everyone.start()
            everyone.join(_PARTING)

    def _part(self) -> None:
        with suppress(Exception):  # a worker that cannot be reached has nothing to be told
            self.cluster.client.run(leave, self._token, on_error="ignore")

    def _spread(
        self,
        terms: RunRequirements,
        do: Callable[..., Any],
        cut: AdaptiveChunks,
        arguments: Callable[[Chunk, Sequence[str]], tuple[Any, ...]],
        *,
        beat: Callable[[], None] = lambda: None,
    ) -> Generator[JobResult, None, None]:
        spreading = JobSpec(
            check=partial(check_worker, terms),
            function=do,
            arguments=arguments,
            gpu=self._gpu,
            on_poll=beat,
            describe=lambda job: f"{self._rendering.size}-pixel work, share {job.number + 1},",
        )
        with closing(run_jobs(self.cluster, cut, spreading)) as brought:
            yield from brought

    def _terms(
        self,
        dataset: Dataset,
        stores: Sequence[StoreRequest] | Sequence[StoreWork],
        *,
        folders: tuple[Path, ...] = (),
        engines: Mapping[Path, str] | None = None,
    ) -> RunRequirements:
        root = dataset.root.absolute()
        readable = [image.path for image in dataset.images if not image.problem]
        some = readable[:: max(1, len(readable) // _LOOKED_AT)][:_LOOKED_AT]
        execution = self.execution
        return RunRequirements(
            token=self._token,
            root=root,
            some_files=tuple((root / path, (root / path).stat().st_size) for path in some),
            folders=folders,
            versions=versions_here(),
            needed=tuple((store.backbone, store.weights) for store in stores),
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
def _permits(folders: Sequence[Path], token: str) -> Iterator[None]:
    """Say in every folder of parts that this run goes on, and that an earlier one does not."""
    for folder in folders:
        for stale in folder.glob(PERMIT.format(token="*")):
            stale.unlink(missing_ok=True)  # workers of a client that was killed stop at that
        write_synced(permit_path(folder, token), token.encode("ascii"))
    try:
        yield
    finally:
        for folder in folders:
            with suppress(OSError):
                permit_path(folder, token).unlink(missing_ok=True)


def _share(requests: Sequence[DecodeRequest], stores: Sequence[StoreWork]) -> WorkUnit:
    """Return a share of some of the files, with no more of what is missing than is theirs."""
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


_APPEARING = 90.0  # seconds that a network file system may take to show what another machine has written


class Progress:
    """How many files are decoded: of shares that are back, and of those under way as workers say."""

    def __init__(self, total: int, execution: ExecutionOptions) -> None:
        self._total, self._execution = total, execution
        self._done = 0
        self._back: set[int] = set()
        self._under_way: dict[int, int] = {}

    def heard(self, event: tuple[Any, Mapping[str, int]]) -> None:
        """Note what a worker says; called in another thread."""
        if event[1]["share"] not in self._back:
            self._under_way[event[1]["share"]] = event[1]["done"]

    def returned(self, job: Chunk) -> None:
        """Note that a share is back."""
        self._back.add(job.number)
        self._under_way.pop(job.number, None)
        self._done += len(job.items)
        self.tell()

    def tell(self) -> None:
        """Report it."""
        done = min(self._total, self._done + sum(list(self._under_way.values())))
        self._execution.report("extracting", done, self._total)


class ResultTotals:
    """What shares brought, store by store."""

    def __init__(self, targets: Sequence[StorePlan]) -> None:
        self.targets = targets
        self.computed = [ComputeStats() for _ in targets]
        self.decoding = 0.0
        self.instructions: set[tuple[str, ...]] = set()
        self.paths: list[Path] = []  # of the parts

    def add(self, brought: JobResult) -> None:
        """Add one share."""
        filled: WorkUnitResult = brought.value
        self.decoding += filled.decoding
        self.instructions.add(filled.instructions)
        for target, computed, store in zip(self.targets, self.computed, filled.stores, strict=True):
            for keys in store.parts:
                target.parts.add_keys(keys)
                self.paths.append(target.parts.folder / keys.name)
            computed.failed |= store.failed
            computed.engine, computed.device = (
                store.engine or computed.engine,
                store.device or computed.device,
            )
            computed.columns = store.columns or computed.columns
            computed.n_decoded += filled.n_decoded
            computed.n_forward += store.n_forward
            for step, seconds in store.seconds.items():
                computed.seconds[step] += seconds
            rates = computed.workers.setdefault(brought.worker, {"pictures": 0, "seconds": 0.0})
            rates["pictures"] += filled.n_decoded
            rates["seconds"] += brought.seconds

    def await_parts(self) -> None:
        """Return when this machine sees all parts.

        Raises
        ------
        StoreError
            If it does not see one of them.
        """
        deadline = time.monotonic() + _APPEARING
        for path in self.paths:
            while not path.exists():
                if time.monotonic() > deadline:
                    raise StoreError(
                        f"{path}: a worker has put it in place, and it is not to be seen from here. Is the "
                        "folder shared? Run the same command again: it computes what is missing"
                    )
                time.sleep(0.2)


SLICE_SECONDS = 15.0  # that a slice is to take: what the death of a worker costs
FIRST_SLICE = 16  # items, before it is known how long they take
LEAST_SLICE = 4  # items: each slice costs a start and an end
MOST_SLICE = 256  # items
_RECENT = 16  # slices whose rates count


@dataclass(frozen=True, kw_only=True, eq=False)
class Chunk:
    """Some neighbouring items."""

    number: int
    items: tuple[Any, ...]


class AdaptiveChunks:
    """Items to be handed out in their order; a `featurize.base.dask_jobs.JobSource`.

    Parameters
    ----------
    items : sequence
        The work.
    size : int, optional
        Of every slice; as `SLICE_SECONDS` asks for by default, and smaller towards the end, so that all who
        work are done at about the same time.
    """

    def __init__(self, items: Sequence[Any], *, size: int | None = None) -> None:
        self._items, self._size = items, size
        self._position = self._number = 0
        self._seconds: deque[float] = deque(maxlen=_RECENT)  # an item

    def take(self, n_workers: int) -> Chunk | None:
        """Return the next slice, given how many work; None when all is handed out."""
        left = len(self._items) - self._position
        if not left:
            return None
        size = self._size or min(self._fitting(), max(LEAST_SLICE, left // (2 * n_workers)))
        start, self._position = self._position, self._position + min(size, left)
        self._number += 1
        return Chunk(number=self._number - 1, items=tuple(self._items[start : self._position]))

    def returned(self, done: Chunk, seconds: float) -> None:
        """Note how long a slice took."""
        self._seconds.append(seconds / len(done.items))

    def _fitting(self) -> int:
        if not self._seconds:
            return FIRST_SLICE
        an_item = max(statistics.median(self._seconds), 1e-6)
        return max(LEAST_SLICE, min(MOST_SLICE, round(SLICE_SECONDS / an_item)))
