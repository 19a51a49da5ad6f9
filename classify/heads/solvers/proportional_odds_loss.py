"""Proportional odds: one score a row, and thresholds that part it into ordered classes.

P(y <= k) is the logistic function S of threshold k less the score. With b and a the thresholds above and
below a class, less the score, its probability is S(b) S(-a) (1 - e^(a-b)), where a - b is the same for every
row. So the loss is that of logistic regressions, one at each threshold beside a row's class, plus a barrier
that keeps thresholds apart; it is convex (Pratt, "Concavity of the log likelihood", 1981).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from classify.heads.solvers.newton_cg import (
    Problem,
    Streamed,
    factorise,
    row_space,
    times_columns,
    times_rows,
)
from classify.heads.solvers.scaling import Scaled
from featurize.base.typing import Float32Array, Float64Array, IntArray

_GAP = np.array([[1.0, -1.0], [-1.0, 1.0]], dtype=np.float32)  # the Hessian of a squared gap, halved
Curvature = tuple[
    Float64Array, Float64Array, Float64Array
]  # of each row at the threshold above and below, and of each gap


@dataclass(frozen=True, kw_only=True)
class OrdinalSolution:
    """A score, ``Z @ coef``, and the thresholds that part the classes, ascending."""

    coef: Float64Array  # (n_columns,)
    thresholds: Float64Array  # (n_classes - 1,)
    gradient: float  # largest component of the mean loss's gradient
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
    """Yield the solution for each C, each found from the one before it.

    The objective is that of `softmax_loss`: the weighted sum of the log losses times C, plus half
    the squared coefficients; thresholds are not penalised.

    Parameters
    ----------
    Z : ndarray of shape (n_rows, n_columns), float64
        Scaled rows. Left unchanged.
    label : ndarray of shape (n_rows,), int
        Class of each row in its order, 0 to n_classes - 1, each present.
    C : sequence of float
        Ascending is quickest.
    weight : ndarray of shape (n_rows,), optional
        Of each row; 1 by default.
    tol : float
        Largest component of the mean loss's gradient at which to stop.
    max_iter : int
        Newton steps for each C.

    References
    ----------
    McCullagh, "Regression models for ordinal data", 1980.
    """
    weight = np.ones(len(Z)) if weight is None else np.asarray(weight, dtype=np.float64)
    Z, basis = row_space(Z)
    n_columns = Z.shape[1]
    problem = OrdinalProblem(Z, label, weight, rotated=basis is not None)
    below = np.cumsum(problem.class_share)[:-1]
    unknowns = np.zeros((1, n_columns + len(below)))
    unknowns[0, n_columns:] = np.log(below / (1.0 - below))  # the solution without any coefficient
    for value in C:
        penalty = 1.0 / (value * weight.sum())
        unknowns, size, n_iter = problem.minimise(unknowns, penalty, tol=tol, max_iter=max_iter)
        coef, thresholds = unknowns[0, :n_columns], unknowns[0, n_columns:].copy()
        coef = coef.copy() if basis is None else basis @ coef
        yield OrdinalSolution(coef=coef, thresholds=thresholds, gradient=size, n_iter=n_iter)


def class_probabilities(score: Float64Array, thresholds: Float64Array) -> Float64Array:
    """Return the probability of each class: (n_rows, n_classes), from scores (n_rows,)."""
    above = thresholds - score[:, None]  # (n_rows, n_classes - 1)
    parts = np.empty((len(score), len(thresholds) + 1))
    parts[:, 0], parts[:, -1] = expit(above[:, 0]), expit(-above[:, -1])
    parts[:, 1:-1] = expit(above[:, 1:]) * expit(-above[:, :-1]) * -np.expm1(-np.diff(thresholds))
    return parts


@dataclass(frozen=True, kw_only=True, eq=False)
class Sides:
    """The thresholds beside some rows' classes, and the rows' shares there; all of shape (n_rows,)."""

    upper: npt.NDArray[np.integer]
    lower: npt.NDArray[np.integer]
    upper_share: Float64Array
    lower_share: Float64Array

    @classmethod
    def of(cls, label: npt.NDArray[np.integer], share: Float64Array, n_classes: int) -> Sides:
        """Return those of rows with these classes and shares."""
        # The first class has no threshold below it, the last none above: their shares there are 0.
        return cls(
            upper=np.minimum(label, n_classes - 2),
            lower=np.maximum(label - 1, 0),
            upper_share=np.where(label < n_classes - 1, share, 0.0),
            lower_share=np.where(label > 0, share, 0.0),
        )

    def at(self, rows: IntArray) -> Sides:
        """Return those of some of the rows."""
        return Sides(
            upper=self.upper[rows],
            lower=self.lower[rows],
            upper_share=self.upper_share[rows],
            lower_share=self.lower_share[rows],
        )


class OrdinalProblem(Problem):
    """Rows and ordered classes of one data set; unknowns are (1, n_columns + n_thresholds)."""

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
        self.rotated = rotated  # columns are not those of the caller: components of a gradient mean nothing
        self.label = label
        n_classes = n_classes or int(label.max()) + 1
        self.n_thresholds = n_classes - 1
        self.share = weight / weight.sum()  # (n_rows,)
        share_of_each = np.bincount(label, weights=self.share, minlength=n_classes)
        self.class_share = share_of_each.astype(np.float64)  # (n_classes,)
        self.sides = Sides.of(label, self.share, n_classes)
        self._mean_moments: list[Float32Array] | None = None

    def _size(self, gradient: Float64Array) -> float:
        columns, thresholds = gradient[0, : self.n_columns], gradient[0, self.n_columns :]
        # A component in the caller's columns is no larger than the length in rotated ones.
        size = np.linalg.norm(columns) if self.rotated else np.abs(columns).max()
        return float(max(size, np.abs(thresholds).max()))

    def _evaluate(
        self, unknowns: Float64Array, penalty: float
    ) -> tuple[float, Float64Array, Curvature | None]:
        """Return the loss (infinite where thresholds are out of order), its gradient, and curvatures."""
        rest, slope, gaps = self.rest(unknowns, penalty, self.class_share)
        if gaps is None:
            return np.inf, np.zeros_like(unknowns), None
        loss, gradient, above, below = self.loss_of_rows(unknowns, self.Z, self.sides)
        return loss + rest, gradient + slope, (above, below, gaps)

    def loss_of_rows(
        self, unknowns: Float64Array, Z: Float64Array, sides: Sides
    ) -> tuple[float, Float64Array, Float64Array, Float64Array]:
        """Return what some rows add to the loss and its gradient, and their curvatures above and below."""
        coef, thresholds = unknowns[:, : self.n_columns], unknowns[0, self.n_columns :]
        score = times_columns(coef, Z)[0]
        above, below = thresholds[sides.upper] - score, thresholds[sides.lower] - score
        loss = float(sides.upper_share @ np.logaddexp(0.0, -above))
        loss += float(sides.lower_share @ np.logaddexp(0.0, below))
        pull, push = sides.upper_share * expit(-above), sides.lower_share * expit(below)
        gradient = np.empty_like(unknowns)
        gradient[:, : self.n_columns] = times_rows((pull - push)[None], Z)
        gradient[0, self.n_columns :] = self._at_thresholds(-pull, push, sides)
        return loss, gradient, pull * expit(above), push * expit(-below)

    def rest(
        self, unknowns: Float64Array, penalty: float, class_share: Float64Array
    ) -> tuple[float, Float64Array, Float64Array | None]:
        """Return the loss (infinite where thresholds are out of order) and gradient of penalty and gaps."""
        coef, thresholds = unknowns[:, : self.n_columns], unknowns[0, self.n_columns :]
        gaps = np.diff(thresholds)
        if not (gaps > 0).all():
            return np.inf, np.zeros_like(unknowns), None
        middle, apart = class_share[1:-1], -np.expm1(-gaps)
        gradient = np.zeros_like(unknowns)
        gradient[:, : self.n_columns] = penalty * coef
        gradient[0, self.n_columns :] = _at_gaps(-middle * np.exp(-gaps) / apart)
        loss = 0.5 * penalty * float(np.sum(coef**2)) - float(middle @ np.log(apart))
        return loss, gradient, middle * np.exp(-gaps) / apart**2

    def _at_thresholds(self, upper: Float64Array, lower: Float64Array, sides: Sides) -> Float64Array:
        """Return the sum at each threshold of rows' values above and below."""
        total: Float64Array = np.zeros(self.n_thresholds)
        total += np.bincount(sides.upper, weights=upper, minlength=self.n_thresholds)
        total += np.bincount(sides.lower, weights=lower, minlength=self.n_thresholds)
        return total

    def _curvature(self, vector: Float32Array, state: Curvature, penalty: float) -> Float32Array:
        """Return the Hessian times a vector; what is small in the curvatures is kept by float64."""
        above, below, gaps = state
        product = self.curvature_of_rows(vector, self.Z32, self.sides, above, below)
        return product + self.rest_curvature(vector, gaps, penalty)

    def curvature_of_rows(
        self, vector: Float32Array, Z32: Float32Array, sides: Sides, above: Float64Array, below: Float64Array
    ) -> Float32Array:
        """Return what some rows of these curvatures add to it."""
        score = times_columns(vector[:, : self.n_columns], Z32)[0].astype(np.float64)
        thresholds = vector[0, self.n_columns :].astype(np.float64)
        at_upper = above * (thresholds[sides.upper] - score)
        at_lower = below * (thresholds[sides.lower] - score)
        product = np.empty_like(vector)
        product[:, : self.n_columns] = times_rows(-(at_upper + at_lower).astype(np.float32)[None], Z32)
        product[0, self.n_columns :] = self._at_thresholds(at_upper, at_lower, sides)
        return product

    def rest_curvature(self, vector: Float32Array, gaps: Float64Array, penalty: float) -> Float32Array:
        """Return what penalty and gaps add to it."""
        product = np.zeros_like(vector)
        product[:, : self.n_columns] = np.float32(penalty) * vector[:, : self.n_columns]
        apart = np.diff(vector[0, self.n_columns :].astype(np.float64))
        product[0, self.n_columns :] = _at_gaps(gaps * apart)
        return product

    def _preconditioner(
        self, state: Curvature, penalty: float, *, weighted: bool
    ) -> tuple[Float32Array, bool]:
        """Factorise the Hessian; unless `weighted`, with mean curvatures above and below the classes."""
        above, below, gaps = state
        n = self.n_columns
        if weighted:
            matrix = self._moments(above, below)
        else:
            if self._mean_moments is None:
                nothing = np.zeros(len(self.label))
                sides = (self.sides.upper_share, nothing), (nothing, self.sides.lower_share)
                self._mean_moments = [self._moments(*side) for side in sides]
            means = above.sum() / self.sides.upper_share.sum(), below.sum() / self.sides.lower_share.sum()
            upper, lower = (np.float32(m) * one for m, one in zip(means, self._mean_moments, strict=True))
            matrix = upper + lower
        for k, gap in enumerate(gaps):
            matrix[n + k : n + k + 2, n + k : n + k + 2] += np.float32(gap) * _GAP
        diagonal = np.arange(n)
        matrix[diagonal, diagonal] += np.float32(penalty)
        return factorise(matrix)

    def _moments(self, above: Float64Array, below: Float64Array) -> Float32Array:
        """Return the part of the Hessian that rows of such curvatures have."""
        n = self.n_columns
        matrix = np.zeros((n + self.n_thresholds, n + self.n_thresholds), dtype=np.float32)
        scaled = self.Z32 * np.sqrt(above + below).astype(np.float32)[:, None]
        matrix[:n, :n] = scaled.T @ scaled
        for k in range(self.n_thresholds):
            rows = above * (self.sides.upper == k) + below * (self.sides.lower == k)
            matrix[n + k, :n] = -times_rows(rows.astype(np.float32)[None], self.Z32)[0]
            matrix[n + k, n + k] = rows.sum()
        matrix[:n, n:] = matrix[n:, :n].T
        return matrix


