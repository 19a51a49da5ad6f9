"""TensorFlow engine: one frozen graph per backbone, on the CPU or on one or more GPUs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from featurize.backbones.networks import check_input_size
from featurize.backbones.registry import Backbone
from featurize.backbones.weights import Weights
from featurize.base.text import plural
from featurize.base.typing import Float32Array
from featurize.engines.base import PendingFeatures, auto_batch_size, check_images
from featurize.engines.batching import DeviceQueues
from featurize.engines.device import Placement, resolve_device
from featurize.engines.freeze import (
    HOST,
    FrozenForward,
    NetworkSpec,
    OutOfMemoryError,
    forward_function,
    frozen_forward,
    place_on_device,
)
from featurize.errors import EngineError


def check_precision(precision: str, *, device: str) -> None:
    """Check that a device supports a precision.

    Raises
    ------
    EngineError
        If the precision is float16 and the device is a CPU.
    """
    if precision == "float16" and device == "cpu":
        raise EngineError(
            "--precision float16 needs a GPU, but the device is a CPU. Type --precision bfloat16 or float32"
        )


class TensorFlowEngine:
    """A backbone as one frozen TensorFlow graph: preprocessing, network and global average pooling.

    Variables are constants in the graph, so TensorFlow folds batch norms into convolutions. Threads run the
    batches: one on the CPU, so that the caller can fill the next batch meanwhile; two per GPU, so that one
    batch is transferred while the other is computed. Every GPU has the complete graph, and a batch goes to
    the GPU with the fewest unfinished batches.

    Parameters
    ----------
    backbone, weights, input_size, preprocess, statistics, device, gpu_memory, precision, batch_size, levels
        As in `featurize.engines.factory.create_engine`.

    Attributes
    ----------
    notes : tuple of str
        Messages to the user: a reduced batch size, GPUs of different models.
    """

    name = "tensorflow"

    def __init__(
        self,
        backbone: Backbone,
        weights: Weights,
        *,
        input_size: int | None,
        preprocess: str,
        statistics: Mapping[str, Sequence[float]] | None,
        device: str,
        gpu_memory: float | None,
        precision: str,
        batch_size: int | str,
        levels: bool = False,
    ) -> None:
        import tensorflow as tf

        placement = resolve_device(device, gpu_memory=gpu_memory, config=tf.config)
        check_precision(precision, device=placement.device)
        self.device, self.precision = placement.device, precision
        self.size = check_input_size(backbone, input_size)
        auto = auto_batch_size(self.device, input_size=self.size) if batch_size == "auto" else None
        spec = NetworkSpec(
            backbone=backbone,
            weights=weights,
            input_size=self.size,
            preprocess=preprocess,
            statistics=statistics,
            levels=levels,
            batch_size=auto or int(batch_size),
        )
        frozen, self._queues, self.batch_size = _largest_that_fits(
            spec, precision=precision, placement=placement, min_batch_size=1 if auto else spec.batch_size
        )
        self.in_flight = self._queues.in_flight
        self.level_names, self.level_ends = frozen.level_names, frozen.level_ends
        self.n_features = self.level_ends[-1]
        self.notes = _notes(placement, auto=auto, batch_size=self.batch_size)

    def submit(self, images: npt.NDArray[np.uint8]) -> PendingFeatures:
        """Start computing the features of a batch; see `featurize.engines.base.Engine`."""
        check_images(images, size=self.size, batch_size=self.batch_size)
        return self._queues.submit(images)

    def __call__(self, images: npt.NDArray[np.uint8]) -> Float32Array:
        """Return one feature vector per image; see `featurize.engines.base.Engine`."""
        return self.submit(images).result()


def _largest_that_fits(
    spec: NetworkSpec, *, precision: str, placement: Placement, min_batch_size: int
) -> tuple[FrozenForward, DeviceQueues, int]:
    """Halve the batch size until a batch fits in the devices' memory.

    The batch size is chosen before the run and stays the same: a batch that does not fit later, because
    another program uses the memory, is an error.

    Returns
    -------
    frozen : FrozenForward
        The network for that batch size.
    queues : DeviceQueues
        Running device queues.
    batch_size : int
        Images per forward pass.
    """
    while True:
        # Built on the host: building needs memory that a GPU would not release.
        frozen = frozen_forward(spec, precision=precision, device_name=HOST)
        try:
            return frozen, _start(frozen, placement=placement), spec.batch_size
        except OutOfMemoryError:
            if spec.batch_size // 2 < min_batch_size:
                raise
            spec = replace(spec, batch_size=spec.batch_size // 2)


def _start(frozen: FrozenForward, *, placement: Placement) -> DeviceQueues:
    """Return running device queues; GPUs compute `in_flight` batches first.

    These warm-up batches make TensorFlow choose kernels and allocate memory before the run. The first batch
    runs on the first GPU alone: TensorFlow reuses its kernel choice on all GPUs of the same model.
    """
    if placement.device == "cpu":
        return DeviceQueues([forward_function(frozen.function, HOST, device="cpu")], threads=1, queued=1)
    forwards = [
        forward_function(place_on_device(frozen.function, name), name, device=device)
        for name, device in zip(placement.names, placement.device.split(","), strict=True)
    ]
    images = np.zeros(tuple(frozen.function.inputs[0].shape), dtype=np.uint8)
    forwards[0](images)
    queues = DeviceQueues(forwards, threads=2, queued=1)
    try:
        for pending in [queues.submit(images) for _ in range(queues.in_flight)]:
            pending.result()
    except BaseException:
        queues.close()
        raise
    return queues


def _notes(placement: Placement, *, auto: int | None, batch_size: int) -> tuple[str, ...]:
    notes = []
    if auto is not None and batch_size < auto:
        notes.append(
            f"{placement.device}: not enough memory for batches of {plural(auto, 'image')}; "
            f"the batch size is {batch_size}"
        )
    if len(placement.models) > 1:
        notes.append(
            f"{placement.device} are different models ({', '.join(placement.models)}), whose features agree "
            f"only up to rounding. For identical features, choose GPUs of one model with --device"
        )
    return tuple(notes)
