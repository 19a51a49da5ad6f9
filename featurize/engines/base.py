"""The frozen forward pass: uint8 pictures in, float32 features out. One file an engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from featurize.errors import EngineError

# Pictures of 224 × 224 pixels. OpenVINO has several batches in flight, and small ones stay in caches.
_BATCH = {("tensorflow", "cpu"): 32, ("tensorflow", "gpu"): 128, ("openvino", "cpu"): 8}


class PendingFeatures(Protocol):
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
class ReadyFeatures:
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

    def submit(self, images: npt.NDArray[np.uint8]) -> PendingFeatures:
        """Start on some pictures; may return before the work is done.

        Parameters
        ----------
        images : ndarray of shape (n, size, size, 3), uint8
            Upright RGB in [0, 255], ``n <= batch_size``. Left unchanged; the caller too leaves it alone until
            the result is taken.

        Returns
        -------
        PendingFeatures
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
