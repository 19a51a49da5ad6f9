"""Predictions of one loaded bundle for many requests: a predictor and the queue in front of it."""

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
from classify.deploy.serve import Limits
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


IMAGE_TIMEOUT = 30.0  # seconds per file: other requests wait for it
MAX_WORKERS = 4  # decode processes: each may hold one large image in memory
N_SIMILAR = 5


@dataclass(frozen=True, kw_only=True)
class SimilarExample:
    """A training image that is similar to a new one."""

    example: int  # index among the bundle's examples
    name: str
    grade: str  # its label
    similarity: float  # cosine of the features, at most 1


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Predicted grade and similar training images of one image or entry."""

    grade: PredictedGrade
    similar: tuple[SimilarExample, ...]  # most similar first; () without examples or without a grade


class Predictor:
    """A loaded bundle that predicts repeatedly, from one thread at a time. Use as a context manager.

    Networks, decode processes and examples are loaded once.

    Parameters
    ----------
    bundle_or_run, weights, device, gpu_memory
        As in `classify.deploy.predict.predict`.
    max_pixels : int
        Larger images are refused; a JPEG counts at the scale at which it is decoded.
    workers : int, optional
        Decode processes; one per core by default, at most four.

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
        max_pixels: int = Limits.max_pixels,
        workers: int | None = None,
    ) -> None:
        self.bundle: Bundle = load_bundle(bundle_folder(bundle_or_run))
        self.examples: Examples | None = load_examples(self.bundle)
        self.notes: tuple[str, ...] = ()  # messages of the last prediction
        self._weights, self._device, self._gpu_memory = weights, device, gpu_memory
        self._readers = PartReaders(
            device=device,
            gpu_memory=gpu_memory,
            max_pixels=max_pixels,
            workers=workers or min(available_cores(), MAX_WORKERS),
            image_timeout=IMAGE_TIMEOUT,
        )

    def __enter__(self) -> Predictor:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._readers.close()

    def warm_up(self, folder: Path) -> None:
        """Predict a grey image written to ``folder``, so that everything is loaded and errors show now.

        Raises
        ------
        FolioError
            If the weights, the precision or the decode processes are not available.
        """
        from PIL import Image

        file = folder / "grey.png"
        Image.new("RGB", (16, 16), "grey").save(file)
        try:
            (prediction,) = self.predict([InputFile(file=file, path=file.name, entry=file.name)], ["grey"])
        finally:
            file.unlink()
        if prediction.grade.problem:
            raise BundleError(
                f"{self.bundle.path}: no prediction for a plain grey image: "
                f"{printable(prediction.grade.problem)}"
            )

    def predict(self, files: Sequence[InputFile], entry_keys: Sequence[str]) -> tuple[Prediction, ...]:
        """Predict the grade of each entry.

        Parameters
        ----------
        files : sequence of InputFile
        entry_keys : sequence of str
            One per file; files with equal keys are one entry.

        Returns
        -------
        tuple of Prediction
            One per entry, in the order of each entry's first file. An unreadable file is a problem of its
            entry.

        Raises
        ------
        FolioError
            If no prediction is possible at all.
        """
        import numpy as np

        from classify.data.entries import number_names

        candidates = [k for k, file in enumerate(files) if not file.problem]
        features = bundle_features(
            self.bundle.members or (self.bundle,),
            [files[k].file for k in candidates],
            weights=self._weights,
            device=self._device,
            gpu_memory=self._gpu_memory,
            on_progress=None,
            readers=self._readers,
        )
        self.notes = features.notes
        grades = predict_files(self.bundle, files, features, entry_keys=entry_keys)
        if self.examples is None:
            return tuple(Prediction(grade=grade, similar=()) for grade in grades)
        readable = np.array(candidates, dtype=np.int64)[features.index]
        entry = number_names(entry_keys)[readable]
        similar = self._similar_examples(features.parts[self.examples.config_digest], entry)
        return tuple(Prediction(grade=grade, similar=similar.get(k, ())) for k, grade in enumerate(grades))

    def _similar_examples(
        self, features: npt.NDArray[np.float32], entry: npt.NDArray[np.int64]
    ) -> dict[int, tuple[SimilarExample, ...]]:
        """Return the examples nearest to each entry; an entry of several images is their mean.

        Parameters
        ----------
        features : ndarray of shape (n_readable, n_features)
        entry : ndarray of shape (n_readable,)
            Number of each row's entry.
        """
        import numpy as np

        from classify.data.entries import group_means
        from classify.data.neighbors import nearest_rows

        if self.examples is None or not len(entry):
            return {}
        first, end = self.examples.columns
        entries, position = np.unique(entry, return_inverse=True)
        means = group_means(features[:, first:end], position, n=len(entries))
        nearest = nearest_rows(means, self.examples.features, k=N_SIMILAR)
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
            for number, index, similarities in zip(entries, nearest.index, nearest.similarity, strict=True)
        }


