"""Choice of the number format in which the network computes, made once per store.

A fast format is used only if the features of a sample of the images in it have a cosine near 1 with those in
float32.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import numpy.typing as npt

from featurize.base.typing import Float32Array
from featurize.config import AUTO, LEAST_COSINE
from featurize.engines import select
from featurize.engines.base import Engine
from featurize.engines.batching import Batcher
from featurize.engines.selfcheck import cosines
from featurize.errors import EngineError
from featurize.extraction.execution import ExecutionOptions
from featurize.extraction.plan import StoreRequest
from featurize.images.dataset import Dataset
from featurize.images.pool import Decoder, DecodeRequest
from featurize.store.columns import LevelColumns

SAMPLE_SIZE = 32  # images on which a fast format is compared with float32
_OFFSETS = (0.5, 0.25, 0.75, 0.125)  # positions in each of 32 sections of the images, in order of preference
_MIN_SECONDS = 0.1  # of computation, for a reliable rate


@dataclass(frozen=True, kw_only=True)
class PrecisionCheck:
    """How the precision of a store was chosen; None for values that were not measured."""

    asked: str  # the requested precision; the names of these fields are stored in HDF5
    tried: str | None = None  # the fast format
    cosine: float | None = None  # smallest cosine with float32
    images: int | None = None  # number of images
    speedup: float | None = None  # images/s in the fast format divided by images/s in float32


@dataclass(frozen=True, kw_only=True)
class _PrecisionChoice:
    config: dict[str, Any]
    check: PrecisionCheck
    engine: Engine | None  # the engine of that config, if it was built


def sample_candidates(dataset: Dataset) -> tuple[tuple[DecodeRequest, ...], ...]:
    """Return samples of 32 images spread over splits and classes; later samples are replacements."""
    files = dataset.distinct_contents
    names = sorted(files, key=lambda sha256: (files[sha256].split, files[sha256].class_name, sha256))
    samples = []
    for offset in _OFFSETS if names else ():
        positions = sorted({int((i + offset) * len(names) / SAMPLE_SIZE) for i in range(SAMPLE_SIZE)})
        chosen = [names[position] for position in positions]
        samples.append(
            tuple(DecodeRequest(path=dataset.root / files[sha256].path, sha256=sha256) for sha256 in chosen)
        )
    return tuple(samples)


class PrecisionSample:
    """Images on which formats are compared, decoded when first needed.

    Parameters
    ----------
    candidates : sequence of sequences of DecodeRequest
        From `sample_candidates`; the later sequences replace images that cannot be read.
    decoder : Decoder
        Decoder for the rendering of the stores.
    execution : ExecutionOptions
        Receives the progress.
    """

    def __init__(
        self, candidates: Sequence[Sequence[DecodeRequest]], decoder: Decoder, execution: ExecutionOptions
    ) -> None:
        self._candidates, self._decoder, self._execution = candidates, decoder, execution

    def prepare(self) -> None:
        """Start the decode processes, so that they load their libraries early."""
        self._decoder.start(SAMPLE_SIZE)

    @cached_property
    def images(self) -> npt.NDArray[np.uint8]:
        """Plain views (n, size, size, 3): 32, or fewer if that many of the candidates cannot be read."""
        views: list[npt.NDArray[np.uint8]] = []
        tried: set[DecodeRequest] = set()
        for candidates in self._candidates:
            n_missing = SAMPLE_SIZE - len(views)
            untried = [request for request in candidates if request not in tried]
            chosen = untried[:: max(1, len(untried) // max(1, n_missing))][:n_missing]
            tried |= set(chosen)
            for decoded in self._decoder.decode(chosen):
                views += [view.copy() for view in decoded.views]
                self._execution.report("checking precision", len(views), SAMPLE_SIZE)
        return np.stack(views) if views else np.empty((0, 1, 1, 3), np.uint8)


def resolve_precision(
    request: StoreRequest, sample: PrecisionSample, execution: ExecutionOptions
) -> tuple[StoreRequest, Engine | None]:
    """Replace "auto" precision and engine in the config of a request; return the engine if one was built."""
    config = request.config
    if config["precision"] == AUTO:
        choice = _choose_precision(request, sample, execution)
        return replace(request, config=choice.config, precision=asdict(choice.check)), choice.engine
    if config.get("engine") == AUTO:
        name = select.resolve_engine(AUTO, device=execution.device, precision=config["precision"])
        config = {**config, "engine": name}
    check = request.precision
    if check is None and request.store is None:
        check = asdict(PrecisionCheck(asked=config["precision"]))
    return replace(request, config=config, precision=check), None


def _choose_precision(
    request: StoreRequest, sample: PrecisionSample, execution: ExecutionOptions
) -> _PrecisionChoice:
    float32_config = {**request.config, "precision": "float32"}
    float32_config.pop("engine", None)
    check = PrecisionCheck(asked=AUTO)
    name = select.resolve_engine(execution.engine, device=execution.device, precision="float32")
    build = partial(execution.build, request.backbone, request.weights, float32_config, engine=name)
    reference: Engine | None = None
    if name == "tensorflow" and execution.device != "cpu":  # only the engine has the name of the GPU
        reference = build()
    formats = select.fast_precisions(name, reference.device if reference is not None else "cpu")
    if formats:
        sample.prepare()
    if formats and reference is None:
        reference = build()
    if not formats or reference is None:
        return _PrecisionChoice(config=float32_config, check=check, engine=reference)
    if not len(sample.images):
        return _PrecisionChoice(config=float32_config, check=replace(check, images=0), engine=reference)
    expected, float32_rate = features_and_rate(reference, sample.images)
    for precision in formats:
        try:
            fast = build(precision=precision)
        except EngineError:  # supported by the hardware, but not by this engine
            continue
        features, rate = features_and_rate(fast, sample.images)
        cosine = smallest_cosine(features, expected, LevelColumns.of(fast))
        if check.cosine is None or cosine > check.cosine:
            check = PrecisionCheck(
                asked=AUTO,
                tried=precision,
                cosine=cosine,
                images=len(expected),
                speedup=round(rate / float32_rate, 3),
            )
        if cosine >= LEAST_COSINE:
            config = {**float32_config, "precision": precision, "engine": fast.name}
            return _PrecisionChoice(config=config, check=check, engine=fast)
    return _PrecisionChoice(config=float32_config, check=check, engine=reference)


def features_and_rate(engine: Engine, images: npt.NDArray[np.uint8]) -> tuple[Float32Array, float]:
    """Return the features of images (n, n_features), and the rate in images per second.

    After a warm-up batch, the images are computed repeatedly until 0.1 seconds have passed.
    """
    engine(images[: engine.batch_size])
    found: list[Float32Array] = []
    seconds: list[float] = []
    while sum(seconds) < _MIN_SECONDS:
        found.clear()
        start = time.perf_counter()
        batcher: Batcher[None] = Batcher(engine, lambda _, features: found.append(features))
        for image in images:
            batcher.add(image, None)
        batcher.finish()
        seconds.append(time.perf_counter() - start)
    return np.concatenate(found), len(images) / min(seconds)


def smallest_cosine(features: Float32Array, expected: Float32Array, columns: LevelColumns) -> float:
    """Return the smallest cosine between the rows of two arrays (n, n_features), over all levels.

    The cosine is computed per level, so that a level with large numbers does not hide the others.
    """
    pairs = zip(columns.blocks(features), columns.blocks(expected), strict=True)
    return min(float(cosines(*pair).min()) for pair in pairs)