def _at_gaps(gaps: Float64Array) -> Float64Array:
    """Return the sum at each threshold of the values of the gaps beside it, with opposite signs."""
    total: Float64Array = np.zeros(len(gaps) + 1)
    total[1:] += gaps
    total[:-1] -= gaps
    return total


def solve_ordinal_streamed(
    scaled: Scaled,
    label: npt.NDArray[np.integer],
    *,
    C: float,
    weight: Float64Array,
    tol: float = 1e-6,
    max_iter: int = 100,
    seed: int = 0,
) -> OrdinalSolution:
    """Return the solution for one C from rows that stay on disk; see `classify.heads.solvers.newton_cg`.

    All as in `classify.heads.solvers.softmax_loss.solve_streamed`.
    """
    rows, Z = scaled.sample(seed=seed)
    model = _Streaming(label, weight, rows=rows, Z=Z)
    n_columns, one = scaled.stream.n_features, model.sample
    below = np.cumsum(model.class_share)[:-1]
    start = np.zeros((1, n_columns + len(below)))
    start[0, n_columns:] = np.log(below / (1.0 - below))
    start, _, _ = one.minimise(start, 1.0 / (C * weight[rows].sum()), tol=100 * tol, max_iter=max_iter)
    unknowns, size, n_iter = Streamed(scaled, model).minimise(
        start, 1.0 / (C * weight.sum()), tol=tol, max_iter=max_iter
    )
    return OrdinalSolution(
        coef=unknowns[0, :n_columns].copy(),
        thresholds=unknowns[0, n_columns:].copy(),
        gradient=size,
        n_iter=n_iter,
    )


