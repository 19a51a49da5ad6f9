"""Filling stores part by part: missing views into batches, features into parts.

What is to be filled is a `WorkUnit`, which names everything by path, digest and number. So this process fills
one that holds all that is missing, and Dask workers fill many small ones, by the same code.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featurize.backbones.registry import Backbone
from featurize.backbones.weights import Weights
from featurize.config import config_digest
from featurize.engines.base import Engine
from featurize.engines.batching import Batcher
from featurize.errors import EngineError
from featurize.images.pool import Decoder, DecodeRequest, DecodeResult
from featurize.images.skip_reasons import is_transient
from featurize.store.columns import LevelColumns
from featurize.store.parts import ContentMeta, Part, PartWriter

PART_CONTENTS = 256  # finished contents after which a part is put in place,
PART_SECONDS = 30.0  # or this much work, whichever comes first
FEW = 8  # files of which it is first seen whether one can be used, before an engine is built for them


@dataclass(frozen=True, kw_only=True)
class StoreWork:
    """What one store lacks, and all that it takes to put parts of that in place."""

    backbone: Backbone
    weights: Weights
    config: Mapping[str, Any]
    path: Path  # of the store to be
    folder: Path  # of its parts; it is there
    missing: Mapping[str, tuple[int, ...]]  # content → numbers of the views to compute


@dataclass(frozen=True, kw_only=True)
class WorkUnit:
    """Files to be decoded once, with the views of each that any of the stores lacks."""

    requests: tuple[DecodeRequest, ...]  # each with its SHA-256
    stores: tuple[StoreWork, ...]


@dataclass(kw_only=True)
class _Pending:
    """A content on its way: complete once none of its views is still in a batch."""

    sha256: str
    meta: ContentMeta
    awaited: int
    features: dict[int, npt.NDArray[np.float32]] = field(default_factory=dict)


class PartBuilder:
    """Sends views to the network, and what comes back into parts. Memory holds a few batches and two parts.

    Parameters
    ----------
    work : StoreWork
        What is to be computed.
    build : callable
        Returns the engine of the work's config; called when it is first needed.
    engine : Engine, optional
        That engine, where there is one already.
    on_part : callable
        Called with the path of every part that is in place, and the part; from another thread.

    Attributes
    ----------
    failed : dict
        Why a content gives no picture, by its SHA-256.
    seconds : dict
        Waited for the network and for the disk.
    """

    def __init__(
        self,
        work: StoreWork,
        build: Callable[[], Engine],
        *,
        engine: Engine | None = None,
        on_part: Callable[[Path, Part], None],
    ) -> None:
        self.work, self.engine = work, engine
        self.failed: dict[str, str] = {}
        self.seconds = {"network": 0.0, "writing": 0.0}
        self._build = build
        self._feeder: Batcher[tuple[_Pending, int]] | None = None
        self._part = Part()
        self._part_begun = time.perf_counter()
        self._writing = PartWriter(work.folder, config_digest=config_digest(work.config), on_part=on_part)

    @property
    def begun(self) -> bool:
        """Whether anything is to go through the network."""
        return self._feeder is not None

    @property
    def n_forward(self) -> int:
        """Views sent through the network."""
        return self._feeder.n_sent if self._feeder is not None else 0

    def ready(self) -> Batcher[tuple[_Pending, int]]:
        """Build the engine, unless it is there; return what feeds it."""
        if self._feeder is None:
            if self.engine is None:
                start = time.perf_counter()
                self.engine = self._build()
                self.seconds["network"] += time.perf_counter() - start
            self._feeder = Batcher(self.engine, self._keep_features)
        return self._feeder

    def accept(self, sha256: str, decoded: DecodeResult) -> None:
        """Take one decoded content, and hand the views of it that the store lacks to the network."""
        if decoded.problem:
            if not is_transient(decoded.problem):
                self._part.failed[sha256] = decoded.problem
            self.failed[sha256] = decoded.problem
            return
        missing = self.work.missing[sha256]
        assert decoded.thumbnail is not None
        meta = ContentMeta(
            width=decoded.width, height=decoded.height, phash=decoded.phash, thumbnail=decoded.thumbnail
        )
        content = _Pending(sha256=sha256, meta=meta, awaited=len(missing))
        feeder = self.ready()
        for view, pixels in zip(decoded.request.views, decoded.views, strict=True):
            if view in missing:  # else another backbone lacks it
                feeder.add(pixels, (content, view))
        long_ago = time.perf_counter() - self._part_begun > PART_SECONDS
        if len(self._part) >= PART_CONTENTS or (len(self._part) and long_ago):
            self._put_part()

    def finish(self) -> None:
        """Send the last batch, and put all in place."""
        if self._feeder is not None:
            self._feeder.finish()
            self.seconds["network"] += self._feeder.seconds
        self.keep()

    def keep(self) -> None:
        """Put the contents finished so far in place as a part; return when they are."""
        start = time.perf_counter()
        if len(self._part):
            self._put_part()
        self._writing.wait()
        self.seconds["writing"] += time.perf_counter() - start

    def close(self) -> None:
        """End what works beside this thread."""
        self._writing.close()

    def _put_part(self) -> None:
        part, self._part = self._part, Part()
        if part.features and self.engine is not None:
            part.columns = LevelColumns.of(self.engine)
        self._part_begun = time.perf_counter()
        self._writing.put(part)

    def _keep_features(self, tokens: list[tuple[_Pending, int]], features: npt.NDArray[np.float32]) -> None:
        with np.errstate(over="ignore"):
            kept = features.astype(self.work.config["store_dtype"], copy=False)
        if not np.isfinite(kept).all():
            raise EngineError(
                f"{self.work.path}: the network gave features that are no numbers, or too large to store "
                f"as {kept.dtype}. Try --precision float32 --store-dtype float32, or check the weights file"
            )
        for (content, view), vector in zip(tokens, features, strict=True):
            content.features[view] = vector
            content.awaited -= 1
            if not content.awaited:
                self._part.meta[content.sha256] = content.meta
                for number, values in content.features.items():
                    self._part.features[content.sha256, number] = values


def fill_parts(
    share: WorkUnit,
    fillers: Sequence[PartBuilder],
    *,
    decoder: Decoder,
    on_file: Callable[[DecodeResult], None],
) -> None:
    """Decode the files of a share, and hand each to the stores that lack something of it.

    Parameters
    ----------
    share : WorkUnit
        What to fill.
    fillers : sequence of PartBuilder
        One for each of its stores. They are to be finished, or told to keep what they have, by the caller.
    decoder : Decoder
        Of the stores' rendering.
    on_file : callable
        Called with every decoded file before it is handed on; what it raises ends the filling.
    """
    with closing(decoder.decode(share.requests)) as stream:
        decoder.start(len(share.requests))
        if len(share.requests) > FEW:  # while the decode processes load their libraries
            for filler in fillers:
                if any(filler.work.missing.values()):
                    filler.ready()
        for decoded in stream:
            on_file(decoded)
            sha256 = decoded.request.sha256
            assert sha256 is not None
            for filler in fillers:
                if filler.work.missing.get(sha256):
                    filler.accept(sha256, decoded)
