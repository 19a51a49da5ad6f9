"""Extraction on Dask workers: the functions that run on a worker, and its state."""

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
from functools import lru_cache, partial
from pathlib import Path

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
from featurize.extraction.plan import FEATURE_PACKAGES, StoreRequest
from featurize.extraction.precision import PrecisionSample, resolve_precision
from featurize.extraction.produce import PixelSums, pixel_sums
from featurize.images.pool import Decoder, DecodeRequest, DecodeResult
from featurize.images.render import RenderSettings
from featurize.images.skip_reasons import kind_of
from featurize.store.columns import LevelColumns
from featurize.store.parts import Part, PartKeys

RUN_MARKER = "run-{token}.txt"  # file in a folder of parts that exists while the run is active
_POLL_SECONDS = 0.5  # between progress events, and between checks that the run is active
_UNMOUNTED = frozenset({"unreadable", "not a regular file"})  # kinds of skips if a drive is no longer mounted
_CPU_FLAGS = frozenset(
    {"avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_bf16", "asimd", "sve"}
)


@dataclass(frozen=True, kw_only=True)
class StoreUnitResult:
    """Result of a work unit for one store."""

    parts: tuple[PartKeys, ...]
    skipped: dict[str, str]  # content → reason
    engine: str
    device: str
    columns: LevelColumns | None
    n_forward: int
    seconds: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class WorkUnitResult:
    """Result of a work unit."""

    stores: tuple[StoreUnitResult, ...]
    n_decoded: int
    decoding: float  # seconds, summed over decode processes
    unusable: tuple[Path, str] | None  # under strict: the file that cannot be used, and the reason
    notes: tuple[str, ...]  # messages of the engines
    cpu_flags: tuple[str, ...]  # of this machine, see `cpu_flags`


class _UnitProgress:
    """Counts the decoded files of a work unit, reports them to the client, and stops if the run has ended."""

    def __init__(self, state: WorkerState, report: Callable[[int], None]) -> None:
        self.n_decoded, self.decoding = 0, 0.0
        self._state, self._report = state, report
        self._reported_at = time.monotonic()

    def on_file(self, decoded: DecodeResult) -> None:
        """Count a decoded file."""
        self.n_decoded += 1
        self.decoding += decoded.seconds
        if decoded.problem and self._state.requirements.strict:
            raise _UnusableError((decoded.request.path, decoded.problem))
        if time.monotonic() - self._reported_at > _POLL_SECONDS:
            self._reported_at = time.monotonic()
            self._report(self.n_decoded)
            if not self._state.is_active():
                raise _StoppedError


class _StoppedError(Exception):
    """The run has ended or was stopped."""


class _UnusableError(Exception):
    """A file cannot be used under ``strict``."""


