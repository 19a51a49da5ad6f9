"""Compare what extraction would run here with TensorFlow on the CPU: behind `featurize selfcheck`."""

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
    """How far an engine's features are from TensorFlow's on the CPU in float32, and how fast both are."""

    backbone: str
    engine: str  # "tensorflow" or "openvino"
    device: str
    precision: str  # of that engine; TensorFlow on the CPU computes in float32
    formats: tuple[str, ...]  # shorter than float32, in which this device itself computes
    n_images: int
    smallest_cosine: float  # over the images, between the two features of each; 1 is agreement
    images_per_second: float
    reference_images_per_second: float  # TensorFlow on the CPU
    note: str  # "", or what could be better


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
    """Run a few synthetic pictures through a backbone as extraction would, and with TensorFlow on the CPU.

    Parameters
    ----------
    backbone : Backbone
        From the registry.
    weights : Weights
        From `find_weights`.
    engine : {"auto", "tensorflow", "openvino"}, default="auto"
        What is checked; "auto" is what extraction takes.
    device : str, default="auto"
        As for extraction.
    gpu_memory : float, optional
        Fraction of the GPU's memory to take.
    precision : {"float32", "float16", "bfloat16"}, default="float32"
        Format of the arithmetic that is checked.
    n_images : int, default=8
        Pictures to compare.
    seed : int, default=0
        What the pictures are drawn from.

    Returns
    -------
    SelfCheck
        What was checked, the smallest cosine and both rates.

    Raises
    ------
    EngineError
        If the engine is not to be had, or is TensorFlow on the CPU in float32 itself.
    """
    # This one first: TensorFlow on the CPU hides GPUs from its process.
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
            "selfcheck compares with TensorFlow on the CPU in float32, and that is what there is to check "
            "here. Type --device gpu:N on a machine with a GPU, or pip install openvino"
        )
    reference = create_engine(backbone, weights, engine="tensorflow", device="cpu", batch_size=n_images)
    note = ""
    if checked.device == "cpu" and device == "auto" and select.gpus():
        note = (
            "TensorFlow cannot use the GPU that is here: pip install folio-grader[cuda] brings what it needs"
        )
    return compare_engines(
        checked, reference, backbone=backbone.name, n_images=n_images, seed=seed, note=note
    )


def compare_engines(
    checked: Engine, reference: Engine, *, backbone: str, n_images: int = 8, seed: int = 0, note: str = ""
) -> SelfCheck:
    """Compare two engines of one backbone on the same pictures."""
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
    with np.errstate(invalid="ignore", divide="ignore"):
        lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
        cosine = (left * right).sum(axis=1) / lengths
    cosine = np.where(lengths == 0, (left == right).all(axis=1).astype(np.float64), cosine)
    return np.where(np.isfinite(cosine), cosine, -1.0)


def _timed(engine: Engine, images: npt.NDArray[np.uint8], *, rounds: int = 3) -> tuple[np.ndarray, float]:
    """Return the features, and the images/s of the best round: as many batches in flight as are worth it.

    The first call may compile, and is not timed.
    """
    features = engine(images)
    n_batches = 2 * engine.in_flight
    best = float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        for pending in [engine.submit(images) for _ in range(n_batches)]:
            pending.result()
        best = min(best, time.perf_counter() - start)
    return features, n_batches * len(images) / max(best, 1e-9)
