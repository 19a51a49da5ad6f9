"""The format of the network's arithmetic, settled once a store: a fast one only where it has proved itself.

That is on images of the data set: their features in that format and in float32 must point the same way.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from featurize.config import AUTO, LEAST_COSINE
from featurize.engines import select
from featurize.engines.base import Engine
from featurize.engines.batching import Batcher
from featurize.engines.selfcheck import cosines
from featurize.errors import EngineError
from featurize.extraction.execution import ExecutionOptions
from featurize.extraction.plan import distinct_contents
from featurize.images.dataset import Dataset
from featurize.images.pool import Decoder, DecodeRequest
from featurize.store.columns import LevelColumns

if TYPE_CHECKING:
    from featurize.extraction.plan import StoreRequest


SAMPLE = 32  # images that a fast format must prove itself on
_OFFSETS = (0.5, 0.25, 0.75, 0.125)  # where in each of 32 stretches of the images one is tried, then others
_TIMED = 0.1  # seconds of computing from which a rate is believed


@dataclass(frozen=True, kw_only=True)
class PrecisionCheck:
    """How the precision of a store was settled; what was not measured is None."""

    asked: str
    tried: str | None = None  # the fast format
    cosine: float | None = None  # the smallest, with float32
    images: int | None = None
    speedup: float | None = None  # images/s of the network in that format, by those in float32


@dataclass(frozen=True, kw_only=True)
class _Choice:
    config: dict[str, Any]
    proof: PrecisionCheck
    engine: Engine | None  # one of that config, if it was built


def sample_images(dataset: Dataset) -> tuple[tuple[DecodeRequest, ...], ...]:
    """Return images spread over the data set, its splits and classes: 32, and then others, in rounds."""
    files = distinct_contents(dataset)
    names = sorted(files, key=lambda sha256: (files[sha256].split, files[sha256].class_name, sha256))
    rounds = []
    for offset in _OFFSETS if names else ():
        places = sorted({int((i + offset) * len(names) / SAMPLE) for i in range(SAMPLE)})
        rounds.append(
            tuple(
                DecodeRequest(path=dataset.root / files[names[place]].path, sha256=names[place])
                for place in places
            )
        )
    return tuple(rounds)


class PrecisionSample:
    """Images that a format is tried on; decoded when they are first needed.

    Parameters
    ----------
    rounds : sequence of sequences of DecodeRequest
        As `sample_images` returns them; a later round stands in for what cannot be read.
    decoder : Decoder
        Of the rendering.
    execution : ExecutionOptions
        Who is told how far it is.
    """

    def __init__(
        self, rounds: Sequence[Sequence[DecodeRequest]], decoder: Decoder, execution: ExecutionOptions
    ) -> None:
        self._rounds, self._decoder, self._execution = rounds, decoder, execution

    def prepare(self) -> None:
        """Have the decode processes start, while something else is done."""
        self._decoder.start(SAMPLE)

    @cached_property
    def images(self) -> npt.NDArray[np.uint8]:
        """Plain views (n, size, size, 3): 32, or fewer where no more can be read among some 128 tried."""
        good: list[npt.NDArray[np.uint8]] = []
        tried: set[DecodeRequest] = set()
        for one_round in self._rounds:
            lacking = SAMPLE - len(good)
            fresh = [request for request in one_round if request not in tried]
            chosen = fresh[:: max(1, len(fresh) // max(1, lacking))][:lacking]
            tried |= set(chosen)
            for decoded in self._decoder.decode(chosen):
                good += [view.copy() for view in decoded.views]
                self._execution.report("checking precision", len(good), SAMPLE)
        return np.stack(good) if good else np.empty((0, 1, 1, 3), np.uint8)


def resolve_precision(
    draft: StoreRequest, sample: PrecisionSample, execution: ExecutionOptions
) -> tuple[StoreRequest, Engine | None]:
    """Settle what a config leaves open of precision and engine; return the engine where one was built."""
    config = draft.config
    if config["precision"] == AUTO:
        choice = _prove(draft, sample, execution)
        return replace(draft, config=choice.config, precision=asdict(choice.proof)), choice.engine
    if config.get("engine") == AUTO:
        name = select.engine_here(AUTO, device=execution.device, precision=config["precision"])
        config = {**config, "engine": name}
    proof = draft.precision
    if proof is None and draft.store is None:
        proof = asdict(PrecisionCheck(asked=config["precision"]))
    return replace(draft, config=config, precision=proof), None


def _prove(draft: StoreRequest, sample: PrecisionSample, execution: ExecutionOptions) -> _Choice:
    slow = {**draft.config, "precision": "float32"}
    slow.pop("engine", None)
    proof = PrecisionCheck(asked=AUTO)
    name = select.engine_here(execution.engine, device=execution.device, precision="float32")
    reference: Engine | None = None
    if name == "tensorflow" and execution.device != "cpu":  # it knows which GPU it is to be
        reference = execution.build(draft.backbone, draft.weights, slow, engine=name)
    formats = select.fast_precisions(name, reference.device if reference is not None else "cpu")
    if formats:
        sample.prepare()
    if formats and reference is None:
        reference = execution.build(draft.backbone, draft.weights, slow, engine=name)
    if not formats or reference is None:
        return _Choice(config=slow, proof=proof, engine=reference)
    if not len(sample.images):
        return _Choice(config=slow, proof=replace(proof, images=0), engine=reference)
    expected, slow_rate = features_and_rate(reference, sample.images)
    for precision in formats:
        try:
            fast = execution.build(draft.backbone, draft.weights, slow, engine=name, precision=precision)
        except EngineError:  # the hardware has it, and this engine does not
            continue
        features, rate = features_and_rate(fast, sample.images)
        cosine = smallest_cosine(features, expected, LevelColumns.of(fast))
        if proof.cosine is None or cosine > proof.cosine:
            proof = PrecisionCheck(
                asked=AUTO,
                tried=precision,
                cosine=cosine,
                images=len(expected),
                speedup=round(rate / slow_rate, 3),
            )
        if cosine >= LEAST_COSINE:
            config = {**slow, "precision": precision, "engine": fast.name}
            return _Choice(config=config, proof=proof, engine=fast)
    return _Choice(config=slow, proof=proof, engine=reference)


def features_and_rate(engine: Engine, images: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.float32], float]:
    """Return the features of some images (n, n_features), and how many a second the engine computes.

    After a batch that warms up, all are computed, over again until a tenth of a second has gone.
    """
    engine(images[: engine.batch_size])
    found: list[npt.NDArray[np.float32]] = []
    seconds: list[float] = []
    while sum(seconds) < _TIMED:
        found.clear()
        start = time.perf_counter()
        feeder: Batcher[None] = Batcher(engine, lambda _, features: found.append(features))
        for image in images:
            feeder.add(image, None)
        feeder.finish()
        seconds.append(time.perf_counter() - start)
    return np.concatenate(found), len(images) / min(seconds)


def smallest_cosine(
    features: npt.NDArray[np.float32], expected: npt.NDArray[np.float32], columns: LevelColumns
) -> float:
    """Return the smallest cosine between the rows of two arrays (n, n_features), over all levels.

    Each level counts by itself, or a level of large numbers would speak for the others.
    """
    pairs = zip(columns.blocks(features), columns.blocks(expected), strict=True)
    return min(float(cosines(*pair).min()) for pair in pairs)
