"""Filling one store: missing views into batches, features into parts, parts into the store."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt

from featurize import __version__, engines
from featurize.config import config_digest
from featurize.dataset import Dataset
from featurize.decode.decoding import Decoded
from featurize.decode.reasons import count_kinds, is_transient
from featurize.errors import DatasetError, EngineError, StoreError
from featurize.making.assembly import assemble
from featurize.making.parts import Meta, Part, discard_parts, settle, write_part
from featurize.making.planning import Target, contents, image_table, is_current
from featurize.store import ImageTable

PACKAGES = ("tensorflow", "keras", "numpy", "pillow", "opencv-python-headless", "h5py")
PART_CONTENTS = 256  # finished contents after which a part is put in place,
PART_SECONDS = 30.0  # or this much work, whichever comes first


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How a run is carried out; none of it changes a feature."""

    device: str
    gpu_memory: float | None
    batch_size: int | str
    workers: int | None
    image_timeout: float
    strict: bool
    report: Callable[[str, int, int], None]
    remembered: Mapping[str, Any]  # options that a repair needs again and the config does not name


@dataclass(kw_only=True)
class Outcome:
    """What a run brought one store; ``decoding`` seconds are summed over workers, the others wall time."""

    target: Target
    state: str  # "made", "updated" or "up to date"
    images: ImageTable
    n_content: int
    n_decoded: int = 0
    n_forward: int = 0
    n_resumed: int = 0
    n_bytes: int = 0
    device: str = ""
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(kw_only=True)
class _Pending:
    """A content on its way: complete once none of its views is still in a batch."""

    sha256: str
    meta: Meta
    awaited: int
    features: dict[int, npt.NDArray[np.float32]] = field(default_factory=dict)


