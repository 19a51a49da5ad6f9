"""The OpenVINO engine: one compiled network on the CPU, several batches in flight."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import os
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featurize._version import __version__
from featurize.backbones.networks import check_input_size
from featurize.backbones.registry import Backbone
from featurize.backbones.weights import Weights
from featurize.base.cache import CacheEntry, cache_folder, read_cache_entry, write_cache_entry
from featurize.base.cores import available_cores
from featurize.base.project import installed_versions, sources_digest
from featurize.engines.base import auto_batch_size, check_images
from featurize.engines.freeze import FrozenGraph, frozen_graph
from featurize.errors import EngineError, WeightsError

_PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}


class OpenVINOEngine:
    """A backbone compiled by OpenVINO: uint8 in; preprocessing, network, mean over the maps; float32 out.

    Safe to use from several threads. Parameters as in `featurize.engines.factory.create_engine`.
    """

    name = "openvino"
    device = "cpu"

    def __init__(
        self,
        backbone: Backbone,
        weights: Weights,
        *,
        input_size: int | None,
        preprocess: str,
        statistics: Mapping[str, Sequence[float]] | None,
        precision: str,
        batch_size: int | str,
        levels: bool,
        threads: int | None = None,
    ) -> None:
        self.size = check_input_size(backbone, input_size)
        self.precision = precision
        self.batch_size = (
            auto_batch_size("cpu", input_size=self.size, engine=self.name)
            if batch_size == "auto"
            else int(batch_size)
        )
        recipe = NetworkSpec(
            backbone=backbone,
            weights=weights,
            input_size=self.size,
            preprocess=preprocess,
            statistics=statistics,
            batch_size=self.batch_size,
            levels=levels,
        )
        core = import_openvino().Core()
        stored = converted_network(core, recipe)
        self.level_names = tuple(stored.about["level_names"])
        self.level_ends = tuple(stored.about["level_ends"])
        self.n_features = self.level_ends[-1]
        self.notes: tuple[str, ...] = ()
        compiled = _compiled_network(core, stored, precision=precision, threads=threads)
        # One more than it works on at once: no core waits while a result is taken and a batch handed in.
        self.in_flight = int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")) + 1
        self._free = [compiled.create_infer_request() for _ in range(self.in_flight)]
        self._busy: deque[_Batch] = deque()
        self._lock = threading.Lock()  # of the two above
        self._submitting = threading.Lock()

    def submit(self, images: npt.NDArray[np.uint8]) -> _Batch:
        """Start on some pictures; see `featurize.engines.base.Engine`.

        The pixels are copied before this returns (under a hundredth of the time of their forward pass), so
        their array may be reused at once. With `in_flight` batches out, waits for the oldest of them.
        """
        check_images(images, size=self.size, batch_size=self.batch_size)
        with self._submitting:
            request = self._free_request()
            # Places left over keep earlier pictures: no picture's features depend on its neighbours.
            request.get_input_tensor().data[: len(images)] = images
            request.start_async()
            batch = _Batch(self, request, len(images))
            with self._lock:
                self._busy.append(batch)
        return batch

    def __call__(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return one feature vector a picture; see `featurize.engines.base.Engine`."""
        return self.submit(images).result()

    def _free_request(self) -> Any:
        while True:
            with self._lock:
                if self._free:
                    return self._free.pop()
                oldest = self._busy[0]
            oldest.finish()

    def _release(self, batch: _Batch, request: Any) -> None:
        with self._lock:
            self._busy.remove(batch)
            self._free.append(request)


class _Batch:
    """One batch on its way through an engine."""

    def __init__(self, engine: OpenVINOEngine, request: Any, n_images: int) -> None:
        self._engine: OpenVINOEngine | None = engine
        self._request = request
        self._n_images = n_images
        self._lock = threading.Lock()
        self._outcome: npt.NDArray[np.float32] | EngineError

    def result(self) -> npt.NDArray[np.float32]:
        """Wait for the features and return them; see `featurize.engines.base.PendingFeatures`."""
        self.finish()
        if isinstance(self._outcome, EngineError):
            raise self._outcome
        return self._outcome

    def finish(self) -> None:
        """Wait for the features, keep them here and hand the request back."""
        with self._lock:
            if self._engine is None:
                return
            try:
                self._request.wait()
                self._outcome = self._request.get_output_tensor().data[: self._n_images].copy()
            except RuntimeError as error:
                self._outcome = EngineError(f"OpenVINO failed on a batch: {last_line(error)}")
            self._engine._release(self, self._request)
            self._engine = self._request = None


