"""Images placed on a plane so that those whose features are alike lie close together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from classify.data.neighbors import nearest_rows, unit_rows
from classify.report.images import RunImages
from featurize.base.typing import BoolArray, Float32Array

if TYPE_CHECKING:
    from classify.data.neighbors import NearestRows
    from classify.data.samples import Samples


N_DIMENSIONS = 50  # of the features before they are spread on the plane
N_STEPS = 500  # of t-SNE, half of which only part what is unlike; more of them change little
PERPLEXITY = 30  # about how many neighbours of an image count; fewer where there are few images
FEWEST = 5  # images from which neighbours can be told from the rest
_NEIGHBOURS = 10  # on which the share that is kept is counted

_MEANING = "Near means alike; distances between far groups mean little, and so do the axes."


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureMap:
    """Where images lie."""

    place: Float32Array  # (n, 2) in [0, 1]²; NaN for an image that is not placed
    method: str  # how, and what near and far mean: sentences for the reader
    share: float | None  # of an image's 10 nearest by features, those among its 10 nearest here; mean of all


def feature_map(
    X: Float32Array,
    *,
    seed: int = 0,
    most: int = 3_000,
    first: BoolArray | None = None,
    strata: npt.NDArray[np.int64] | None = None,
) -> FeatureMap:
    """Place images on a plane by their features.

    Features of length 1 are turned to their 50 principal components and spread by t-SNE, which begins with
    the first two; the same input has the same places to the byte.

    Parameters
    ----------
    X : ndarray of shape (n, n_features), float32
        Plain features of the final level, one row an image.
    seed : int
    most : int, default=3000
        Images that are placed at most: the time grows with them.
    first : ndarray of shape (n,), bool, optional
        Images that are placed before all others, where not all are.
    strata : ndarray of shape (n,), int, optional
        Classes, say: of the others about the same share of each is placed.

    Returns
    -------
    FeatureMap

    References
    ----------
    van der Maaten & Hinton, "Visualizing Data using t-SNE", JMLR 9 (2008).
    """
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    n = len(X)
    chosen = _chosen(n, most=most, seed=seed, first=first, strata=strata)
    place = np.full((n, 2), np.nan, dtype=np.float32)
    if not len(chosen):
        return FeatureMap(place=place, method="No image to place.", share=None)
    rows = unit_rows(X[chosen])
    with threadpool_limits(limits=1):  # the sum of several threads is not the same every time
        plane, how = _spread(rows, seed=seed)
        place[chosen] = _scaled(plane)
        share = _kept_neighbours(rows, place[chosen])
    some = "" if len(chosen) == n else f" {len(chosen)} of {n} images are placed."
    return FeatureMap(place=place, method=f"{how} {_MEANING}{some}", share=share)


def _chosen(
    n: int,
    *,
    most: int,
    seed: int,
    first: BoolArray | None,
    strata: npt.NDArray[np.int64] | None,
) -> npt.NDArray[np.int64]:
    """Return, in order, the rows that are placed."""
    if n <= most:
        return np.arange(n)
    generator = np.random.default_rng(seed)
    shuffled = generator.permutation(n)
    late = np.zeros(n, dtype=bool) if first is None else ~first
    kind = np.zeros(n, dtype=np.int64) if strata is None else strata
    # The share of its stratum that stands before an image: by that, strata are gone through side by side.
    before = np.empty(n)
    for late_one, kind_one in {(a, b) for a, b in zip(late.tolist(), kind.tolist(), strict=True)}:
        members = shuffled[(late[shuffled] == late_one) & (kind[shuffled] == kind_one)]
        before[members] = (np.arange(len(members)) + 0.5) / len(members)
    return np.sort(np.lexsort((np.arange(n), before, late))[:most])


def _spread(rows: Float32Array, *, seed: int) -> tuple[npt.NDArray[np.float64], str]:
    """Return places of any scale, (n, 2), and how they were found."""
    components = _principal(rows, seed=seed)
    n = len(rows)
    extent = float(components[:, 0].std())
    if n == 1:
        return components[:, :2], "There is one image."
    if extent < 1e-6:
        return np.zeros((n, 2)), "All images have the same features, so they lie on one point."
    if n < FEWEST:
        return components[:, :2], "The features' two directions of largest variance (PCA)."
    from sklearn.manifold import TSNE

    perplexity = min(float(PERPLEXITY), (n - 1) / 3)
    components = (components / extent).astype(np.float32)  # on which nothing depends but rounding
    spread = TSNE(
        perplexity=perplexity,
        init=components[:, :2] * np.float32(1e-4),  # as its own init="pca" has it
        learning_rate="auto",
        max_iter=N_STEPS,
        random_state=seed,
        method="barnes_hut",
        n_jobs=1,
    ).fit_transform(components)
    kept = min(N_DIMENSIONS, *rows.shape)
    return spread, f"t-SNE of the features' first {kept} principal components (perplexity {perplexity:.3g})."


def _principal(rows: Float32Array, *, seed: int) -> npt.NDArray[np.float64]:
    """Return principal components, (n, 2 to 50): the largest first, zeros where there are fewer than two."""
    n_kept = min(N_DIMENSIONS, *rows.shape)
    centred = rows.astype(np.float64) - rows.mean(axis=0, dtype=np.float64)
    found = np.zeros((len(rows), max(2, n_kept)))
    if n_kept and np.any(np.abs(centred) > 1e-9):
        from sklearn.utils.extmath import randomized_svd

        left, sizes, _ = randomized_svd(centred, n_kept, random_state=seed)
        found[:, :n_kept] = left * sizes
    return found


def _scaled(plane: npt.NDArray[np.float64]) -> Float32Array:
    """Return places within the unit square, both axes on one scale, the shorter one in the middle."""
    low, high = plane.min(axis=0), plane.max(axis=0)
    extent = float((high - low).max())
    if not extent > 0:
        return np.full(plane.shape, 0.5, dtype=np.float32)
    middle = (low + high) / 2
    return np.clip((plane - middle) / extent + 0.5, 0, 1).astype(np.float32)


def _kept_neighbours(rows: Float32Array, place: Float32Array) -> float | None:
    from sklearn.neighbors import NearestNeighbors

    k = min(_NEIGHBOURS, len(rows) - 1)
    if k < 1:
        return None
    self_ = np.arange(len(rows))
    by_features = nearest_rows(rows, rows, k=k, exclude_groups=((self_, self_),)).index
    on_map = NearestNeighbors(n_neighbors=k).fit(place).kneighbors(return_distance=False)
    return float(np.mean([np.isin(a, b).mean() for a, b in zip(by_features, on_map, strict=True)]))


N_NEAREST = 5  # training images beside each picture


class FeatureSpace:
    """The features of one store, and what lies near what in them.

    Parameters
    ----------
    samples : Samples
        Of the store.
    shown : RunImages
        Its images.
    used : ndarray of shape (n_images,), bool
        Those that there is to be anything of; the features of the others stay on disk.
    """

    def __init__(self, samples: Samples, shown: RunImages, used: BoolArray) -> None:
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
        from classify.data.neighbors import nearest_rows

        asked = sorted(
            {self.row_of_sample[int(self.shown.sample[image])] for unit in units for image in unit}
        )
        if not asked or not len(self.fitted):
            return [[] for _ in units]
        group = self.shown.group[self.images]
        found = nearest_rows(
            self.X[asked],
            self.X[self.fitted],
            k=N_NEAREST,
            exclude_groups=((group[asked], group[self.fitted]),),
        )
        place = {row: k for k, row in enumerate(asked)}
        return [
            self._best(found, [place[self.row_of_sample[int(self.shown.sample[image])]] for image in unit])
            for unit in units
        ]

    def map(self, *, seed: int) -> dict[str, Any]:
        """Return where the images lie on a plane."""
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

    def _best(self, found: NearestRows, rows: Sequence[int]) -> list[float]:
        likes: dict[int, float] = {}
        for row in rows:
            for index, similarity in zip(found.index[row], found.similarity[row], strict=True):
                if index >= 0:
                    image = int(self.images[self.fitted[index]])
                    likes[image] = max(float(similarity), likes.get(image, -1.0))
        best = sorted(likes.items(), key=lambda item: (-item[1], item[0]))[:N_NEAREST]
        return [value for image, similarity in best for value in (image, round(similarity, 3))]
