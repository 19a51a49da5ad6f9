"""The OpenVINO engine: one compiled network on the CPU, several batches in flight."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from featurize.backbones import Backbone
from featurize.decode.cores import available_cores
from featurize.engines import auto_batch_size, check_images
from featurize.engines.conversion import Recipe, converted_network, import_openvino, last_line
from featurize.engines.model_cache import StoredModel
from featurize.errors import EngineError
from featurize.nets.networks import check_input_size
from featurize.weights import Weights

_PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}


class OpenVINOEngine:
    """A backbone compiled by OpenVINO: uint8 in; preprocessing, network, mean over the maps; float32 out.

    Safe to use from several threads. Parameters as in `featurize.engines.create_engine`.
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
        recipe = Recipe(
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
        """Start on some pictures; see `featurize.engines.Engine`.

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
        """Return one feature vector a picture; see `featurize.engines.Engine`."""
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
        """Wait for the features and return them; see `featurize.engines.Pending`."""
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


def _compiled_network(core: Any, stored: StoredModel, *, precision: str, threads: int | None) -> Any:
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
