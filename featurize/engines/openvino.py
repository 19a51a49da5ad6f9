"""OpenVINO engine: one compiled network on the CPU, several batches in parallel.

Converted networks are cached on disk, so that later runs need neither TensorFlow nor Keras.
"""

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
from featurize.base.typing import Float32Array
from featurize.engines.base import auto_batch_size, check_images
from featurize.engines.freeze import FrozenGraph, NetworkSpec, frozen_graph
from featurize.errors import EngineError, WeightsError

_PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}


class OpenVINOEngine:
    """A backbone compiled by OpenVINO: preprocessing, network and global average pooling.

    Thread-safe. Parameters as in `featurize.engines.factory.create_engine`.
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
        spec = NetworkSpec(
            backbone=backbone,
            weights=weights,
            input_size=self.size,
            preprocess=preprocess,
            statistics=statistics,
            levels=levels,
            batch_size=self.batch_size,
        )
        core = import_openvino().Core()
        network = converted_network(core, spec)
        self.level_names = tuple(network.about["level_names"])
        self.level_ends = tuple(network.about["level_ends"])
        self.n_features = self.level_ends[-1]
        self.notes: tuple[str, ...] = ()
        compiled = _compiled_network(core, network, precision=precision, threads=threads)
        # One more than OpenVINO runs in parallel, so that no core is idle between two batches.
        self.in_flight = int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")) + 1
        self._free = [compiled.create_infer_request() for _ in range(self.in_flight)]
        self._busy: deque[_Batch] = deque()
        self._lock = threading.Lock()  # protects _free and _busy
        self._submitting = threading.Lock()

    def submit(self, images: npt.NDArray[np.uint8]) -> _Batch:
        """Start computing the features of a batch; see `featurize.engines.base.Engine`.

        The pixels are copied (less than 1 % of the time of the forward pass), so the caller may reuse the
        array at once. Blocks until the oldest batch is finished if `in_flight` batches are unfinished.
        """
        check_images(images, size=self.size, batch_size=self.batch_size)
        with self._submitting:
            request = self._free_request()
            # The rest of the tensor keeps earlier images: features do not depend on the rest of the batch.
            request.get_input_tensor().data[: len(images)] = images
            request.start_async()
            batch = _Batch(self, request, len(images))
            with self._lock:
                self._busy.append(batch)
        return batch

    def __call__(self, images: npt.NDArray[np.uint8]) -> Float32Array:
        """Return one feature vector per image; see `featurize.engines.base.Engine`."""
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
    """A batch that an OpenVINO engine computes."""

    def __init__(self, engine: OpenVINOEngine, request: Any, n_images: int) -> None:
        self._engine: OpenVINOEngine | None = engine
        self._request = request
        self._n_images = n_images
        self._lock = threading.Lock()
        self._result: Float32Array | EngineError

    def result(self) -> Float32Array:
        """Wait for the features and return them; see `featurize.engines.base.PendingFeatures`."""
        self.finish()
        if isinstance(self._result, EngineError):
            raise self._result
        return self._result

    def finish(self) -> None:
        """Wait for the features, copy them, and return the request to the engine."""
        with self._lock:
            if self._engine is None:
                return
            try:
                self._request.wait()
                self._result = self._request.get_output_tensor().data[: self._n_images].copy()
            except RuntimeError as error:
                self._result = EngineError(f"OpenVINO failed on a batch: {last_line(error)}")
            self._engine._release(self, self._request)
            self._engine = self._request = None


def _compiled_network(core: Any, network: ConvertedNetwork, *, precision: str, threads: int | None) -> Any:
    """Compile a network; raise EngineError if OpenVINO would not compute in the requested precision."""
    openvino = import_openvino()
    threads = min(threads or available_cores(), available_cores())
    options = {
        "PERFORMANCE_HINT": "THROUGHPUT",
        "INFERENCE_PRECISION_HINT": _PRECISIONS[precision],  # the default may be bfloat16
        "INFERENCE_NUM_THREADS": threads,
    }
    if threads < (os.cpu_count() or 1):  # two processes would otherwise pin their threads to the same cores
        options["ENABLE_CPU_PINNING"] = False
    weights = openvino.Tensor(np.frombuffer(network.weights, dtype=np.uint8))
    try:
        compiled = core.compile_model(core.read_model(network.structure, weights), "CPU", options)
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


def import_openvino() -> Any:
    """Import OpenVINO without telemetry, and return the module.

    A plain ``import openvino`` writes an identifier to the home folder and contacts a server, unless the
    telemetry package is not installed. During this import, the package appears as not installed.

    Raises
    ------
    EngineError
        If OpenVINO cannot be imported.
    """
    hidden = _TELEMETRY not in sys.modules
    if hidden:
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]
    try:
        return importlib.import_module("openvino")
    except ImportError as error:
        raise EngineError(
            f"--engine openvino: cannot import OpenVINO ({last_line(error)}). Type --engine tensorflow, or "
            f"pip install openvino"
        ) from error
    finally:
        if hidden:
            del sys.modules[_TELEMETRY]


def converted_network(core: Any, spec: NetworkSpec) -> ConvertedNetwork:
    """Return a network in OpenVINO's own format, from the cache if possible.

    Parameters
    ----------
    core : openvino.Core
        Converts the network.
    spec : NetworkSpec
        The network.

    Returns
    -------
    ConvertedNetwork
        Its `about` has "level_names" and "level_ends". A cached network needs neither TensorFlow nor Keras; a
        newly converted one is added to the cache.

    Raises
    ------
    ConfigError, WeightsError, EngineError
        If the network cannot be built or converted.
    """
    folder, key = cache_folder("models"), model_key(spec)
    network = load_model(folder, key)
    if network is None:
        network = _convert(core, _frozen_on_cpu(spec))
        _check_unchanged(spec.weights)
        save_model(folder, key, network)
    return network


def last_line(error: Exception) -> str:
    """Return the last line of an error message; OpenVINO's messages begin with source positions."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _frozen_on_cpu(spec: NetworkSpec) -> FrozenGraph:
    """Freeze a network with TensorFlow, without using the memory of any GPU."""
    import tensorflow as tf

    with contextlib.suppress(RuntimeError):  # TensorFlow has started and uses its GPUs already
        tf.config.set_visible_devices([], "GPU")
    return frozen_graph(spec)