def _compiled_network(core: Any, stored: ConvertedNetwork, *, precision: str, threads: int | None) -> Any:
    """Return the network ready to run, in the arithmetic asked for or not at all."""
    openvino = import_openvino()
    threads = min(threads or available_cores(), available_cores())
    options = {
        "PERFORMANCE_HINT": "THROUGHPUT",
        "INFERENCE_PRECISION_HINT": _PRECISIONS[
            precision
        ],  # left to itself it rounds to bfloat16 where it can
        "INFERENCE_NUM_THREADS": threads,
    }
    if threads < (os.cpu_count() or 1):  # two runs with a share of the cores each would pin to the same ones
        options["ENABLE_CPU_PINNING"] = False
    numbers = openvino.Tensor(np.frombuffer(stored.numbers, dtype=np.uint8))
    try:
        compiled = core.compile_model(core.read_model(stored.structure, numbers), "CPU", options)
        effective = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    except RuntimeError as error:
        raise EngineError(
            f"OpenVINO cannot compile the network ({last_line(error)}). Type --engine tensorflow"
        ) from error
    if effective != _PRECISIONS[precision]:
        raise EngineError(
            f"--precision {precision}: OpenVINO would compute in {effective} on this CPU. "
            f"Type --precision float32, or --engine tensorflow"
        )
    return compiled


_TELEMETRY = "openvino_telemetry"


@dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """All that makes one network another; fields as the parameters of `create_engine`.

    Not the precision: the network is kept in float32, and OpenVINO rounds it when it compiles.
    """

    backbone: Backbone
    weights: Weights
    input_size: int
    preprocess: str
    statistics: Mapping[str, Sequence[float]] | None
    batch_size: int
    levels: bool

    def facts(self) -> dict[str, Any]:
        """Return what `model_key` wants to know."""
        names = ("input_size", "preprocess", "statistics", "batch_size", "levels")
        digests = {"backbone": self.backbone.name, "weights": self.weights.sha256}
        return {**digests, **{name: getattr(self, name) for name in names}}


def import_openvino() -> Any:
    """Import OpenVINO without its report, and return the module.

    A plain ``import openvino`` writes an identifier to the home folder and tells its makers' server, unless
    the package that does so is not installed: for the length of the import, it is not.

    Raises
    ------
    EngineError
        If OpenVINO is not to be had here.
    """
    silenced = _TELEMETRY not in sys.modules
    if silenced:
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]
    try:
        return importlib.import_module("openvino")
    except ImportError as error:
        raise EngineError(
            f"--engine openvino: cannot be imported here ({last_line(error)}). Type --engine tensorflow, or "
            f"pip install openvino"
        ) from error
    finally:
        if silenced:
            del sys.modules[_TELEMETRY]


def converted_network(core: Any, recipe: NetworkSpec) -> ConvertedNetwork:
    """Return a network in OpenVINO's own format.

    Parameters
    ----------
    core : openvino.Core
        What converts it.
    recipe : NetworkSpec
        The network.

    Returns
    -------
    ConvertedNetwork
        Of which `about` has "level_names" and "level_ends". From the cache where it is there and whole; then
        neither TensorFlow nor Keras is imported. Otherwise it is there from now on.

    Raises
    ------
    ConfigError, WeightsError, EngineError
        If the network cannot be built or converted.
    """
    folder, key = cache_folder("models"), model_key(recipe.facts())
    stored = load_model(folder, key)
    if stored is None:
        stored = _in_own_format(core, _frozen_on_cpu(recipe))
        _check_unchanged(recipe.weights)
        save_model(folder, key, stored)
    return stored


