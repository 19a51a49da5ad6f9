"""What a Dask worker does for an extraction: it settles what is open, and fills shares."""

from __future__ import annotations

import asyncio
import os
import platform
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurize._version import __version__
from featurize.backbones.registry import Backbone
from featurize.backbones.weights import Weights, find_weights
from featurize.base.dask_cluster import GPU
from featurize.base.dask_jobs import WorkerRefusedError
from featurize.base.project import installed_versions, sources_digest
from featurize.config import config_engine
from featurize.engines import select
from featurize.engines.base import Engine
from featurize.errors import FolioError, ImageError, WeightsError
from featurize.extraction.execution import ExecutionOptions
from featurize.extraction.fill import PartBuilder, StoreWork, WorkUnit, fill_parts
from featurize.extraction.plan import PACKAGES
from featurize.extraction.precision import PrecisionSample, resolve_precision
from featurize.extraction.produce import PixelSums, pixel_sums
from featurize.images.pool import Decoder, DecodeRequest, DecodeResult
from featurize.images.render import RenderSettings
from featurize.images.skip_reasons import kind_of
from featurize.store.columns import LevelColumns
from featurize.store.parts import PartKeys

if TYPE_CHECKING:
    from featurize.extraction.plan import StoreRequest


_LOOK_SECONDS = 0.5  # between looks at whether the run goes on, and between words on how far a share is
_GONE = frozenset({"unreadable", "not a regular file"})  # what files are of a drive that is no longer mounted


@dataclass(frozen=True, kw_only=True)
class StoreUnitResult:
    """What a share brought one store."""

    parts: tuple[PartKeys, ...]
    failed: dict[str, str]
    engine: str
    device: str
    columns: LevelColumns | None
    n_forward: int
    seconds: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class WorkUnitResult:
    """What a share brought; one of `stores` for each of its stores."""

    stores: tuple[StoreUnitResult, ...]
    n_decoded: int
    decoding: float  # seconds, summed over decode processes
    unusable: tuple[Path, str] | None  # a file, and why; where none is to be skipped
    notes: tuple[str, ...]  # of the engines
    instructions: tuple[str, ...]  # what the processor's arithmetic depends on


class _Watch:
    """Counts the files of a share; stops when the run has ended, and tells the client how far it is."""

    def __init__(self, station: WorkerState, tell: Callable[[int], None]) -> None:
        self.n_decoded, self.decoding = 0, 0.0
        self._station, self._tell = station, tell
        self._looked_at = time.monotonic()

    def on_file(self, decoded: DecodeResult) -> None:
        """Take note of one decoded file."""
        self.n_decoded += 1
        self.decoding += decoded.seconds
        if decoded.problem and self._station.terms.strict:
            raise _UnusableError((decoded.request.path, decoded.problem))
        if time.monotonic() - self._looked_at > _LOOK_SECONDS:
            self._looked_at = time.monotonic()
            self._tell(self.n_decoded)
            if not self._station.goes_on():
                raise _StoppedError


class _StoppedError(Exception):
    """The run has ended, or was stopped."""


class _UnusableError(Exception):
    """A file cannot be used, and none is to be skipped."""


