"""Linear discriminant analysis with a shrunk covariance and temperature scaling."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve
from scipy.special import softmax
from sklearn.covariance import ledoit_wolf_shrinkage
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.pipeline import Pipeline
from sklearn.utils import assert_all_finite
from sklearn.utils.class_weight import compute_class_weight

from classify.heads.base import BaseHead, FitError, make_scaler, require_two_classes, streamed_note
from classify.heads.grouping import calibration_folds, held_out_scores, resolve_groups
from classify.heads.solvers.newton_cg import sum_blocks
from classify.heads.solvers.scaling import ScaledStream, fit_scaling
from classify.heads.solvers.temperature import temperature_of_scores
from featurize.base.typing import Float64Array, IntArray

if TYPE_CHECKING:
    from classify.data.blocks import RowStream

MIN_SHRINKAGE = 1e-6  # a covariance of fewer rows than columns is singular without shrinkage


class LDAHead(BaseHead):
    """Normally distributed classes with a common covariance, shrunk towards a multiple of the identity.

    The solution equals that of ``LinearDiscriminantAnalysis(solver="lsqr")``, but is computed with a Cholesky
    factor instead of an SVD. "auto" is the Ledoit-Wolf shrinkage of all rows, each centred on its class mean;
    scikit-learn's "auto" estimates the shrinkage of each class separately and needs many rows for that.
    Ledoit-Wolf assumes independent rows, which the views of one image are not; therefore the grid holds other
    values too.

    Parameters
    ----------
    shrinkage : "auto" or float, default="auto"
        Weight of the multiple of the identity, above 0 and up to 1.
    scaling : {"standardise", "l2"}, default="standardise"
    class_weight : {None, "balanced"} or dict, default=None
        Weights of the class frequencies, which are the prior probabilities.
    n_folds : int, default=5
        Folds used to fit the temperature; fewer if a class has fewer groups.
    seed : int, default=0
        Seed of these folds.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    pipeline_ : Pipeline
        Scaler and LinearDiscriminantAnalysis, fitted.
    shrinkage_ : float
        Shrinkage used.
    temperature_ : float
        Divisor of the scores. Without it the probabilities are overconfident, because there are many columns
        and the views of one image are not independent.

    References
    ----------
    Ledoit & Wolf, "A well-conditioned estimator for large-dimensional covariance matrices", 2004.
    """

    FITTED = BaseHead.FITTED | {
        "pipeline_": Pipeline,
        "shrinkage_": float,
        "temperature_": float,
    }

    def __init__(
        self,
        *,
        shrinkage: str | float = "auto",
        scaling: str = "standardise",
        class_weight: str | dict | None = None,
        n_folds: int = 5,
        seed: int = 0,
    ) -> None:
        self.shrinkage = shrinkage
        self.scaling = scaling
        self.class_weight = class_weight
        self.n_folds = n_folds
        self.seed = seed

    def fit(
        self,
        X: np.ndarray,
        y: np.ndarray,
        *,
        groups: np.ndarray | None = None,
        image: np.ndarray | None = None,
    ) -> LDAHead:
        """Fit on all rows, and fit the temperature on plain views out of fold.

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
            If there is only one class, a class has a single group, or the shrinkage is invalid.
        """
        X, y = self._check_fit(X, y, dtype=np.float64)
        require_two_classes(self.classes_)
        scaler = make_scaler(self.scaling)
        Z = scaler.fit_transform(X)
        lda = _ClassMoments(Z, y).solve(self)
        self.temperature_ = self._fit_temperature(Z, y, *resolve_groups(len(y), groups, image))
        self.pipeline_ = Pipeline([("scale", scaler), ("classify", lda)])
        self.shrinkage_ = float(lda.shrinkage)
        return self

    def fit_stream(self, rows: RowStream) -> LDAHead:
        """Fit on rows that stay on disk; the solution equals that of `fit`, computed from sums over blocks.

        Raises
        ------
        FitError
            If the covariances do not fit in memory.
        """
        label = self._check_stream(rows)
        fold, plain = calibration_folds(
            label,
            groups=rows.groups,
            image=rows.image,
            names=[str(name) for name in self.classes_],
            n_folds=self.n_folds,
            seed=self.seed,
        )
        scaled = fit_scaling(rows, self.scaling)
        sums = sum_cells(scaled, rows.y, fold)
        if self.shrinkage == "auto":
            sums.add_fourth_moments(scaled)
        scores = np.empty((len(plain), len(self.classes_)))
        image_index = np.full(len(rows), -1, dtype=np.int64)  # index of the image of plain rows, else -1
        image_index[plain] = np.arange(len(plain))
        fold_ldas = [_SummedMoments(sums, left_out=k).solve(self) for k in range(sums.n_folds)]

        def score(position: IntArray, Z: Float64Array) -> None:
            for k, lda in enumerate(fold_ldas):
                in_fold = fold[position] == k
                if in_fold.any():
                    scores[image_index[position[in_fold]]] = _scores(lda, Z[in_fold])

        for _ in scaled.map_blocks(score, chosen=image_index >= 0):
            pass
        self.temperature_ = temperature_of_scores(label[plain], scores)
        lda = _SummedMoments(sums).solve(self)
        self.pipeline_ = Pipeline([("scale", scaled.scaler), ("classify", lda)])
        self.shrinkage_ = float(lda.shrinkage)
        self.notes_ = (streamed_note(len(rows), "the same solution, from moments summed over blocks"),)
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return the class probabilities: (n_rows, n_classes), float64, columns as in `classes_`."""
        X = self._check_predict(X, dtype=np.float64)
        return softmax(_scores(self.pipeline_, X) / self.temperature_, axis=1)

    def _fit_temperature(
        self, Z: Float64Array, y: np.ndarray, groups: np.ndarray, image: np.ndarray
    ) -> float:
        scores, label = held_out_scores(
            lambda fit_mask, rows: _scores(_ClassMoments(Z[fit_mask], y[fit_mask]).solve(self), Z[rows]),
            np.searchsorted(self.classes_, y),
            groups=groups,
            image=image,
            names=[str(name) for name in self.classes_],
            n_folds=self.n_folds,
            seed=self.seed,
        )
        return temperature_of_scores(label, scores)


