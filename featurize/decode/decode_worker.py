"""A process that decodes: requests on stdin, facts and small pictures on stdout, pixels in shared memory.

It is a process so that it can be stopped from outside: a decoder that hangs is killed at its deadline, one
that asks for too much memory runs into its limit, one that crashes takes nothing with it. It never imports
TensorFlow.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import signal
import struct
import sys
from collections.abc import Callable
from typing import IO, Any

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
    die_with_parent(int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to act on
    setting = receive(requests)
    if setting is None:
        return
    from featurize.images import load_decoders

    load_decoders()
    work = _shrinking(setting) if setting["shrinks"] else _rendering(setting)
    _limit_memory(setting["memory_bytes"])
    send(replies, {"ready": True})
    while (request := receive(requests)) is not None:
        send(replies, work(request))


def _rendering(setting: Message) -> Callable[[Message], Message]:
    import cv2

    from featurize.decode.rendering import Rendering, render

    cv2.setNumThreads(1)
    rendering = Rendering.from_json(setting["work"])
    region = memoryview(open_region(setting["region"], setting["region_bytes"]))
    return lambda request: render(request, rendering, region[request["offset"] :])


def _shrinking(setting: Message) -> Callable[[Message], Message]:
    from featurize.decode.shrinking import Shrinking, shrink

    shrinking = Shrinking.from_json(setting["work"])
    return lambda request: shrink(request, shrinking)


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


def die_with_parent(parent: int) -> None:
    """Ask Linux to end this process with its parent; elsewhere a closed pipe does, between two files."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            import ctypes

            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:  # it had gone before that was asked for
            os._exit(1)


if __name__ == "__main__":
    main()