def _convert(core: Any, frozen: FrozenGraph) -> ConvertedNetwork:
    """Convert a TensorFlow graph through temporary files; `openvino.convert_model` would send telemetry."""
    try:
        with tempfile.TemporaryDirectory(prefix="folio-", ignore_cleanup_errors=True) as name:
            graph, structure, weights = (Path(name) / f"network.{end}" for end in ("pb", "xml", "bin"))
            graph.write_bytes(frozen.graph)
            model = core.read_model(graph)
            with contextlib.suppress(OSError):  # frees the disk space that the next files need
                graph.unlink()
            import_openvino().serialize(model, structure, weights)
            return ConvertedNetwork(
                about={"level_names": list(frozen.level_names), "level_ends": list(frozen.level_ends)},
                structure=structure.read_bytes(),
                weights=weights.read_bytes(),
            )
    except OSError as error:
        raise EngineError(
            f"{tempfile.gettempdir()}: cannot write temporary files for OpenVINO "
            f"({error.strerror or error}). Free disk space, set TMPDIR to another folder, or type "
            f"--engine tensorflow"
        ) from error
    except RuntimeError as error:
        raise EngineError(
            f"OpenVINO cannot convert the network ({last_line(error)}). Type --engine tensorflow"
        ) from error


def _check_unchanged(weights: Weights) -> None:
    """Raise WeightsError if the weights file changed, so that the cache never has a wrong digest."""
    if weights.path is None:
        return
    with weights.path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 != weights.sha256:
        raise WeightsError(f"{weights.path}: changed while it was being read. Run the command again")


CACHE_LIMIT = 4 << 30  # bytes of all cached networks
_SUFFIX = ".model"
_PACKAGES = ("openvino", "tensorflow", "keras")  # they convert the network: each version may change it
_SOURCES = ("backbones/*.py", "engines/freeze.py", "engines/openvino.py")  # they define the network


@dataclass(frozen=True, kw_only=True, eq=False)
class ConvertedNetwork:
    """A network in OpenVINO's own format."""

    about: dict[str, Any]  # JSON-serialisable: "level_names" and "level_ends"
    structure: bytes  # XML
    weights: bytes


def model_key(spec: NetworkSpec) -> str:
    """Return the cache key of a network, 64 hex digits.

    The key depends on the settings, the digest of the weights, the versions of the packages that convert, and
    our own source code. It does not depend on the precision: OpenVINO rounds the weights when it compiles.
    """
    settings = {
        "backbone": spec.backbone.name,
        "weights": spec.weights.sha256,
        "input_size": spec.input_size,
        "preprocess": spec.preprocess,
        "statistics": spec.statistics,
        "levels": spec.levels,
        "batch_size": spec.batch_size,
        "versions": {"folio-grader": __version__, **installed_versions(_PACKAGES)},
        "sources": sources_digest(Path(__file__).parents[1], _SOURCES),
    }
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def load_model(folder: Path, key: str) -> ConvertedNetwork | None:
    """Return a cached network, or None if it is missing or its file is damaged."""
    entry = read_cache_entry(folder / f"{key}{_SUFFIX}")
    if entry is None or set(entry.parts) != {"structure", "weights"}:
        return None
    return ConvertedNetwork(about=dict(entry.about), **entry.parts)


def save_model(folder: Path, key: str, model: ConvertedNetwork, *, limit: int = CACHE_LIMIT) -> bool:
    """Write a network to the cache; return whether it was written.

    Parameters
    ----------
    folder : Path
        Created if it is missing.
    key : str
        From `model_key`.
    model : ConvertedNetwork
        The network.
    limit : int
        Maximum size of all cached networks in bytes; the least recently used ones are removed.
    """
    parts = {"structure": model.structure, "weights": model.weights}
    return write_cache_entry(
        folder / f"{key}{_SUFFIX}", CacheEntry(about=model.about, parts=parts), limit=limit
    )