def _scores(fitted: Pipeline | LinearDiscriminantAnalysis, X: Float64Array) -> Float64Array:
    """Return scores (n_rows, n_classes) whose softmax is the probabilities of the fitted LDA."""
    scores = fitted.decision_function(X)
    return scores if scores.ndim > 1 else np.column_stack([np.zeros(len(scores)), scores])


def fold_predictions(
    heads: Sequence[LDAHead],
    X_fit: np.ndarray,
    y_fit: np.ndarray,
    X_score: np.ndarray,
    *,
    soft: bool = False,
) -> list[np.ndarray]:
    """Fit each head on the rows of a fold and predict the scored rows; see `knn.fold_predictions`.

    Heads with the same scaling share the covariance. Probabilities are not temperature-scaled.
    """
    predictions: dict[int, np.ndarray] = {}
    assert_all_finite(X_fit)
    assert_all_finite(X_score)
    for scaling in {head.scaling: None for head in heads}:
        scaler = make_scaler(scaling, copy=False)
        moments = _ClassMoments(scaler.fit_transform(X_fit.astype(np.float64)), y_fit)
        Z_score = scaler.transform(X_score.astype(np.float64))
        for index, head in enumerate(heads):
            if head.scaling == scaling:
                lda = moments.solve(head)
                predictions[index] = (lda.predict_proba if soft else lda.predict)(Z_score)
    return [predictions[index] for index in range(len(heads))]