class WorkerState:
    """What a worker process keeps from share to share of one run: engines, and decode processes.

    Parameters
    ----------
    terms : RunRequirements
        Of the run.
    n_threads : int
        Of the Dask worker: the cores that it is to take.
    """

    def __init__(self, terms: RunRequirements, *, n_threads: int) -> None:
        self.terms = terms
        self.notes: list[str] = []
        if terms.device in ("auto", "cpu"):  # TensorFlow takes every core unless it is told before it starts
            for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
                os.environ.setdefault(name, str(n_threads))
        self.execution = ExecutionOptions(
            engine=terms.engine,
            device=terms.device,
            gpu_memory=terms.gpu_memory,
            batch_size=terms.batch_size,
            strict=terms.strict,
            report=lambda stage, done, total: None,
            note=self.notes.append,
            remembered={},
            threads=n_threads,
        )
        self.decoder = Decoder(
            terms.rendering,
            most_views=terms.most_views,
            workers=terms.workers or n_threads,
            image_timeout=terms.image_timeout,
        )
        self.engines: dict[Path, Engine] = {}
        self.lock = threading.Lock()  # for one piece of work at a time

    def goes_on(self) -> bool:
        """Tell whether the run does, as far as its folders of parts say."""
        return all(permit_path(folder, self.terms.token).exists() for folder in self.terms.folders)

    def close(self) -> None:
        """End the decode processes and let the engines go."""
        self.decoder.close()
        self.engines.clear()

    def engine_of(self, store: StoreWork) -> Engine:
        """Return the engine of a store, built at the first call.

        Raises
        ------
        WorkerRefusedError
            If this machine cannot compute what the run has settled.
        """
        if store.path not in self.engines:
            try:
                self.engines[store.path] = self.execution.build(
                    store.backbone,
                    weights_here(self.terms.token, store.backbone, store.weights),
                    store.config,
                    engine=self.terms.engines.get(store.path),
                )
            except FolioError as error:
                raise WorkerRefusedError(f"on {platform.node()} cannot compute this: {error}") from error
        return self.engines[store.path]

    def _refuse_to_skip(self) -> None:
        """Raise where the images have gone from here: they are not to be skipped for that."""
        if reason := missing_on_worker(replace(self.terms, folders=())):
            raise ImageError(f"the worker {reason}")

    def fill(self, share: WorkUnit, tell: Callable[[int], None]) -> WorkUnitResult:
        """Put the parts of a share in place, or as many as the run lives to see.

        Raises
        ------
        ImageError
            If the images are no longer to be seen from here.
        """
        parts: list[list[PartKeys]] = [[] for _ in share.stores]

        def kept(place: int, path: Path, part: Any) -> None:
            parts[place].append(PartKeys.of(path, part))

        fillers = [
            PartBuilder(
                store,
                lambda store=store: self.engine_of(store),  # type: ignore[misc]
                engine=self.engines.get(store.path),
                on_part=lambda path, part, place=place: kept(place, path, part),  # type: ignore[misc]
            )
            for place, store in enumerate(share.stores)
        ]
        watch = _Watch(self, tell)
        unusable = None
        try:
            fill_parts(share, fillers, decoder=self.decoder, on_file=watch.on_file)
            for filler in fillers:
                filler.finish()
        except (_StoppedError, _UnusableError) as stop:
            unusable = stop.args[0] if isinstance(stop, _UnusableError) else None
            for filler in fillers:
                filler.keep()
        except BaseException:
            for filler in fillers:
                with suppress(FolioError):  # what could not be written is the error already
                    filler.keep()
            raise
        finally:
            for filler in fillers:
                filler.close()
        if any(kind_of(reason) in _GONE for filler in fillers for reason in filler.failed.values()):
            self._refuse_to_skip()
        return WorkUnitResult(
            stores=tuple(
                StoreUnitResult(
                    parts=tuple(found),
                    failed=filler.failed,
                    engine=filler.engine.name if filler.engine is not None else "",
                    device=filler.engine.device if filler.engine is not None else "",
                    columns=LevelColumns.of(filler.engine) if filler.engine is not None else None,
                    n_forward=filler.n_forward,
                    seconds=filler.seconds,
                )
                for filler, found in zip(fillers, parts, strict=True)
            ),
            n_decoded=watch.n_decoded,
            decoding=watch.decoding,
            unusable=unusable,
            notes=tuple(self.notes),
            instructions=cpu_flags(),
        )


_stations: dict[str, WorkerState] = {}  # of this process, by the token of their run
_changing = threading.Lock()


def worker_state(terms: RunRequirements) -> WorkerState:
    """Return this process' station for a run; those of runs that have ended are closed."""
    from distributed import get_worker

    with _changing:
        for token, other in list(_stations.items()):
            if token != terms.token and not other.goes_on():
                _stations.pop(token)
                with other.lock:
                    other.close()
        if terms.token not in _stations:
            _stations[terms.token] = WorkerState(terms, n_threads=int(get_worker().state.nthreads))
        station = _stations[terms.token]
        station.terms = terms  # those of a later step say more
        return station


async def leave(token: str) -> None:
    """Close the station of a run, once it has put in place what it was at."""
    await asyncio.to_thread(_leave, token)


def _leave(token: str) -> None:
    with _changing:
        station = _stations.pop(token, None)
    if station is not None:
        with station.lock:
            station.close()


def topic(token: str) -> str:
    """Return where workers tell how far their shares are."""
    return f"folio-{token}"


def fill_work_unit(terms: RunRequirements, number: int, share: WorkUnit) -> WorkUnitResult:
    """Fill a share on the worker that this is called on; see `Station.fill`."""
    from distributed import get_worker

    worker, station = get_worker(), worker_state(terms)

    def tell(done: int) -> None:
        worker.log_event(topic(terms.token), {"share": number, "done": done})

    with station.lock:
        return station.fill(share, tell)


def sum_pixels(terms: RunRequirements, requests: Sequence[DecodeRequest]) -> PixelSums:
    """Sum up the pixels of some images on the worker that this is called on."""
    station = worker_state(terms)
    with station.lock:
        return pixel_sums(requests, decoder=station.decoder, report=lambda done: None)


