"""Decode processes: the parent's handle of a process, shared memory, messages, and the process itself.

``python -m featurize.images.worker PARENT_PID`` is the process; `featurize.images.pool` starts it.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import secrets
import signal
import struct
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import IO, Any

from featurize.base.project import exit_with_parent, start_module
from featurize.errors import ImageError
from featurize.images.render import RenderSettings, ThumbnailSettings

START_TIMEOUT = 300.0  # seconds for a worker to import its libraries, even on a very busy machine
NEVER = float("inf")
# Each thread of a library reserves address space, which is limited in a worker.
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}

Message = dict[str, Any]
WorkerMessage = tuple["Worker", Message | None]  # None: the process of this worker has ended


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """Settings of a worker, sent once when it starts."""

    work: RenderSettings | ThumbnailSettings
    image_timeout: float  # seconds for one file
    memory_bytes: int  # memory that a worker may allocate in addition to its libraries


class Worker:
    """One decode process. A thread puts its replies into an inbox that all workers share."""

    def __init__(
        self, settings: WorkerSettings, memory: SharedMemory, inbox: SimpleQueue[WorkerMessage]
    ) -> None:
        self.pending: deque[int] = deque()  # numbers of the requests sent to it, the current one first
        self.ready = False  # whether its libraries are loaded
        self.expired: int | None = None  # the request that exceeded its deadline, for which it was killed
        self.deadline = time.monotonic() + START_TIMEOUT
        self._settings = settings
        self.process = start_module(
            "featurize.images.worker",
            str(os.getpid()),
            environment=_ONE_THREAD,
            inherit=() if memory.descriptor is None else (memory.descriptor,),
        )
        threading.Thread(target=self._listen, args=(inbox,), daemon=True, name="decode").start()
        self._send(
            {
                "thumbnails": isinstance(settings.work, ThumbnailSettings),
                "work": settings.work.to_json(),
                "region": memory.handle,
                "region_bytes": memory.n_bytes,
                "memory_bytes": settings.memory_bytes,
            }
        )

    def send_request(self, number: int, request: Message) -> None:
        """Send a request; it waits in the pipe until earlier requests are done."""
        self.pending.append(number)
        if self.ready and len(self.pending) == 1:
            self._set_deadline()
        self._send(request)

    def finish_request(self) -> int | None:
        """Return the number of the request that a message answers; None for the first, "ready" message."""
        number = self.pending.popleft() if self.ready else None
        self.ready = True
        self._set_deadline()
        return number

    def kill(self) -> None:
        """Kill the process; a (worker, None) message follows in the inbox."""
        self.deadline = NEVER
        self.process.kill()

    def close(self) -> str:
        """Kill the process, wait until it has ended, and return its signal or exit code as text."""
        self.process.kill()
        code = self.process.wait()
        if self.process.stdin is not None:
            with contextlib.suppress(OSError):  # closing flushes the buffer into a broken pipe
                self.process.stdin.close()
        return f"signal {-code}" if code < 0 else f"exit code {code}"

    def _set_deadline(self) -> None:
        self.deadline = time.monotonic() + self._settings.image_timeout if self.pending else NEVER

    def _send(self, message: Message) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(OSError, ValueError):  # the process has ended: the inbox gets a message
            write_message(self.process.stdin, message)

    def _listen(self, inbox: SimpleQueue[WorkerMessage]) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as stream, contextlib.suppress(OSError, ValueError):
            while (reply := read_message(stream)) is not None:
                inbox.put((self, reply))
        inbox.put((self, None))


class SharedMemory:
    """Memory into which decode processes write pixels; it is freed even if processes are killed.

    Attributes
    ----------
    handle : str
        Identifies the memory in a worker: the number of a file descriptor, or a name on Windows.
    descriptor : int or None
        File descriptor that workers must inherit; None on Windows.
    region : mmap
        The memory; it stays mapped as long as an array refers to it.

    Raises
    ------
    ImageError
        If there is not enough memory.
    """

    def __init__(self, n_bytes: int) -> None:
        self.n_bytes = n_bytes
        self.descriptor: int | None = None
        if os.name == "nt":
            self.handle = f"folio-{secrets.token_hex(8)}"
            self.region = mmap.mmap(-1, n_bytes, tagname=self.handle)  # type: ignore[call-arg, unused-ignore]
            return
        try:
            if hasattr(os, "memfd_create"):
                self.descriptor = os.memfd_create("folio-decode")
            else:
                with tempfile.TemporaryFile() as file:
                    self.descriptor = os.dup(file.fileno())
            self.handle = str(self.descriptor)
            os.ftruncate(self.descriptor, n_bytes)
            self.region = mmap.mmap(self.descriptor, n_bytes)
        except OSError as error:
            raise ImageError(
                f"cannot allocate {n_bytes} bytes of memory to share with decode processes: {error}"
            ) from error

    def __del__(self) -> None:
        if self.descriptor is not None:
            os.close(self.descriptor)  # the memory stays until it is unmapped


LENGTH = struct.Struct("<I")  # length of the JSON that follows


def write_message(stream: IO[bytes], message: Message) -> None:
    """Write one message: its length, then its JSON in ASCII, which keeps undecodable file names."""
    data = json.dumps(message).encode("ascii")
    stream.write(LENGTH.pack(len(data)) + data)
    stream.flush()


def read_message(stream: IO[bytes]) -> Message | None:
    """Read one message; return None if the other process has ended."""
    head = stream.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    (length,) = LENGTH.unpack(head)
    data = stream.read(length)
    return json.loads(data) if len(data) == length else None


def open_region(handle: str, n_bytes: int) -> mmap.mmap:
    """Map the memory shared with the parent, given its file descriptor or, on Windows, its name."""
    if os.name == "nt":
        return mmap.mmap(-1, n_bytes, tagname=handle)  # type: ignore[call-arg, unused-ignore]
    return mmap.mmap(int(handle), n_bytes)


def main() -> None:
    """Serve requests until the parent closes the pipe."""
    requests, replies = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # output of decoders goes to stderr, not into the replies
    exit_with_parent(int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    settings = read_message(requests)
    if settings is None:
        return
    from featurize.images.decode import load_decoders

    load_decoders()
    work = _thumbnail_function(settings) if settings["thumbnails"] else _render_function(settings)
    _limit_memory(settings["memory_bytes"])
    write_message(replies, {"ready": True})
    while (request := read_message(requests)) is not None:
        write_message(replies, work(request))


def _render_function(settings: Message) -> Callable[[Message], Message]:
    import cv2

    from featurize.images.render import RenderSettings, render

    cv2.setNumThreads(1)
    work = RenderSettings.from_json(settings["work"])
    region = memoryview(open_region(settings["region"], settings["region_bytes"]))
    return lambda request: render(request, work, region[request["offset"] :])


def _thumbnail_function(settings: Message) -> Callable[[Message], Message]:
    from featurize.images.render import ThumbnailSettings, make_thumbnails

    work = ThumbnailSettings.from_json(settings["work"])
    return lambda request: make_thumbnails(request, work)


def _limit_memory(n_bytes: int) -> None:
    """Limit the address space to what is mapped now plus this; does nothing where that is not supported."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        limit = n_bytes + _mapped_bytes()
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _mapped_bytes() -> int:
    with contextlib.suppress(OSError), open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * mmap.PAGESIZE
    return 0


if __name__ == "__main__":
    main()
