"""Stores of one input size, computed in this process; each file is decoded once for all backbones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from featurize.engines.base import Engine
from featurize.errors import DatasetError, ImageError
from featurize.extraction.assemble import ComputeStats, StoreFinisher, discard_used_parts
from featurize.extraction.execution import ExecutionOptions
from featurize.extraction.fill import PartBuilder, StoreWork, WorkUnit, fill_parts
from featurize.extraction.plan import (
    StorePlan,
    StoreResult,
    image_table,
    is_current,
    unchanged_result,
)
from featurize.images.dataset import Dataset
from featurize.images.pool import Decoder, DecodeRequest, DecodeResult
from featurize.store.columns import LevelColumns
from featurize.store.reader import ImageTable

ASSEMBLY_LEAD = 128  # number of remaining files at which the assembly processes start to load their libraries


def produce_stores(
    dataset: Dataset,
    plans: Sequence[StorePlan],
    *,
    decoder: Decoder,
    engines: Mapping[Path, Engine],
    execution: ExecutionOptions,
) -> list[StoreResult]:
    """Create or update the stores of one input size; each file is decoded at most once.

    If it is interrupted or fails, finished contents are written as parts before the exception propagates.

    Parameters
    ----------
    dataset : Dataset
        The images.
    plans : sequence of StorePlan
        The stores.
    decoder : Decoder
        Decoder for the rendering of the stores.
    engines : mapping
        Path of a store → engine of its config, for engines that have been built already.
    execution : ExecutionOptions
        Execution options.

    Raises
    ------
    ImageError
        If ``execution.strict`` and a file cannot be used.
    DatasetError
        If no file can be used.
    StoreError
        If a store or a part cannot be written.
    """
    results, unfinished = split_finished(dataset, plans, execution=execution)
    finishers = [StoreFinisher(plan, execution) for plan in unfinished]
    work_unit = missing_work(unfinished, dataset)
    builders = [
        PartBuilder(
            store,
            partial(execution.build, store.backbone, store.weights, store.config),
            engine=engines.get(store.path),
            on_part=plan.parts.add,
        )
        for store, plan in zip(work_unit.stores, unfinished, strict=True)
    ]
    decoding, n_decoded = 0.0, 0

    def on_file(decoded: DecodeResult) -> None:
        nonlocal decoding, n_decoded
        decoding += decoded.seconds
        n_decoded += 1
        execution.report("extracting", n_decoded, len(work_unit.requests))
        if decoded.problem and execution.strict:
            raise strict_error(decoded.request.path, decoded.problem)
        if len(work_unit.requests) - n_decoded < ASSEMBLY_LEAD:
            for builder, finisher in zip(builders, finishers, strict=True):
                if builder.started:
                    finisher.prepare()

    with ExitStack() as stack:
        for close in (*(builder.close for builder in builders), *(finisher.close for finisher in finishers)):
            stack.callback(close)
        try:
            fill_parts(work_unit, builders, decoder=decoder, on_file=on_file)
            for builder, finisher in zip(builders, finishers, strict=True):
                builder.finish()
                stats = _compute_stats(builder, n_decoded=n_decoded)
                results[builder.work.path] = finisher.finish(dataset, stats)
        except BaseException:
            for builder in builders:
                stack.callback(builder.flush)  # each of them, even if another one fails
            raise
    for result in results.values():
        result.seconds["decoding"] = decoding
    return [results[plan.path] for plan in plans]


def _compute_stats(builder: PartBuilder, *, n_decoded: int) -> ComputeStats:
    engine = builder.engine
    return ComputeStats(
        engine=engine.name if engine is not None else "",
        device=engine.device if engine is not None else "",
        columns=LevelColumns.of(engine) if engine is not None else None,
        n_decoded=n_decoded,
        n_forward=builder.n_forward,
        skipped=builder.skipped,
        seconds=builder.seconds,
    )


def split_finished(
    dataset: Dataset, plans: Sequence[StorePlan], *, execution: ExecutionOptions
) -> tuple[dict[Path, StoreResult], list[StorePlan]]:
    """Return the results of stores that are up to date by path, and the plans of the others.

    Raises
    ------
    ImageError
        If ``execution.strict`` and an earlier run skipped a file or it cannot be read.
    """
    if execution.strict:
        _check_no_skips(dataset, plans)
    results: dict[Path, StoreResult] = {}
    for plan in plans:
        images = current_image_table(dataset, plan)
        if images is not None:
            discard_used_parts(plan, dataset)  # of a run that was killed just before it ended
            results[plan.path] = unchanged_result(plan, images)
    return results, [plan for plan in plans if plan.path not in results]


def missing_work(plans: Sequence[StorePlan], dataset: Dataset) -> WorkUnit:
    """Return one work unit with everything missing from the stores; its files are sorted by SHA-256."""
    files = dataset.distinct_contents
    requests = tuple(
        DecodeRequest(path=dataset.root / files[sha256].path, sha256=sha256, views=views)
        for sha256, views in missing_views(plans, dataset).items()
    )
    stores = tuple(
        StoreWork(
            backbone=plan.backbone,
            weights=plan.weights,
            config=plan.config,
            path=plan.path,
            folder=plan.parts.folder,
            missing=plan.missing,
        )
        for plan in plans
    )
    return WorkUnit(requests=requests, stores=stores)


def missing_views(plans: Sequence[StorePlan], dataset: Dataset) -> dict[str, tuple[int, ...]]:
    """Return the contents to decode, sorted, and the views of each that are missing from any store."""
    missing: dict[str, tuple[int, ...]] = {}
    for sha256 in dataset.distinct_contents:
        views = {view for plan in plans for view in plan.missing.get(sha256, ())}
        if views:
            missing[sha256] = tuple(sorted(views))
    return missing


def current_image_table(dataset: Dataset, plan: StorePlan) -> ImageTable | None:
    """Return the table of images of a store that is up to date; None if a run would change the store."""
    if plan.store is None or plan.uses_parts or any(plan.missing.values()):
        return None
    images = image_table(dataset, plan.contents(), plan.skip_reasons())
    return images if is_current(dataset, plan, images) else None


@dataclass(frozen=True, kw_only=True)
class PixelSums:
    """Sums over pixels as exact integers, so that the order of addition does not matter."""

    count: int = 0
    total: tuple[int, ...] = (0, 0, 0)  # per channel
    squares: tuple[int, ...] = (0, 0, 0)

    def __add__(self, other: PixelSums) -> PixelSums:
        return PixelSums(
            count=self.count + other.count,
            total=tuple(a + b for a, b in zip(self.total, other.total, strict=True)),
            squares=tuple(a + b for a, b in zip(self.squares, other.squares, strict=True)),
        )


def fit_statistics(
    dataset: Dataset, *, decoder: Decoder, execution: ExecutionOptions
) -> dict[str, list[float]]:
    """Return mean and standard deviation per channel of pixels / 255, over the plain training images."""
    requests = training_requests(dataset)

    def report(done: int) -> None:
        execution.report("fitting statistics", done, len(requests))

    return channel_statistics(pixel_sums(requests, decoder=decoder, report=report), dataset)


def training_requests(dataset: Dataset) -> list[DecodeRequest]:
    """Return requests for the plain view of each distinct training image."""
    training = {image.sha256 for image in dataset.images if image.split == "train"}
    return [
        DecodeRequest(path=dataset.root / image.path, sha256=sha256)
        for sha256, image in dataset.distinct_contents.items()
        if sha256 in training
    ]


def pixel_sums(
    requests: Sequence[DecodeRequest], *, decoder: Decoder, report: Callable[[int], None]
) -> PixelSums:
    """Return sums over the pixels of images, in one pass; ``report`` is called with the number decoded."""
    count, total, squares = 0, np.zeros(3, np.uint64), np.zeros(3, np.uint64)
    with closing(decoder.decode(requests)) as stream:
        for done, decoded in enumerate(stream, start=1):
            report(done)
            for view in decoded.views:
                pixels = view.reshape(-1, 3).astype(np.uint64)  # (size * size, 3)
                count += len(pixels)
                total += pixels.sum(axis=0)
                squares += (pixels * pixels).sum(axis=0)
    return PixelSums(count=count, total=tuple(total.tolist()), squares=tuple(squares.tolist()))


def channel_statistics(sums: PixelSums, dataset: Dataset) -> dict[str, list[float]]:
    """Return mean and standard deviation of pixels / 255.

    Raises
    ------
    DatasetError
        If there are no pixels.
    """
    if not sums.count:
        raise DatasetError(
            f"{dataset.root}: --preprocess featurewise needs training images, but none can be used"
        )
    mean = np.array(sums.total, np.uint64) / sums.count
    deviation = np.sqrt(np.maximum(np.array(sums.squares, np.uint64) / sums.count - mean**2, 0))
    return {"mean": (mean / 255).tolist(), "std": (deviation / 255).tolist()}


def _check_no_skips(dataset: Dataset, plans: Sequence[StorePlan]) -> None:
    for image in dataset.images:
        for plan in plans:
            reason = image.problem or plan.skipped_before.get(image.sha256, "")
            if reason:
                raise strict_error(dataset.root / image.path, reason)


def strict_error(path: object, reason: str) -> ImageError:
    """Return the error for a file that cannot be used under ``--strict``."""
    return ImageError(
        f"{path}: {reason}. Repair or remove the file, or leave out --strict to skip such files"
    )