class WorkerState:
    """State of one run in a worker process, kept between work units: engines and decode processes.

    Parameters
    ----------
    requirements : RunRequirements
        The requirements of the run.
    n_threads : int
        Number of threads of the Dask worker, used as its number of cores.
    """

    def __init__(self, requirements: RunRequirements, *, n_threads: int) -> None:
        self.requirements = requirements
        self.notes: list[str] = []
        if requirements.device in ("auto", "cpu"):  # TensorFlow reads the variables once, when it starts
            for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
                os.environ.setdefault(name, str(n_threads))
        self.execution = ExecutionOptions(
            engine=requirements.engine,
            device=requirements.device,
            gpu_memory=requirements.gpu_memory,
            batch_size=requirements.batch_size,
            strict=requirements.strict,
            report=lambda stage, done, total: None,
            note=self.notes.append,
            stored_options={},
            threads=n_threads,
        )
        self.decoder = Decoder(
            requirements.rendering,
            most_views=requirements.most_views,
            workers=requirements.workers or n_threads,
            image_timeout=requirements.image_timeout,
        )
        self.engines: dict[Path, Engine] = {}
        self.lock = threading.Lock()  # one job at a time

    def is_active(self) -> bool:
        """Return whether the run is active: its marker exists in every folder of parts."""
        return all(
            marker_path(folder, self.requirements.token).exists() for folder in self.requirements.folders
        )

    def close(self) -> None:
        """End the decode processes and release the engines."""
        self.decoder.close()
        self.engines.clear()

    def engine_for(self, store: StoreWork) -> Engine:
        """Return the engine of a store, built at the first call.

        Raises
        ------
        WorkerRefusedError
            If this machine cannot compute in the resolved precision or engine.
        """
        if store.path not in self.engines:
            try:
                self.engines[store.path] = self.execution.build(
                    store.backbone,
                    local_weights(self.requirements.token, store.backbone, store.weights),
                    store.config,
                    engine=self.requirements.engines.get(store.path),
                )
            except FolioError as error:
                raise WorkerRefusedError(f"on {platform.node()} cannot compute this: {error}") from error
        return self.engines[store.path]

    def _check_images_visible(self) -> None:
        """Raise an ImageError if the images are no longer visible here, so that they are not skipped."""
        if reason := missing_on_worker(replace(self.requirements, folders=())):
            raise ImageError(f"the worker {reason}")

    def fill(self, work_unit: WorkUnit, report: Callable[[int], None]) -> WorkUnitResult:
        """Compute a work unit and write its parts; stop early, with the finished contents, if the run ends.

        Raises
        ------
        ImageError
            If the images are no longer visible here.
        """
        parts: list[list[PartKeys]] = [[] for _ in work_unit.stores]

        def add_part(keys: list[PartKeys], path: Path, part: Part) -> None:
            keys.append(PartKeys.of(path, part))

        builders = [
            PartBuilder(
                store,
                partial(self.engine_for, store),
                engine=self.engines.get(store.path),
                on_part=partial(add_part, keys),
            )
            for store, keys in zip(work_unit.stores, parts, strict=True)
        ]
        progress = _UnitProgress(self, report)
        unusable = None
        try:
            fill_parts(work_unit, builders, decoder=self.decoder, on_file=progress.on_file)
            for builder in builders:
                builder.finish()
        except (_StoppedError, _UnusableError) as stop:
            unusable = stop.args[0] if isinstance(stop, _UnusableError) else None
            for builder in builders:
                builder.flush()
        except BaseException:
            for builder in builders:
                with suppress(FolioError):  # a write error is being raised already
                    builder.flush()
            raise
        finally:
            for builder in builders:
                builder.close()
        if any(kind_of(reason) in _UNMOUNTED for builder in builders for reason in builder.skipped.values()):
            self._check_images_visible()
        return WorkUnitResult(
            stores=tuple(
                StoreUnitResult(
                    parts=tuple(keys),
                    skipped=builder.skipped,
                    engine=builder.engine.name if builder.engine is not None else "",
                    device=builder.engine.device if builder.engine is not None else "",
                    columns=LevelColumns.of(builder.engine) if builder.engine is not None else None,
                    n_forward=builder.n_forward,
                    seconds=builder.seconds,
                )
                for builder, keys in zip(builders, parts, strict=True)
            ),
            n_decoded=progress.n_decoded,
            decoding=progress.decoding,
            unusable=unusable,
            notes=tuple(self.notes),
            cpu_flags=cpu_flags(),
        )


_states: dict[str, WorkerState] = {}  # of this process, by the token of the run
_states_lock = threading.Lock()


def worker_state(requirements: RunRequirements) -> WorkerState:
    """Return the state of a run in this process; close the states of runs that have ended."""
    from distributed import get_worker

    with _states_lock:
        for token, state in list(_states.items()):
            if token != requirements.token and not state.is_active():
                _states.pop(token)
                with state.lock:
                    state.close()
        if requirements.token not in _states:
            _states[requirements.token] = WorkerState(
                requirements, n_threads=int(get_worker().state.nthreads)
            )
        state = _states[requirements.token]
        state.requirements = requirements  # those of a later step are more specific
        return state


async def close_worker_state(token: str) -> None:
    """Close the state of a run after its current job has written its finished contents."""
    await asyncio.to_thread(_close_worker_state, token)


def _close_worker_state(token: str) -> None:
    with _states_lock:
        state = _states.pop(token, None)
    if state is not None:
        with state.lock:
            state.close()


def progress_topic(token: str) -> str:
    """Return the Dask topic of the progress events of a run."""
    return f"folio-{token}"


def fill_work_unit(requirements: RunRequirements, number: int, work_unit: WorkUnit) -> WorkUnitResult:
    """Compute a work unit on the worker that runs this function; see `WorkerState.fill`."""
    from distributed import get_worker

    worker, state = get_worker(), worker_state(requirements)

    def report(done: int) -> None:
        worker.log_event(progress_topic(requirements.token), {"unit": number, "done": done})

    with state.lock:
        return state.fill(work_unit, report)


def sum_pixels(requirements: RunRequirements, requests: Sequence[DecodeRequest]) -> PixelSums:
    """Return sums over the pixels of images, on the worker that runs this function."""
    state = worker_state(requirements)
    with state.lock:
        return pixel_sums(requests, decoder=state.decoder, report=lambda done: None)


def resolve_on_worker(
    requirements: RunRequirements,
    store_requests: Sequence[StoreRequest],
    candidates: Sequence[Sequence[DecodeRequest]],
) -> tuple[list[tuple[StoreRequest, str]], bool]:
    """Replace "auto" precision and engine of stores, on the worker that runs this function.

    Returns
    -------
    list of (StoreRequest, str)
        Each with the name of its engine. Engines that were built are kept for the work units.
    bool
        Whether this worker offers a GPU.
    """
    from distributed import get_worker

    state, resolutions = worker_state(requirements), []
    with state.lock:
        sample = PrecisionSample(candidates, state.decoder, state.execution)
        for request in store_requests:
            weights = local_weights(requirements.token, request.backbone, request.weights)
            resolved, engine = resolve_precision(replace(request, weights=weights), sample, state.execution)
            if engine is not None:
                state.engines[request.path] = engine
                name = engine.name
            else:
                name = select.resolve_engine(
                    config_engine(resolved.config) or requirements.engine,
                    device=requirements.device,
                    precision=resolved.config["precision"],
                )
            resolutions.append((replace(resolved, weights=request.weights), name))
    return resolutions, get_worker().state.total_resources.get(GPU, 0) >= 1


