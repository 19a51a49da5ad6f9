"""Threads that keep devices at work: batches in, features out. Knows no TensorFlow."""

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

from featurize.engines.base import Engine, PendingFeatures
from featurize.errors import EngineError

Forward = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]
_Task = tuple["Future[npt.NDArray[np.float32]]", npt.NDArray[np.uint8]]
LAST_BATCH = 5.0  # seconds that a process that ends waits for batches that are being computed


@dataclass(frozen=True, eq=False)
class SubmittedBatch:
    """Features that a thread will bring."""

    _future: Future[npt.NDArray[np.float32]]
    _lanes: DeviceQueues  # whoever waits for a result keeps the threads alive

    def result(self) -> npt.NDArray[np.float32]:
        """Wait for the features and return them; an error of the forward pass is raised here."""
        try:
            while not self._future.done():
                # With a limit, because on Windows Ctrl-C does not end a wait without one.
                with contextlib.suppress(TimeoutError):
                    self._future.exception(timeout=1.0)
            return self._future.result()
        except CancelledError:
            raise EngineError("the engine was closed before it came to these pictures") from None


@dataclass(eq=False)
class _Lane:
    """One device: what waits for it, and how much is not finished."""

    n_threads: int
    tasks: SimpleQueue[_Task | None] = field(default_factory=SimpleQueue)
    unfinished: int = 0
    closed: bool = False


class DeviceQueues:
    """Devices side by side, each with its own queue and threads.

    A thread takes a batch all the way: upload, forward pass, fetching. With two threads a device, one batch
    travels while the other is computed. The threads know neither the lanes nor the engine; they end when both
    are gone, or with the process.

    Parameters
    ----------
    forwards : sequence of callables
        One a device, from uint8 pictures to their features; called from several threads at once.
    threads : int
        Threads of each device: batches that it is given at the same time.
    waiting : int
        Batches of each device beside those, so that a free thread finds the next one ready.
    """

    def __init__(self, forwards: Sequence[Forward], *, threads: int, waiting: int) -> None:
        self.in_flight = len(forwards) * (threads + waiting)
        self._lanes = [_Lane(threads) for _ in forwards]
        self._counting = threading.Lock()
        self._room = threading.Semaphore(self.in_flight)
        self._threads = [
            threading.Thread(
                target=_work,
                args=(lane, forward, self._counting, self._room),
                name=f"folio-lane-{number}",
                daemon=True,  # a device that hangs must not hold the process
            )
            for number, (lane, forward) in enumerate(zip(self._lanes, forwards, strict=True))
            for _ in range(threads)
        ]
        weakref.finalize(self, _close, self._lanes).atexit = False
        # Before TensorFlow takes itself down: a thread inside it would take the process along.
        atexit.register(_close_and_wait, self._lanes, self._threads)
        for thread in self._threads:
            thread.start()

    def submit(self, images: npt.NDArray[np.uint8]) -> SubmittedBatch:
        """Give a batch to the device with the least to do; wait for room while `in_flight` are unfinished."""
        self._room.acquire()
        future: Future[npt.NDArray[np.float32]] = Future()
        with self._counting:
            lane = min(self._lanes, key=lambda lane: lane.unfinished)
            lane.unfinished += 1
        lane.tasks.put((future, images))
        if lane.closed:  # then perhaps no thread is left to do it
            future.cancel()
        return SubmittedBatch(future, self)

    def close(self) -> None:
        """Drop what waits, finish what is being computed, end the threads. A second time does nothing."""
        for _ in range(_close(self._lanes)):
            self._room.release()
        _close_and_wait(self._lanes, self._threads)


def _work(lane: _Lane, forward: Forward, counting: threading.Lock, room: threading.Semaphore) -> None:
    while (task := lane.tasks.get()) is not None:
        future, images = task
        if future.set_running_or_notify_cancel():
            try:
                features = forward(images)
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(features)
                del features
        del task, future, images  # a thread that waits holds no batch
        with counting:
            lane.unfinished -= 1
        room.release()


def _close(lanes: Sequence[_Lane]) -> int:
    """Drop what waits and tell the threads to end; return how many batches were dropped.

    Takes no lock that a thread may hold: the garbage collector calls this, in whichever thread it runs.
    """
    dropped = 0
    for lane in lanes:
        if lane.closed:
            continue
        lane.closed = True
        with contextlib.suppress(Empty):
            while (task := lane.tasks.get_nowait()) is not None:
                task[0].cancel()
                dropped += 1
        for _ in range(lane.n_threads):
            lane.tasks.put(None)
    return dropped


def _close_and_wait(lanes: Sequence[_Lane], threads: Sequence[threading.Thread]) -> None:
    _close(lanes)
    deadline = time.monotonic() + LAST_BATCH
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))


Token = TypeVar("Token")


class Batcher(Generic[Token]):
    """Fills batches, submits them, and delivers their features in the order of the pictures.

    Holds one batch more than the engine takes at once, whatever the number of pictures.

    Parameters
    ----------
    engine : Engine
        What computes the features.
    deliver : callable
        Called with what came along with each picture of a batch, and their features (n, n_features), float32.

    Attributes
    ----------
    n_sent : int
        Pictures submitted.
    seconds : float
        Waited for the engine.
    """

    def __init__(
        self, engine: Engine, deliver: Callable[[list[Token], npt.NDArray[np.float32]], None]
    ) -> None:
        self.n_sent = 0
        self.seconds = 0.0
        self._engine, self._deliver = engine, deliver
        self._shape = (engine.batch_size, engine.size, engine.size, 3)
        self._images = np.empty(self._shape, np.uint8)
        self._tokens: list[Token] = []
        self._spare: list[npt.NDArray[np.uint8]] = []
        self._sent: deque[tuple[list[Token], npt.NDArray[np.uint8], PendingFeatures]] = deque()

    def add(self, pixels: npt.NDArray[np.uint8], token: Token) -> None:
        """Take a copy of one picture (size, size, 3), and what its features are to be known by."""
        self._images[len(self._tokens)] = pixels
        self._tokens.append(token)
        if len(self._tokens) == len(self._images):
            self._send()

    def finish(self) -> None:
        """Submit what is left, and deliver all features that are still on their way."""
        if self._tokens:
            self._send()
        while self._sent:
            self._deliver(*self._take())

    def _send(self) -> None:
        done = self._take() if len(self._sent) >= self._engine.in_flight else None
        start = time.perf_counter()
        pending = self._engine.submit(self._images[: len(self._tokens)])
        self.seconds += time.perf_counter() - start
        self.n_sent += len(self._tokens)
        self._sent.append((self._tokens, self._images, pending))
        self._tokens = []
        self._images = self._spare.pop() if self._spare else np.empty(self._shape, np.uint8)
        if done is not None:
            self._deliver(*done)  # only now: the engine has its next batch
        if self._engine.in_flight == 1:  # it has computed while it was handed the batch
            self._deliver(*self._take())

    def _take(self) -> tuple[list[Token], npt.NDArray[np.float32]]:
        tokens, images, pending = self._sent.popleft()
        start = time.perf_counter()
        features = pending.result()
        self.seconds += time.perf_counter() - start
        self._spare.append(images)
        return tokens, features