def last_line(error: Exception) -> str:
    """Return what went wrong; OpenVINO's errors begin with places in its sources."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _frozen_on_cpu(recipe: NetworkSpec) -> FrozenGraph:
    """Return the network as TensorFlow has it, taking nothing of any GPU."""
    import tensorflow as tf

    with contextlib.suppress(RuntimeError):  # started already: then there is nothing left to take
        tf.config.set_visible_devices([], "GPU")
    return frozen_graph(
        recipe.backbone,
        recipe.weights,
        input_size=recipe.input_size,
        preprocess=recipe.preprocess,
        statistics=recipe.statistics,
        levels=recipe.levels,
        batch_size=recipe.batch_size,
    )


def _in_own_format(core: Any, frozen: FrozenGraph) -> ConvertedNetwork:
    """Convert by way of temporary files: `openvino.convert_model` would report home."""
    try:
        with tempfile.TemporaryDirectory(prefix="folio-", ignore_cleanup_errors=True) as name:
            graph, structure, numbers = (Path(name) / f"network.{end}" for end in ("pb", "xml", "bin"))
            graph.write_bytes(frozen.graph)
            model = core.read_model(graph)
            with contextlib.suppress(OSError):  # as large as what is written next
                graph.unlink()
            import_openvino().serialize(model, structure, numbers)
            return ConvertedNetwork(
                about={"level_names": list(frozen.level_names), "level_ends": list(frozen.level_ends)},
                structure=structure.read_bytes(),
                numbers=numbers.read_bytes(),
            )
    except OSError as error:
        raise EngineError(
            f"{tempfile.gettempdir()}: the network cannot be written there on its way to OpenVINO "
            f"({error.strerror or error}). Make room, point TMPDIR elsewhere, or type --engine tensorflow"
        ) from error
    except RuntimeError as error:
        raise EngineError(
            f"OpenVINO cannot convert the network ({last_line(error)}). Type --engine tensorflow"
        ) from error


def _check_unchanged(weights: Weights) -> None:
    """Refuse to keep under one digest what was made of another file."""
    if weights.path is None:
        return
    with weights.path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 != weights.sha256:
        raise WeightsError(f"{weights.path}: changed while it was being read. Run the command again")


LIMIT = 4 << 30  # bytes of all files together
_ENDING = ".model"
_PACKAGES = ("openvino", "tensorflow", "keras")  # they convert the network: each version may change it
_SOURCES = ("backbones/*.py", "engines/freeze.py", "engines/openvino.py")  # they define the network


@dataclass(frozen=True, kw_only=True, eq=False)
class ConvertedNetwork:
    """A converted network as bytes."""

    about: dict[str, Any]  # JSON: what the engine wants to know of it
    structure: bytes
    numbers: bytes


def model_key(facts: Mapping[str, Any]) -> str:
    """Return the digest under which a network is kept.

    Parameters
    ----------
    facts : mapping
        JSON-able: all that the caller knows to change the network.

    Returns
    -------
    str
        64 hex digits, of these facts, of the versions of what converts, and of our own sources.
    """
    everything = {
        **facts,
        "versions": {"folio-grader": __version__, **installed_versions(_PACKAGES)},
        "sources": sources_digest(Path(__file__).parents[1], _SOURCES),
    }
    return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()


def load_model(folder: Path, key: str) -> ConvertedNetwork | None:
    """Return a network that was kept, or None where there is none or its file is not what was written."""
    kept = read_cache_entry(folder / f"{key}{_ENDING}")
    if kept is None or set(kept.parts) != {"structure", "numbers"}:
        return None
    return ConvertedNetwork(about=dict(kept.about), **kept.parts)


def save_model(folder: Path, key: str, model: ConvertedNetwork, *, limit: int = LIMIT) -> bool:
    """Keep a network; say whether that worked out.

    Parameters
    ----------
    folder : Path
        Made where it is missing.
    key : str
        From `model_key`.
    model : ConvertedNetwork
        What to keep.
    limit : int
        Bytes that all files may have together; those used longest ago make room.
    """
    parts = {"structure": model.structure, "numbers": model.numbers}
    return write_cache_entry(
        folder / f"{key}{_ENDING}", CacheEntry(about=model.about, parts=parts), limit=limit
    )
