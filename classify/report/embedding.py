"""Two-dimensional map of the images by t-SNE, and the most similar training images."""

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


N_COMPONENTS = 50  # principal components before t-SNE
N_STEPS = 500  # t-SNE iterations, half of them with early exaggeration; more change little
PERPLEXITY = 30  # effective number of neighbours; lower with few images
MIN_IMAGES = 5  # fewer images are placed by PCA alone
_N_NEIGHBOURS = 10  # neighbours compared for `FeatureMap.preserved`

_MEANING = (
    "Images near each other have similar features. The axes and the distances between separate clusters have "
    "no meaning."
)


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureMap:
    """Positions of images on a plane."""

    position: Float32Array  # (n, 2) in [0, 1]²; NaN for an image that is not placed
    method: str  # sentences: method and interpretation of the positions
    preserved: float | None  # mean fraction of an image's 10 nearest neighbours that are nearest here too


def feature_map(
    X: Float32Array,
    *,
    seed: int = 0,
    most: int = 3_000,
    first: BoolArray | None = None,
    strata: npt.NDArray[np.int64] | None = None,
) -> FeatureMap:
    """Return positions of images on a plane, computed from their features.

    The features are normalised to length 1, reduced to 50 principal components and embedded by t-SNE,
    starting from the first two components. The same input gives exactly the same positions.

    Parameters
    ----------
    X : ndarray of shape (n, n_features), float32
        Plain features of the final level, one row per image.
    seed : int
    most : int, default=3000
        Maximum number of placed images; the time grows with it.
    first : ndarray of shape (n,), bool, optional
        Images with priority if not all can be placed.
    strata : ndarray of shape (n,), int, optional
        For example classes: about the same fraction of each stratum is placed.

    Returns
    -------
    FeatureMap

    References
    ----------
    van der Maaten & Hinton, "Visualizing Data using t-SNE", JMLR 9 (2008).
    """
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    n = len(X)
    chosen = _chosen_rows(n, most=most, seed=seed, first=first, strata=strata)
    position = np.full((n, 2), np.nan, dtype=np.float32)
    if not len(chosen):
        return FeatureMap(position=position, method="There are no images.", preserved=None)
    rows = unit_rows(np.asarray(X[chosen], dtype=np.float32))
    with threadpool_limits(limits=1):  # sums of several threads are not reproducible
        plane, how = _embed(rows, seed=seed)
        position[chosen] = _scaled(plane)
        preserved = _preserved_neighbours(rows, position[chosen])
    sampled = "" if len(chosen) == n else f" {len(chosen)} of {n} images are shown."
    return FeatureMap(position=position, method=f"{how} {_MEANING}{sampled}", preserved=preserved)


def _chosen_rows(
    n: int,
    *,
    most: int,
    seed: int,
    first: BoolArray | None,
    strata: npt.NDArray[np.int64] | None,
) -> npt.NDArray[np.int64]:
    """Return the rows that are placed, in ascending order."""
    if n <= most:
        return np.arange(n)
    generator = np.random.default_rng(seed)
    shuffled = generator.permutation(n)
    late = np.zeros(n, dtype=bool) if first is None else ~first
    stratum = np.zeros(n, dtype=np.int64) if strata is None else strata
    # Images are ranked by their relative position in their shuffled stratum, so all strata are used up
    # evenly.
    rank = np.empty(n)
    for is_late, label in {(a, b) for a, b in zip(late.tolist(), stratum.tolist(), strict=True)}:
        members = shuffled[(late[shuffled] == is_late) & (stratum[shuffled] == label)]
        rank[members] = (np.arange(len(members)) + 0.5) / len(members)
    return np.sort(np.lexsort((np.arange(n), rank, late))[:most])


def _embed(rows: Float32Array, *, seed: int) -> tuple[npt.NDArray[np.float64], str]:
    """Return positions at any scale, (n, 2), and the method."""
    components = _principal_components(rows, seed=seed)
    n = len(rows)
    extent = float(components[:, 0].std())
    if n == 1:
        return components[:, :2], "There is one image."
    if extent < 1e-6:
        return np.zeros((n, 2)), "All images have the same features, so they are at the same point."
    if n < MIN_IMAGES:
        return components[:, :2], "First two principal components of the features (PCA)."
    from sklearn.manifold import TSNE

    perplexity = min(float(PERPLEXITY), (n - 1) / 3)
    components = (components / extent).astype(np.float32)  # scaling changes the result by rounding only
    embedded = TSNE(
        perplexity=perplexity,
        init=components[:, :2] * np.float32(1e-4),  # same scale as init="pca"
        learning_rate="auto",
        max_iter=N_STEPS,
        random_state=seed,
        method="barnes_hut",
        n_jobs=1,
    ).fit_transform(components)
    n_components = min(N_COMPONENTS, *rows.shape)
    method = f"t-SNE of the first {n_components} principal components (perplexity {perplexity:.3g})."
    return embedded, method


