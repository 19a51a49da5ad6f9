"""A decode worker seen from the parent: started, asked, watched, stopped and replaced."""

from __future__ import annotations

import contextlib
import mmap
import os
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featurize.decode.decode_worker import receive, send
from featurize.decode.rendering import Rendering
from featurize.errors import ImageError

_START_TIMEOUT = 300.0  # seconds for a worker to import its libraries, on a very busy machine


@dataclass(frozen=True, kw_only=True)
class WorkerSetting:
    """What a worker is told once."""

    rendering: Rendering
    region_bytes: int  # of shared memory, for the largest request
    image_timeout: float  # seconds for one file
    memory_bytes: int  # that it may allocate for one file


class Worker:
    """One decode process at a time; a new one takes over where the last was killed or crashed."""

    def __init__(self, setting: WorkerSetting) -> None:
        self._setting = setting
        self._process: subprocess.Popen[bytes] | None = None
        self._expired = self._stopped = False
        self._handle, self._descriptor, self.region = _shared_memory(setting.region_bytes)

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Have one file decoded; always return a reply, whatever the file does to the process.

        Raises
        ------
        ImageError
            If no worker can be started at all.
        """
        process = self._running()
        start = time.perf_counter()
        reply = self._exchange(process, request, timeout=self._setting.image_timeout)
        seconds = time.perf_counter() - start
        if reply is not None and not self._expired:
            return reply
        expired = self._expired
        self._end()
        if reply is not None:
            return reply
        if expired:
            problem = f"timed out: not decoded within {self._setting.image_timeout:g} seconds"
        else:
            problem = f"decoder crashed: it ended with {_end_of(process)}"
        return {"problem": problem, "seconds": seconds}

    def stop(self) -> None:
        """Kill the process, now and for good; whoever waits for a reply gets one."""
        self._stopped = True
        process = self._process
        if process is not None:
            process.kill()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self._end()
        self._process = process = _start(self._descriptor)
        if self._stopped:  # stopped while it started
            process.kill()
        setting = {
            "rendering": self._setting.rendering.to_json(),
            "region": self._handle,
            "region_bytes": self._setting.region_bytes,
            "memory_bytes": self._setting.memory_bytes,
        }
        if self._exchange(process, setting, timeout=_START_TIMEOUT) is None and not self._stopped:
            self._end()
            raise ImageError(
                f"the process that decodes images did not start ({_end_of(process)}). "
                "Try --workers 1, or see why with: featurize --verbose extract …"
            )
        return process

    def _exchange(
        self, process: subprocess.Popen[bytes], message: dict[str, Any], *, timeout: float
    ) -> dict[str, Any] | None:
        """Send a message, wait for the reply; None where the process ended or was killed at its deadline."""
        self._expired = False

        def expire() -> None:
            self._expired = True
            process.kill()

        timer = threading.Timer(timeout, expire)
        timer.daemon = True
        timer.start()
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            send(process.stdin, message)
            return receive(process.stdout)
        except (OSError, ValueError):  # the pipe is broken or closed: the process has gone
            return None
        finally:
            timer.cancel()
            timer.join()

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):  # what was still buffered has nowhere to go
                    stream.close()

    def __del__(self) -> None:
        if not hasattr(self, "_descriptor"):  # no memory could be had
            return
        self._end()
        if self._descriptor is not None:
            os.close(self._descriptor)  # the memory itself lives as long as it is mapped


def _start(descriptor: int | None) -> subprocess.Popen[bytes]:
    package = str(Path(__file__).resolve().parents[2])
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "OPENBLAS_NUM_THREADS": "1",  # each thread of a library reserves address space, and there is a limit
        "OMP_NUM_THREADS": "1",
    }
    # A group of its own: Ctrl-C in the terminal is for the parent, which then stops its workers.
    options: dict[str, Any] = {} if os.name == "nt" else {"process_group": 0, "pass_fds": (descriptor,)}
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "featurize.decode.decode_worker", str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        **options,
    )


def _shared_memory(n_bytes: int) -> tuple[str, int | None, mmap.mmap]:
    """Return a handle to give the worker, the descriptor it must inherit, and the memory.

    Nothing with a name is left behind by a process that is killed.
    """
    if os.name == "nt":
        name = f"folio-{secrets.token_hex(8)}"
        region = mmap.mmap(-1, n_bytes, tagname=name)  # type: ignore[call-arg, unused-ignore]
        return name, None, region
    try:
        if hasattr(os, "memfd_create"):
            descriptor = os.memfd_create("folio-decode")
        else:
            with tempfile.TemporaryFile() as file:
                descriptor = os.dup(file.fileno())
        os.ftruncate(descriptor, n_bytes)
        return str(descriptor), descriptor, mmap.mmap(descriptor, n_bytes)
    except OSError as error:
        raise ImageError(f"no {n_bytes} bytes of memory to share with a decode process: {error}") from error


def _end_of(process: subprocess.Popen[bytes]) -> str:
    code = process.wait()
    return f"signal {-code}" if code < 0 else f"exit code {code}"
