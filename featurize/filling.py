"""Filling one store: views into batches, features back into their rows, rows written in order."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt

from featurize import __version__, engines
from featurize.config import config_digest
from featurize.dataset import Dataset
from featurize.decoding import Decoded
from featurize.errors import DatasetError
from featurize.planning import PLAIN, Target
from featurize.store import ContentRow, ImageTable
from featurize.store_writer import StoreWriter

PACKAGES = ("tensorflow", "keras", "numpy", "pillow", "opencv-python-headless", "h5py")


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How a run is carried out; none of it changes a feature."""

    device: str
    gpu_memory: float | None
    batch_size: int | str
    workers: int | None
    strict: bool
    report: Callable[[str, int, int], None]


@dataclass(kw_only=True)
class Outcome:
    """What a run brought one store; ``decoding`` seconds are summed over threads, the others wall time."""

    target: Target
    state: str  # "made", "updated" or "up to date"
    images: ImageTable
    n_content: int
    n_decoded: int = 0
    n_forward: int = 0
    n_bytes: int = 0
    device: str = ""
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(kw_only=True)
class _Pending:
    """A row on its way: complete once nothing of it is still in a batch."""

    sha256: str
    picture: Decoded | None = None
    plain: npt.NDArray[np.float32] | None = None
    views: npt.NDArray[np.float32] | None = None
    awaited: int = 0


class StoreFiller:
    """Collects views into batches, puts features back in their rows, writes rows in order."""

    def __init__(self, target: Target, execution: Execution) -> None:
        self.target, self.config, self.execution = target, target.config, execution
        self.engine: engines.Engine | None = None
        self.n_forward = 0
        self.network_seconds = self.writing_seconds = 0.0
        self._rows: deque[_Pending] = deque()
        self._batch: list[tuple[_Pending, int, npt.NDArray[np.uint8]]] = []
        target.path.parent.mkdir(parents=True, exist_ok=True)
        self.writer = StoreWriter(
            target.path,
            config=target.config,
            config_digest=config_digest(target.config),
            n_features=target.backbone.n_features,
            n_views=target.n_views,
            most_rows=len(target.missing),
            store_dtype=target.config["store_dtype"],
        )

    def __enter__(self) -> StoreFiller:
        return self

    def __exit__(self, *error: object) -> None:
        self.writer.close()

    def accept(self, sha256: str, decoded: Decoded | None) -> None:
        """Take one content: what is missing of it goes to the network, the rest is copied."""
        missing = self.target.missing[sha256]
        row = _Pending(sha256=sha256, picture=decoded, awaited=len(missing))
        if any(view != PLAIN for view in missing):
            row.views = np.zeros((self.target.n_views, self.target.backbone.n_features), np.float32)
        self._rows.append(row)
        if missing and decoded is None:
            raise AssertionError(f"content {sha256} needs views but was not decoded")
        for view in missing:
            self._batch.append((row, view, decoded.views[view]))  # type: ignore[union-attr]
            if len(self._batch) >= self._engine().batch_size:
                self._forward()
        self._write_complete_rows()

    def finish(self, dataset: Dataset, failed: Mapping[str, str], *, n_decoded: int) -> Outcome:
        """Send the last batch, write the tables and put the store in place, unless it is there already."""
        if self._batch:
            self._forward()
        self._write_complete_rows()
        start = time.perf_counter()
        target, old = self.target, self.target.store
        images = image_table(dataset, self.writer.sha256, {**target.bad, **failed})
        if not self.writer.sha256:
            reasons = ", ".join(
                f"{reason} ({count})" for reason, count in Counter(images.skipped).most_common(3)
            )
            raise DatasetError(f"{dataset.root}: not one of its {len(images)} files can be used: {reasons}")
        if old is not None and not self.n_forward and is_current(dataset, target, images):
            return up_to_date(target, images)
        n_bytes = self.writer.finish(
            images=images,
            classes=dataset.classes,
            ordered=dataset.ordered,
            created_with=self._created_with(dataset),
        )
        self.writing_seconds += time.perf_counter() - start
        return Outcome(
            target=target,
            state="made" if old is None else "updated",
            images=images,
            n_content=len(self.writer.sha256),
            n_decoded=n_decoded,
            n_forward=self.n_forward,
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
        }

    def _engine(self) -> engines.Engine:
        if self.engine is None:
            start = time.perf_counter()
            self.engine = engines.create_engine(
                self.target.backbone,
                self.target.weights,
                input_size=self.config["input_size"],
                preprocess=self.config["preprocess"],
                statistics=self.config["statistics"],
                precision=self.config["precision"],
                device=self.execution.device,
                gpu_memory=self.execution.gpu_memory,
                batch_size=self.execution.batch_size,
            )
            self.network_seconds += time.perf_counter() - start
        return self.engine

    def _forward(self) -> None:
        start = time.perf_counter()
        features = self._engine()(np.stack([pixels for _, _, pixels in self._batch]))
        for (row, view, _), vector in zip(self._batch, features, strict=True):
            if view == PLAIN:
                row.plain = vector
            elif row.views is not None:
                row.views[view - 1] = vector
            row.awaited -= 1
        self.n_forward += len(self._batch)
        self._batch.clear()
        self.network_seconds += time.perf_counter() - start

    def _write_complete_rows(self) -> None:
        start = time.perf_counter()
        while self._rows and not self._rows[0].awaited:
            self.writer.add(self._complete(self._rows.popleft()))
        self.writing_seconds += time.perf_counter() - start

    def _complete(self, row: _Pending) -> ContentRow:
        """Join what was computed with what the old store has of this content."""
        target = self.target
        old = target.old_row.get(row.sha256)
        if old is None:
            if row.picture is None or row.picture.picture is None or row.plain is None:
                raise AssertionError(f"content {row.sha256} is neither stored nor computed")
            picture = row.picture.picture
            return ContentRow(
                sha256=row.sha256,
                width=picture.width,
                height=picture.height,
                phash=picture.phash,
                thumbnail=picture.thumbnail,
                plain=row.plain,
                augmented=row.views,
            )
        if target.store is None:
            raise AssertionError("a stored row without a store")
        kept = target.store.row(old, augmented_index=target.old_augmented.get(row.sha256))
        if row.sha256 not in target.augmented:
            views = None
        elif row.views is None:
            views = kept.augmented
        else:
            views = row.views
            if kept.augmented is not None:
                views[: len(kept.augmented)] = kept.augmented
        return ContentRow(**{**vars(kept), "augmented": views})


