"""Filling one store: missing views into batches, features into parts, parts into the store."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from featurize import __version__
from featurize.dataset import Dataset
from featurize.decode.decoding import Decoded
from featurize.decode.reasons import count_kinds, is_transient
from featurize.engines import Engine
from featurize.engines.feeding import Feeder
from featurize.errors import DatasetError, EngineError, StoreError
from featurize.making.assembly import AssemblyProcess, assemble
from featurize.making.columns import Columns, agreed
from featurize.making.execution import Execution
from featurize.making.outcomes import Outcome, packages, up_to_date
from featurize.making.part_writing import PartWriting
from featurize.making.parts import Meta, Part, Settled, discard_parts, settle
from featurize.making.planning import Target, contents, image_table, is_current
from featurize.store import ImageTable

PART_CONTENTS = 256  # finished contents after which a part is put in place,
PART_SECONDS = 30.0  # or this much work, whichever comes first


@dataclass(kw_only=True)
class _Pending:
    """A content on its way: complete once none of its views is still in a batch."""

    sha256: str
    meta: Meta
    awaited: int
    features: dict[int, npt.NDArray[np.float32]] = field(default_factory=dict)


class StoreFiller:
    """Sends views to the network, and what comes back into parts. Memory holds a few batches and two parts.

    Parameters
    ----------
    target : Target
        The store to be.
    execution : Execution
        How.
    engine : Engine, optional
        The engine of the target's config, where there is one already.
    """

    def __init__(self, target: Target, execution: Execution, *, engine: Engine | None = None) -> None:
        self.target, self.execution = target, execution
        self.engine = engine
        self.seconds = {"network": 0.0, "writing": 0.0}
        self._feeder: Feeder[tuple[_Pending, int]] | None = None
        self._part = Part()
        self._part_begun = time.perf_counter()
        self._writing = PartWriting(target.parts)
        self._assembly: AssemblyProcess | None = None
        settle(target.parts.folder, Settled(config=target.config, precision=target.precision))
        for path in target.parts.damaged:
            path.unlink(missing_ok=True)

    @property
    def n_forward(self) -> int:
        """Views sent through the network."""
        return self._feeder.n_sent if self._feeder is not None else 0

    def ready(self) -> Feeder[tuple[_Pending, int]]:
        """Build the engine, unless it is there; return what feeds it."""
        if self._feeder is None:
            if self.engine is None:
                start = time.perf_counter()
                target = self.target
                self.engine = self.execution.build(target.backbone, target.weights, target.config)
                self.seconds["network"] += time.perf_counter() - start
            self._feeder = Feeder(self.engine, self._keep_features)
        return self._feeder

    def accept(self, sha256: str, decoded: Decoded) -> None:
        """Take one decoded content, and hand its missing views to the network."""
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
        feeder = self.ready()
        for view, pixels in zip(decoded.request.views, decoded.views, strict=True):
            if view in missing:  # else another backbone lacks it
                feeder.add(pixels, (content, view))
        long_ago = time.perf_counter() - self._part_begun > PART_SECONDS
        if len(self._part) >= PART_CONTENTS or (len(self._part) and long_ago):
            self._put_part()

    def keep(self) -> None:
        """Put the contents finished so far in place as a part; return when they are."""
        start = time.perf_counter()
        if len(self._part):
            self._put_part()
        self._writing.wait()
        self.seconds["writing"] += time.perf_counter() - start

    def prepare_assembly(self) -> None:
        """Start the process that assembles the store, if there will be something to assemble."""
        if self._feeder is not None and self._assembly is None:
            self._assembly = AssemblyProcess()

    def close(self) -> None:
        """End what works for this store beside this process."""
        self._writing.close()
        if self._assembly is not None:
            self._assembly.close()

    def _put_part(self) -> None:
        part, self._part = self._part, Part()
        if part.features and self.engine is not None:
            part.columns = Columns.of(self.engine)
        self._part_begun = time.perf_counter()
        self._writing.put(part)

    def _keep_features(self, tokens: list[tuple[_Pending, int]], features: npt.NDArray[np.float32]) -> None:
        with np.errstate(over="ignore"):
            kept = features.astype(self.target.config["store_dtype"], copy=False)
        if not np.isfinite(kept).all():
            raise EngineError(
                f"{self.target.path}: the network gave features that are no numbers, or too large to store "
                f"as {kept.dtype}. Try --precision float32 --store-dtype float32, or check the weights file"
            )
        for (content, view), vector in zip(tokens, features, strict=True):
            content.features[view] = vector
            content.awaited -= 1
            if not content.awaited:
                self._part.meta[content.sha256] = content.meta
                for number, values in content.features.items():
                    self._part.features[content.sha256, number] = values

    def finish(self, dataset: Dataset, *, n_decoded: int) -> Outcome:
        """Send the last batch, keep the last part and assemble the store, unless it is as it should be."""
        if self._feeder is not None:
            self._feeder.finish()
            self.seconds["network"] += self._feeder.seconds
        self.keep()
        stored = self.target.stored()
        images = image_table(dataset, stored, self.target.skipped())
        self._refuse_to_finish(dataset, images)
        if not self.n_forward and not self.target.uses_parts and is_current(dataset, self.target, images):
            discard_used_parts(self.target, dataset)
            return up_to_date(self.target, images, n_decoded=n_decoded)
        return self._assemble(dataset, stored, images, n_decoded=n_decoded)

    def _assemble(
        self, dataset: Dataset, stored: list[str], images: ImageTable, *, n_decoded: int
    ) -> Outcome:
        start = time.perf_counter()
        self._assembly = self._assembly or AssemblyProcess()
        columns = self._columns()
        n_bytes = assemble(
            self.target,
            process=self._assembly,
            stored=stored,
            columns=columns,
            images=images,
            dataset=dataset,
            created_with=self._created_with(dataset),
        )
        discard_used_parts(self.target, dataset)
        self.seconds["writing"] += time.perf_counter() - start
        return Outcome(
            target=self.target,
            state="made" if self.target.store is None else "updated",
            images=images,
            columns=columns,
            n_content=len(stored),
            n_decoded=n_decoded,
            n_forward=self.n_forward,
            n_resumed=self.target.n_resumed,
            n_bytes=n_bytes,
            engine=self.engine.name if self.engine is not None else "",
            device=self.engine.device if self.engine is not None else "",
            seconds=self.seconds,
        )

    def _columns(self) -> Columns:
        target = self.target
        sources = (
            Columns.of(self.engine) if self.engine is not None else None,
            target.parts.columns,
            Columns.of(target.store) if target.store is not None else None,
        )
        return agreed([columns for columns in sources if columns is not None], where=str(target.path))

    def _refuse_to_finish(self, dataset: Dataset, images: ImageTable) -> None:
        """Raise where nothing can be used, or a file that cannot be read now would cost stored features."""
        target = self.target
        if not target.stored():
            reasons = ", ".join(
                f"{kind} ({n})" for kind, n in count_kinds(filter(None, images.skipped)).items()
            )
            raise DatasetError(f"{dataset.root}: not one of its {len(images)} files can be used: {reasons}")
        if target.store is None:
            return
        there = set(target.store.content.sha256) - target.distrusted
        lost = {sha256: reason for sha256, reason in target.failed.items() if sha256 in there}
        if lost:
            raise StoreError(
                f"{target.path}: {len(lost)} pictures that it has could not be read again "
                f"({', '.join(sorted(set(lost.values())))[:200]}). The store is as it was, and what is "
                "finished is kept. Run the same command again, with a longer --image-timeout if files timed "
                "out"
            )

    def _created_with(self, dataset: Dataset) -> dict[str, Any]:
        old = self.target.store.created_with if self.target.store is not None else {}
        path = self.target.weights.path
        return {
            "engine": self.engine.name if self.engine is not None else old.get("engine", ""),
            "device": self.engine.device if self.engine is not None else old.get("device", ""),
            "precision": dict(self.target.precision) if self.target.precision is not None else None,
            "folio": __version__,
            "packages": packages(),
            "dataset": dataset.name,
            "data": str(dataset.root.resolve()),
            "weights_path": str(path.resolve()) if path is not None else None,
            "options": dict(self.execution.remembered),
        }


def discard_used_parts(target: Target, dataset: Dataset) -> None:
    """Remove the parts, unless they have pictures that are not in the data set now and may come back."""
    if target.parts.contents() <= set(contents(dataset)):
        discard_parts(target.parts.folder)