class _ClassMoments:
    """Class means and within-class covariance of scaled rows."""

    def __init__(self, Z: Float64Array, y: np.ndarray) -> None:
        self.y = y
        self.classes, label = np.unique(y, return_inverse=True)
        self.means = np.stack([Z[label == k].mean(axis=0) for k in range(len(self.classes))])
        self.centred = Z - self.means[label]
        self.label = label
        self._covariances: dict[tuple, Float64Array] = {}
        self._ledoit_wolf: float | None = None

    def solve(self, head: LDAHead) -> LinearDiscriminantAnalysis:
        """Return scikit-learn's estimator with the solution as its fitted attributes."""
        weight = compute_class_weight(head.class_weight, classes=self.classes, y=self.y)
        weighted_counts = np.bincount(self.label) * weight
        priors = weighted_counts / weighted_counts.sum()
        shrinkage = self._resolve_shrinkage(head.shrinkage)
        lda = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage, priors=priors)
        covariance = (1.0 - shrinkage) * self._covariance(priors)
        diagonal = np.arange(len(covariance))
        mean_variance = self._covariance(priors)[diagonal, diagonal].mean()
        # If all rows of each class are equal, the covariance is zero.
        covariance[diagonal, diagonal] += shrinkage * mean_variance or np.finfo(np.float64).eps
        factor = cho_factor(covariance, lower=True, overwrite_a=True, check_finite=False)
        coef = cho_solve(factor, self.means.T, check_finite=False).T
        intercept = -0.5 * np.sum(self.means * coef, axis=1) + np.log(priors)
        if len(self.classes) == 2:  # scikit-learn's single row is the difference of the two classes
            coef, intercept = coef[1:] - coef[:1], intercept[1:] - intercept[:1]
        lda.classes_, lda.priors_, lda.means_ = self.classes, priors, self.means
        lda.coef_, lda.intercept_ = coef, intercept
        lda.n_features_in_ = self.means.shape[1]
        return lda

    def _resolve_shrinkage(self, shrinkage: str | float) -> float:
        if shrinkage == "auto":
            if self._ledoit_wolf is None:
                self._ledoit_wolf = self._ledoit_wolf_shrinkage()
            return max(self._ledoit_wolf, MIN_SHRINKAGE)
        if isinstance(shrinkage, str) or not 0 < shrinkage <= 1:
            raise FitError(f"shrinkage is {shrinkage!r}: expected auto, or a number above 0 up to 1.")
        return max(float(shrinkage), MIN_SHRINKAGE)

    def _covariance(self, priors: Float64Array) -> Float64Array:
        """Return the mean of the class covariances, weighted by the prior probabilities; cached."""
        key = tuple(priors)
        if key not in self._covariances:
            self._covariances[key] = self._weighted_covariance(priors)
        return self._covariances[key]

    def _weighted_covariance(self, priors: Float64Array) -> Float64Array:
        row_weight = (priors / np.bincount(self.label))[self.label]  # (n_rows,)
        scaled = self.centred * np.sqrt(row_weight)[:, None]
        return scaled.T @ scaled

    def _ledoit_wolf_shrinkage(self) -> float:
        return float(ledoit_wolf_shrinkage(self.centred, assume_centered=True))


class _SummedMoments(_ClassMoments):
    """Class moments from sums over the rows of all folds, or of all folds except one."""

    def __init__(self, sums: CellSums, *, left_out: int | None = None) -> None:
        included = np.arange(sums.n_folds) != (-1 if left_out is None else left_out)
        self.y = sums.y[included[sums.fold]]
        self.classes, self.label = np.unique(self.y, return_inverse=True)
        self.means, self.scatter = sums.moments(included)
        self.fourth = None if sums.fourth is None else sums.fourth[-1 if left_out is None else left_out]
        self._covariances: dict[tuple, Float64Array] = {}
        self._ledoit_wolf: float | None = None

    def _weighted_covariance(self, priors: Float64Array) -> Float64Array:
        covariance: Float64Array = np.tensordot(priors / np.bincount(self.label), self.scatter, axes=1)
        return covariance

    def _ledoit_wolf_shrinkage(self) -> float:
        """As scikit-learn's `ledoit_wolf_shrinkage`, for rows centred on their class means."""
        assert self.fourth is not None
        n, width = len(self.y), self.means.shape[1]
        total = self.scatter.sum(axis=0) / n
        mean = float(np.trace(total)) / width
        squares = float(np.sum(total**2))
        spread = (squares - width * mean**2) / width
        noise = min((self.fourth / n - squares) / (width * n), spread)
        return 0.0 if noise == 0 else noise / spread


# Values of a block. Large blocks are faster: adding to a matrix takes as long as the products of about a
# hundred rows.
_BLOCK_VALUES = 2**23