def is_current(dataset: Dataset, target: Target, images: ImageTable) -> bool:
    """Tell whether the store holds just what it should, given that no feature is missing."""
    old = target.store
    if old is None:
        return False
    same_rows = old.images.same_as(images) and set(old.content.sha256) <= set(images.sha256)
    same_views = old.n_views == target.n_views and old.n_augmented == len(target.augmented)
    return same_rows and same_views and old.classes == dataset.classes and old.ordered == dataset.ordered


def up_to_date(target: Target, images: ImageTable) -> Outcome:
    """Return the outcome of a run that had nothing to do for this store."""
    return Outcome(
        target=target,
        state="up to date",
        images=images,
        n_content=len(set(images.content.tolist()) - {-1}),
        n_bytes=target.path.stat().st_size,
    )


def image_table(dataset: Dataset, stored: Sequence[str], skipped: Mapping[str, str]) -> ImageTable:
    """Return the table of image files, given the contents stored, in row order, and why others were not."""
    row_of = {sha256: row for row, sha256 in enumerate(stored)}
    images = dataset.images
    return ImageTable(
        path=[image.path for image in images],
        sha256=[image.sha256 for image in images],
        content=np.array([row_of.get(image.sha256, -1) for image in images], dtype=np.int64),
        label=np.array([dataset.label(image) for image in images], dtype=np.int16),
        split=[image.split for image in images],
        entry=[image.entry for image in images],
        skipped=[image.problem or skipped.get(image.sha256, "") for image in images],
    )