def resolve_on_worker(
    terms: RunRequirements, drafts: Sequence[StoreRequest], rounds: Sequence[Sequence[DecodeRequest]]
) -> tuple[list[tuple[StoreRequest, str]], bool]:
    """Settle precision and engine of stores on the worker that this is called on, as a local run does.

    Returns
    -------
    list of (Draft, str)
        With the name of the engine; engines that were built stay, for the shares to come.
    bool
        Whether this worker offers a GPU.
    """
    from distributed import get_worker

    station, found = worker_state(terms), []
    with station.lock:
        sample = PrecisionSample(rounds, station.decoder, station.execution)
        for draft in drafts:
            here = replace(draft, weights=weights_here(terms.token, draft.backbone, draft.weights))
            settled, engine = resolve_precision(here, sample, station.execution)
            if engine is not None:
                station.engines[draft.path] = engine
                name = engine.name
            else:
                name = select.engine_here(
                    config_engine(settled.config) or terms.engine,
                    device=terms.device,
                    precision=settled.config["precision"],
                )
            found.append((replace(settled, weights=draft.weights), name))
    return found, get_worker().state.total_resources.get(GPU, 0) >= 1


PERMIT = "run-{token}.txt"  # in a folder of parts: there as long as the run that it names goes on
_ARITHMETIC = frozenset(
    {"avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_bf16", "asimd", "sve"}
)


@dataclass(frozen=True, kw_only=True)
class RunRequirements:
    """What every worker of a run must find as the client does, and how all of them work."""

    token: str  # of the run
    root: Path  # of the images, absolute
    some_files: tuple[tuple[Path, int], ...]  # with their sizes in bytes
    folders: tuple[Path, ...]  # of parts, absolute; none before there are parts
    versions: Mapping[str, str]
    needed: tuple[tuple[Backbone, Weights], ...]  # backbones with their weights
    rendering: RenderSettings
    most_views: int  # of one file
    engines: Mapping[Path, str]  # by store, once it is settled what computes
    engine: str
    device: str
    gpu_memory: float | None
    batch_size: int | str
    workers: int | None  # decode processes; None: one for each thread of the Dask worker
    image_timeout: float
    strict: bool


def versions_here() -> dict[str, str]:
    """Return what must be equal wherever features of one store are made: versions, and our own sources."""
    digest = sources_digest(Path(__file__).resolve().parents[1], ("**/*.py",))
    return {"folio": f"{__version__}, sources {digest[:12]}", **installed_versions(PACKAGES)}


def check_worker(terms: RunRequirements) -> str:
    """Return why this worker is not to take part in a run, "" if it is."""
    host = f"on {platform.node()}"
    if reason := _other_versions(terms.versions, versions_here()):
        return f"{host} has {reason}. Install there what is installed here"
    if reason := missing_on_worker(terms):
        return f"{host} {reason}"
    for backbone, weights in terms.needed:
        try:
            weights_here(terms.token, backbone, weights)
        except FolioError as error:
            return f"{host}: {error}"
    return ""


def _other_versions(wanted: Mapping[str, str], here: Mapping[str, str]) -> str:
    differing = [
        f"{name} {here.get(name, 'none')} (this run: {wanted.get(name, 'none')})"
        for name in {**wanted, **here}
        if here.get(name) != wanted.get(name)
    ]
    return ", ".join(differing)


def missing_on_worker(terms: RunRequirements) -> str:
    """Return what this worker does not see as the client does: the images, and the folders of parts."""
    for path, size in terms.some_files:
        try:
            found = path.stat().st_size
        except OSError as error:
            return f"does not see {path} ({error.strerror or error}). Mount {terms.root} there, by that path"
        if found != size:
            return f"sees another {path} than this machine. Mount {terms.root} there, by that path"
    for folder in terms.folders:
        permit, trial = permit_path(folder, terms.token), folder / f".{secrets.token_hex(8)}.tmp"
        try:
            if permit.read_text() != terms.token:
                return f"sees another {folder} than this machine. Mount {folder.parent} there, by that path"
            trial.write_bytes(b"")
            trial.unlink()
        except OSError as error:
            return (
                f"does not see {folder} as this machine does, or cannot write there "
                f"({error.strerror or error}). Mount {folder.parent} there, by that path"
            )
    return ""


def cpu_flags() -> tuple[str, ...]:
    """Return what the processor's arithmetic depends on, as Linux' /proc/cpuinfo names it; () elsewhere."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ()
    line = next((line for line in text.splitlines() if line.startswith(("flags", "Features"))), "")
    return tuple(sorted(_ARITHMETIC & set(line.partition(":")[2].split())))


def permit_path(folder: Path, token: str) -> Path:
    """Return where a run says that it goes on."""
    return folder / PERMIT.format(token=token)


@lru_cache(maxsize=8)
def weights_here(token: str, backbone: Backbone, weights: Weights) -> Weights:
    """Return where this machine has the weights that the client found; looked for once a run.

    Raises
    ------
    WeightsError
        If it has none, or others.
    """
    source: str | Path = weights.kind
    if weights.path is not None and weights.path.is_file():
        source = weights.path
    elif weights.kind == "file":
        assert weights.path is not None
        source = weights.path  # its absence is told by path
    found = find_weights(backbone, source, seed=weights.seed or 0)
    if found.sha256 != weights.sha256:
        raise WeightsError(
            f"its weights of {backbone.name} are others (SHA-256 {found.sha256[:12]}…; this run: "
            f"{weights.sha256[:12]}…). Put the same file there"
        )
    return found