class StoreFiller:
    """Collects views into batches, and what comes back into parts. Holds one batch and one part in memory."""

    def __init__(self, target: Target, execution: Execution) -> None:
        self.target, self.execution = target, execution
        self.engine: engines.Engine | None = None
        self.n_forward = 0
        self.network_seconds = self.writing_seconds = 0.0
        self._digest = config_digest(target.config)
        self._batch: list[tuple[_Pending, int, npt.NDArray[np.uint8]]] = []
        self._part = Part()
        self._part_begun = time.perf_counter()
        settle(target.parts.folder, target.config)
        for path in target.parts.damaged:
            path.unlink(missing_ok=True)

    def accept(self, sha256: str, decoded: Decoded) -> None:
        """Take one decoded content, and send its missing views to the network when a batch is full."""
        if decoded.problem:
            if not is_transient(decoded.problem):
                self._part.failed[sha256] = decoded.problem
            self.target.failed[sha256] = decoded.problem
            return
        missing = self.target.missing[sha256]
        assert decoded.thumbnail is not None
        meta = Meta(
            width=decoded.width, height=decoded.height, phash=decoded.phash, thumbnail=decoded.thumbnail
        )
        content = _Pending(sha256=sha256, meta=meta, awaited=len(missing))
        for view, pixels in zip(decoded.request.views, decoded.views, strict=True):
            if view not in missing:  # another backbone lacks it
                continue
            self._batch.append((content, view, pixels))
            if len(self._batch) >= self._engine().batch_size:
                self._forward()
        long_ago = time.perf_counter() - self._part_begun > PART_SECONDS
        if len(self._part) >= PART_CONTENTS or (len(self._part) and long_ago):
            self.keep()

    def keep(self) -> None:
        """Put the contents finished so far in place as a part."""
        start = time.perf_counter()
        if len(self._part):
            part, self._part = self._part, Part()
            self.target.parts.add(
                write_part(self.target.parts.folder, part, config_digest=self._digest), part
            )
        self._part_begun = time.perf_counter()
        self.writing_seconds += self._part_begun - start

    def finish(self, dataset: Dataset, *, n_decoded: int) -> Outcome:
        """Send the last batch, keep the last part and assemble the store, unless it is as it should be."""
        if self._batch:
            self._forward()
        self.keep()
        start = time.perf_counter()
        target = self.target
        stored = target.stored()
        images = image_table(dataset, stored, target.skipped())
        if not stored:
            reasons = ", ".join(
                f"{kind} ({n})" for kind, n in count_kinds(filter(None, images.skipped)).items()
            )
            raise DatasetError(f"{dataset.root}: not one of its {len(images)} files can be used: {reasons}")
        _refuse_to_drop(target)
        if not self.n_forward and not target.uses_parts and is_current(dataset, target, images):
            discard_used_parts(target, dataset)
            return up_to_date(target, images, n_decoded=n_decoded)
        n_bytes = assemble(
            target, stored=stored, images=images, dataset=dataset, created_with=self._created_with(dataset)
        )
        discard_used_parts(target, dataset)
        self.writing_seconds += time.perf_counter() - start
        return Outcome(
            target=target,
            state="made" if target.store is None else "updated",
            images=images,
            n_content=len(stored),
            n_decoded=n_decoded,
            n_forward=self.n_forward,
            n_resumed=target.n_resumed,
            n_bytes=n_bytes,
            device=self.engine.device if self.engine is not None else "",
            seconds={"network": self.network_seconds, "writing": self.writing_seconds},
        )

    def _created_with(self, dataset: Dataset) -> dict[str, Any]:
        old = self.target.store.created_with if self.target.store is not None else {}
        path = self.target.weights.path
        return {
            "engine": self.engine.name if self.engine is not None else old.get("engine", ""),
            "device": self.engine.device if self.engine is not None else old.get("device", ""),
            "folio": __version__,
            "packages": {name: version(name) for name in PACKAGES},
            "dataset": dataset.name,
            "data": str(dataset.root.resolve()),
            "weights_path": str(path.resolve()) if path is not None else None,
            "options": dict(self.execution.remembered),
        }

    def _engine(self) -> engines.Engine:
        if self.engine is None:
            start = time.perf_counter()
            config = self.target.config
            self.engine = engines.create_engine(
                self.target.backbone,
                self.target.weights,
                input_size=config["input_size"],
                preprocess=config["preprocess"],
                statistics=config["statistics"],
                precision=config["precision"],
                device=self.execution.device,
                gpu_memory=self.execution.gpu_memory,
                batch_size=self.execution.batch_size,
            )
            self.network_seconds += time.perf_counter() - start
        return self.engine

    def _forward(self) -> None:
        start = time.perf_counter()
        features = self._engine()(np.stack([pixels for _, _, pixels in self._batch]))
        with np.errstate(over="ignore"):
            kept = features.astype(self.target.config["store_dtype"])
        if not np.isfinite(kept).all():
            raise EngineError(
                f"{self.target.path}: the network gave features that are no numbers, or too large to store "
                f"as {kept.dtype}. Try --precision float32 --store-dtype float32, or check the weights file"
            )
        for (content, view, _), vector in zip(self._batch, features, strict=True):
            content.features[view] = vector
            content.awaited -= 1
            if not content.awaited:
                self._part.meta[content.sha256] = content.meta
                for number, values in content.features.items():
                    self._part.features[content.sha256, number] = values
        self.n_forward += len(self._batch)
        self._batch.clear()
        self.network_seconds += time.perf_counter() - start


def _refuse_to_drop(target: Target) -> None:
    """Raise where a file that could not be read this time would cost features that the store has."""
    if target.store is None:
        return
    there = set(target.store.content.sha256) - target.distrusted
    lost = {sha256: reason for sha256, reason in target.failed.items() if sha256 in there}
    if lost:
        raise StoreError(
            f"{target.path}: {len(lost)} pictures that it has could not be read again "
            f"({', '.join(sorted(set(lost.values())))[:200]}). The store is as it was, and what is finished "
            "is kept. Run the same command again, with a longer --image-timeout if they timed out"
        )


def discard_used_parts(target: Target, dataset: Dataset) -> None:
    """Remove the parts, unless they have pictures that are not in the data set now and may come back."""
    if target.parts.contents() <= set(contents(dataset)):
        discard_parts(target.parts.folder)


def up_to_date(target: Target, images: ImageTable, *, n_decoded: int = 0) -> Outcome:
    """Return the outcome of a run that had nothing to do for this store."""
    return Outcome(
        target=target,
        state="up to date",
        images=images,
        n_content=len(set(images.content.tolist()) - {-1}),
        n_decoded=n_decoded,
        n_bytes=target.path.stat().st_size,
        seconds={"network": 0.0, "writing": 0.0},
    )
