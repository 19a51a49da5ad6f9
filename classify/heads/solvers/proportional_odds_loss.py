"""Proportional-odds loss: one score per row, and thresholds that divide the scores into ordered classes.

P(y <= k) is the logistic function S of threshold k minus the score. Let b and a be the thresholds above and
below a class, minus the score. The probability of the class is S(b) S(-a) (1 - e^(a-b)), and a - b is the
same for all rows. So the loss is the sum of logistic losses at the thresholds adjacent to the class of each
row, plus a barrier that keeps the thresholds apart. It is convex (Pratt, "Concavity of the log likelihood",
1981).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from classify.heads.solvers.newton_cg import (
    CholeskyFactor,
    Problem,
    StreamedProblem,
    factorise,
    row_space,
    times_columns,
    times_rows,
)
from classify.heads.solvers.scaling import ScaledStream
from featurize.base.typing import Float32Array, Float64Array, IntArray

# Hessian of half the square of a gap, with respect to the two thresholds.
_GAP_HESSIAN = np.array([[1.0, -1.0], [-1.0, 1.0]], dtype=np.float32)
# Second derivatives: of each row at the threshold above its class, at the one below it, and of each gap.
Curvatures = tuple[Float64Array, Float64Array, Float64Array]


@dataclass(frozen=True, kw_only=True)
class OrdinalSolution:
    """Coefficients of the score, ``Z @ coef``, and thresholds between the classes."""

    coef: Float64Array  # (n_columns,)
    thresholds: Float64Array  # (n_classes - 1,) ascending
    gradient: float  # largest component of the gradient of the mean loss
    n_iter: int  # Newton steps


def solve_ordinal_path(
    Z: Float64Array,
    label: npt.NDArray[np.integer],
    *,
    C: Sequence[float],
    weight: Float64Array | None = None,
    tol: float = 1e-6,
    max_iter: int = 100,
) -> Iterator[OrdinalSolution]:
    """Yield the solution for each C, starting from the previous one.

    The objective is as in `softmax_loss`: the weighted sum of the log losses times C, plus half the sum of
    the squared coefficients; thresholds are not penalised.

    Parameters
    ----------
    Z : ndarray of shape (n_rows, n_columns), float64
        Scaled rows. Left unchanged.
    label : ndarray of shape (n_rows,), int
        Class of each row, 0 to n_classes - 1 in the order of the classes, each present.
    C : sequence of float
        Ascending values are fastest.
    weight : ndarray of shape (n_rows,), optional
        Weight of each row; 1 by default.
    tol : float
        Stop when the largest component of the gradient of the mean loss is below this.
    max_iter : int
        Maximum number of Newton steps for each C.

    References
    ----------
    McCullagh, "Regression models for ordinal data", 1980.
    """
    weight = np.ones(len(Z)) if weight is None else np.asarray(weight, dtype=np.float64)
    Z, basis = row_space(Z)
    n_columns = Z.shape[1]
    problem = OrdinalProblem(Z, label, weight, rotated=basis is not None)
    unknowns = _initial_unknowns(n_columns, problem.class_share)
    for value in C:
        penalty = 1.0 / (value * weight.sum())
        unknowns, size, n_iter = problem.minimise(unknowns, penalty, tol=tol, max_iter=max_iter)
        coef, thresholds = unknowns[0, :n_columns], unknowns[0, n_columns:].copy()
        coef = coef.copy() if basis is None else basis @ coef
        yield OrdinalSolution(coef=coef, thresholds=thresholds, gradient=size, n_iter=n_iter)


def class_probabilities(score: Float64Array, thresholds: Float64Array) -> Float64Array:
    """Return the probability of each class, (n_rows, n_classes), from scores (n_rows,)."""
    above = thresholds - score[:, None]  # (n_rows, n_classes - 1)
    probabilities = np.empty((len(score), len(thresholds) + 1))
    probabilities[:, 0], probabilities[:, -1] = expit(above[:, 0]), expit(-above[:, -1])
    probabilities[:, 1:-1] = expit(above[:, 1:]) * expit(-above[:, :-1]) * -np.expm1(-np.diff(thresholds))
    return probabilities


def _initial_unknowns(n_columns: int, class_share: Float64Array) -> Float64Array:
    """Return the solution for zero coefficients: thresholds are log odds of the class shares below them."""
    below = np.cumsum(class_share)[:-1]
    unknowns = np.zeros((1, n_columns + len(below)))
    unknowns[0, n_columns:] = np.log(below / (1.0 - below))
    return unknowns


@dataclass(frozen=True, kw_only=True, eq=False)
class AdjacentThresholds:
    """Indices of the thresholds above and below the class of each row, and the weights of the row there.

    All arrays have shape (n_rows,).
    """

    upper: npt.NDArray[np.integer]
    lower: npt.NDArray[np.integer]
    upper_share: Float64Array
    lower_share: Float64Array

    @classmethod
    def of(cls, label: npt.NDArray[np.integer], share: Float64Array, n_classes: int) -> AdjacentThresholds:
        """Return the thresholds for rows with these classes and shares of the total weight."""
        # The first class has no threshold below it and the last has none above: the weight there is 0.
        return cls(
            upper=np.minimum(label, n_classes - 2),
            lower=np.maximum(label - 1, 0),
            upper_share=np.where(label < n_classes - 1, share, 0.0),
            lower_share=np.where(label > 0, share, 0.0),
        )

    def take(self, rows: IntArray) -> AdjacentThresholds:
        """Return the thresholds of some rows."""
        return AdjacentThresholds(
            upper=self.upper[rows],
            lower=self.lower[rows],
            upper_share=self.upper_share[rows],
            lower_share=self.lower_share[rows],
        )


class OrdinalProblem(Problem):
    """Proportional-odds loss of rows in memory; unknowns are (1, n_columns + n_thresholds)."""

    def __init__(
        self,
        Z: Float64Array,
        label: npt.NDArray[np.integer],
        weight: Float64Array,
        *,
        rotated: bool,
        n_classes: int | None = None,
    ) -> None:
        self.Z, self.Z32 = Z, Z.astype(np.float32)
        self.n_columns = Z.shape[1]
        self.rotated = rotated  # the columns are those of `row_space`, not those of the caller
        self.label = label
        n_classes = n_classes or int(label.max()) + 1
        self.n_thresholds = n_classes - 1
        self.share = weight / weight.sum()  # (n_rows,)
        class_share = np.bincount(label, weights=self.share, minlength=n_classes)
        self.class_share = class_share.astype(np.float64)  # (n_classes,)
        self.adjacent = AdjacentThresholds.of(label, self.share, n_classes)
        self._mean_moments: list[Float32Array] | None = None

    def _gradient_size(self, gradient: Float64Array) -> float:
        columns, thresholds = gradient[0, : self.n_columns], gradient[0, self.n_columns :]
        # In rotated columns the norm is an upper bound of the components in the columns of the caller.
        size = np.linalg.norm(columns) if self.rotated else np.abs(columns).max()
        return float(max(size, np.abs(thresholds).max()))

    def _evaluate(
        self, unknowns: Float64Array, penalty: float
    ) -> tuple[float, Float64Array, Curvatures | None]:
        """Return the loss (infinite if thresholds are not ascending), its gradient, and the curvatures."""
        penalty_loss, penalty_gradient, gaps = self.penalty_loss(unknowns, penalty, self.class_share)
        if gaps is None:
            return np.inf, np.zeros_like(unknowns), None
        loss, gradient, above, below = self.rows_loss(unknowns, self.Z, self.adjacent)
        return loss + penalty_loss, gradient + penalty_gradient, (above, below, gaps)

    def rows_loss(
        self, unknowns: Float64Array, Z: Float64Array, adjacent: AdjacentThresholds
    ) -> tuple[float, Float64Array, Float64Array, Float64Array]:
        """Return the loss and gradient of some rows, and their curvatures at the adjacent thresholds."""
        coef, thresholds = unknowns[:, : self.n_columns], unknowns[0, self.n_columns :]
        score = times_columns(coef, Z)[0]
        above, below = thresholds[adjacent.upper] - score, thresholds[adjacent.lower] - score
        loss = float(adjacent.upper_share @ np.logaddexp(0.0, -above))
        loss += float(adjacent.lower_share @ np.logaddexp(0.0, below))
        upper_slope, lower_slope = adjacent.upper_share * expit(-above), adjacent.lower_share * expit(below)
        gradient = np.empty_like(unknowns)
        gradient[:, : self.n_columns] = times_rows((upper_slope - lower_slope)[None], Z)
        gradient[0, self.n_columns :] = self._sum_at_thresholds(-upper_slope, lower_slope, adjacent)
        return loss, gradient, upper_slope * expit(above), lower_slope * expit(-below)

    def penalty_loss(
        self, unknowns: Float64Array, penalty: float, class_share: Float64Array
    ) -> tuple[float, Float64Array, Float64Array | None]:
        """Return the L2 penalty plus the barrier, its gradient, and the curvature of the barrier at each gap.

        The loss is infinite, and the curvature None, if the thresholds are not ascending.
        """
        coef, thresholds = unknowns[:, : self.n_columns], unknowns[0, self.n_columns :]
        gaps = np.diff(thresholds)
        if not (gaps > 0).all():
            return np.inf, np.zeros_like(unknowns), None
        inner_share, factor = class_share[1:-1], -np.expm1(-gaps)  # factor: 1 - e^(a-b) of the inner classes
        gradient = np.zeros_like(unknowns)
        gradient[:, : self.n_columns] = penalty * coef
        gradient[0, self.n_columns :] = _gap_gradient(-inner_share * np.exp(-gaps) / factor)
        loss = 0.5 * penalty * float(np.sum(coef**2)) - float(inner_share @ np.log(factor))
        return loss, gradient, inner_share * np.exp(-gaps) / factor**2

    def _sum_at_thresholds(
        self, upper: Float64Array, lower: Float64Array, adjacent: AdjacentThresholds
    ) -> Float64Array:
        """Add the values of each row to the thresholds above and below its class: (n_thresholds,)."""
        total: Float64Array = np.zeros(self.n_thresholds)
        total += np.bincount(adjacent.upper, weights=upper, minlength=self.n_thresholds)
        total += np.bincount(adjacent.lower, weights=lower, minlength=self.n_thresholds)
        return total

    def _hessian_product(self, vector: Float32Array, state: Curvatures, penalty: float) -> Float32Array:
        """Return the Hessian times a vector; float64 keeps the digits of small curvatures."""
        above, below, gaps = state
        product = self.rows_hessian_product(vector, self.Z32, self.adjacent, above, below)
        return product + self.penalty_hessian_product(vector, gaps, penalty)

    def rows_hessian_product(
        self,
        vector: Float32Array,
        Z32: Float32Array,
        adjacent: AdjacentThresholds,
        above: Float64Array,
        below: Float64Array,
    ) -> Float32Array:
        """Return the Hessian of rows with these curvatures times a vector."""
        score = times_columns(vector[:, : self.n_columns], Z32)[0].astype(np.float64)
        thresholds = vector[0, self.n_columns :].astype(np.float64)
        at_upper = above * (thresholds[adjacent.upper] - score)
        at_lower = below * (thresholds[adjacent.lower] - score)
        product = np.empty_like(vector)
        product[:, : self.n_columns] = times_rows(-(at_upper + at_lower).astype(np.float32)[None], Z32)
        product[0, self.n_columns :] = self._sum_at_thresholds(at_upper, at_lower, adjacent)
        return product

    def penalty_hessian_product(
        self, vector: Float32Array, gaps: Float64Array, penalty: float
    ) -> Float32Array:
        """Return the Hessian of the penalty and of the barrier with curvatures `gaps`, times a vector."""
        product = np.zeros_like(vector)
        product[:, : self.n_columns] = np.float32(penalty) * vector[:, : self.n_columns]
        differences = np.diff(vector[0, self.n_columns :].astype(np.float64))
        product[0, self.n_columns :] = _gap_gradient(gaps * differences)
        return product

    def _preconditioner(self, state: Curvatures, penalty: float, *, weighted: bool) -> CholeskyFactor:
        """Factorise the Hessian; unless `weighted`, with mean curvatures above and below the classes."""
        above, below, gaps = state
        n = self.n_columns
        if weighted:
            matrix = self._moments(above, below)
        else:
            upper_share, lower_share = self.adjacent.upper_share, self.adjacent.lower_share
            if self._mean_moments is None:
                zeros = np.zeros(len(self.label))
                self._mean_moments = [self._moments(upper_share, zeros), self._moments(zeros, lower_share)]
            upper_moments, lower_moments = self._mean_moments
            matrix = np.float32(above.sum() / upper_share.sum()) * upper_moments
            matrix = matrix + np.float32(below.sum() / lower_share.sum()) * lower_moments
        for k, gap in enumerate(gaps):
            matrix[n + k : n + k + 2, n + k : n + k + 2] += np.float32(gap) * _GAP_HESSIAN
        diagonal = np.arange(n)
        matrix[diagonal, diagonal] += np.float32(penalty)
        return factorise(matrix)

    def _moments(self, above: Float64Array, below: Float64Array) -> Float32Array:
        """Return the Hessian of the rows with these curvatures."""
        n = self.n_columns
        matrix = np.zeros((n + self.n_thresholds, n + self.n_thresholds), dtype=np.float32)
        scaled = self.Z32 * np.sqrt(above + below).astype(np.float32)[:, None]
        matrix[:n, :n] = scaled.T @ scaled
        for k in range(self.n_thresholds):
            rows = above * (self.adjacent.upper == k) + below * (self.adjacent.lower == k)
            matrix[n + k, :n] = -times_rows(rows.astype(np.float32)[None], self.Z32)[0]
            matrix[n + k, n + k] = rows.sum()
        matrix[:n, n:] = matrix[n:, :n].T
        return matrix


def _gap_gradient(values: Float64Array) -> Float64Array:
    """Return the gradient with respect to thresholds, from the derivatives with respect to their gaps."""
    gradient: Float64Array = np.zeros(len(values) + 1)
    gradient[1:] += values
    gradient[:-1] -= values
    return gradient


def solve_ordinal_streamed(
    scaled: ScaledStream,
    label: npt.NDArray[np.integer],
    *,
    C: float,
    weight: Float64Array,
    tol: float = 1e-6,
    max_iter: int = 100,
    seed: int = 0,
) -> OrdinalSolution:
    """Return the solution for one C on rows that stay on disk.

    The parameters are those of `classify.heads.solvers.softmax_loss.solve_streamed`.
    """
    rows, Z = scaled.sample(seed=seed)
    loss = _StreamedProportionalOdds(label, weight, rows=rows, Z=Z)
    n_columns = scaled.stream.n_features
    start, _, _ = loss.sample.minimise(
        _initial_unknowns(n_columns, loss.class_share),
        1.0 / (C * weight[rows].sum()),
        tol=100 * tol,
        max_iter=max_iter,
    )
    unknowns, size, n_iter = StreamedProblem(scaled, loss).minimise(
        start, 1.0 / (C * weight.sum()), tol=tol, max_iter=max_iter
    )
    return OrdinalSolution(
        coef=unknowns[0, :n_columns].copy(),
        thresholds=unknowns[0, n_columns:].copy(),
        gradient=size,
        n_iter=n_iter,
    )


class _StreamedProportionalOdds:
    """The same loss for a stream of rows: a `classify.heads.solvers.newton_cg.RowLoss`."""

    def __init__(
        self, label: npt.NDArray[np.integer], weight: Float64Array, *, rows: IntArray, Z: Float64Array
    ) -> None:
        n_classes, share = int(label.max()) + 1, weight / weight.sum()
        self.class_share = np.bincount(label, weights=share).astype(np.float64)
        self.adjacent = AdjacentThresholds.of(label, share, n_classes)
        self.sample = OrdinalProblem(Z, label[rows], weight[rows], rotated=False, n_classes=n_classes)

    def rows_loss(
        self, unknowns: Float64Array, Z: Float64Array, rows: IntArray
    ) -> tuple[float, Float64Array]:
        return self.sample.rows_loss(unknowns, Z, self.adjacent.take(rows))[:2]

    def rows_hessian_product(
        self, vector: Float32Array, unknowns: Float64Array, Z: Float32Array, rows: IntArray
    ) -> Float32Array:
        Z, adjacent = Z[:, :-1], self.adjacent.take(rows)
        above, below = self._curvatures(unknowns, Z, adjacent)
        return self.sample.rows_hessian_product(vector, Z, adjacent, above, below)

    def penalty_loss(self, unknowns: Float64Array, penalty: float) -> tuple[float, Float64Array]:
        return self.sample.penalty_loss(unknowns, penalty, self.class_share)[:2]

    def penalty_hessian_product(
        self, vector: Float32Array, unknowns: Float64Array, penalty: float
    ) -> Float32Array:
        return self.sample.penalty_hessian_product(vector, self._gap_curvatures(unknowns), penalty)

    def preconditioner(self, unknowns: Float64Array, penalty: float) -> CholeskyFactor:
        above, below = self._curvatures(unknowns, self.sample.Z32, self.sample.adjacent)
        state = above, below, self._gap_curvatures(unknowns)
        return self.sample._preconditioner(state, penalty, weighted=True)

    def gradient_size(self, gradient: Float64Array) -> float:
        return self.sample._gradient_size(gradient)

    def _gap_curvatures(self, unknowns: Float64Array) -> Float64Array:
        gaps = self.sample.penalty_loss(unknowns, 0.0, self.class_share)[2]
        assert gaps is not None
        return gaps

    def _curvatures(
        self, unknowns: Float64Array, Z: Float32Array, adjacent: AdjacentThresholds
    ) -> tuple[Float64Array, Float64Array]:
        """Return the curvatures of rows at the thresholds above and below their classes."""
        coef, thresholds = np.split(unknowns, [self.sample.n_columns], axis=1)
        score = times_columns(coef.astype(np.float32), Z)[0].astype(np.float64)
        above, below = thresholds[0][adjacent.upper] - score, thresholds[0][adjacent.lower] - score
        return (
            adjacent.upper_share * expit(-above) * expit(above),
            adjacent.lower_share * expit(below) * expit(-below),
        )
