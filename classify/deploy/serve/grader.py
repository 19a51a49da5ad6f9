"""A bundle that stays ready: networks, decode processes and examples are loaded once and grade many times."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from classify.deploy.features import PartReaders, bundle_features
from classify.deploy.predict import InputFile, bundle_folder, predict_files
from classify.errors import BundleError
from classify.io.bundle import load_bundle
from classify.io.bundle_extras import Examples, load_examples
from classify.io.grades import PredictedGrade
from featurize.base.cores import available_cores
from featurize.base.text import printable
from featurize.errors import FolioError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from classify.io.bundle import Bundle


IMAGE_TIMEOUT = 30.0  # seconds for one file: others wait behind it
MOST_WORKERS = 4  # decode processes: each may hold one large picture
NEIGHBOURS = 5


@dataclass(frozen=True, kw_only=True)
class SimilarExample:
    """A fitted image that looks like a graded one."""

    example: int  # its number among the examples
    name: str
    grade: str  # the one it was fitted with
    similarity: float  # cosine of the features, 1 where they point the same way


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What is said of one image or entry."""

    grade: PredictedGrade
    nearest: tuple[SimilarExample, ...]  # the most similar first; () without examples, or without a grade


class Grader:
    """Grades files with one bundle, again and again, from one thread at a time. Use as a context manager.

    Parameters
    ----------
    bundle_or_run, weights, device, gpu_memory
        As in `classify.deploy.predict.predict`.
    max_pixels : int
        Larger pictures are refused; a JPEG counts as it is decoded.
    workers : int, optional
        Decode processes; one a core by default, but no more than four.

    Raises
    ------
    BundleError
        If the bundle cannot be used.
    """

    def __init__(
        self,
        bundle_or_run: str | os.PathLike[str],
        *,
        weights: str | os.PathLike[str] | None = None,
        device: str = "auto",
        gpu_memory: float | None = None,
        max_pixels: int = 200_000_000,
        workers: int | None = None,
    ) -> None:
        self.bundle: Bundle = load_bundle(bundle_folder(bundle_or_run))
        self.examples: Examples | None = load_examples(self.bundle)
        self.notes: tuple[str, ...] = ()  # what reading files had to say; after `warm_up`
        self._weights, self._device, self._gpu_memory = weights, device, gpu_memory
        self._readers = PartReaders(
            device=device,
            gpu_memory=gpu_memory,
            max_pixels=max_pixels,
            workers=workers or min(available_cores(), MOST_WORKERS),
            image_timeout=IMAGE_TIMEOUT,
        )

    def __enter__(self) -> Grader:
        return self

    def __exit__(self, *ended: object) -> None:
        self._readers.close()

    def warm_up(self, folder: Path) -> None:
        """Grade a grey picture written to ``folder``: what is missing is found now, and all is loaded.

        Raises
        ------
        FolioError
            If the weights, the precision or the decode processes are not to be had.
        """
        from PIL import Image

        file = folder / "grey.png"
        Image.new("RGB", (16, 16), "grey").save(file)
        try:
            (answer,) = self.grade([InputFile(file=file, path=file.name, entry=file.name)], together=["0"])
        finally:
            file.unlink()
        if answer.grade.problem:
            raise BundleError(
                f"{self.bundle.path}: cannot grade a plain grey picture: {printable(answer.grade.problem)}"
            )

    def grade(self, listed: Sequence[InputFile], *, together: Sequence[str]) -> tuple[Answer, ...]:
        """Grade files; equal words in ``together`` (one a file) are graded as one.

        Returns
        -------
        tuple of Answer
            In the order in which each first occurs.

        Raises
        ------
        FolioError
            If nothing can be graded at all; a bad file is an answer with its problem.
        """
        import numpy as np

        from classify.data.entries import number_names

        given = [k for k, one in enumerate(listed) if not one.problem]
        found = bundle_features(
            self.bundle.members or (self.bundle,),
            [listed[k].file for k in given],
            weights=self._weights,
            device=self._device,
            gpu_memory=self._gpu_memory,
            on_progress=None,
            readers=self._readers,
        )
        self.notes = found.notes
        grades = predict_files(self.bundle, listed, found, together=together)
        if self.examples is None:
            return tuple(Answer(grade=grade, nearest=()) for grade in grades)
        row = number_names(together)[np.array(given, dtype=np.int64)[found.index]]  # of each readable file
        near = self._nearest(found.parts[self.examples.config_digest], row)
        return tuple(Answer(grade=grade, nearest=near.get(k, ())) for k, grade in enumerate(grades))

    def _nearest(
        self, features: npt.NDArray[np.float32], row: npt.NDArray[np.int64]
    ) -> dict[int, tuple[SimilarExample, ...]]:
        """Return the examples nearest to each row, a row of several images being the mean of them."""
        import numpy as np

        from classify.data.entries import group_means
        from classify.data.neighbors import nearest_rows

        if self.examples is None or not len(row):
            return {}
        first, end = self.examples.columns
        rows, place = np.unique(row, return_inverse=True)
        mean = group_means(features[:, first:end], place, n=len(rows))
        found = nearest_rows(mean, self.examples.features, k=NEIGHBOURS)
        return {
            int(number): tuple(
                SimilarExample(
                    example=int(i),
                    name=self.examples.names[i],
                    grade=self.bundle.classes[self.examples.y[i]],
                    similarity=float(similarity),
                )
                for i, similarity in zip(index, similarities, strict=True)
                if i >= 0
            )
            for number, index, similarities in zip(rows, found.index, found.similarity, strict=True)
        }


MOST_REQUESTS = 80  # that wait or are graded
MOST_FILES = 16  # in a batch; a request of more is a batch by itself

GradeFiles = Callable[[Sequence[InputFile], Sequence[str]], tuple[Answer, ...]]


class ServerBusyError(FolioError):
    """There is no place for another request, or the server is ending."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Job:
    """One request."""

    listed: Sequence[InputFile]
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

    def __init__(self, grade: GradeFiles, *, most_requests: int = MOST_REQUESTS) -> None:
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
        ServerBusyError
            If all are taken, or the server is ending.
        """
        with self._changed:
            if self._closed:
                raise _ending()
            if self._n_places >= self._most_requests:
                raise ServerBusyError(
                    f"{self._n_places} requests are being graded already: try again in a moment"
                )
            self._n_places += 1
        try:
            yield
        finally:
            with self._changed:
                self._n_places -= 1

    def ask(self, listed: Sequence[InputFile], *, together: Sequence[str]) -> tuple[Answer, ...]:
        """Return the answers of `Grader.grade`; waits for them.

        Raises
        ------
        ServerBusyError
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


def _ending() -> ServerBusyError:
    return ServerBusyError("the server is ending")
