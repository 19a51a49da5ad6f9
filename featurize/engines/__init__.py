"""The frozen forward pass: uint8 pictures in, float32 features out. One file an engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from featurize.backbones import Backbone
from featurize.engines.choice import (
    ENGINES as ENGINES,
    engine_here as engine_here,
    fast_precisions as fast_precisions,
)
from featurize.errors import ConfigError, EngineError
from featurize.weights import Weights

# Pictures of 224 × 224 pixels. OpenVINO has several batches in flight, and small ones stay in caches.
_BATCH = {("tensorflow", "cpu"): 32, ("tensorflow", "gpu"): 128, ("openvino", "cpu"): 8}


class Pending(Protocol):
    """Features that are on their way."""

    def result(self) -> npt.NDArray[np.float32]:
        """Wait for the features and return them: float32, (n, n_features).

        Raises
        ------
        EngineError
            If the forward pass failed.
        """
        ...  # pragma: no cover - a protocol


@dataclass(frozen=True, eq=False)
class Done:
    """Features that are here already: what an engine without a queue returns."""

    features: npt.NDArray[np.float32]

    def result(self) -> npt.NDArray[np.float32]:
        """Return the features."""
        return self.features


class Engine(Protocol):
    """A frozen backbone on a device; dropout and batch statistics are off."""

    name: str
    size: int  # side of the square input, in pixels
    n_features: int
    batch_size: int  # of every forward pass; fewer pictures are padded
    precision: str  # "float32", "float16" or "bfloat16"
    device: str  # "cpu", "gpu:N", or several GPUs: "gpu:0,gpu:2"
    in_flight: int  # batches worth having submitted at once
    level_names: tuple[str, ...]  # ("final",) unless levels were asked for
    level_ends: tuple[int, ...]  # level i is the columns from level_ends[i - 1] (or 0) up to level_ends[i]
    notes: tuple[str, ...]  # what the user should know of how it came out: a smaller batch, say

    def submit(self, images: npt.NDArray[np.uint8]) -> Pending:
        """Start on some pictures; may return before the work is done.

        Parameters
        ----------
        images : ndarray of shape (n, size, size, 3), uint8
            Upright RGB in [0, 255], ``n <= batch_size``. Left unchanged; the caller too leaves it alone until
            the result is taken.

        Returns
        -------
        Pending
            Its result has one row a picture. Results may be taken in any order.
        """
        ...  # pragma: no cover - a protocol

    def __call__(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return one feature vector a picture.

        Parameters
        ----------
        images : ndarray of shape (n, size, size, 3), uint8
            Upright RGB in [0, 255], ``n <= batch_size``. Left unchanged.

        Returns
        -------
        ndarray of shape (n, n_features), float32
            Row i describes images[i]: unitless activations, not normalised. It depends on that picture alone,
            to the byte: not on its neighbours, nor on its place among them.
        """
        ...  # pragma: no cover - a protocol


