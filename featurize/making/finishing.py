"""From finished parts to a finished store: what was computed, and whether that may take its place."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from featurize import __version__
from featurize.dataset import Dataset
from featurize.decode.reasons import count_kinds
from featurize.errors import DatasetError, StoreError
from featurize.making.assembly import AssemblyProcess, assemble
from featurize.making.columns import Columns, agreed
from featurize.making.execution import Execution
from featurize.making.outcomes import Outcome, packages, up_to_date
from featurize.making.parts import Settled, discard_parts, settle
from featurize.making.planning import Target, contents, image_table, is_current
from featurize.store import ImageTable


@dataclass(kw_only=True)
class Computed:
    """What was computed of one store, in this process or elsewhere."""

    engine: str = ""  # "" when nothing went through a network
    device: str = ""
    columns: Columns | None = None
    n_decoded: int = 0
    n_forward: int = 0  # views
    failed: dict[str, str] = field(default_factory=dict)  # content → why it gives no picture
    seconds: dict[str, float] = field(default_factory=lambda: {"network": 0.0, "writing": 0.0})
    workers: dict[str, dict[str, float]] = field(default_factory=dict)  # see `ExtractResult.workers`


class StoreFinisher:
    """Prepares the place of a store's parts, and makes the store of them.

    Parameters
    ----------
    target : Target
        The store to be.
    execution : Execution
        How.
    """

    def __init__(self, target: Target, execution: Execution) -> None:
        self.target, self.execution = target, execution
        self._assembly: AssemblyProcess | None = None
        settle(target.parts.folder, Settled(config=target.config, precision=target.precision))
        for path in target.parts.damaged:
            path.unlink(missing_ok=True)

    def prepare(self) -> None:
        """Start the process that assembles the store, which loads its libraries meanwhile."""
        if self._assembly is None:
            self._assembly = AssemblyProcess()

    def close(self) -> None:
        """End what works for this store beside this process."""
        if self._assembly is not None:
            self._assembly.close()

    def finish(self, dataset: Dataset, computed: Computed) -> Outcome:
        """Assemble the store, unless it is as it should be; all parts are in place.

        Raises
        ------
        DatasetError
            If not one file can be used.
        StoreError
            If a stored picture could not be read again, or the store cannot be written.
        """
        target = self.target
        target.failed.update(computed.failed)
        images = image_table(dataset, target.stored(), target.skipped())
        self._refuse_to_finish(dataset, images)
        if not computed.n_forward and not target.uses_parts and is_current(dataset, target, images):
            discard_used_parts(target, dataset)
            return up_to_date(target, images, n_decoded=computed.n_decoded)
        start = time.perf_counter()
        self.prepare()
        assert self._assembly is not None
        columns = self._columns(computed)
        n_bytes = assemble(
            target,
            process=self._assembly,
            stored=target.stored(),
            columns=columns,
            images=images,
            dataset=dataset,
            created_with=self._created_with(dataset, computed),
        )
        discard_used_parts(target, dataset)
        computed.seconds["writing"] += time.perf_counter() - start
        return Outcome(
            target=target,
            state="made" if target.store is None else "updated",
            images=images,
            columns=columns,
            n_content=len(target.stored()),
            n_decoded=computed.n_decoded,
            n_forward=computed.n_forward,
            n_resumed=target.n_resumed,
            n_bytes=n_bytes,
            engine=computed.engine,
            device=computed.device,
            seconds=computed.seconds,
            workers=computed.workers,
        )

    def _columns(self, computed: Computed) -> Columns:
        target = self.target
        sources = (
            computed.columns,
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

    def _created_with(self, dataset: Dataset, computed: Computed) -> dict[str, Any]:
        old = self.target.store.created_with if self.target.store is not None else {}
        path = self.target.weights.path
        return {
            "engine": computed.engine or old.get("engine", ""),
            "device": computed.device or old.get("device", ""),
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
