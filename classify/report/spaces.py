"""What lies near what in the features of a store: the images most alike, and a map of all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from classify.report.images import Shown

if TYPE_CHECKING:
    from classify.nearest import Nearest
    from classify.samples import Samples

BoolArray = npt.NDArray[np.bool_]

N_NEAREST = 5  # training images beside each picture


class Space:
    """The features of one store, and what lies near what in them.

    Parameters
    ----------
    samples : Samples
        Of the store.
    shown : Shown
        Its images.
    used : ndarray of shape (n_images,), bool
        Those that there is to be anything of; the features of the others stay on disk.
    """

    def __init__(self, samples: Samples, shown: Shown, used: BoolArray) -> None:
        known = np.flatnonzero((shown.sample >= 0) & used)
        # Where features of an entry's images were joined, its first image stands for all.
        _, first = np.unique(shown.sample[known], return_index=True)
        self.images = np.sort(known[first])
        self.shown = shown
        rows = samples.content[shown.sample[self.images]]
        self.X = samples.plain[rows][:, samples.columns("final")]
        self.row_of_sample = {int(shown.sample[image]): row for row, image in enumerate(self.images)}
        self.fitted = np.flatnonzero(shown.fitted[self.images])

    def nearest(self, units: Sequence[Sequence[int]]) -> list[list[float]]:
        """Return of each unit of images the training images most like any of them, and how like they are."""
        from classify.nearest import nearest

        asked = sorted(
            {self.row_of_sample[int(self.shown.sample[image])] for unit in units for image in unit}
        )
        if not asked or not len(self.fitted):
            return [[] for _ in units]
        group = self.shown.group[self.images]
        found = nearest(
            self.X[asked],
            self.X[self.fitted],
            k=N_NEAREST,
            apart=((group[asked], group[self.fitted]),),
        )
        place = {row: k for k, row in enumerate(asked)}
        return [
            self._best(found, [place[self.row_of_sample[int(self.shown.sample[image])]] for image in unit])
            for unit in units
        ]

    def map(self, *, seed: int) -> dict[str, Any]:
        """Return where the images lie on a plane."""
        from classify.report.feature_map import feature_map

        made = feature_map(
            self.X,
            seed=seed,
            first=self.shown.tested[self.images],
            strata=self.shown.y[self.images],
        )
        there = np.flatnonzero(np.isfinite(made.place[:, 0]))
        return {
            "image": self.images[there].tolist(),
            "x": made.place[there, 0].round(4).tolist(),
            "y": made.place[there, 1].round(4).tolist(),
            "method": made.method,
        }

    def _best(self, found: Nearest, rows: Sequence[int]) -> list[float]:
        likes: dict[int, float] = {}
        for row in rows:
            for index, similarity in zip(found.index[row], found.similarity[row], strict=True):
                if index >= 0:
                    image = int(self.images[self.fitted[index]])
                    likes[image] = max(float(similarity), likes.get(image, -1.0))
        best = sorted(likes.items(), key=lambda item: (-item[1], item[0]))[:N_NEAREST]
        return [value for image, similarity in best for value in (image, round(similarity, 3))]
