"""Decode processes that serve one list of requests after another: fed ahead, watched, replaced."""

from __future__ import annotations

import mmap
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from featurize.base.cores import available_cores
from featurize.errors import ImageError
from featurize.images.augment import PLAIN
from featurize.images.render import RenderSettings, read_region, region_bytes
from featurize.images.worker import NEVER, Heard, SharedMemory, Worker, WorkerSettings

AHEAD = 4  # requests under way or done and not yet taken, a worker: one slot of shared memory each
IN_PIPE = 2  # requests that a worker has at once, so that it need not wait for the next
_SHORT, _LONG = 0.05, 1.0  # seconds; the inbox is looked at once more before anyone is called overdue

Message = dict[str, Any]


class WorkerPool:
    """Processes that answer requests, each into its own slot of shared memory. Use as a context manager.

    Parameters
    ----------
    setting : WorkerSettings
        What the workers are told.
    slot_bytes : int
        Of shared memory, for the largest request.
    workers : int, optional
        Processes; one a core by default.
    """

    def __init__(self, setting: WorkerSettings, *, slot_bytes: int, workers: int | None = None) -> None:
        self.slot_bytes = slot_bytes
        self._setting = setting
        self._most_workers = workers or available_cores()
        self._memory: SharedMemory | None = None
        self._workers: list[Worker] = []
        self._inbox: SimpleQueue[Heard] = SimpleQueue()

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End every process, now and for good; a file under way is not waited for."""
        workers, self._workers = self._workers, []
        for worker in workers:
            worker.kill()
        for worker in workers:
            worker.close()

    def __del__(self) -> None:
        self.close()

    @property
    def region(self) -> mmap.mmap:
        """What the workers write into; slot i begins at i times `slot_bytes`."""
        assert self._memory is not None
        return self._memory.region

    def start(self, n_requests: int) -> None:
        """Start as many processes as that many requests can use, where they do not run yet.

        Raises
        ------
        ImageError
            If there is no memory to share with them.
        """
        if not n_requests:
            return
        if self._memory is None:
            self._memory = SharedMemory(AHEAD * self._most_workers * self.slot_bytes)
        while len(self._workers) < min(self._most_workers, n_requests):
            self._workers.append(Worker(self._setting, self._memory, self._inbox))

    def replies(
        self, n_requests: int, request: Callable[[int], Message]
    ) -> Generator[tuple[int, Message], None, None]:
        """Yield slot and reply of each request, in their order; a slot is used anew once the next is taken.

        Parameters
        ----------
        n_requests : int
            How many there are.
        request : callable
            From a number below that to the request.

        A file at which a process dies or stays too long has a reply with that as its problem, and the others
        go to a new process.

        Raises
        ------
        ImageError
            If no worker can be started at all.
        """
        self.start(n_requests)
        n_slots = AHEAD * self._most_workers
        done: dict[int, Message] = {}
        waiting: deque[int] = deque()  # numbers to be sent; those of a dead worker come first
        n_sent = 0
        try:
            for number in range(n_requests):
                more = range(n_sent, min(number + n_slots, n_requests))
                waiting.extend(more)
                n_sent += len(more)
                self._feed(waiting, request, n_slots)
                while number not in done:
                    self._hear(done, waiting)
                    self._feed(waiting, request, n_slots)
                yield number % n_slots, done.pop(number)
        finally:
            for worker in [one for one in self._workers if one.pending]:
                self._workers.remove(worker)  # whoever stops early wants none of their answers
                worker.close()

    def _feed(self, waiting: deque[int], request: Callable[[int], Message], n_slots: int) -> None:
        self.start(len(waiting))  # in the places of those that have ended
        while waiting:
            worker = min(self._workers, key=lambda one: len(one.pending))
            if len(worker.pending) >= IN_PIPE:
                return
            number = waiting.popleft()
            worker.ask(number, {**request(number), "offset": number % n_slots * self.slot_bytes})

    def _hear(self, done: dict[int, Message], waiting: deque[int]) -> None:
        """Wait for one message, or for a deadline."""
        patience = min((worker.deadline for worker in self._workers), default=NEVER) - time.monotonic()
        try:
            worker, reply = self._inbox.get(timeout=min(max(patience, _SHORT), _LONG))
        except Empty:
            self._kill_overdue()
            return
        if worker not in self._workers:  # ended by us
            return
        if reply is None:
            self._let_go(worker, done, waiting)
        elif (number := worker.answered()) is not None:
            done[number] = reply

    def _kill_overdue(self) -> None:
        now = time.monotonic()
        for worker in self._workers:
            if worker.deadline <= now:
                worker.expired = worker.pending[0] if worker.pending else None
                worker.kill()

    def _let_go(self, worker: Worker, done: dict[int, Message], waiting: deque[int]) -> None:
        """Let go of a process that has ended; the file that it was at is given up, the others wait again."""
        self._workers.remove(worker)
        end = worker.close()
        if not worker.ready:
            raise ImageError(
                f"the process that decodes images did not start ({end}). "
                "Try --workers 1, or see why with: featurize --verbose extract …"
            )
        limit = self._setting.image_timeout
        if worker.expired is None and worker.pending:
            done[worker.pending.popleft()] = {
                "problem": f"decoder crashed: it ended with {end}",
                "seconds": 0.0,
            }
        elif worker.pending and worker.pending[0] == worker.expired:
            problem = f"timed out: not decoded within {limit:g} seconds"
            done[worker.pending.popleft()] = {"problem": problem, "seconds": limit}
        waiting.extendleft(reversed(worker.pending))


IMAGE_TIMEOUT = 60.0  # seconds for one file
DECODE_MEMORY = 3 * 2**30  # bytes that decoding one file may take


@dataclass(frozen=True, kw_only=True)
class DecodeRequest:
    """One file to decode, and the numbers of the views wanted of it."""

    path: Path
    sha256: str | None = None  # what the file must still hold; None when it does not matter
    views: tuple[int, ...] = (PLAIN,)


@dataclass(frozen=True, kw_only=True)
class DecodeResult:
    """One decoded file with its views, or the reason why there is none.

    The views lie in memory that the workers write into again: they are those of this file until the next one
    is taken. Whoever wants them longer copies them.
    """

    request: DecodeRequest
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
    rendering : RenderSettings
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
        rendering: RenderSettings,
        *,
        most_views: int,
        workers: int | None = None,
        image_timeout: float = IMAGE_TIMEOUT,
        memory_bytes: int = DECODE_MEMORY,
    ) -> None:
        self._size = rendering.size
        setting = WorkerSettings(work=rendering, image_timeout=image_timeout, memory_bytes=memory_bytes)
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

    def decode(self, requests: Sequence[DecodeRequest]) -> Generator[DecodeResult, None, None]:
        """Yield the files in their order; a bounded number of them is decoded ahead of whoever takes them."""

        def message(number: int) -> dict[str, Any]:
            request = requests[number]
            return {"path": str(request.path), "sha256": request.sha256, "views": request.views}

        with closing(self._pool.replies(len(requests), message)) as replies:
            for request, (slot, reply) in zip(requests, replies, strict=True):
                yield self._decoded(request, reply, offset=slot * self._pool.slot_bytes)

    def _decoded(self, request: DecodeRequest, reply: dict[str, Any], *, offset: int) -> DecodeResult:
        if reply["problem"]:
            return DecodeResult(request=request, problem=reply["problem"], seconds=reply["seconds"])
        views, thumbnail = read_region(
            self._pool.region, offset=offset, size=self._size, n_views=len(request.views)
        )
        return DecodeResult(
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
    requests: Sequence[DecodeRequest],
    rendering: RenderSettings,
    *,
    workers: int | None = None,
    image_timeout: float = IMAGE_TIMEOUT,
    memory_bytes: int = DECODE_MEMORY,
) -> Generator[DecodeResult, None, None]:
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
