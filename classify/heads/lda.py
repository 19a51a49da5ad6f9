"""Linear discriminant analysis with a shrunk covariance."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve
from scipy.special import softmax
from sklearn.covariance import ledoit_wolf_shrinkage
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.pipeline import Pipeline
from sklearn.utils import assert_all_finite
from sklearn.utils.class_weight import compute_class_weight

from classify.data.blocks import RowStream
from classify.heads.base import BaseHead, FitError, make_scaler, require_two_classes, streamed_note
from classify.heads.grouping import calibration_folds, held_out_scores, resolve_groups
from classify.heads.solvers.newton_cg import summed
from classify.heads.solvers.scaling import Scaled, fit_scaling
from classify.heads.solvers.temperature import temperature_of_scores
from featurize.base.typing import Float64Array, IntArray

LEAST = 1e-6  # shrinkage: without any, a covariance of fewer rows than columns has no inverse


class LDAHead(BaseHead):
    """Normal classes of one covariance, which is shrunk towards a sphere.

    The solution is that of ``LinearDiscriminantAnalysis(solver="lsqr")``, found by a Cholesky factor in place
    of an SVD of as many columns. "auto" is the shrinkage of Ledoit and Wolf for all rows together, each
    about its class mean; scikit-learn's "auto" finds one for each class apart, and needs many rows for that.
    It takes rows for independent, which views of one image are not: so other values are searched beside it.

    Parameters
    ----------
    shrinkage : "auto" or float, default="auto"
        Share of the sphere, above 0 up to 1.
    scaling : {"standardise", "l2"}, default="standardise"
    class_weight : {None, "balanced"} or dict, default=None
        Weighs the classes' shares, which are their prior probabilities.
    n_folds : int, default=5
        Parts for the temperature; fewer where a class has fewer groups.
    seed : int, default=0
        Of these parts.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    pipeline_ : Pipeline
        Scaler and LinearDiscriminantAnalysis, fitted.
    shrinkage_ : float
        The one used.
    temperature_ : float
        That scores are divided by: with many columns, and views that are no independent rows, the analysis
        is far too sure of itself.

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
        """Fit on all rows, and the temperature on plain ones that were held out.

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
            If there is one class only, a class has a single group, or the shrinkage is not one.
        """
        X, y = self._check_fit(X, y, dtype=np.float64)
        require_two_classes(self.classes_)
        scaler = make_scaler(self.scaling)
        Z = scaler.fit_transform(X)
        analysis = _Moments(Z, y).solve(self)
        self.temperature_ = self._temperature(Z, y, *resolve_groups(len(y), groups, image))
        self.pipeline_ = Pipeline([("scale", scaler), ("classify", analysis)])
        self.shrinkage_ = float(analysis.shrinkage)
        return self

    def fit_stream(self, rows: RowStream) -> LDAHead:
        """Fit on rows that stay on disk: the solution is that of `fit`, from sums over blocks.

        Raises
        ------
        FitError
            If the covariances that are summed do not fit in memory.
        """
        label = self._check_stream(rows)
        part, plain = calibration_folds(
            label,
            groups=rows.groups,
            image=rows.image,
            names=[str(one) for one in self.classes_],
            n_folds=self.n_folds,
            seed=self.seed,
        )
        scaled = fit_scaling(rows, self.scaling)
        sums = sum_cells(scaled, rows.y, part)
        if self.shrinkage == "auto":
            sums.add_fourth_moments(scaled)
        scores = np.empty((len(plain), len(self.classes_)))
        number = np.full(len(rows), -1, dtype=np.int64)
        number[plain] = np.arange(len(plain))
        without = [SummedMoments(sums, left_out=one).solve(self) for one in range(sums.n_parts)]

        def score(where: IntArray, Z: Float64Array) -> None:
            for one, analysis in enumerate(without):
                here = part[where] == one
                if here.any():
                    scores[number[where[here]]] = _scores(analysis, Z[here])

        for _ in scaled.map_blocks(score, chosen=number >= 0):
            pass
        self.temperature_ = temperature_of_scores(label[plain], scores)
        analysis = SummedMoments(sums).solve(self)
        self.pipeline_ = Pipeline([("scale", scaled.scaler), ("classify", analysis)])
        self.shrinkage_ = float(analysis.shrinkage)
        self.notes_ = (streamed_note(len(rows), "the same solution, from moments summed over blocks"),)
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return the class probabilities: (n_rows, n_classes), float64, columns as in `classes_`."""
        X = self._check_predict(X, dtype=np.float64)
        return softmax(_scores(self.pipeline_, X) / self.temperature_, axis=1)

    def _temperature(self, Z: Float64Array, y: np.ndarray, groups: np.ndarray, image: np.ndarray) -> float:
        scores, held_out = held_out_scores(
            lambda fitted, rows: _scores(_Moments(Z[fitted], y[fitted]).solve(self), Z[rows]),
            np.searchsorted(self.classes_, y),
            groups=groups,
            image=image,
            names=[str(one) for one in self.classes_],
            n_folds=self.n_folds,
            seed=self.seed,
        )
        return temperature_of_scores(held_out, scores)


def _scores(fitted: Pipeline | LinearDiscriminantAnalysis, X: Float64Array) -> Float64Array:
    """Return scores (n_rows, n_classes) whose softmax is the probabilities of the analysis."""
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
    """Return each head's predictions on `X_score` after a fit on the other rows; the heads stay unfitted.

    Heads of one scaling share the covariance. With `soft` it is the probabilities, (n_score, n_classes).
    """
    predictions: dict[int, np.ndarray] = {}
    assert_all_finite(X_fit)
    assert_all_finite(X_score)
    for scaling in {head.scaling: None for head in heads}:
        scaler = make_scaler(scaling, copy=False)
        moments = _Moments(scaler.fit_transform(X_fit.astype(np.float64)), y_fit)
        Z_score = scaler.transform(X_score.astype(np.float64))
        for index, head in enumerate(heads):
            if head.scaling == scaling:
                analysis = moments.solve(head)
                predictions[index] = (analysis.predict_proba if soft else analysis.predict)(Z_score)
    return [predictions[index] for index in range(len(heads))]


class _Moments:
    """Class means, and the covariance about them, of scaled rows."""

    def __init__(self, Z: Float64Array, y: np.ndarray) -> None:
        self.y = y
        self.classes, label = np.unique(y, return_inverse=True)
        self.means = np.stack([Z[label == k].mean(axis=0) for k in range(len(self.classes))])
        self.centred = Z - self.means[label]
        self.label = label
        self._covariances: dict[tuple, Float64Array] = {}
        self._ledoit_wolf: float | None = None

    def solve(self, head: LDAHead) -> LinearDiscriminantAnalysis:
        """Return scikit-learn's estimator at the solution, as if it had found it."""
        weight = compute_class_weight(head.class_weight, classes=self.classes, y=self.y)
        shares = np.bincount(self.label) * weight
        priors = shares / shares.sum()
        shrinkage = self._settled(head.shrinkage)
        analysis = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage, priors=priors)
        covariance = (1.0 - shrinkage) * self._covariance(priors)
        diagonal = np.arange(len(covariance))
        sphere = self._covariance(priors)[diagonal, diagonal].mean()
        # Rows that never differ within a class leave a covariance of zeros.
        covariance[diagonal, diagonal] += shrinkage * sphere or np.finfo(np.float64).eps
        factor = cho_factor(covariance, lower=True, overwrite_a=True, check_finite=False)
        coef = cho_solve(factor, self.means.T, check_finite=False).T
        intercept = -0.5 * np.sum(self.means * coef, axis=1) + np.log(priors)
        if len(self.classes) == 2:  # scikit-learn's one row is the difference of the two classes
            coef, intercept = coef[1:] - coef[:1], intercept[1:] - intercept[:1]
        analysis.classes_, analysis.priors_, analysis.means_ = self.classes, priors, self.means
        analysis.coef_, analysis.intercept_ = coef, intercept
        analysis.n_features_in_ = self.means.shape[1]
        return analysis

    def _settled(self, shrinkage: str | float) -> float:
        if shrinkage == "auto":
            if self._ledoit_wolf is None:
                self._ledoit_wolf = self._shrinkage_of_all()
            return max(self._ledoit_wolf, LEAST)
        if isinstance(shrinkage, str) or not 0 < shrinkage <= 1:
            raise FitError(f"shrinkage is {shrinkage!r}: expected auto, or a number above 0 up to 1.")
        return max(float(shrinkage), LEAST)

    def _covariance(self, priors: Float64Array) -> Float64Array:
        """Return the mean of the classes' covariances, weighted by their prior probabilities."""
        key = tuple(priors)
        if key not in self._covariances:
            self._covariances[key] = self._weighted(priors)
        return self._covariances[key]

    def _weighted(self, priors: Float64Array) -> Float64Array:
        share = (priors / np.bincount(self.label))[self.label]  # (n_rows,)
        scaled = self.centred * np.sqrt(share)[:, None]
        return scaled.T @ scaled

    def _shrinkage_of_all(self) -> float:
        return float(ledoit_wolf_shrinkage(self.centred, assume_centered=True))