@dataclass(frozen=True, kw_only=True)
class RunRequirements:
    """Requirements that every worker of a run must meet, and its settings."""

    token: str  # identifies the run
    root: Path  # folder of the images, absolute
    file_sizes: tuple[tuple[Path, int], ...]  # some of the images, with their sizes in bytes
    folders: tuple[Path, ...]  # of parts, absolute; empty until the folders exist
    versions: Mapping[str, str]
    backbones: tuple[tuple[Backbone, Weights], ...]
    rendering: RenderSettings
    most_views: int  # per file
    engines: Mapping[Path, str]  # path of a store → name of its engine, once resolved
    engine: str
    device: str
    gpu_memory: float | None
    batch_size: int | str
    workers: int | None  # decode processes; None: one per thread of the Dask worker
    image_timeout: float
    strict: bool


def local_versions() -> dict[str, str]:
    """Return the versions that must be equal on all machines of a run: Folio, its sources, packages."""
    digest = sources_digest(Path(__file__).resolve().parents[1], ("**/*.py",))
    return {"folio": f"{__version__}, sources {digest[:12]}", **installed_versions(FEATURE_PACKAGES)}


def check_worker(requirements: RunRequirements) -> str:
    """Return "" if this worker is usable for a run, else the reason why not."""
    host = f"on {platform.node()}"
    if reason := _version_differences(requirements.versions, local_versions()):
        return f"{host} has {reason}. Install the same versions there"
    if reason := missing_on_worker(requirements):
        return f"{host} {reason}"
    for backbone, weights in requirements.backbones:
        try:
            local_weights(requirements.token, backbone, weights)
        except FolioError as error:
            return f"{host}: {error}"
    return ""


def _version_differences(required: Mapping[str, str], local: Mapping[str, str]) -> str:
    return ", ".join(
        f"{name} {local.get(name, 'none')} (this run: {required.get(name, 'none')})"
        for name in {**required, **local}
        if local.get(name) != required.get(name)
    )


def missing_on_worker(requirements: RunRequirements) -> str:
    """Return which images or folders of parts differ between this worker and the client; "" if none."""
    mount = f"Mount {requirements.root} there under the same path"
    for path, size in requirements.file_sizes:
        try:
            found = path.stat().st_size
        except OSError as error:
            return f"does not see {path} ({error.strerror or error}). {mount}"
        if found != size:
            return f"sees another file at {path} than this machine. {mount}"
    for folder in requirements.folders:
        mount = f"Mount {folder.parent} there under the same path"
        test_file = folder / f".{secrets.token_hex(8)}.tmp"
        try:
            if marker_path(folder, requirements.token).read_text() != requirements.token:
                return f"sees another folder at {folder} than this machine. {mount}"
            test_file.write_bytes(b"")
            test_file.unlink()
        except OSError as error:
            return (
                f"does not see {folder} as this machine does, or cannot write to it "
                f"({error.strerror or error}). {mount}"
            )
    return ""


def cpu_flags() -> tuple[str, ...]:
    """Return the processor's vector instruction sets, which affect rounding; () if not on Linux."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ()
    line = next((line for line in text.splitlines() if line.startswith(("flags", "Features"))), "")
    return tuple(sorted(_CPU_FLAGS & set(line.partition(":")[2].split())))


def marker_path(folder: Path, token: str) -> Path:
    """Return the path of a run's marker in a folder of parts; the file exists while the run is active."""
    return folder / RUN_MARKER.format(token=token)


@lru_cache(maxsize=8)
def local_weights(token: str, backbone: Backbone, weights: Weights) -> Weights:
    """Return the same weights with their path on this machine; cached per run.

    Raises
    ------
    WeightsError
        If this machine has no such weights, or different ones.
    """
    source: str | Path = weights.kind
    if weights.path is not None and weights.path.is_file():
        source = weights.path
    elif weights.kind == "file":
        assert weights.path is not None
        source = weights.path  # missing: the error names it
    found = find_weights(backbone, source, seed=weights.seed or 0)
    if found.sha256 != weights.sha256:
        raise WeightsError(
            f"its weights of {backbone.name} differ (SHA-256 {found.sha256[:12]}…; this run: "
            f"{weights.sha256[:12]}…). Copy the same file there"
        )
    return found