MAX_REQUESTS = 80  # queued or in progress
MAX_BATCH_FILES = 16  # a request with more files is a batch by itself

PredictFiles = Callable[[Sequence[InputFile], Sequence[str]], tuple[Prediction, ...]]


class ServerBusyError(FolioError):
    """The queue is full, or the server is shutting down."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Job:
    """One request."""

    files: Sequence[InputFile]
    entry_keys: Sequence[str]
    predictions: Future[tuple[Prediction, ...]] = field(default_factory=Future)


class PredictionQueue:
    """Predictions for any number of threads, computed in one thread. Use as a context manager.

    Parameters
    ----------
    predict : callable
        `Predictor.predict`.
    max_requests : int
        Requests that may be queued or in progress.
    """

    def __init__(self, predict: PredictFiles, *, max_requests: int = MAX_REQUESTS) -> None:
        self._predict, self._max_requests = predict, max_requests
        self._n_requests = 0
        self._jobs: deque[_Job] = deque()
        self._closed = False
        self._changed = threading.Condition()  # guards the three attributes above
        self._thread = threading.Thread(target=self._work, name="prediction", daemon=True)
        self._thread.start()

    def __enter__(self) -> PredictionQueue:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self, *, timeout: float = 5.0) -> None:
        """Refuse queued requests, and wait up to ``timeout`` seconds for the batch in progress."""
        with self._changed:
            self._closed = True
            queued, self._jobs = list(self._jobs), deque()
            self._changed.notify_all()
        for job in queued:
            job.predictions.set_exception(_shutting_down())
        self._thread.join(timeout)

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Hold a slot of the queue; take it before reading a request's body.

        Raises
        ------
        ServerBusyError
            If all slots are taken, or the server is shutting down.
        """
        with self._changed:
            if self._closed:
                raise _shutting_down()
            if self._n_requests >= self._max_requests:
                raise ServerBusyError(
                    f"{self._n_requests} requests are in progress already: try again in a moment"
                )
            self._n_requests += 1
        try:
            yield
        finally:
            with self._changed:
                self._n_requests -= 1

    def predict(self, files: Sequence[InputFile], entry_keys: Sequence[str]) -> tuple[Prediction, ...]:
        """Wait for the predictions of one request and return them; see `Predictor.predict`.

        Raises
        ------
        ServerBusyError
            If the server is shutting down.
        FolioError
            If no prediction is possible at all.
        """
        job = _Job(files=files, entry_keys=entry_keys)
        with self._changed:
            if self._closed:
                raise _shutting_down()
            self._jobs.append(job)
            self._changed.notify_all()
        return job.predictions.result()

    def _work(self) -> None:
        while batch := self._next_batch():
            if not self._run(batch, last_try=len(batch) == 1):
                for job in batch:  # each by itself, so that one request cannot fail the others
                    self._run([job], last_try=True)

    def _run(self, batch: Sequence[_Job], *, last_try: bool) -> bool:
        """Predict several requests at once; return True once each has a result or an exception.

        A failure is passed to the requests only on their last try.
        """
        files = [file for job in batch for file in job.files]
        # Prefixed by request, so that equal keys of two requests stay two entries.
        entry_keys = [f"{k}/{key}" for k, job in enumerate(batch) for key in job.entry_keys]
        try:
            predictions = self._predict(files, entry_keys)
        except Exception as error:  # the waiting threads get it, and the queue goes on
            if last_try:
                for job in batch:
                    job.predictions.set_exception(error)
            return last_try
        first = 0
        for job in batch:
            end = first + len(set(job.entry_keys))
            job.predictions.set_result(predictions[first:end])
            first = end
        return True

    def _next_batch(self) -> list[_Job]:
        """Wait for requests; return as many as fit into a batch, at least one, or none once closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._closed)
            batch: list[_Job] = []
            n_files = 0
            while self._jobs and (not batch or n_files + len(self._jobs[0].files) <= MAX_BATCH_FILES):
                batch.append(self._jobs.popleft())
                n_files += len(batch[-1].files)
            return batch


def _shutting_down() -> ServerBusyError:
    return ServerBusyError("the server is shutting down")
