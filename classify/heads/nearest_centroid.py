"""The nearest class mean: what a head without any weights to learn can do."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.metrics.pairwise import euclidean_distances

from classify.data.blocks import RowStream
from classify.heads.base import SCALERS, BaseHead, make_scaler, require_two_classes, streamed_note
from classify.heads.grouping import calibration_folds, held_out_scores, resolve_groups
from classify.heads.solvers.newton_cg import summed
from classify.heads.solvers.scaling import fit_scaling
from featurize.base.typing import Float64Array, IntArray

SHARPNESS = (1e-3, 1e4)  # searched, in units of one over the mean squared distance to the nearest mean


class NearestCentroidHead(BaseHead):
    """The class whose mean is nearest; probabilities from how often rows at such distances were right.

    A softmax of distances as they are is all but sure of everything in a thousand columns. So squared
    distances are multiplied by one number first, which makes the log loss smallest for rows whose groups were
    left out of the means. That changes no order: the class stays the one with the nearest mean.

    Parameters
    ----------
    scaling : {"standardise", "l2"}, default="standardise"
    n_folds : int, default=5
        Parts for finding that number; fewer where a class has fewer groups.
    seed : int, default=0
        For these parts.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    scaler_ : fitted transformer
    means_ : ndarray of shape (n_classes, n_features)
        Of scaled rows.
    sharpness_ : float
        What squared distances are multiplied by.

    References
    ----------
    One number for all classes: Guo, Pleiss, Sun & Weinberger, "On calibration of modern neural networks",
    arXiv:1706.04599, section 4.2.
    """

    FITTED = BaseHead.FITTED | {
        "scaler_": SCALERS,
        "means_": np.ndarray,
        "sharpness_": float,
    }

    def __init__(self, *, scaling: str = "standardise", n_folds: int = 5, seed: int = 0) -> None:
        self.scaling = scaling
        self.n_folds = n_folds
        self.seed = seed

    def fit(
        self,
        X: np.ndarray,
        y: np.ndarray,
        *,
        groups: np.ndarray | None = None,
        image: np.ndarray | None = None,
    ) -> NearestCentroidHead:
        """Take the mean of each class, over all views, and settle how sharp probabilities are on plain ones.

        Parameters
        ----------
        X : ndarray of shape (n_rows, n_features)
            Unscaled features.
        y : ndarray of shape (n_rows,)
        groups, image : ndarray of shape (n_rows,), optional
            What must not be parted, by default each image, and which rows are views of one image, by default
            none.

        Raises
        ------
        CompareError
            If there is one class only, or a class has a single group.
        """
        X, y = self._check_fit(X, y, dtype=np.float64)
        require_two_classes(self.classes_)
        groups, image = resolve_groups(len(y), groups, image)
        self.scaler_ = make_scaler(self.scaling)
        Z, label = self.scaler_.fit_transform(X), np.searchsorted(self.classes_, y)
        self.means_ = _class_means(Z, label)
        distances, held_out = held_out_scores(
            lambda fitted, rows: _squared_distances(Z[rows], _class_means(Z[fitted], label[fitted])),
            label,
            groups=groups,
            image=image,
            names=[str(one) for one in self.classes_],
            n_folds=self.n_folds,
            seed=self.seed,
        )
        self.sharpness_ = _sharpness(distances, held_out)
        return self

    def fit_stream(self, rows: RowStream) -> NearestCentroidHead:
        """Fit on rows that stay on disk: the means, and the distances, are those of `fit`."""
        label = self._check_stream(rows)
        part, plain = calibration_folds(
            label,
            groups=rows.groups,
            image=rows.image,
            names=[str(one) for one in self.classes_],
            n_folds=self.n_folds,
            seed=self.seed,
        )
        scaled, n_classes = fit_scaling(rows, self.scaling), len(self.classes_)
        cell, n_parts = part * n_classes + label, int(part.max()) + 1
        n_cells = n_parts * n_classes

        def sums_of(where: IntArray, Z: Float64Array) -> Float64Array:
            return (np.arange(n_cells)[:, None] == cell[where]).astype(np.float64) @ Z

        sums = summed(scaled.map_blocks(sums_of)).reshape(n_parts, n_classes, -1)
        counts = np.bincount(cell, minlength=n_cells).reshape(n_parts, n_classes)
        self.means_ = sums.sum(axis=0) / counts.sum(axis=0)[:, None]
        without = (sums.sum(axis=0) - sums) / (counts.sum(axis=0) - counts)[:, :, None]
        distances = np.empty((len(plain), n_classes))
        number = np.full(len(rows), -1, dtype=np.int64)
        number[plain] = np.arange(len(plain))

        def measure(where: IntArray, Z: Float64Array) -> None:
            every = _squared_distances(Z, without.reshape(n_cells, -1)).reshape(len(Z), n_parts, n_classes)
            distances[number[where]] = every[np.arange(len(Z)), part[where]]

        for _ in scaled.map_blocks(measure, chosen=number >= 0):
            pass
        self.scaler_ = scaled.scaler
        self.sharpness_ = _sharpness(distances, label[plain])
        self.notes_ = (streamed_note(len(rows), "the same means, summed over blocks"),)
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return the class probabilities: (n_rows, n_classes), float64, columns as in `classes_`."""
        X = self._check_predict(X, dtype=np.float64)
        distances = _squared_distances(self.scaler_.transform(X), self.means_)
        return softmax(-self.sharpness_ * distances, axis=1)


def _class_means(Z: Float64Array, label: npt.NDArray[np.integer]) -> Float64Array:
    return np.stack([Z[label == k].mean(axis=0) for k in range(int(label.max()) + 1)])


def _squared_distances(Z: Float64Array, means: Float64Array) -> Float64Array:
    """Return the squared distance of each row from each mean: (n_rows, n_classes)."""
    return euclidean_distances(Z, means, squared=True)


def _sharpness(distances: Float64Array, label: npt.NDArray[np.integer]) -> float:
    """Return the factor of squared distances (n, n_classes) at which the mean log loss is smallest."""
    unit = float(distances.min(axis=1).mean()) or 1.0
    rows = np.arange(len(label))

    def loss(log_factor: float) -> float:
        return -float(log_softmax(-np.exp(log_factor) / unit * distances, axis=1)[rows, label].mean())

    found = minimize_scalar(loss, bounds=np.log(SHARPNESS), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x)) / unit
