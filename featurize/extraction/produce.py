"""From missing views to finished stores of one input size: every file decoded once for all backbones."""

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
    distinct_contents,
    image_table,
    is_current,
    unchanged_result,
)
from featurize.images.dataset import Dataset
from featurize.images.pool import Decoder, DecodeRequest, DecodeResult
from featurize.store.columns import LevelColumns
from featurize.store.reader import ImageTable

SOON = 128  # files before the last one when the processes that assemble stores start to load their libraries


def produce(
    dataset: Dataset,
    targets: Sequence[StorePlan],
    *,
    decoder: Decoder,
    engines: Mapping[Path, Engine],
    execution: ExecutionOptions,
) -> list[StoreResult]:
    """Make or update the stores of one input size; every file is decoded once at most.

    Interrupted or failing, it keeps what is finished before the exception goes on.

    Parameters
    ----------
    dataset : Dataset
        The images.
    targets : sequence of StorePlan
        The stores to be.
    decoder : Decoder
        Of their rendering.
    engines : mapping
        From the path of a store to the engine of its config, where there is one already.
    execution : ExecutionOptions
        How.

    Raises
    ------
    ImageError
        If ``execution.strict`` and a file cannot be used.
    DatasetError
        If not one file can be used.
    StoreError
        If a store or a part cannot be written.
    """
    finished, open_ones = split_finished(dataset, targets, execution=execution)
    finishers = [StoreFinisher(target, execution) for target in open_ones]
    share = whole_work_unit(open_ones, dataset)
    fillers = [
        PartBuilder(
            store,
            partial(execution.build, store.backbone, store.weights, store.config),
            engine=engines.get(store.path),
            on_part=target.parts.add,
        )
        for store, target in zip(share.stores, open_ones, strict=True)
    ]
    decoding, n_decoded = 0.0, 0

    def on_file(decoded: DecodeResult) -> None:
        nonlocal decoding, n_decoded
        decoding += decoded.seconds
        n_decoded += 1
        execution.report("extracting", n_decoded, len(share.requests))
        if decoded.problem and execution.strict:
            raise strict_error(decoded.request.path, decoded.problem)
        if len(share.requests) - n_decoded < SOON:
            for filler, finisher in zip(fillers, finishers, strict=True):
                if filler.begun:
                    finisher.prepare()

    with ExitStack() as stack:
        for close in (*(filler.close for filler in fillers), *(finisher.close for finisher in finishers)):
            stack.callback(close)
        try:
            fill_parts(share, fillers, decoder=decoder, on_file=on_file)
            for filler, finisher in zip(fillers, finishers, strict=True):
                filler.finish()
                computed = _computed(filler, n_decoded=n_decoded)
                finished[filler.work.path] = finisher.finish(dataset, computed)
        except BaseException:
            for filler in fillers:
                stack.callback(filler.keep)  # each of them, even if another one's disk is full
            raise
    for outcome in finished.values():
        outcome.seconds["decoding"] = decoding
    return [finished[target.path] for target in targets]


def _computed(filler: PartBuilder, *, n_decoded: int) -> ComputeStats:
    engine = filler.engine
    return ComputeStats(
        engine=engine.name if engine is not None else "",
        device=engine.device if engine is not None else "",
        columns=LevelColumns.of(engine) if engine is not None else None,
        n_decoded=n_decoded,
        n_forward=filler.n_forward,
        failed=filler.failed,
        seconds=filler.seconds,
    )


def split_finished(
    dataset: Dataset, targets: Sequence[StorePlan], *, execution: ExecutionOptions
) -> tuple[dict[Path, StoreResult], list[StorePlan]]:
    """Return the outcomes of stores that are as they should be, and the targets that lack something.

    Raises
    ------
    ImageError
        If ``execution.strict`` and a file is known to be of no use.
    """
    if execution.strict:
        _refuse_known_bad(dataset, targets)
    finished = {target.path: outcome for target in targets if (outcome := _finished_before(dataset, target))}
    return finished, [target for target in targets if target.path not in finished]


