"""Nearest-centroid classifier with calibrated probabilities."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.metrics.pairwise import euclidean_distances

from classify.heads.base import SCALERS, BaseHead, make_scaler, require_two_classes, streamed_note
from classify.heads.grouping import calibration_folds, held_out_scores, resolve_groups
from classify.heads.solvers.newton_cg import sum_blocks
from classify.heads.solvers.scaling import fit_scaling
from featurize.base.typing import Float64Array, IntArray

if TYPE_CHECKING:
    from classify.data.blocks import RowStream

# Searched values, in units of 1 / (mean squared distance to the nearest class mean).
SHARPNESS_RANGE = (1e-3, 1e4)


class NearestCentroidHead(BaseHead):
    """The class with the nearest mean; probabilities are a softmax of scaled squared distances.

    With a thousand columns, a softmax of the squared distances themselves would give probabilities close to 0
    and 1. So they are multiplied by one number, which minimises the log loss of out-of-fold distances. The
    predicted class remains the one with the nearest mean.

    Parameters
    ----------
    scaling : {"standardise", "l2"}, default="standardise"
    n_folds : int, default=5
        Folds used to fit this number; fewer if a class has fewer groups.
    seed : int, default=0
        Seed of these folds.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    scaler_ : fitted transformer
    means_ : ndarray of shape (n_classes, n_features)
        Class means of the scaled rows.
    sharpness_ : float
        Factor of the squared distances.

    References
    ----------
    One number for all classes, as in temperature scaling: Guo, Pleiss, Sun & Weinberger, "On calibration of
    modern neural networks", arXiv:1706.04599, section 4.2.
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
        """Compute the class means over all views, and fit the sharpness on plain views out of fold.

        Parameters
        ----------
        X : ndarray of shape (n_rows, n_features)
            Unscaled features.
        y : ndarray of shape (n_rows,)
        groups, image : ndarray of shape (n_rows,), optional
            Group and image of each row; no fold splits a group. By default each image is a group, and each
            row an image.

        Raises
        ------
        CompareError
            If there is only one class, or a class has a single group.
        """
        X, y = self._check_fit(X, y, dtype=np.float64)
        require_two_classes(self.classes_)
        groups, image = resolve_groups(len(y), groups, image)
        self.scaler_ = make_scaler(self.scaling)
        Z, label = self.scaler_.fit_transform(X), np.searchsorted(self.classes_, y)
        self.means_ = _class_means(Z, label)
        distances, image_label = held_out_scores(
            lambda fit_mask, rows: _squared_distances(Z[rows], _class_means(Z[fit_mask], label[fit_mask])),
            label,
            groups=groups,
            image=image,
            names=[str(name) for name in self.classes_],
            n_folds=self.n_folds,
            seed=self.seed,
        )
        self.sharpness_ = _fit_sharpness(distances, image_label)
        return self

    def fit_stream(self, rows: RowStream) -> NearestCentroidHead:
        """Fit on rows that stay on disk; the means and distances equal those of `fit`."""
        label = self._check_stream(rows)
        fold, plain = calibration_folds(
            label,
            groups=rows.groups,
            image=rows.image,
            names=[str(name) for name in self.classes_],
            n_folds=self.n_folds,
            seed=self.seed,
        )
        scaled, n_classes = fit_scaling(rows, self.scaling), len(self.classes_)
        n_folds = int(fold.max()) + 1
        cell, n_cells = fold * n_classes + label, n_folds * n_classes  # a cell is one class within one fold

        def cell_sums(position: IntArray, Z: Float64Array) -> Float64Array:
            return (np.arange(n_cells)[:, None] == cell[position]).astype(np.float64) @ Z

        sums = sum_blocks(scaled.map_blocks(cell_sums)).reshape(n_folds, n_classes, -1)
        counts = np.bincount(cell, minlength=n_cells).reshape(n_folds, n_classes)
        self.means_ = sums.sum(axis=0) / counts.sum(axis=0)[:, None]
        # Class means without the rows of each fold.
        fold_means = (sums.sum(axis=0) - sums) / (counts.sum(axis=0) - counts)[:, :, None]
        fold_means = fold_means.reshape(n_cells, -1)
        distances = np.empty((len(plain), n_classes))
        image_index = np.full(len(rows), -1, dtype=np.int64)  # index of the image of plain rows, else -1
        image_index[plain] = np.arange(len(plain))

        def measure(position: IntArray, Z: Float64Array) -> None:
            fold_distances = _squared_distances(Z, fold_means).reshape(len(Z), n_folds, n_classes)
            distances[image_index[position]] = fold_distances[np.arange(len(Z)), fold[position]]

        for _ in scaled.map_blocks(measure, chosen=image_index >= 0):
            pass
        self.scaler_ = scaled.scaler
        self.sharpness_ = _fit_sharpness(distances, label[plain])
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
    """Return the squared distance of each row from each mean: (n_rows, n_means)."""
    return euclidean_distances(Z, means, squared=True)


def _fit_sharpness(distances: Float64Array, label: npt.NDArray[np.integer]) -> float:
    """Return the factor of squared distances (n, n_classes) that minimises the mean log loss."""
    unit = float(distances.min(axis=1).mean()) or 1.0
    rows = np.arange(len(label))

    def loss(log_factor: float) -> float:
        return -float(log_softmax(-np.exp(log_factor) / unit * distances, axis=1)[rows, label].mean())

    result = minimize_scalar(loss, bounds=np.log(SHARPNESS_RANGE), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(result.x)) / unit
