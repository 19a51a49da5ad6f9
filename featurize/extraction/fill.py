"""Computation of missing views: decoded views into batches, features into parts.

A `WorkUnit` has only paths, digests and numbers. A local run fills a single unit with everything that is
missing; Dask workers fill many small units with the same code.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from featurize.backbones.registry import Backbone
from featurize.backbones.weights import Weights
from featurize.base.typing import Float32Array
from featurize.config import config_digest
from featurize.engines.base import Engine
from featurize.engines.batching import Batcher
from featurize.errors import EngineError
from featurize.images.pool import Decoder, DecodeRequest, DecodeResult
from featurize.images.skip_reasons import is_transient
from featurize.store.columns import LevelColumns
from featurize.store.parts import ContentMeta, Part, PartWriter

PART_CONTENTS = 256  # a part is written after this many finished contents
PART_SECONDS = 30.0  # or after this time, whichever comes first
FEW_FILES = 8  # up to this many, an engine is built only once a file has been decoded


@dataclass(frozen=True, kw_only=True)
class StoreWork:
    """Missing views of one store, and what is needed to compute them and write parts."""

    backbone: Backbone
    weights: Weights
    config: Mapping[str, Any]
    path: Path  # of the store
    folder: Path  # of its parts; exists
    missing: Mapping[str, tuple[int, ...]]  # content → numbers of the views to compute


@dataclass(frozen=True, kw_only=True)
class WorkUnit:
    """Files to decode once, with the views of each that are missing from any of the stores."""

    requests: tuple[DecodeRequest, ...]  # each with its SHA-256
    stores: tuple[StoreWork, ...]


@dataclass(kw_only=True)
class _Pending:
    """A content in progress: complete when the features of all its views have been returned."""

    sha256: str
    meta: ContentMeta
    n_waiting: int  # views without features yet
    features: dict[int, Float32Array] = field(default_factory=dict)


class PartBuilder:
    """Sends views to the network and writes the features as parts. Memory: a few batches and two parts.

    Parameters
    ----------
    work : StoreWork
        The missing views.
    build : callable
        Returns the engine for the config of the work; called when it is first needed.
    engine : Engine, optional
        That engine, if it has been built already.
    on_part : callable
        Called with the path of each written part, and the part; from another thread.

    Attributes
    ----------
    skipped : dict
        SHA-256 of a content → reason for which it cannot be used.
    seconds : dict
        Time waited for the "network" and for "writing".
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
        self.skipped: dict[str, str] = {}
        self.seconds = {"network": 0.0, "writing": 0.0}
        self._build = build
        self._batcher: Batcher[tuple[_Pending, int]] | None = None
        self._part = Part()
        self._part_start = time.perf_counter()
        self._writer = PartWriter(work.folder, config_digest=config_digest(work.config), on_part=on_part)

    @property
    def started(self) -> bool:
        """Whether any view has been sent to the network."""
        return self._batcher is not None

    @property
    def n_forward(self) -> int:
        """Number of views sent through the network."""
        return self._batcher.n_sent if self._batcher is not None else 0

    def prepare(self) -> Batcher[tuple[_Pending, int]]:
        """Build the engine if necessary; return the batcher in front of it."""
        if self._batcher is None:
            if self.engine is None:
                start = time.perf_counter()
                self.engine = self._build()
                self.seconds["network"] += time.perf_counter() - start
            self._batcher = Batcher(self.engine, self._add_features)
        return self._batcher

    def add(self, sha256: str, decoded: DecodeResult) -> None:
        """Send the missing views of one decoded content to the network."""
        if decoded.problem:
            if not is_transient(decoded.problem):
                self._part.failed[sha256] = decoded.problem
            self.skipped[sha256] = decoded.problem
            return
        missing = self.work.missing[sha256]
        assert decoded.thumbnail is not None
        meta = ContentMeta(
            width=decoded.width, height=decoded.height, phash=decoded.phash, thumbnail=decoded.thumbnail
        )
        content = _Pending(sha256=sha256, meta=meta, n_waiting=len(missing))
        batcher = self.prepare()
        for view, pixels in zip(decoded.request.views, decoded.views, strict=True):
            if view in missing:  # otherwise it is missing from another store
                batcher.add(pixels, (content, view))
        expired = time.perf_counter() - self._part_start > PART_SECONDS
        if len(self._part) >= PART_CONTENTS or (len(self._part) and expired):
            self._write_part()

    def finish(self) -> None:
        """Send the last batch, and write the last part."""
        if self._batcher is not None:
            self._batcher.finish()
            self.seconds["network"] += self._batcher.seconds
        self.flush()

    def flush(self) -> None:
        """Write the contents finished so far as a part; return when all parts are written."""
        start = time.perf_counter()
        if len(self._part):
            self._write_part()
        self._writer.wait()
        self.seconds["writing"] += time.perf_counter() - start

    def close(self) -> None:
        """End the thread that writes parts."""
        self._writer.close()

    def _write_part(self) -> None:
        part, self._part = self._part, Part()
        if part.features and self.engine is not None:
            part.columns = LevelColumns.of(self.engine)
        self._part_start = time.perf_counter()
        self._writer.put(part)

    def _add_features(self, tokens: list[tuple[_Pending, int]], features: Float32Array) -> None:
        with np.errstate(over="ignore"):
            stored = features.astype(self.work.config["store_dtype"], copy=False)
        if not np.isfinite(stored).all():
            raise EngineError(
                f"{self.work.path}: the network returned features that are not finite, or too large to store "
                f"as {stored.dtype}. Try --precision float32 --store-dtype float32, or check the weights file"
            )
        for (content, view), vector in zip(tokens, features, strict=True):
            content.features[view] = vector
            content.n_waiting -= 1
            if not content.n_waiting:
                self._part.meta[content.sha256] = content.meta
                for number, values in content.features.items():
                    self._part.features[content.sha256, number] = values


def fill_parts(
    work_unit: WorkUnit,
    builders: Sequence[PartBuilder],
    *,
    decoder: Decoder,
    on_file: Callable[[DecodeResult], None],
) -> None:
    """Decode the files of a work unit, and add each to the stores in which a view of it is missing.

    Parameters
    ----------
    work_unit : WorkUnit
        The missing views.
    builders : sequence of PartBuilder
        One per store of the unit. The caller must call `finish` or `flush`.
    decoder : Decoder
        Decoder for the rendering of the stores.
    on_file : callable
        Called with each decoded file before it is added; an exception from it propagates.
    """
    with closing(decoder.decode(work_unit.requests)) as stream:
        decoder.start(len(work_unit.requests))
        if len(work_unit.requests) > FEW_FILES:  # build engines while decode processes load their libraries
            for builder in builders:
                if any(builder.work.missing.values()):
                    builder.prepare()
        for decoded in stream:
            on_file(decoded)
            sha256 = decoded.request.sha256
            assert sha256 is not None
            for builder in builders:
                if builder.work.missing.get(sha256):
                    builder.add(sha256, decoded)