def _principal_components(rows: Float32Array, *, seed: int) -> npt.NDArray[np.float64]:
    """Return principal components, (n, 2 to 50), largest first; missing ones are zero."""
    n_components = min(N_COMPONENTS, *rows.shape)
    centred = rows.astype(np.float64) - rows.mean(axis=0, dtype=np.float64)
    components = np.zeros((len(rows), max(2, n_components)))
    if n_components and np.any(np.abs(centred) > 1e-9):
        from sklearn.utils.extmath import randomized_svd

        left, singular_values, _ = randomized_svd(centred, n_components, random_state=seed)
        components[:, :n_components] = left * singular_values
    return components


def _scaled(plane: npt.NDArray[np.float64]) -> Float32Array:
    """Return positions in the unit square with equal scales of both axes; the shorter axis is centred."""
    low, high = plane.min(axis=0), plane.max(axis=0)
    extent = float((high - low).max())
    if not extent > 0:
        return np.full(plane.shape, 0.5, dtype=np.float32)
    middle = (low + high) / 2
    return np.clip((plane - middle) / extent + 0.5, 0, 1).astype(np.float32)


def _preserved_neighbours(rows: Float32Array, position: Float32Array) -> float | None:
    from sklearn.neighbors import NearestNeighbors

    k = min(_N_NEIGHBOURS, len(rows) - 1)
    if k < 1:
        return None
    own = np.arange(len(rows))
    by_features = nearest_rows(rows, rows, k=k, exclude_groups=((own, own),)).index
    on_map = NearestNeighbors(n_neighbors=k).fit(position).kneighbors(return_distance=False)
    return float(np.mean([np.isin(a, b).mean() for a, b in zip(by_features, on_map, strict=True)]))


N_NEAREST = 5  # similar training images per entry


class FeatureSpace:
    """Features of the images in one store: similar training images, and the map.

    Parameters
    ----------
    samples : Samples
        Samples of the store.
    images : RunImages
        Images of the run.
    used : ndarray of shape (n_images,), bool
        Images to use; the features of the others are not read from disk.
    """

    def __init__(self, samples: Samples, images: RunImages, used: BoolArray) -> None:
        known = np.flatnonzero((images.sample >= 0) & used)
        # If the features of an entry's images were averaged, its first image represents the entry.
        _, first = np.unique(images.sample[known], return_index=True)
        self.image = np.sort(known[first])  # (n_rows,) image of each row of X
        self.images = images
        rows = samples.content[images.sample[self.image]]
        self.X = samples.plain[rows][:, samples.columns("final")]
        self.row_of_sample = {int(images.sample[image]): row for row, image in enumerate(self.image)}
        self.fitted = np.flatnonzero(images.fitted[self.image])

    def nearest(self, entries: Sequence[Sequence[int]]) -> list[list[float]]:
        """Return the training images most similar to any image of each entry, and the cosine similarities."""
        rows_of_entry = [
            [self.row_of_sample[int(self.images.sample[image])] for image in entry] for entry in entries
        ]
        rows = sorted({row for entry_rows in rows_of_entry for row in entry_rows})
        if not rows or not len(self.fitted):
            return [[] for _ in entries]
        group = self.images.group[self.image]
        neighbours = nearest_rows(
            self.X[rows],
            self.X[self.fitted],
            k=N_NEAREST,
            exclude_groups=((group[rows], group[self.fitted]),),
        )
        index = {row: k for k, row in enumerate(rows)}
        return [
            self._most_similar(neighbours, [index[row] for row in entry_rows]) for entry_rows in rows_of_entry
        ]

    def map(self, *, seed: int) -> dict[str, Any]:
        """Return the positions of the images on a plane."""
        positions = feature_map(
            self.X,
            seed=seed,
            first=self.images.tested[self.image],
            strata=self.images.y[self.image],
        )
        placed = np.flatnonzero(np.isfinite(positions.position[:, 0]))
        return {
            "image": self.image[placed].tolist(),
            "x": positions.position[placed, 0].round(4).tolist(),
            "y": positions.position[placed, 1].round(4).tolist(),
            "method": positions.method,
        }

    def _most_similar(self, neighbours: NearestRows, rows: Sequence[int]) -> list[float]:
        """Return image, similarity, image, similarity, … of the nearest neighbours of any of these rows."""
        similarities: dict[int, float] = {}
        for row in rows:
            for index, similarity in zip(neighbours.index[row], neighbours.similarity[row], strict=True):
                if index >= 0:
                    image = int(self.image[self.fitted[index]])
                    similarities[image] = max(float(similarity), similarities.get(image, -1.0))
        best = sorted(similarities.items(), key=lambda item: (-item[1], item[0]))[:N_NEAREST]
        return [value for image, similarity in best for value in (image, round(similarity, 3))]
