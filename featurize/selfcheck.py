"""Compare a GPU's features with the CPU's, on pictures made here: behind `featurize selfcheck`."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from featurize.backbones import Backbone
from featurize.engines import Engine, create_engine
from featurize.errors import EngineError
from featurize.weights import Weights


@dataclass(frozen=True, kw_only=True)
class SelfCheck:
    """How far a GPU's features are from the CPU's, and how fast each is."""

    backbone: str
    device: str
    precision: str  # on the GPU; the CPU always computes in float32
    n_images: int
    smallest_cosine: float  # over the images, between the two features of each; 1 is agreement
    gpu_images_per_second: float
    cpu_images_per_second: float


def selfcheck(
    backbone: Backbone,
    weights: Weights,
    *,
    device: str = "auto",
    gpu_memory: float | None = None,
    precision: str = "float32",
    n_images: int = 8,
    seed: int = 0,
) -> SelfCheck:
    """Run a few synthetic pictures through a backbone on the GPU and on the CPU.

    Parameters
    ----------
    backbone : Backbone
        From the registry.
    weights : Weights
        From `find_weights`.
    device : str, default="auto"
        "auto" or "gpu:N".
    gpu_memory : float, optional
        Fraction of the GPU's memory to take.
    precision : {"float32", "float16", "bfloat16"}, default="float32"
        Format of the GPU's arithmetic.
    n_images : int, default=8
        Pictures to compare.
    seed : int, default=0
        What the pictures are drawn from.

    Returns
    -------
    SelfCheck
        The smallest cosine and both rates.

    Raises
    ------
    EngineError
        If there is no GPU to check.
    """
    if device == "cpu":
        raise EngineError("selfcheck compares a GPU with the CPU: type --device auto or gpu:N")
    # The GPU first: an engine on the CPU hides GPUs from its process.
    gpu = create_engine(
        backbone, weights, device=device, gpu_memory=gpu_memory, precision=precision, batch_size=n_images
    )
    if gpu.device == "cpu":
        raise EngineError(
            "selfcheck compares a GPU with the CPU, and TensorFlow finds no GPU here. See the README: "
            "the extra is folio-grader[cuda], and CUDA_VISIBLE_DEVICES must not hide the card"
        )
    cpu = create_engine(backbone, weights, device="cpu", batch_size=n_images)
    return compare_engines(gpu, cpu, backbone=backbone.name, n_images=n_images, seed=seed)


def compare_engines(
    gpu: Engine, cpu: Engine, *, backbone: str, n_images: int = 8, seed: int = 0
) -> SelfCheck:
    """Compare two engines of one backbone on the same pictures."""
    images = synthetic_images(n_images, size=gpu.size, seed=seed)
    gpu_features, gpu_rate = _timed(gpu, images)
    cpu_features, cpu_rate = _timed(cpu, images)
    return SelfCheck(
        backbone=backbone,
        device=gpu.device,
        precision=gpu.precision,
        n_images=n_images,
        smallest_cosine=float(cosines(gpu_features, cpu_features).min()),
        gpu_images_per_second=gpu_rate,
        cpu_images_per_second=cpu_rate,
    )


def synthetic_images(n_images: int, *, size: int, seed: int) -> npt.NDArray[np.uint8]:
    """Return smooth coloured pictures with a little grain: (n_images, size, size, 3), uint8."""
    generator = np.random.default_rng(seed)
    axis = np.linspace(0, 2 * np.pi, size)
    waves = generator.uniform(0.5, 6, (n_images, 2, 3, 1))
    down, across = np.sin(waves * axis + generator.uniform(0, 6, waves.shape)).transpose(1, 0, 3, 2)
    picture = 127.5 + 60 * (down[:, :, None, :] + across[:, None, :, :])  # (n_images, size, size, 3)
    return np.clip(picture + generator.normal(0, 8, picture.shape), 0, 255).astype(np.uint8)


def cosines(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Return the cosine between the rows of two arrays; 1 for two rows of zeros, 0 where one is zero.

    A row that is not finite agrees with nothing: its cosine is -1.
    """
    left, right = a.astype(np.float64), b.astype(np.float64)
    lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = (left * right).sum(axis=1) / lengths
    cosine = np.where(lengths == 0, (left == right).all(axis=1).astype(np.float64), cosine)
    return np.where(np.isfinite(cosine), cosine, -1.0)


def _timed(engine: Engine, images: npt.NDArray[np.uint8], *, rounds: int = 3) -> tuple[np.ndarray, float]:
    """Return the features and the images/s of the best round; the first call compiles and is not timed."""
    features = engine(images)
    best = float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        engine(images)
        best = min(best, time.perf_counter() - start)
    return features, len(images) / max(best, 1e-9)
