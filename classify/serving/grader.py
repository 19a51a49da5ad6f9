"""A bundle that stays ready: networks, decode processes and examples are loaded once and grade many times."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from classify.bundles.bundle import load_bundle
from classify.bundles.examples import Examples, load_examples
from classify.bundles.features import PartReaders, bundle_features
from classify.grades import Grade
from classify.grading import Listed, grade_rows
from classify.predict import bundle_folder
from featurize import BundleError, available_cores, printable

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from classify.bundles.bundle import Bundle

IMAGE_TIMEOUT = 30.0  # seconds for one file: others wait behind it
MOST_WORKERS = 4  # decode processes: each may hold one large picture
NEIGHBOURS = 5


@dataclass(frozen=True, kw_only=True)
class Near:
    """A fitted image that looks like a graded one."""

    example: int  # its number among the examples
    name: str
    grade: str  # the one it was fitted with
    similarity: float  # cosine of the features, 1 where they point the same way


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What is said of one image or entry."""

    grade: Grade
    nearest: tuple[Near, ...]  # the most similar first; () without examples, or without a grade


class Grader:
    """Grades files with one bundle, again and again, from one thread at a time. Use as a context manager.

    Parameters
    ----------
    bundle_or_run, weights, device, gpu_memory
        As in `classify.predict.predict`.
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
            (answer,) = self.grade([Listed(file=file, path=file.name, entry=file.name)], together=["0"])
        finally:
            file.unlink()
        if answer.grade.problem:
            raise BundleError(
                f"{self.bundle.path}: cannot grade a plain grey picture: {printable(answer.grade.problem)}"
            )

    def grade(self, listed: Sequence[Listed], *, together: Sequence[str]) -> tuple[Answer, ...]:
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

        from classify.portfolios import number_names

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
        grades = grade_rows(self.bundle, listed, found, together=together)
        if self.examples is None:
            return tuple(Answer(grade=grade, nearest=()) for grade in grades)
        row = number_names(together)[np.array(given, dtype=np.int64)[found.index]]  # of each readable file
        near = self._nearest(found.parts[self.examples.config_digest], row)
        return tuple(Answer(grade=grade, nearest=near.get(k, ())) for k, grade in enumerate(grades))

    def _nearest(
        self, features: npt.NDArray[np.float32], row: npt.NDArray[np.int64]
    ) -> dict[int, tuple[Near, ...]]:
        """Return the examples nearest to each row, a row of several images being the mean of them."""
        import numpy as np

        from classify.nearest import nearest
        from classify.portfolios import mean_by

        if self.examples is None or not len(row):
            return {}
        first, end = self.examples.columns
        rows, place = np.unique(row, return_inverse=True)
        mean = mean_by(features[:, first:end], place, n=len(rows))
        found = nearest(mean, self.examples.features, k=NEIGHBOURS)
        return {
            int(number): tuple(
                Near(
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
