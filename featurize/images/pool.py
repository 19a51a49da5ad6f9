"""A pool of decode processes, and the decoder of image files that uses it.

Requests are sent ahead; processes that crash or exceed their deadline are replaced.
"""

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

import numpy as np
import numpy.typing as npt

from featurize.base.cores import available_cores
from featurize.errors import ImageError
from featurize.images.augment import PLAIN
from featurize.images.render import RenderSettings, read_region, region_bytes
from featurize.images.worker import NEVER, Message, SharedMemory, Worker, WorkerMessage, WorkerSettings

AHEAD = 4  # per worker: requests in progress, or done and not yet taken; one slot of shared memory each
IN_PIPE = 2  # requests sent to a worker at once, so that it never waits for the next one
_SHORT, _LONG = 0.05, 1.0  # seconds; bounds of the time to wait for a message


class WorkerPool:
    """Processes that answer requests; each reply has a slot of shared memory. Use as a context manager.

    Parameters
    ----------
    settings : WorkerSettings
        Settings of all workers.
    slot_bytes : int
        Size of a slot, enough for the largest request.
    workers : int, optional
        Number of processes; by default one per core.
    """

    def __init__(self, settings: WorkerSettings, *, slot_bytes: int, workers: int | None = None) -> None:
        self.slot_bytes = slot_bytes
        self._settings = settings
        self._most_workers = workers or available_cores()
        self._memory: SharedMemory | None = None
        self._workers: list[Worker] = []
        self._inbox: SimpleQueue[WorkerMessage] = SimpleQueue()

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Kill all processes without waiting for files in progress."""
        workers, self._workers = self._workers, []
        for worker in workers:
            worker.kill()
        for worker in workers:
            worker.close()

    def __del__(self) -> None:
        self.close()

    @property
    def region(self) -> mmap.mmap:
        """The shared memory; slot i begins at i times `slot_bytes`."""
        assert self._memory is not None
        return self._memory.region

    def start(self, n_requests: int) -> None:
        """Start processes, up to one per request, unless they are running already.

        Raises
        ------
        ImageError
            If there is not enough memory to share with them.
        """
        if not n_requests:
            return
        if self._memory is None:
            self._memory = SharedMemory(AHEAD * self._most_workers * self.slot_bytes)
        while len(self._workers) < min(self._most_workers, n_requests):
            self._workers.append(Worker(self._settings, self._memory, self._inbox))

    def replies(
        self, n_requests: int, request: Callable[[int], Message]
    ) -> Generator[tuple[int, Message], None, None]:
        """Yield the slot and the reply of each request, in order.

        The slot is overwritten after the next reply has been taken. If a process crashes at a file or exceeds
        its deadline, the reply of that file has this as its problem, and a new process gets the other files.

        Parameters
        ----------
        n_requests : int
            Number of requests.
        request : callable
            Returns the request with a given number, from 0 to ``n_requests - 1``.

        Raises
        ------
        ImageError
            If a process does not start.
        """
        self.start(n_requests)
        n_slots = AHEAD * self._most_workers
        done: dict[int, Message] = {}
        waiting: deque[int] = deque()  # numbers to send; requests of an ended worker are put first
        n_sent = 0
        try:
            for number in range(n_requests):
                more = range(n_sent, min(number + n_slots, n_requests))
                waiting.extend(more)
                n_sent += len(more)
                self._send_waiting(waiting, request, n_slots)
                while number not in done:
                    self._receive(done, waiting)
                    self._send_waiting(waiting, request, n_slots)
                yield number % n_slots, done.pop(number)
        finally:
            for worker in [worker for worker in self._workers if worker.pending]:
                self._workers.remove(worker)  # the caller stopped early and does not need the other replies
                worker.close()

    def _send_waiting(self, waiting: deque[int], request: Callable[[int], Message], n_slots: int) -> None:
        self.start(len(waiting))  # replaces processes that have ended
        while waiting:
            worker = min(self._workers, key=lambda worker: len(worker.pending))
            if len(worker.pending) >= IN_PIPE:
                return
            number = waiting.popleft()
            worker.send_request(number, {**request(number), "offset": number % n_slots * self.slot_bytes})

    def _receive(self, done: dict[int, Message], waiting: deque[int]) -> None:
        """Wait for one message or for a deadline."""
        remaining = min((worker.deadline for worker in self._workers), default=NEVER) - time.monotonic()
        try:
            worker, reply = self._inbox.get(timeout=min(max(remaining, _SHORT), _LONG))
        except Empty:
            self._kill_overdue()
            return
        if worker not in self._workers:  # closed by this pool
            return
        if reply is None:
            self._handle_end(worker, done, waiting)
        elif (number := worker.finish_request()) is not None:
            done[number] = reply

    def _kill_overdue(self) -> None:
        now = time.monotonic()
        for worker in self._workers:
            if worker.deadline <= now:
                worker.expired = worker.pending[0] if worker.pending else None
                worker.kill()

    def _handle_end(self, worker: Worker, done: dict[int, Message], waiting: deque[int]) -> None:
        """Remove a worker that has ended; its current file gets a problem, its other files wait again."""
        self._workers.remove(worker)
        end = worker.close()
        if not worker.ready:
            raise ImageError(
                f"a process that decodes images did not start ({end}). "
                "Try --workers 1, or see the reason with: featurize --verbose extract …"
            )
        limit = self._settings.image_timeout
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
DECODE_MEMORY = 3 * 2**30  # bytes that a worker may allocate for one file


@dataclass(frozen=True, kw_only=True)
class DecodeRequest:
    """One file to decode, and the numbers of the views to render."""

    path: Path
    sha256: str | None = None  # expected digest of the content; None: not checked
    views: tuple[int, ...] = (PLAIN,)


@dataclass(frozen=True, kw_only=True)
class DecodeResult:
    """One decoded file with its views, or the reason why it could not be decoded.

    The views are in memory that workers overwrite after the next result has been taken; copy them to keep
    them longer.
    """

    request: DecodeRequest
    problem: str  # "" or the reason; see `featurize.images.skip_reasons`
    seconds: float
    width: int = 0  # of the upright image in the file, in pixels
    height: int = 0
    phash: int = 0
    format: str = ""  # format of the content, as named by Pillow: "JPEG"
    mode: str = ""  # Pillow's mode before the conversion to RGB: "CMYK"
    orientation: int = 1  # EXIF, 1 to 8; 1 is upright
    thumbnail: npt.NDArray[np.uint8] | None = None  # (32, 32, 3)
    views: tuple[npt.NDArray[np.uint8], ...] = ()  # (size, size, 3) each, in the order of the request


class Decoder:
    """Decode processes with one set of render settings, for any number of lists of requests.

    Use as a context manager.

    Parameters
    ----------
    rendering : RenderSettings
        Settings for decoding files and rendering views.
    most_views : int
        Largest number of views per request.
    workers : int, optional
        Number of processes; by default one per core.
    image_timeout : float
        Seconds after which a file is skipped and its worker replaced.
    memory_bytes : int
        Memory that a worker may allocate for one file.
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
        settings = WorkerSettings(work=rendering, image_timeout=image_timeout, memory_bytes=memory_bytes)
        self._pool = WorkerPool(settings, slot_bytes=region_bytes(self._size, most_views), workers=workers)

    def __enter__(self) -> Decoder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Kill the processes without waiting for files in progress."""
        self._pool.close()

    def start(self, n_files: int) -> None:
        """Start the processes for this many files, so that they load their libraries in the background."""
        self._pool.start(n_files)

    def decode(self, requests: Sequence[DecodeRequest]) -> Generator[DecodeResult, None, None]:
        """Yield the results in order; a bounded number of files is decoded in advance."""

        def message(number: int) -> Message:
            request = requests[number]
            return {"path": str(request.path), "sha256": request.sha256, "views": request.views}

        with closing(self._pool.replies(len(requests), message)) as replies:
            for request, (slot, reply) in zip(requests, replies, strict=True):
                yield self._result(request, reply, offset=slot * self._pool.slot_bytes)

    def _result(self, request: DecodeRequest, reply: Message, *, offset: int) -> DecodeResult:
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
    """Decode files in order with new processes that end afterwards. Options as in `Decoder`."""
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
