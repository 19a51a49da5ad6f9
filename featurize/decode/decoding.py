"""Files in, pixels out, in order: worker processes decode and warp ahead of the network."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from featurize.decode.pool import WorkerPool
from featurize.decode.rendering import Rendering, read_region, region_bytes
from featurize.decode.workers import WorkerSetting
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
    """One decoded file with its views, or the reason why there is none.

    The views lie in memory that the workers write into again: they are those of this file until the next one
    is taken. Whoever wants them longer copies them.
    """

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


class Decoder:
    """Decode processes for one rendering; serves any number of lists of requests. Use as a context manager.

    Parameters
    ----------
    rendering : Rendering
        How files become pixels.
    most_views : int
        Views of one file, at most.
    workers : int, optional
        Processes; one a core by default.
    image_timeout : float
        Seconds after which a file is given up and its worker replaced.
    memory_bytes : int
        What a worker may allocate for one file.
    """

    def __init__(
        self,
        rendering: Rendering,
        *,
        most_views: int,
        workers: int | None = None,
        image_timeout: float = IMAGE_TIMEOUT,
        memory_bytes: int = DECODE_MEMORY,
    ) -> None:
        self._size = rendering.size
        setting = WorkerSetting(work=rendering, image_timeout=image_timeout, memory_bytes=memory_bytes)
        self._pool = WorkerPool(setting, slot_bytes=region_bytes(self._size, most_views), workers=workers)

    def __enter__(self) -> Decoder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the processes; files under way are not waited for."""
        self._pool.close()

    def start(self, n_files: int) -> None:
        """Start the processes that so many files can use; they load their libraries while others work."""
        self._pool.start(n_files)

    def decode(self, requests: Sequence[Request]) -> Generator[Decoded, None, None]:
        """Yield the files in their order; a bounded number of them is decoded ahead of whoever takes them."""

        def message(number: int) -> dict[str, Any]:
            request = requests[number]
            return {"path": str(request.path), "sha256": request.sha256, "views": request.views}

        with closing(self._pool.replies(len(requests), message)) as replies:
            for request, (slot, reply) in zip(requests, replies, strict=True):
                yield self._decoded(request, reply, offset=slot * self._pool.slot_bytes)

    def _decoded(self, request: Request, reply: dict[str, Any], *, offset: int) -> Decoded:
        if reply["problem"]:
            return Decoded(request=request, problem=reply["problem"], seconds=reply["seconds"])
        views, thumbnail = read_region(
            self._pool.region, offset=offset, size=self._size, n_views=len(request.views)
        )
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


def decode_all(
    requests: Sequence[Request],
    rendering: Rendering,
    *,
    workers: int | None = None,
    image_timeout: float = IMAGE_TIMEOUT,
    memory_bytes: int = DECODE_MEMORY,
) -> Generator[Decoded, None, None]:
    """Decode files in their order with processes of their own. Options as in `Decoder`."""
    if not requests:
        return
    decoder = Decoder(
        rendering,
        most_views=max(len(request.views) for request in requests),
        workers=workers,
        image_timeout=image_timeout,
        memory_bytes=memory_bytes,
    )
    with decoder, closing(decoder.decode(requests)) as stream:
        yield from stream
