"""A decode process seen from the parent: started, told, heard and killed; and the memory shared with it."""

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

START_TIMEOUT = 300.0  # seconds for a worker to import its libraries, on a very busy machine
NEVER = float("inf")
# Each thread of a library reserves address space, which is limited in a worker.
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}

Heard = tuple["Worker", dict[str, Any] | None]  # who said what; None: that process has ended


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """What a worker is told once."""

    work: RenderSettings | ThumbnailSettings
    image_timeout: float  # seconds for one file
    memory_bytes: int  # that it may allocate for one file


class Worker:
    """One decode process. What it says lands in the inbox that it shares with the others."""

    def __init__(self, setting: WorkerSettings, memory: SharedMemory, inbox: SimpleQueue[Heard]) -> None:
        self.pending: deque[int] = deque()  # numbers of the requests it has, the one under way first
        self.ready = False  # whether it has said that its libraries are loaded
        self.expired: int | None = None  # the request at whose deadline it was killed
        self.deadline = time.monotonic() + START_TIMEOUT
        self._setting = setting
        self.process = start_module(
            "featurize.images.worker",
            str(os.getpid()),
            environment=_ONE_THREAD,
            inherit=() if memory.descriptor is None else (memory.descriptor,),
        )
        threading.Thread(target=self._listen, args=(inbox,), daemon=True, name="decode").start()
        self._tell(
            {
                "shrinks": isinstance(setting.work, ThumbnailSettings),
                "work": setting.work.to_json(),
                "region": memory.handle,
                "region_bytes": memory.n_bytes,
                "memory_bytes": setting.memory_bytes,
            }
        )

    def ask(self, number: int, request: dict[str, Any]) -> None:
        """Hand over a request; it waits in the pipe until those before it are done."""
        self.pending.append(number)
        if self.ready and len(self.pending) == 1:
            self._begin()
        self._tell(request)

    def answered(self) -> int | None:
        """Note that the process has spoken; return the number of the request it is done with, if any."""
        number = self.pending.popleft() if self.ready else None
        self.ready = True
        self._begin()
        return number

    def kill(self) -> None:
        """End the process now; that it has ended is then heard from the inbox."""
        self.deadline = NEVER
        self.process.kill()

    def close(self) -> str:
        """End the process, wait until it has ended, and say how it did."""
        self.process.kill()
        code = self.process.wait()
        if self.process.stdin is not None:
            with contextlib.suppress(OSError):  # what was still buffered has nowhere to go
                self.process.stdin.close()
        return f"signal {-code}" if code < 0 else f"exit code {code}"

    def _begin(self) -> None:
        self.deadline = time.monotonic() + self._setting.image_timeout if self.pending else NEVER

    def _tell(self, message: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(OSError, ValueError):  # the process has gone: the inbox will tell
            send(self.process.stdin, message)

    def _listen(self, inbox: SimpleQueue[Heard]) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as stream, contextlib.suppress(OSError, ValueError):
            while (reply := receive(stream)) is not None:
                inbox.put((self, reply))
        inbox.put((self, None))


class SharedMemory:
    """Memory that decode processes write pixels into. Nothing with a name survives a process that is killed.

    Attributes
    ----------
    handle : str
        What a worker finds it by.
    descriptor : int or None
        What a worker must inherit; Windows has names instead.
    region : mmap
        The memory; it lives as long as an array looks into it.

    Raises
    ------
    ImageError
        If there is not so much memory.
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
                f"no {n_bytes} bytes of memory to share with decode processes: {error}"
            ) from error

    def __del__(self) -> None:
        if self.descriptor is not None:
            os.close(self.descriptor)  # the memory itself lives as long as it is mapped


LENGTH = struct.Struct("<I")  # of the JSON that follows
Message = dict[str, Any]


def send(stream: IO[bytes], message: dict[str, Any]) -> None:
    """Write one message: its length, then its JSON (ASCII, so any file name survives)."""
    data = json.dumps(message).encode("ascii")
    stream.write(LENGTH.pack(len(data)) + data)
    stream.flush()


def receive(stream: IO[bytes]) -> dict[str, Any] | None:
    """Read one message; None where the other side is gone."""
    head = stream.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    (length,) = LENGTH.unpack(head)
    data = stream.read(length)
    return json.loads(data) if len(data) == length else None


def open_region(handle: str, n_bytes: int) -> mmap.mmap:
    """Map the memory shared with the parent: an inherited descriptor, or on Windows a name."""
    if os.name == "nt":
        return mmap.mmap(-1, n_bytes, tagname=handle)  # type: ignore[call-arg, unused-ignore]
    return mmap.mmap(int(handle), n_bytes)


def main() -> None:
    """Serve requests until the parent closes the pipe."""
    requests, replies = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a decoder prints must not end up among the replies
    exit_with_parent(int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to act on
    setting = receive(requests)
    if setting is None:
        return
    from featurize.images.decode import load_decoders

    load_decoders()
    work = _shrinking(setting) if setting["shrinks"] else _rendering(setting)
    _limit_memory(setting["memory_bytes"])
    send(replies, {"ready": True})
    while (request := receive(requests)) is not None:
        send(replies, work(request))


def _rendering(setting: Message) -> Callable[[Message], Message]:
    import cv2

    from featurize.images.render import RenderSettings, render

    cv2.setNumThreads(1)
    rendering = RenderSettings.from_json(setting["work"])
    region = memoryview(open_region(setting["region"], setting["region_bytes"]))
    return lambda request: render(request, rendering, region[request["offset"] :])


def _shrinking(setting: Message) -> Callable[[Message], Message]:
    from featurize.images.render import ThumbnailSettings, make_thumbnails

    shrinking = ThumbnailSettings.from_json(setting["work"])
    return lambda request: make_thumbnails(request, shrinking)


def _limit_memory(n_bytes: int) -> None:
    """Bound the address space, beyond what is mapped already; a system without such a limit has none."""
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
