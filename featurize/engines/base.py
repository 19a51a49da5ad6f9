"""Engine protocol: a frozen backbone that maps uint8 images to float32 features. One module per engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from featurize.base.text import plural
from featurize.base.typing import Float32Array
from featurize.errors import EngineError

# Images of 224 × 224 pixels. OpenVINO runs several batches in parallel; small batches fit in CPU caches.
_BATCH_SIZES = {("tensorflow", "cpu"): 32, ("tensorflow", "gpu"): 128, ("openvino", "cpu"): 8}


class PendingFeatures(Protocol):
    """Features that are being computed."""

    def result(self) -> Float32Array:
        """Wait for the features and return them: (n, n_features).

        Raises
        ------
        EngineError
            If the forward pass failed.
        """
        ...  # pragma: no cover - a protocol


@dataclass(frozen=True, eq=False)
class ReadyFeatures:
    """Features that are already computed, from an engine without a queue."""

    features: Float32Array

    def result(self) -> Float32Array:
        """Return the features."""
        return self.features


class Engine(Protocol):
    """A frozen backbone on a device; dropout and batch statistics are off."""

    name: str
    size: int  # side of the square input, in pixels
    n_features: int
    batch_size: int  # images per forward pass; smaller batches are padded
    precision: str  # "float32", "float16" or "bfloat16"
    device: str  # "cpu", "gpu:N", or several GPUs: "gpu:0,gpu:2"
    in_flight: int  # number of submitted batches that keeps the devices busy
    level_names: tuple[str, ...]  # ("final",) without levels
    level_ends: tuple[int, ...]  # level i is columns level_ends[i - 1] (0 for the first) to level_ends[i]
    notes: tuple[str, ...]  # messages to the user, for example about a reduced batch size

    def submit(self, images: npt.NDArray[np.uint8]) -> PendingFeatures:
        """Start computing the features of a batch; may return before they are computed.

        Parameters
        ----------
        images : ndarray of shape (n, size, size, 3), uint8
            Upright RGB in [0, 255], ``n <= batch_size``. Left unchanged; the caller must not change it before
            the result has been taken.

        Returns
        -------
        PendingFeatures
            Its result has one row per image. Results may be taken in any order.
        """
        ...  # pragma: no cover - a protocol

    def __call__(self, images: npt.NDArray[np.uint8]) -> Float32Array:
        """Return one feature vector per image.

        Parameters
        ----------
        images : ndarray of shape (n, size, size, 3), uint8
            Upright RGB in [0, 255], ``n <= batch_size``. Left unchanged.

        Returns
        -------
        ndarray of shape (n, n_features), float32
            Row i describes images[i]: unitless activations, not normalised. It depends only on that image,
            bit for bit: not on the other images of the batch, nor on the position in the batch.
        """
        ...  # pragma: no cover - a protocol


def auto_batch_size(device: str, *, input_size: int, engine: str = "tensorflow") -> int:
    """Return the default number of images per forward pass.

    The largest power of two with at most as many pixels as 32 images of 224 × 224 on a CPU (8 with OpenVINO;
    larger batches are not faster) or 128 on a GPU. It is at least 1 and at most that number of images.

    Parameters
    ----------
    device : str
        "cpu", or a string that begins with "gpu".
    input_size : int
        Side of the square input, in pixels.
    engine : {"tensorflow", "openvino"}, default="tensorflow"
        Library that runs the network.
    """
    largest = _BATCH_SIZES[engine, device.split(":")[0]]
    same_pixels = largest * 224**2 // input_size**2
    return min(largest, 1 << max(same_pixels.bit_length() - 1, 0))


def check_images(images: np.ndarray, *, size: int, batch_size: int) -> None:
    """Check a batch of images.

    Raises
    ------
    EngineError
        If `images` is not uint8 of shape (n, size, size, 3) with n up to the batch size.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (size, size, 3):
        raise EngineError(
            f"expected uint8 images of shape (n, {size}, {size}, 3), received {images.dtype} {images.shape}"
        )
    if len(images) > batch_size:
        raise EngineError(f"expected at most {plural(batch_size, 'image')} per batch, received {len(images)}")