def create_engine(
    backbone: Backbone,
    weights: Weights,
    *,
    engine: str = "auto",
    input_size: int | None = None,
    preprocess: str = "native",
    statistics: Mapping[str, Sequence[float]] | None = None,
    device: str = "auto",
    gpu_memory: float | None = None,
    precision: str = "float32",
    batch_size: int | str = "auto",
    levels: bool = False,
    threads: int | None = None,
) -> Engine:
    """Build a backbone's network, freeze it and put it on a device.

    Parameters
    ----------
    backbone : Backbone
        From the registry.
    weights : Weights
        From `find_weights`.
    engine : {"auto", "tensorflow", "openvino"}, default="auto"
        What runs it; "auto" is TensorFlow where a GPU is usable, and OpenVINO on a CPU.
    input_size : int, optional
        Side of the square input in pixels; the backbone's own by default.
    preprocess : {"native", "rescale", "featurewise"}, default="native"
        The network's own `preprocess_input`, pixels / 255, or that standardised with `statistics`; the latter
        two stand in for the scaling that some networks bring inside.
    statistics : mapping, optional
        "mean" and "std" of the channels of pixels / 255, three numbers each; for "featurewise" only.
    device : str, default="auto"
        "cpu", "gpu" (all), "gpu:N", or several as in "gpu:0,gpu:2"; by default every GPU, or the CPU where
        there is none.
    gpu_memory : float, optional
        Fraction of each GPU's memory to take at once, in (0, 1]; by default it grows as needed.
    precision : {"float32", "float16", "bfloat16"}, default="float32"
        Format of the network's arithmetic; pixels and pooling stay float32.
    batch_size : int or "auto", default="auto"
        Pictures in one forward pass; see `auto_batch_size`. On GPUs "auto" is halved until it fits.
    levels : bool, default=False
        Also pool the last map of every resolution stage, in the same forward pass.
    threads : int, optional
        Cores that OpenVINO takes; all that this process may use by default. TensorFlow settles that itself.

    Returns
    -------
    Engine
        Ready to call.

    Raises
    ------
    ConfigError
        If an option makes no sense for this backbone.
    WeightsError
        If the weights do not fit.
    EngineError
        If the device or the precision is not to be had here.
    """
    if batch_size != "auto" and (not isinstance(batch_size, int) or batch_size < 1):
        raise ConfigError(f"--batch-size {batch_size}: expected auto or a whole number from 1 up")
    if gpu_memory is not None and not 0 < gpu_memory <= 1:
        raise ConfigError(f"--gpu-memory {gpu_memory}: expected a fraction above 0 and up to 1, such as 0.5")
    if threads is not None and threads < 1:
        raise ConfigError(f"threads={threads}: expected a number from 1 up")
    _check_statistics(preprocess, statistics)
    if engine_here(engine, device=device, precision=precision) == "openvino":
        from featurize.engines.openvino import OpenVINOEngine

        return OpenVINOEngine(
            backbone,
            weights,
            input_size=input_size,
            preprocess=preprocess,
            statistics=statistics,
            precision=precision,
            batch_size=batch_size,
            levels=levels,
            threads=threads,
        )
    from featurize.engines.tensorflow import TensorFlowEngine  # some seconds

    return TensorFlowEngine(
        backbone,
        weights,
        input_size=input_size,
        preprocess=preprocess,
        statistics=statistics,
        device=device,
        gpu_memory=gpu_memory,
        precision=precision,
        batch_size=batch_size,
        levels=levels,
    )


def _check_statistics(preprocess: str, statistics: Mapping[str, Sequence[float]] | None) -> None:
    if preprocess not in ("native", "rescale", "featurewise"):
        raise ConfigError(f"--preprocess {preprocess}: unknown. Choose one of: native, rescale, featurewise")
    if (preprocess == "featurewise") != (statistics is not None):
        raise ConfigError(f"--preprocess {preprocess}: statistics belong to featurewise, and to it alone")
    if statistics is None:
        return
    for key in ("mean", "std"):
        numbers = np.asarray(statistics.get(key, ()), dtype=float)
        finite = numbers.shape == (3,) and np.isfinite(numbers).all()
        if not finite or (key == "std" and (numbers < 0).any()):
            raise ConfigError(
                f"--preprocess featurewise: expected 3 finite numbers as {key!r}, found {numbers}"
            )


def auto_batch_size(device: str, *, input_size: int, engine: str = "tensorflow") -> int:
    """Return how many pictures go through the network at once.

    As many pixels as in 32 pictures of 224 × 224 on a CPU (8 with OpenVINO; rates gain nothing from more) and
    128 on a GPU, as a power of two between 1 and these.

    Parameters
    ----------
    device : str
        "cpu", or something with "gpu".
    input_size : int
        Side of the square input, in pixels.
    engine : {"tensorflow", "openvino"}, default="tensorflow"
        What runs it.
    """
    most = _BATCH[engine, device.split(":")[0]]
    fitting = most * 224**2 // input_size**2
    return min(most, 1 << max(fitting.bit_length() - 1, 0))


def check_images(images: np.ndarray, *, size: int, batch_size: int) -> None:
    """Refuse what an engine does not take.

    Raises
    ------
    EngineError
        If `images` is not uint8 of shape (n, size, size, 3) with n up to the batch size.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (size, size, 3):
        raise EngineError(
            f"expected uint8 pictures (n, {size}, {size}, 3), received {images.dtype} {images.shape}"
        )
    if len(images) > batch_size:
        raise EngineError(f"expected at most {batch_size} pictures at once, received {len(images)}")
