"""What the dense head is shown when its rows stay on disk: stretches of images that fit in memory.

Neighbours on disk are in no order that means anything: rows lie in the order of the files' SHA-256. All the
same every pass over the images puts them together anew, from runs of neighbours in a random order, and each
stretch is shuffled once more as a whole. While one is trained on, a thread reads and scales the next.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from classify.heads.rows import rows_by_image
from classify.streams import RowStream

if TYPE_CHECKING:
    import keras

MOST_IMAGES = 2**16  # of a stretch: at most steps as many as an epoch of so many images has
MOST_VALIDATION = 2**14  # images that decide when to stop; they are looked at after each stretch
RUN_IMAGES = 4096  # neighbours on disk that are read together, some ten chunks of the store
_COPIES = 6  # of a stretch in memory: as read, scaled and as a tensor, each once more for the next one


class Stretches:
    """Images in stretches without an end, each once a pass, by one view that is drawn at random."""

    def __init__(
        self, rows: RowStream, label: npt.NDArray[np.integer], *, kept: npt.NDArray[np.bool_], seed: int
    ) -> None:
        self.rows, self.seed = rows, seed
        self.images = rows_by_image(rows.image)
        place = np.full(len(rows), -1, dtype=np.int64)  # on disk, of each row
        start = 0
        for piece in rows.pieces:
            place[piece.position.ravel()] = np.arange(start, start + piece.position.size)
            start += piece.position.size
        wanted = np.flatnonzero(kept[self.images.plain])
        self.order = wanted[np.argsort(place[self.images.plain[wanted]], kind="stable")]  # of images, on disk
        self.label = label[self.images.plain]  # (n_images,)
        self.labels = self.label[self.order]
        affordable = rows.working_bytes // (_COPIES * 4 * rows.n_features)
        self.n_images = int(max(1, min(MOST_IMAGES, affordable, len(self.order))))

    def each(self, before: Sequence[keras.layers.Layer]) -> Generator[dict[str, np.ndarray]]:
        """Yield the scaled rows of one stretch after another, as `dense_training.Rows` names them."""
        with ThreadPoolExecutor(1) as reader:
            plan = self._plan()
            ahead = reader.submit(self._read, next(plan), before)
            try:
                while True:
                    ready = ahead.result()
                    ahead = reader.submit(self._read, next(plan), before)
                    yield ready
                    del ready
            finally:
                ahead.cancel()

    def _plan(self) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
        """Yield the images of each stretch, and the row of each that is shown."""
        n = len(self.order)
        run = min(RUN_IMAGES, max(1, self.n_images // 16))
        runs = np.array_split(self.order, -(-n // run))
        number = 0
        while True:
            generator = np.random.default_rng([self.seed, number])
            shuffled = np.concatenate([runs[k] for k in generator.permutation(len(runs))])
            for some in np.array_split(shuffled, -(-n // self.n_images)):
                view = (generator.random(len(some)) * self.images.count[some]).astype(np.int64)
                yield some, self.images.rows[self.images.start[some] + view]
            number += 1

    def _read(
        self,
        stretch: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]],
        before: Sequence[keras.layers.Layer],
    ) -> dict[str, np.ndarray]:
        from classify.heads.dense_network import scale_rows

        images, row = stretch
        every = np.arange(len(images))
        return {
            "X": scale_rows(before, self.rows.take(row), every),
            "start": every,
            "count": np.ones_like(every),
            "y": self.label[images],
        }
