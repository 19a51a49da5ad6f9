"""From missing views to finished stores of one input size: every file decoded once for all backbones."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack

import numpy as np

from featurize.dataset import Dataset
from featurize.decoding import Rendering, Request, decode_all
from featurize.errors import DatasetError, ImageError
from featurize.filling import Execution, Outcome, StoreFiller, image_table, is_current, up_to_date
from featurize.planning import Target, contents


def produce(
    dataset: Dataset,
    targets: Sequence[Target],
    *,
    rendering: Rendering,
    execution: Execution,
) -> list[Outcome]:
    """Make or update the stores of one input size; every file is decoded once at most.

    Raises
    ------
    ImageError
        If ``execution.strict`` and a file cannot be used.
    DatasetError
        If not one file can be used.
    """
    start = time.perf_counter()
    files = contents(dataset)
    finished = {target.path: outcome for target in targets if (outcome := _finished_before(dataset, target))}
    open_targets = [target for target in targets if target.path not in finished]
    todo = {sha256: views for sha256 in files if (views := _views_wanted(open_targets, sha256))}
    requests = [
        Request(path=dataset.root / files[sha256].path, sha256=sha256, views=views)
        for sha256, views in todo.items()
    ]
    if execution.strict:
        _refuse_known_bad(dataset, targets)
    failed: dict[str, str] = {}
    decoding, n_decoded = 0.0, 0
    stream = decode_all(requests, rendering, workers=execution.workers)
    with ExitStack() as stack:
        fillers = [stack.enter_context(StoreFiller(target, execution)) for target in open_targets]
        for sha256 in files if fillers else ():
            item = next(stream) if sha256 in todo else None
            if item is not None:
                decoding += item.seconds
                n_decoded += 1
                execution.report("extracting", n_decoded, len(todo))
                if item.picture is None:
                    if execution.strict:
                        raise _strict_error(item.request.path, item.problem)
                    failed[sha256] = item.problem
                    continue
            for filler in fillers:
                if sha256 in filler.target.missing:
                    filler.accept(sha256, item)
        finished |= {
            filler.target.path: filler.finish(dataset, failed, n_decoded=n_decoded) for filler in fillers
        }
    for outcome in finished.values():
        outcome.seconds |= {"decoding": decoding, "total": time.perf_counter() - start}
    return [finished[target.path] for target in targets]


def _finished_before(dataset: Dataset, target: Target) -> Outcome | None:
    """Return the outcome of a store in which nothing is missing or changes; it is not even copied."""
    if target.store is None or any(target.missing.values()):
        return None
    images = image_table(dataset, list(target.missing), target.bad)
    return up_to_date(target, images) if is_current(dataset, target, images) else None


def fit_statistics(dataset: Dataset, *, rendering: Rendering, execution: Execution) -> dict[str, list[float]]:
    """Return mean and standard deviation of each channel, of pixels / 255, over the plain training images.

    One streaming pass: sums in exact integers, so that the order of the images does not matter.
    """
    files = {sha: image for sha, image in contents(dataset).items() if image.split == "train"}
    requests = [Request(path=dataset.root / image.path, sha256=sha) for sha, image in files.items()]
    count, total, squares = 0, np.zeros(3, np.uint64), np.zeros(3, np.uint64)
    for done, item in enumerate(decode_all(requests, rendering, workers=execution.workers)):
        execution.report("fitting statistics", done + 1, len(requests))
        if item.picture is not None:
            pixels = item.picture.pixels.reshape(-1, 3).astype(np.uint64)  # (size * size, 3)
            count += len(pixels)
            total += pixels.sum(axis=0)
            squares += (pixels * pixels).sum(axis=0)
    if not count:
        raise DatasetError(
            f"{dataset.root}: --preprocess featurewise needs training images, and none can be used"
        )
    mean = total / count
    deviation = np.sqrt(np.maximum(squares / count - mean**2, 0))
    return {"mean": (mean / 255).tolist(), "std": (deviation / 255).tolist()}


def _views_wanted(targets: Sequence[Target], sha256: str) -> tuple[int, ...]:
    wanted = {view for target in targets for view in target.missing.get(sha256, ())}
    return tuple(sorted(wanted))


def _refuse_known_bad(dataset: Dataset, targets: Sequence[Target]) -> None:
    for image in dataset.images:
        for target in targets:
            reason = image.problem or target.bad.get(image.sha256, "")
            if reason:
                raise _strict_error(dataset.root / image.path, reason)


def _strict_error(path: object, reason: str) -> ImageError:
    return ImageError(f"{path}: {reason}. Mend or remove the file, or leave out --strict to skip such files")
