"""Files in, pixels out, in order: worker processes decode and warp ahead of the network."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import numpy.typing as npt

from featurize.decode.cores import available_cores
from featurize.decode.rendering import Rendering, read_region, region_bytes
from featurize.decode.workers import Worker, WorkerSetting
from featurize.views import PLAIN

IMAGE_TIMEOUT = 60.0  # seconds for one file
DECODE_MEMORY = 3 * 2**30  # bytes that decoding one file may take


@dataclass(frozen=True, kw_only=True)
class Request:
    """One file to decode, and the numbers of the views wanted of it."""

    path: Path
    sha256: str | None = None  # what the file must still hold; None when it does not matter
    views: tuple[int, ...] = (PLAIN,)


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """One decoded file with its views, or the reason why there is none."""

    request: Request
    problem: str  # "" or the reason
    seconds: float
    width: int = 0  # upright pixels of the file
    height: int = 0
    phash: int = 0
    format: str = ""  # what the content is, as Pillow calls it: "JPEG"
    mode: str = ""  # Pillow's, before it became RGB: "CMYK"
    orientation: int = 1  # EXIF, 1 to 8; 1 is upright
    thumbnail: npt.NDArray[np.uint8] | None = None  # (32, 32, 3)
    views: tuple[npt.NDArray[np.uint8], ...] = ()  # (size, size, 3) each, as in the request


def decode_all(
    requests: Sequence[Request],
    rendering: Rendering,
    *,
    workers: int | None = None,
    image_timeout: float = IMAGE_TIMEOUT,
    memory_bytes: int = DECODE_MEMORY,
) -> Generator[Decoded, None, None]:
    """Decode files in their order, a bounded number of them ahead of whoever consumes the result.

    Parameters
    ----------
    requests : sequence of Request
        What to decode.
    rendering : Rendering
        How files become pixels.
    workers : int, optional
        Processes; one a core by default.
    image_timeout : float
        Seconds after which a file is given up and its worker replaced.
    memory_bytes : int
        What a worker may allocate for one file.
    """
    if not requests:
        return
    n_workers = min(workers or available_cores(), len(requests))
    setting = WorkerSetting(
        rendering=rendering,
        region_bytes=region_bytes(rendering.size, max(len(request.views) for request in requests)),
        image_timeout=image_timeout,
        memory_bytes=memory_bytes,
    )
    pool = [Worker(setting) for _ in range(n_workers)]
    idle: SimpleQueue[Worker] = SimpleQueue()
    for worker in pool:
        idle.put(worker)

    def decode(request: Request) -> Decoded:
        worker = idle.get()
        try:
            return _decode(worker, request, rendering.size)
        finally:
            idle.put(worker)

    waiting: deque[Future[Decoded]] = deque()
    with ThreadPoolExecutor(n_workers, thread_name_prefix="decode") as threads:
        try:
            for request in requests:
                waiting.append(threads.submit(decode, request))
                if len(waiting) >= 4 * n_workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
            for worker in pool:
                worker.stop()  # a file under way is not waited for


def _decode(worker: Worker, request: Request, size: int) -> Decoded:
    reply: dict[str, Any] = worker.ask(
        {"path": str(request.path), "sha256": request.sha256, "views": list(request.views)}
    )
    if reply["problem"]:
        return Decoded(request=request, problem=reply["problem"], seconds=reply["seconds"])
    views, thumbnail = read_region(worker.region, size=size, n_views=len(request.views))
    return Decoded(
        request=request,
        problem="",
        seconds=reply["seconds"],
        width=reply["width"],
        height=reply["height"],
        phash=int(reply["phash"]),
        format=reply["format"],
        mode=reply["mode"],
        orientation=reply["orientation"],
        thumbnail=thumbnail,
        views=views,
    )
