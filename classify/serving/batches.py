"""Requests that wait together are graded together: one thread, a bounded number of requests."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field

from classify.grading import Listed
from classify.serving.grader import Answer
from featurize import FolioError

MOST_REQUESTS = 80  # that wait or are graded
MOST_FILES = 16  # in a batch; a request of more is a batch by itself

Grade = Callable[[Sequence[Listed], Sequence[str]], tuple[Answer, ...]]


class Busy(FolioError):
    """There is no place for another request, or the server is ending."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Job:
    """One request."""

    listed: Sequence[Listed]
    together: Sequence[str]
    answers: Future[tuple[Answer, ...]] = field(default_factory=Future)


class GradingQueue:
    """Grades what any number of threads ask for, in one thread of its own. Use as a context manager.

    Parameters
    ----------
    grade : callable
        From files, and a word for each that tells which are graded as one, to answers.
    most_requests : int
        That have a place at a time.
    """

    def __init__(self, grade: Grade, *, most_requests: int = MOST_REQUESTS) -> None:
        self._grade, self._most_requests = grade, most_requests
        self._n_places = 0
        self._jobs: deque[_Job] = deque()
        self._closed = False
        self._changed = threading.Condition()  # of the three above
        self._thread = threading.Thread(target=self._work, name="grading", daemon=True)
        self._thread.start()

    def __enter__(self) -> GradingQueue:
        return self

    def __exit__(self, *ended: object) -> None:
        self.close()

    def close(self, *, timeout: float = 5.0) -> None:
        """Refuse those that wait, and give the batch under way some seconds to end."""
        with self._changed:
            self._closed = True
            left, self._jobs = list(self._jobs), deque()
            self._changed.notify_all()
        for job in left:
            job.answers.set_exception(_ending())
        self._thread.join(timeout)

    @contextmanager
    def place(self) -> Iterator[None]:
        """Have one of the places while the block runs: to be taken before a request is unpacked.

        Raises
        ------
        Busy
            If all are taken, or the server is ending.
        """
        with self._changed:
            if self._closed:
                raise _ending()
            if self._n_places >= self._most_requests:
                raise Busy(f"{self._n_places} requests are being graded already: try again in a moment")
            self._n_places += 1
        try:
            yield
        finally:
            with self._changed:
                self._n_places -= 1

    def ask(self, listed: Sequence[Listed], *, together: Sequence[str]) -> tuple[Answer, ...]:
        """Return the answers of `Grader.grade`; waits for them.

        Raises
        ------
        Busy
            If the server is ending.
        FolioError
            If grading failed as a whole.
        """
        job = _Job(listed=listed, together=together)
        with self._changed:
            if self._closed:
                raise _ending()
            self._jobs.append(job)
            self._changed.notify_all()
        return job.answers.result()

    def _work(self) -> None:
        while batch := self._next_batch():
            if not self._answer(batch, last_try=len(batch) == 1):
                for job in batch:  # what one request brings about is no concern of the others
                    self._answer([job], last_try=True)

    def _answer(self, batch: Sequence[_Job], *, last_try: bool) -> bool:
        """Grade requests as one; tell them what came of it, but of a failure only if it is to be final."""
        listed = [one for job in batch for one in job.listed]
        # Numbered, so that what two requests call alike is not graded as one.
        together = [f"{k}/{word}" for k, job in enumerate(batch) for word in job.together]
        try:
            answers = self._grade(listed, together)
        except Exception as error:  # who waits must hear of it, and the next batch must come
            if last_try:
                for job in batch:
                    job.answers.set_exception(error)
            return last_try
        first = 0
        for job in batch:
            end = first + len(set(job.together))
            job.answers.set_result(answers[first:end])
            first = end
        return True

    def _next_batch(self) -> list[_Job]:
        """Wait for requests and take as many as a batch holds, at least one; none once closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._closed)
            batch: list[_Job] = []
            n_files = 0
            while self._jobs and (not batch or n_files + len(self._jobs[0].listed) <= MOST_FILES):
                batch.append(self._jobs.popleft())
                n_files += len(batch[-1].listed)
            return batch


def _ending() -> Busy:
    return Busy("the server is ending")
