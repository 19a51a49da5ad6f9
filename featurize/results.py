"""What a run made of a store, as plain facts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurize.dataset import Dataset
from featurize.making.skipping import Skipped

if TYPE_CHECKING:
    from featurize.making.outcomes import Outcome


@dataclass(frozen=True, kw_only=True)
class ExtractResult:
    """What one run made of one store."""

    path: Path
    backbone: str
    dataset: str
    classes: tuple[str, ...]
    ordered: bool
    suggested_order: tuple[str, ...] | None
    config: dict[str, Any]
    state: str  # "made", "updated" or "up to date"
    n_images: int  # files, skipped ones included
    n_content: int  # distinct contents with features
    n_decoded: int  # files decoded by this run
    n_forward: int  # views sent through the network by this run
    n_resumed: int  # contents that an unfinished earlier run had computed
    n_views: int
    n_features: int
    level_names: tuple[str, ...]  # ("final",) unless levels were asked for
    level_ends: tuple[int, ...]  # level i is the columns from level_ends[i - 1] (or 0) up to level_ends[i]
    precision: dict[str, Any] | None  # how it was settled: see `featurize.making.precision.Proof`
    split_counts: dict[str, dict[str, int]]  # split → class ("" ungraded) → images with features
    skipped: list[Skipped]
    outside: tuple[str, ...]  # files in no class folder
    engine: str  # "" when nothing was computed
    device: str
    seconds: dict[str, float]  # decoding: summed over workers; network, writing: waited for; total
    bytes: int
    workers: dict[str, dict[str, float]]  # Dask workers by address: the "pictures" and "seconds" of each


def describe(dataset: Dataset, outcome: Outcome) -> ExtractResult:
    """Return what a run brought one store."""
    images, target = outcome.images, outcome.target
    counts: dict[str, Counter[int]] = {}
    for split, label, row in zip(images.split, images.label, images.content, strict=True):
        if row >= 0:
            counts.setdefault(split, Counter())[int(label)] += 1
    return ExtractResult(
        path=target.path,
        backbone=target.backbone.name,
        dataset=dataset.name,
        classes=dataset.classes,
        ordered=dataset.ordered,
        suggested_order=dataset.suggested_order,
        config=target.config,
        state=outcome.state,
        n_images=len(images),
        n_content=outcome.n_content,
        n_decoded=outcome.n_decoded,
        n_forward=outcome.n_forward,
        n_resumed=outcome.n_resumed,
        n_views=target.n_views,
        n_features=outcome.columns.n_features,
        level_names=outcome.columns.names,
        level_ends=outcome.columns.ends,
        precision=dict(target.precision) if target.precision is not None else None,
        split_counts={
            split: {dataset.classes[label] if label >= 0 else "": each[label] for label in sorted(each)}
            for split, each in counts.items()
        },
        skipped=[
            Skipped(
                path=path,
                split=split,
                class_name=dataset.classes[label] if label >= 0 else "",
                reason=reason,
            )
            for path, split, label, reason in zip(
                images.path, images.split, images.label, images.skipped, strict=True
            )
            if reason
        ],
        outside=dataset.outside,
        engine=outcome.engine,
        device=outcome.device,
        seconds=outcome.seconds,
        bytes=outcome.n_bytes,
        workers=outcome.workers,
    )