class SummedMoments(_Moments):
    """The same from sums over all rows but those of one part."""

    def __init__(self, sums: CellSums, *, left_out: int | None = None) -> None:
        kept = np.arange(sums.n_parts) != (-1 if left_out is None else left_out)
        self.y = sums.y[kept[sums.part]]
        self.classes, self.label = np.unique(self.y, return_inverse=True)
        self.means, self.scatter = sums.moments(kept)
        self.fourth = None if sums.fourth is None else sums.fourth[-1 if left_out is None else left_out]
        self._covariances: dict[tuple, Float64Array] = {}
        self._ledoit_wolf: float | None = None

    def _weighted(self, priors: Float64Array) -> Float64Array:
        covariance: Float64Array = np.tensordot(priors / np.bincount(self.label), self.scatter, axes=1)
        return covariance

    def _shrinkage_of_all(self) -> float:
        """Return what scikit-learn's `ledoit_wolf_shrinkage` does of rows about their class means."""
        assert self.fourth is not None
        n, width = len(self.y), self.means.shape[1]
        total = self.scatter.sum(axis=0) / n
        mean = float(np.trace(total)) / width
        squares = float(np.sum(total**2))
        spread = (squares - width * mean**2) / width
        noise = min((self.fourth / n - squares) / (width * n), spread)
        return 0.0 if noise == 0 else noise / spread


