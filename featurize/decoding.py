"""Files in, pixels out, in order: decode and warp in a few threads ahead of the network.

Pillow and OpenCV let go of the interpreter while they work, so threads are enough to keep the cores busy.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from featurize.images import Picture, SkippedImage, read_picture
from featurize.planning import PLAIN
from featurize.views import ViewRanges, render_view, view_parameters


@dataclass(frozen=True, kw_only=True)
class Rendering:
    """How files become pixels; the same for every file of a run."""

    size: int
    resize: str
    resample: str
    max_pixels: int
    ranges: ViewRanges
    seed: int


@dataclass(frozen=True, kw_only=True)
class Request:
    """One file to decode, and the numbers of the views wanted of it."""

    path: Path
    sha256: str | None = None  # what the file must still hold; None when it does not matter
    views: tuple[int, ...] = (PLAIN,)


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """One decoded file: a picture with its views, or the reason why there is none."""

    request: Request
    picture: Picture | None
    problem: str
    views: dict[int, npt.NDArray[np.uint8]]  # view number → (size, size, 3)
    seconds: float


def decode(request: Request, rendering: Rendering) -> Decoded:
    """Decode one file and render its views; a file that cannot be used comes back with its reason."""
    start = time.perf_counter()
    views: dict[int, npt.NDArray[np.uint8]] = {}
    try:
        picture = read_picture(
            request.path,
            size=rendering.size,
            resize=rendering.resize,
            resample=rendering.resample,
            max_pixels=rendering.max_pixels,
            sha256=request.sha256,
        )
    except SkippedImage as skipped:
        seconds = time.perf_counter() - start
        return Decoded(request=request, picture=None, problem=str(skipped), views={}, seconds=seconds)
    for view in request.views:
        if view == PLAIN:
            views[view] = picture.pixels
            continue
        if request.sha256 is None:
            raise ValueError(
                f"{request.path}: augmented views are drawn from the content hash, and none was given"
            )
        parameters = view_parameters(
            request.sha256, view, ranges=rendering.ranges, seed=rendering.seed, size=rendering.size
        )
        views[view] = render_view(picture.pixels, parameters)
    return Decoded(
        request=request, picture=picture, problem="", views=views, seconds=time.perf_counter() - start
    )


def decode_all(
    requests: Iterable[Request], rendering: Rendering, *, workers: int | None = None
) -> Iterator[Decoded]:
    """Decode files in their order, a bounded number of them ahead of whoever consumes the result."""
    workers = workers or available_cores()
    ahead = 4 * workers
    waiting: deque[Future[Decoded]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        try:
            for request in requests:
                waiting.append(pool.submit(decode, request, rendering))
                if len(waiting) >= ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def available_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
