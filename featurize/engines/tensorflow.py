"""The TensorFlow engine: one frozen graph a backbone, on the CPU or on every GPU that is to be used."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from featurize.backbones.networks import check_input_size
from featurize.backbones.registry import Backbone
from featurize.backbones.weights import Weights
from featurize.engines.base import PendingFeatures, auto_batch_size, check_images
from featurize.engines.batching import DeviceQueues
from featurize.engines.device import Placement, resolve_device
from featurize.engines.freeze import (
    HOST,
    FrozenForward,
    OutOfMemoryError,
    forward_function,
    frozen_forward,
    place_on_device,
)
from featurize.engines.select import PRECISIONS
from featurize.errors import ConfigError, EngineError


def check_precision(precision: str, *, device: str) -> None:
    """Refuse a precision that the device has no arithmetic for.

    Raises
    ------
    ConfigError
        If there is no such precision.
    EngineError
        If it is float16 on a CPU.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"--precision {precision}: unknown. Choose one of: {', '.join(PRECISIONS)}")
    if precision == "float16" and device == "cpu":
        raise EngineError(
            "--precision float16 needs a GPU, and this is a CPU. Type --precision bfloat16 or float32"
        )


class TensorFlowEngine:
    """A backbone as one frozen graph: uint8 in; preprocessing, network, mean over the maps; float32 out.

    Variables are constants in it, so TensorFlow folds the batch norms into the convolutions. Threads take the
    batches through it: one on the CPU, so that the caller can pack the next batch meanwhile; two on each GPU,
    so that one batch travels while the other is computed. Every GPU has the whole graph, and a batch goes to
    the one with the least to do.

    Parameters
    ----------
    backbone, weights, input_size, preprocess, statistics, device, gpu_memory, precision, batch_size, levels
        As in `featurize.engines.factory.create_engine`.

    Attributes
    ----------
    notes : tuple of str
        What the user should know of how it came out: a smaller batch, GPUs of several models.
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
        auto = auto_batch_size(self.device, input_size=self.size)
        started = _largest_that_fits(
            functools.partial(
                frozen_forward,
                backbone,
                weights,
                input_size=self.size,
                preprocess=preprocess,
                statistics=statistics,
                precision=precision,
                levels=levels,
                device_name=HOST,  # not on a GPU, whose memory would keep what only building needs
            ),
            functools.partial(_start, placement=placement),
            most=auto if batch_size == "auto" else int(batch_size),
            least=1 if batch_size == "auto" else int(batch_size),
        )
        self._lanes, self.batch_size = started.lanes, started.batch_size
        self.in_flight = self._lanes.in_flight
        self.level_names, self.level_ends = started.frozen.level_names, started.frozen.level_ends
        self.n_features = self.level_ends[-1]
        self.notes = _notes(
            placement, auto=auto if batch_size == "auto" else None, batch_size=self.batch_size
        )

    def submit(self, images: npt.NDArray[np.uint8]) -> PendingFeatures:
        """Start on some pictures; see `featurize.engines.base.Engine`."""
        check_images(images, size=self.size, batch_size=self.batch_size)
        return self._lanes.submit(images)

    def __call__(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return one feature vector a picture; see `featurize.engines.base.Engine`."""
        return self.submit(images).result()


@dataclass(frozen=True, kw_only=True)
class _Started:
    frozen: FrozenForward
    lanes: DeviceQueues
    batch_size: int


def _largest_that_fits(
    freeze: Callable[..., FrozenForward],
    start: Callable[[FrozenForward], DeviceQueues],
    *,
    most: int,
    least: int,
) -> _Started:
    """Start with `most` pictures a batch, or as often halved as the devices' memory asks for.

    That is settled here, before the work: the batches of a run have one shape from the first to the last, and
    a batch that does not fit later, because others took the memory, is an error.
    """
    batch_size = most
    while True:
        frozen = freeze(batch_size=batch_size)
        try:
            lanes = start(frozen)
        except OutOfMemoryError:
            if batch_size // 2 < least:
                raise
            batch_size //= 2
        else:
            return _Started(frozen=frozen, lanes=lanes, batch_size=batch_size)


def _start(frozen: FrozenForward, *, placement: Placement) -> DeviceQueues:
    """Return running lanes; on GPUs after as many batches as they will have in flight.

    So kernels are chosen, and memory taken, before the work. The first GPU goes first: what is found out
    about its kernels, TensorFlow uses on all of the same model.
    """
    if placement.device == "cpu":
        return DeviceQueues([forward_function(frozen.function, HOST, device="cpu")], threads=1, waiting=1)
    forwards = [
        forward_function(place_on_device(frozen.function, name), name, device=device)
        for name, device in zip(placement.names, placement.device.split(","), strict=True)
    ]
    images = np.zeros(tuple(frozen.function.inputs[0].shape), dtype=np.uint8)
    forwards[0](images)
    lanes = DeviceQueues(forwards, threads=2, waiting=1)
    try:
        for pending in [lanes.submit(images) for _ in range(lanes.in_flight)]:
            pending.result()
    except BaseException:
        lanes.close()
        raise
    return lanes


def _notes(placement: Placement, *, auto: int | None, batch_size: int) -> tuple[str, ...]:
    notes = []
    if auto is not None and batch_size < auto:
        notes.append(f"{placement.device}: no memory for batches of {auto} pictures; they have {batch_size}")
    if len(placement.models) > 1:
        notes.append(
            f"{placement.device} are of several models ({', '.join(placement.models)}), whose features agree "
            f"to rounding only. For equal ones, name GPUs of one model with --device"
        )
    return tuple(notes)
