"""Comparison of the engine that extraction would use with TensorFlow on the CPU: `featurize selfcheck`."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from featurize.backbones.registry import Backbone
from featurize.backbones.weights import Weights
from featurize.engines import select
from featurize.engines.base import Engine
from featurize.engines.factory import create_engine
from featurize.engines.select import fast_precisions
from featurize.errors import EngineError


@dataclass(frozen=True, kw_only=True)
class SelfCheck:
    """Agreement of an engine's features with TensorFlow on the CPU in float32, and the speed of both."""

    backbone: str
    engine: str  # "tensorflow" or "openvino"
    device: str
    precision: str  # of the checked engine; the reference computes in float32
    formats: tuple[str, ...]  # fast formats of this device besides float32
    n_images: int
    smallest_cosine: float  # minimum over the images of the cosine between the two feature vectors
    images_per_second: float
    reference_images_per_second: float  # TensorFlow on the CPU
    note: str  # advice to the user, or ""


def selfcheck(
    backbone: Backbone,
    weights: Weights,
    *,
    engine: str = "auto",
    device: str = "auto",
    gpu_memory: float | None = None,
    precision: str = "float32",
    n_images: int = 8,
    seed: int = 0,
) -> SelfCheck:
    """Compare an engine with TensorFlow on the CPU on synthetic images.

    Parameters
    ----------
    backbone : Backbone
        From the registry.
    weights : Weights
        From `find_weights`.
    engine : {"auto", "tensorflow", "openvino"}, default="auto"
        The engine to check; "auto" is the one that extraction would use.
    device : str, default="auto"
        As for extraction.
    gpu_memory : float, optional
        Fraction of the GPU's memory to reserve.
    precision : {"float32", "float16", "bfloat16"}, default="float32"
        Format of the arithmetic of the checked engine.
    n_images : int, default=8
        Number of images to compare.
    seed : int, default=0
        Seed of the images.

    Returns
    -------
    SelfCheck
        Settings of the checked engine, smallest cosine and both rates.

    Raises
    ------
    EngineError
        If the engine is not available, or is itself TensorFlow on the CPU in float32.
    """
    # Created first: TensorFlow on the CPU hides the GPUs from its process.
    checked = create_engine(
        backbone,
        weights,
        engine=engine,
        device=device,
        gpu_memory=gpu_memory,
        precision=precision,
        batch_size=n_images,
    )
    if (checked.name, checked.device, checked.precision) == ("tensorflow", "cpu", "float32"):
        raise EngineError(
            "selfcheck compares an engine with TensorFlow on the CPU in float32, which is also the engine to "
            "check here. Type --device gpu:N on a machine with a GPU, or pip install openvino"
        )
    reference = create_engine(backbone, weights, engine="tensorflow", device="cpu", batch_size=n_images)
    note = ""
    if checked.device == "cpu" and device == "auto" and select.gpus():
        note = (
            "TensorFlow cannot use the GPU of this machine. Install the libraries that it needs with: "
            "pip install folio-grader[cuda]"
        )
    return compare_engines(
        checked, reference, backbone=backbone.name, n_images=n_images, seed=seed, note=note
    )


def compare_engines(
    checked: Engine, reference: Engine, *, backbone: str, n_images: int = 8, seed: int = 0, note: str = ""
) -> SelfCheck:
    """Compare two engines of one backbone on the same images."""
    images = synthetic_images(n_images, size=checked.size, seed=seed)
    features, rate = _timed(checked, images)
    expected, reference_rate = _timed(reference, images)
    return SelfCheck(
        backbone=backbone,
        engine=checked.name,
        device=checked.device,
        precision=checked.precision,
        formats=fast_precisions(checked.name, checked.device),
        n_images=n_images,
        smallest_cosine=float(cosines(features, expected).min()),
        images_per_second=rate,
        reference_images_per_second=reference_rate,
        note=note,
    )


def synthetic_images(n_images: int, *, size: int, seed: int) -> npt.NDArray[np.uint8]:
    """Return smooth colour images with a little noise: uint8 (n_images, size, size, 3)."""
    generator = np.random.default_rng(seed)
    axis = np.linspace(0, 2 * np.pi, size)
    waves = generator.uniform(0.5, 6, (n_images, 2, 3, 1))
    down, across = np.sin(waves * axis + generator.uniform(0, 6, waves.shape)).transpose(1, 0, 3, 2)
    images = 127.5 + 60 * (down[:, :, None, :] + across[:, None, :, :])  # (n_images, size, size, 3)
    return np.clip(images + generator.normal(0, 8, images.shape), 0, 255).astype(np.uint8)


def cosines(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Return the cosine between corresponding rows of two arrays.

    It is 1 for two rows of zeros, 0 if only one row is zero, and -1 if a row is not finite.
    """
    left, right = a.astype(np.float64), b.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
        cosine = (left * right).sum(axis=1) / lengths
    cosine = np.where(lengths == 0, (left == right).all(axis=1).astype(np.float64), cosine)
    return np.where(np.isfinite(cosine), cosine, -1.0)


def _timed(engine: Engine, images: npt.NDArray[np.uint8], *, repeats: int = 3) -> tuple[np.ndarray, float]:
    """Return the features, and the images/s of the fastest repeat with `Engine.in_flight` batches.

    The first call may compile the network and is not timed.
    """
    features = engine(images)
    n_batches = 2 * engine.in_flight
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        for pending in [engine.submit(images) for _ in range(n_batches)]:
            pending.result()
        best = min(best, time.perf_counter() - start)
    return features, n_batches * len(images) / max(best, 1e-9)