@dataclass(kw_only=True, eq=False)
class CellSums:
    """Sums over the rows of each cell, where a cell is one class within one fold."""

    y: npt.NDArray[np.integer]  # (n_rows,)
    fold: IntArray  # (n_rows,) from 0
    n_folds: int
    counts: Float64Array  # (n_folds, n_classes)
    sums: Float64Array  # (n_folds, n_classes, n_columns)
    squares: Float64Array  # (n_folds, n_classes, n_columns, n_columns) sums of outer products
    fourth: Float64Array | None = None  # (n_folds + 1,) see `add_fourth_moments`

    def moments(self, included: npt.NDArray[np.bool_]) -> tuple[Float64Array, Float64Array]:
        """Return the class means of the included folds, and the scatter of each class about its mean."""
        counts, sums = self.counts[included].sum(axis=0), self.sums[included].sum(axis=0)
        scatter = self.squares[included].sum(axis=0)  # (n_classes, n_columns, n_columns)
        means = sums / counts[:, None]
        for k, mean in enumerate(means):
            scatter[k] -= np.outer(sums[k], mean)
        return means, scatter

    def add_fourth_moments(self, scaled: ScaledStream) -> None:
        """Set `fourth`: sums of the fourth powers of the distances of rows from their class means.

        The sums are over all rows except those of each fold and, last, over all rows. The Ledoit-Wolf
        shrinkage needs them.
        """
        folds = np.arange(self.n_folds)
        included = [*(folds != k for k in folds), np.ones(self.n_folds, dtype=bool)]
        means = np.stack(
            [self.sums[mask].sum(axis=0) / self.counts[mask].sum(axis=0)[:, None] for mask in included]
        )
        label = np.unique(self.y, return_inverse=True)[1]
        squared_norms = np.square(means).sum(axis=2)  # (n_folds + 1, n_classes)

        def fourth_powers(position: IntArray, Z: Float64Array) -> Float64Array:
            own = label[position]
            products = np.einsum("ij,pkj->ipk", Z, means, optimize=True)[np.arange(len(Z)), :, own]
            squares = np.einsum("ij,ij->i", Z, Z)[:, None] - 2 * products + squared_norms.T[own]
            squares[self.fold[position][:, None] == np.arange(self.n_folds + 1)] = 0.0
            return np.square(squares).sum(axis=0)

        self.fourth = sum_blocks(scaled.map_blocks(fourth_powers))


def sum_cells(scaled: ScaledStream, y: npt.NDArray[np.integer], fold: IntArray) -> CellSums:
    """Sum the rows of each class in each fold, and their outer products, in one pass.

    Raises
    ------
    FitError
        If they do not fit in memory.
    """
    stream = scaled.stream
    classes, label = np.unique(y, return_inverse=True)
    n_folds, n_classes, width = int(fold.max()) + 1, len(classes), stream.n_features
    n_cells = n_folds * n_classes
    needed = 8 * n_cells * width**2
    if needed > stream.working_bytes // 2:
        raise FitError(
            f"covariances of {n_classes} classes in {n_folds} folds take {needed / 1e9:.1f} GB: more than "
            "the memory limit allows. Raise --memory"
        )
    cell = fold * n_classes + label
    sums, squares = np.zeros((n_cells, width)), np.zeros((n_cells, width, width))

    def sort_by_cell(position: IntArray, Z: Float64Array) -> tuple[Float64Array, IntArray]:
        order = np.argsort(cell[position], kind="stable")
        return Z[order], np.searchsorted(cell[position][order], np.arange(n_cells + 1))

    values = min(_BLOCK_VALUES, max(width, stream.working_bytes // (4 * 30 * (stream.threads + 2))))
    with ThreadPoolExecutor(stream.threads) as pool:
        for Z, ends in scaled.map_blocks(sort_by_cell, values=values):

            def add(k: int, Z: Float64Array = Z, ends: IntArray = ends) -> None:
                rows = Z[ends[k] : ends[k + 1]]
                sums[k] += rows.sum(axis=0)
                squares[k] += rows.T @ rows

            list(pool.map(add, range(n_cells)))
    shape = (n_folds, n_classes)
    return CellSums(
        y=y,
        fold=fold,
        n_folds=n_folds,
        counts=np.bincount(cell, minlength=n_cells).reshape(shape).astype(np.float64),
        sums=sums.reshape(*shape, width),
        squares=squares.reshape(*shape, width, width),
    )