class _Streaming:
    """The same loss for rows that come a block at a time: a `classify.heads.solvers.newton_cg.RowModel`."""

    def __init__(
        self, label: npt.NDArray[np.integer], weight: Float64Array, *, rows: IntArray, Z: Float64Array
    ) -> None:
        n_classes, share = int(label.max()) + 1, weight / weight.sum()
        self.class_share = np.bincount(label, weights=share).astype(np.float64)
        self.sides = Sides.of(label, share, n_classes)
        self.sample = OrdinalProblem(Z, label[rows], weight[rows], rotated=False, n_classes=n_classes)

    def loss_of(self, unknowns: Float64Array, Z: Float64Array, rows: IntArray) -> tuple[float, Float64Array]:
        return self.sample.loss_of_rows(unknowns, Z, self.sides.at(rows))[:2]

    def curvature_of(
        self, vector: Float32Array, unknowns: Float64Array, Z: Float32Array, rows: IntArray
    ) -> Float32Array:
        Z, sides = Z[:, :-1], self.sides.at(rows)
        above, below = self._curvatures(unknowns, Z, sides)
        return self.sample.curvature_of_rows(vector, Z, sides, above, below)

    def rest(self, unknowns: Float64Array, penalty: float) -> tuple[float, Float64Array]:
        return self.sample.rest(unknowns, penalty, self.class_share)[:2]

    def rest_curvature(self, vector: Float32Array, unknowns: Float64Array, penalty: float) -> Float32Array:
        return self.sample.rest_curvature(vector, self._gaps(unknowns), penalty)

    def factor(self, unknowns: Float64Array, penalty: float) -> tuple[Float32Array, bool]:
        one = self.sample
        above, below = self._curvatures(unknowns, one.Z32, one.sides)
        return one._preconditioner((above, below, self._gaps(unknowns)), penalty, weighted=True)

    def size(self, gradient: Float64Array) -> float:
        return self.sample._size(gradient)

    def _gaps(self, unknowns: Float64Array) -> Float64Array:
        gaps = self.sample.rest(unknowns, 0.0, self.class_share)[2]
        assert gaps is not None
        return gaps

    def _curvatures(
        self, unknowns: Float64Array, Z: Float32Array, sides: Sides
    ) -> tuple[Float64Array, Float64Array]:
        coef, thresholds = np.split(unknowns, [self.sample.n_columns], axis=1)
        score = times_columns(coef.astype(np.float32), Z)[0].astype(np.float64)
        above, below = thresholds[0][sides.upper] - score, thresholds[0][sides.lower] - score
        return (
            sides.upper_share * expit(-above) * expit(above),
            sides.lower_share * expit(below) * expit(-below),
        )
