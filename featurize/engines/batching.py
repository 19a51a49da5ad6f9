"""Device queues and batching: threads that run batches on devices, and a buffer that fills batches."""

from __future__ import annotations

import atexit
import contextlib
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from featurize.base.typing import Float32Array
from featurize.engines.base import Engine, PendingFeatures
from featurize.errors import EngineError

Forward = Callable[[npt.NDArray[np.uint8]], Float32Array]
_Task = tuple["Future[Float32Array]", npt.NDArray[np.uint8]]
EXIT_TIMEOUT = 5.0  # seconds to wait for running batches when the process exits


@dataclass(frozen=True, eq=False)
class SubmittedBatch:
    """Features of a batch that a device thread computes."""

    _future: Future[Float32Array]
    _queues: DeviceQueues  # this reference keeps the threads alive until the result is taken

    def result(self) -> Float32Array:
        """Wait for the features and return them; an error of the forward pass is raised here."""
        try:
            while not self._future.done():
                # With a timeout: on Windows, Ctrl-C does not interrupt a wait without one.
                with contextlib.suppress(TimeoutError):
                    self._future.exception(timeout=1.0)
            return self._future.result()
        except CancelledError:
            raise EngineError("the engine was closed before it computed these images") from None


@dataclass(eq=False)
class _DeviceQueue:
    """Queue of one device, and the number of its unfinished batches."""

    n_threads: int
    tasks: SimpleQueue[_Task | None] = field(default_factory=SimpleQueue)
    unfinished: int = 0
    closed: bool = False


class DeviceQueues:
    """Several devices, each with its own queue and threads.

    A thread runs a batch completely: upload, forward pass, download. With two threads per device, one batch
    is transferred while the other is computed. The threads hold no reference to this object or the engine;
    they end when both are garbage-collected, or when the process exits.

    Parameters
    ----------
    forwards : sequence of callables
        One per device, from uint8 images to their features; called from several threads at the same time.
    threads : int
        Threads per device: the number of batches that run on it at the same time.
    queued : int
        Additional batches per device, so that a free thread finds the next batch ready.

    Attributes
    ----------
    in_flight : int
        Maximum number of unfinished batches.
    """

    def __init__(self, forwards: Sequence[Forward], *, threads: int, queued: int) -> None:
        self.in_flight = len(forwards) * (threads + queued)
        self._queues = [_DeviceQueue(threads) for _ in forwards]
        self._lock = threading.Lock()  # protects the counts of unfinished batches
        self._slots = threading.Semaphore(self.in_flight)
        self._threads = [
            threading.Thread(
                target=_work,
                args=(queue, forward, self._lock, self._slots),
                name=f"folio-device-{number}",
                daemon=True,  # a device that hangs must not keep the process alive
            )
            for number, (queue, forward) in enumerate(zip(self._queues, forwards, strict=True))
            for _ in range(threads)
        ]
        weakref.finalize(self, _close, self._queues).atexit = False
        # Registered after TensorFlow's own exit handler, so it runs first: a thread inside TensorFlow during
        # its shutdown would crash the process.
        atexit.register(_close_and_wait, self._queues, self._threads)
        for thread in self._threads:
            thread.start()

    def submit(self, images: npt.NDArray[np.uint8]) -> SubmittedBatch:
        """Submit a batch to the device with the fewest unfinished batches.

        Blocks while `in_flight` batches are unfinished.
        """
        self._slots.acquire()
        future: Future[Float32Array] = Future()
        with self._lock:
            queue = min(self._queues, key=lambda queue: queue.unfinished)
            queue.unfinished += 1
        queue.tasks.put((future, images))
        if queue.closed:  # its threads may have ended already
            future.cancel()
        return SubmittedBatch(future, self)

    def close(self) -> None:
        """Cancel queued batches, finish running ones and end the threads. May be called more than once."""
        for _ in range(_close(self._queues)):
            self._slots.release()
        _close_and_wait(self._queues, self._threads)


def _work(queue: _DeviceQueue, forward: Forward, lock: threading.Lock, slots: threading.Semaphore) -> None:
    """Run the batches of one queue until it is closed."""
    while (task := queue.tasks.get()) is not None:
        future, images = task
        if future.set_running_or_notify_cancel():
            try:
                features = forward(images)
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(features)
                del features
        del task, future, images  # so that an idle thread keeps no batch in memory
        with lock:
            queue.unfinished -= 1
        slots.release()


def _close(queues: Sequence[_DeviceQueue]) -> int:
    """Cancel queued batches and signal the threads to end; return the number of cancelled batches.

    Acquires no lock: the garbage collector may call this in any thread, also in one that holds the lock.
    """
    cancelled = 0
    for queue in queues:
        if queue.closed:
            continue
        queue.closed = True
        with contextlib.suppress(Empty):
            while (task := queue.tasks.get_nowait()) is not None:
                task[0].cancel()
                cancelled += 1
        for _ in range(queue.n_threads):
            queue.tasks.put(None)
    return cancelled


def _close_and_wait(queues: Sequence[_DeviceQueue], threads: Sequence[threading.Thread]) -> None:
    _close(queues)
    deadline = time.monotonic() + EXIT_TIMEOUT
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))


Token = TypeVar("Token")


class Batcher(Generic[Token]):
    """Fills batches, submits them, and delivers their features in the order of the images.

    Memory holds one batch more than `Engine.in_flight`, whatever the number of images.

    Parameters
    ----------
    engine : Engine
        Computes the features.
    deliver : callable
        Called per batch with the tokens of its images and their features, float32 (n, n_features).

    Attributes
    ----------
    n_sent : int
        Number of submitted images.
    seconds : float
        Time spent waiting for the engine.
    """

    def __init__(self, engine: Engine, deliver: Callable[[list[Token], Float32Array], None]) -> None:
        self.n_sent = 0
        self.seconds = 0.0
        self._engine, self._deliver = engine, deliver
        self._shape = (engine.batch_size, engine.size, engine.size, 3)
        self._images = np.empty(self._shape, np.uint8)
        self._tokens: list[Token] = []
        self._spare: list[npt.NDArray[np.uint8]] = []
        self._sent: deque[tuple[list[Token], npt.NDArray[np.uint8], PendingFeatures]] = deque()

    def add(self, pixels: npt.NDArray[np.uint8], token: Token) -> None:
        """Add a copy of one image (size, size, 3), with a token that identifies its features."""
        self._images[len(self._tokens)] = pixels
        self._tokens.append(token)
        if len(self._tokens) == len(self._images):
            self._submit()

    def finish(self) -> None:
        """Submit the last, incomplete batch and deliver all outstanding features."""
        if self._tokens:
            self._submit()
        while self._sent:
            self._deliver(*self._next_result())

    def _submit(self) -> None:
        done = self._next_result() if len(self._sent) >= self._engine.in_flight else None
        start = time.perf_counter()
        pending = self._engine.submit(self._images[: len(self._tokens)])
        self.seconds += time.perf_counter() - start
        self.n_sent += len(self._tokens)
        self._sent.append((self._tokens, self._images, pending))
        self._tokens = []
        self._images = self._spare.pop() if self._spare else np.empty(self._shape, np.uint8)
        if done is not None:
            self._deliver(*done)  # after the submission, so that the engine does not wait
        if self._engine.in_flight == 1:  # such an engine computes the features in `submit`
            self._deliver(*self._next_result())

    def _next_result(self) -> tuple[list[Token], Float32Array]:
        tokens, images, pending = self._sent.popleft()
        start = time.perf_counter()
        features = pending.result()
        self.seconds += time.perf_counter() - start
        self._spare.append(images)
        return tokens, features
