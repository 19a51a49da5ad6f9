"""Decode processes that serve one list of requests after another: fed ahead, watched, replaced."""

from __future__ import annotations

import mmap
import time
from collections import deque
from collections.abc import Callable, Generator
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any

from featurize.decode.cores import available_cores
from featurize.decode.workers import NEVER, Heard, SharedMemory, Worker, WorkerSetting
from featurize.errors import ImageError

AHEAD = 4  # requests under way or done and not yet taken, a worker: one slot of shared memory each
IN_PIPE = 2  # requests that a worker has at once, so that it need not wait for the next
_SHORT, _LONG = 0.05, 1.0  # seconds; the inbox is looked at once more before anyone is called overdue

Message = dict[str, Any]


class WorkerPool:
    """Processes that answer requests, each into its own slot of shared memory. Use as a context manager.

    Parameters
    ----------
    setting : WorkerSetting
        What the workers are told.
    slot_bytes : int
        Of shared memory, for the largest request.
    workers : int, optional
        Processes; one a core by default.
    """

    def __init__(self, setting: WorkerSetting, *, slot_bytes: int, workers: int | None = None) -> None:
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