def whole_work_unit(targets: Sequence[StorePlan], dataset: Dataset) -> WorkUnit:
    """Return all that the stores lack as one share; its files are sorted by their SHA-256."""
    files = distinct_contents(dataset)
    requests = tuple(
        DecodeRequest(path=dataset.root / files[sha256].path, sha256=sha256, views=views)
        for sha256, views in missing_views(targets, dataset).items()
    )
    stores = tuple(
        StoreWork(
            backbone=target.backbone,
            weights=target.weights,
            config=target.config,
            path=target.path,
            folder=target.parts.folder,
            missing=target.missing,
        )
        for target in targets
    )
    return WorkUnit(requests=requests, stores=stores)


def missing_views(targets: Sequence[StorePlan], dataset: Dataset) -> dict[str, tuple[int, ...]]:
    """Return the contents to decode, sorted, and the views of each that any of the stores lacks."""
    todo: dict[str, tuple[int, ...]] = {}
    for sha256 in distinct_contents(dataset):
        views = {view for target in targets for view in target.missing.get(sha256, ())}
        if views:
            todo[sha256] = tuple(sorted(views))
    return todo


def _finished_before(dataset: Dataset, target: StorePlan) -> StoreResult | None:
    """Return the outcome of a store in which nothing is missing or changes; it is not even copied."""
    images = current_image_table(dataset, target)
    if images is None:
        return None
    discard_used_parts(target, dataset)  # left by a run that was killed just before its end
    return unchanged_result(target, images)


def current_image_table(dataset: Dataset, target: StorePlan) -> ImageTable | None:
    """Return the table of images of a store that is as it should be; None if a run would change it."""
    if target.store is None or target.uses_parts or any(target.missing.values()):
        return None
    images = image_table(dataset, target.stored(), target.skipped())
    return images if is_current(dataset, target, images) else None


@dataclass(frozen=True, kw_only=True)
class PixelSums:
    """Sums over pixels, in exact integers: in whatever order they are added up, and where."""

    count: int = 0
    total: tuple[int, ...] = (0, 0, 0)  # of each channel
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
    """Return mean and standard deviation of each channel, of pixels / 255, over the plain training images."""
    requests = training_requests(dataset)

    def report(done: int) -> None:
        execution.report("fitting statistics", done, len(requests))

    return statistics_of(pixel_sums(requests, decoder=decoder, report=report), dataset)


def training_requests(dataset: Dataset) -> list[DecodeRequest]:
    """Return the plain training images, each content once."""
    training = {image.sha256 for image in dataset.images if image.split == "train"}
    return [
        DecodeRequest(path=dataset.root / image.path, sha256=sha256)
        for sha256, image in distinct_contents(dataset).items()
        if sha256 in training
    ]


def pixel_sums(
    requests: Sequence[DecodeRequest], *, decoder: Decoder, report: Callable[[int], None]
) -> PixelSums:
    """Sum up the pixels of some images in one streaming pass; `report` is told how many are done."""
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


def statistics_of(sums: PixelSums, dataset: Dataset) -> dict[str, list[float]]:
    """Return mean and standard deviation of pixels / 255.

    Raises
    ------
    DatasetError
        If there are no pixels.
    """
    if not sums.count:
        raise DatasetError(
            f"{dataset.root}: --preprocess featurewise needs training images, and none can be used"
        )
    mean = np.array(sums.total, np.uint64) / sums.count
    deviation = np.sqrt(np.maximum(np.array(sums.squares, np.uint64) / sums.count - mean**2, 0))
    return {"mean": (mean / 255).tolist(), "std": (deviation / 255).tolist()}


def _refuse_known_bad(dataset: Dataset, targets: Sequence[StorePlan]) -> None:
    for image in dataset.images:
        for target in targets:
            reason = image.problem or target.bad.get(image.sha256, "")
            if reason:
                raise strict_error(dataset.root / image.path, reason)


def strict_error(path: object, reason: str) -> ImageError:
    """Return the error for a file that cannot be used where none is to be skipped."""
    return ImageError(f"{path}: {reason}. Mend or remove the file, or leave out --strict to skip such files")