_VALUES = 2**23  # of a block: adding to a matrix costs as much as the products of some hundred rows


@dataclass(kw_only=True, eq=False)
class CellSums:
    """What rows add up to; a cell is a class in a part."""

    y: npt.NDArray[np.integer]  # (n_rows,)
    part: IntArray  # (n_rows,) from 0
    n_parts: int
    counts: Float64Array  # (n_parts, n_classes)
    sums: Float64Array  # (n_parts, n_classes, n_columns)
    squares: Float64Array  # (n_parts, n_classes, n_columns, n_columns) sums of outer products
    fourth: Float64Array | None = None  # (n_parts + 1,) see `add_fourth_moments`

    def moments(self, kept: npt.NDArray[np.bool_]) -> tuple[Float64Array, Float64Array]:
        """Return of the parts that are kept the class means, and the scatter of each class about its mean."""
        counts, sums = self.counts[kept].sum(axis=0), self.sums[kept].sum(axis=0)
        scatter = self.squares[kept].sum(axis=0)  # (n_classes, n_columns, n_columns)
        means = sums / counts[:, None]
        for k, mean in enumerate(means):
            scatter[k] -= np.outer(sums[k], mean)
        return means, scatter

    def add_fourth_moments(self, scaled: Scaled) -> None:
        """Sum the fourth powers of the rows' distances from their class means.

        Without each part in turn, and at last over all rows: Ledoit's and Wolf's shrinkage needs them.
        """
        every = np.ones(self.n_parts, dtype=bool)
        kept = [*(np.arange(self.n_parts) != one for one in range(self.n_parts)), every]
        means = np.stack(
            [self.sums[some].sum(axis=0) / self.counts[some].sum(axis=0)[:, None] for some in kept]
        )
        label = np.unique(self.y, return_inverse=True)[1]
        lengths = np.square(means).sum(axis=2)  # (n_parts + 1, n_classes)

        def powers(where: IntArray, Z: Float64Array) -> Float64Array:
            own = label[where]
            products = np.einsum("ij,pkj->ipk", Z, means, optimize=True)[np.arange(len(Z)), :, own]
            squares = np.einsum("ij,ij->i", Z, Z)[:, None] - 2 * products + lengths.T[own]
            squares[self.part[where][:, None] == np.arange(self.n_parts + 1)] = 0.0
            return np.square(squares).sum(axis=0)

        self.fourth = summed(scaled.map_blocks(powers))


def sum_cells(scaled: Scaled, y: npt.NDArray[np.integer], part: IntArray) -> CellSums:
    """Sum the rows of each class in each part, and their outer products, in one pass.

    Raises
    ------
    FitError
        If there is no memory for them.
    """
    stream = scaled.stream
    classes, label = np.unique(y, return_inverse=True)
    n_parts, n_classes, width = int(part.max()) + 1, len(classes), stream.n_features
    n_cells = n_parts * n_classes
    needed = 8 * n_cells * width**2
    if needed > stream.working_bytes // 2:
        raise FitError(
            f"covariances of {n_classes} classes in {n_parts} parts take {needed / 1e9:.1f} GB: more than "
            "there is. Raise --memory"
        )
    cell = part * n_classes + label
    sums, squares = np.zeros((n_cells, width)), np.zeros((n_cells, width, width))

    def sorted_rows(where: IntArray, Z: Float64Array) -> tuple[Float64Array, IntArray]:
        order = np.argsort(cell[where], kind="stable")
        return Z[order], np.searchsorted(cell[where][order], np.arange(n_cells + 1))

    values = min(_VALUES, max(width, stream.working_bytes // (4 * 30 * (stream.threads + 2))))
    with ThreadPoolExecutor(stream.threads) as pool:
        for Z, ends in scaled.map_blocks(sorted_rows, values=values):

            def add(one: int, Z: Float64Array = Z, ends: IntArray = ends) -> None:
                rows = Z[ends[one] : ends[one + 1]]
                sums[one] += rows.sum(axis=0)
                squares[one] += rows.T @ rows

            list(pool.map(add, range(n_cells)))
    shape = (n_parts, n_classes)
    return CellSums(
        y=y,
        part=part,
        n_parts=n_parts,
        counts=np.bincount(cell, minlength=n_cells).reshape(shape).astype(np.float64),
        sums=sums.reshape(*shape, width),
        squares=squares.reshape(*shape, width, width),
    )
