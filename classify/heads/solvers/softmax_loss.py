"""Logistic regression along a path of C: Newton's method in few, cheap, well-conditioned steps.

What plain L-BFGS needs hundreds of passes over the rows for, these four together do in tens:

* A softmax with an L2 penalty has class coefficients that sum to zero: K classes are K - 1 unknown vectors.
* With clearly fewer rows than columns the solution lies in the space of the rows: an exact QR turns the
  problem into one of as many columns as rows.
* Each Newton step is solved by conjugate gradients on float32 copies; only the gradient, which decides when
  to stop, needs float64.
* The conjugate gradients are preconditioned by one Cholesky factor: the second moments of the rows, weighted
  by how undecided a row still is, plus the penalty. It stands for the Hessian of all classes but for what
  differs between them, and it is the Hessian itself with two classes.

CPU seconds for the 11 points of the grid on one thread of an AMD EPYC of 2024, each point from the solution
before it, to a gradient of 1e-6 (EfficientNet-Lite0 features of damage3):

=====  =======  =======  ======  ======
 rows  columns  classes  L-BFGS  Newton
=====  =======  =======  ======  ======
  480    1280        3    0.72    0.16
  900    1280        3    1.60    0.53
 2400     512        3    3.88    0.27
 2400    1280        2    1.32    0.87
 2400    1280        3    7.22    1.36
 2400    1280        6   12.6     2.58
 9600    1280        3   32.7     5.32
=====  =======  =======  ======  ======
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg import helmert
from scipy.special import logsumexp, softmax

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


@dataclass(frozen=True, kw_only=True)
class Solution:
    """Coefficients in scikit-learn's form: one row a class, a single one for two classes."""

    coef: Float64Array  # (n_classes or 1, n_columns)
    intercept: Float64Array  # (n_classes or 1,)
    gradient: float  # largest component of the mean loss's gradient
    n_iter: int  # Newton steps


def solve_path(
    Z: Float64Array,
    label: npt.NDArray[np.integer],
    *,
    C: Sequence[float],
    weight: Float64Array | None = None,
    tol: float = 1e-6,
    max_iter: int = 100,
) -> Iterator[Solution]:
    """Yield the solution for each C, each found from the one before it.

    The objective is scikit-learn's: the weighted sum of the log losses times C, plus half the squared
    coefficients; intercepts are not penalised. A solution whose gradient is still above `tol` was the best
    that float32 steps reach: polish it.

    Parameters
    ----------
    Z : ndarray of shape (n_rows, n_columns), float64
        Scaled rows. Left unchanged.
    label : ndarray of shape (n_rows,), int
        Class of each row, 0 to n_classes - 1, each present.
    C : sequence of float
        Ascending is quickest.
    weight : ndarray of shape (n_rows,), optional
        Of each row; 1 by default.
    tol : float
        Largest component of the mean loss's gradient, in scikit-learn's coordinates, at which to stop.
    max_iter : int
        Newton steps for each C.

    References
    ----------
    Dembo, Eisenstat & Steihaug, "Inexact Newton methods", 1982.
    """
    weight = np.ones(len(Z)) if weight is None else np.asarray(weight, dtype=np.float64)
    Z, basis = row_space(Z)
    problem = LogisticProblem(Z, label, weight, rotated=basis is not None)
    unknowns = np.zeros((problem.n_unknown, Z.shape[1] + 1))
    for value in C:
        penalty = problem.factor / (value * weight.sum())
        unknowns, size, n_iter = problem.minimise(unknowns, penalty, tol=tol, max_iter=max_iter)
        back = problem.back @ unknowns
        coef = back[:, :-1] if basis is None else back[:, :-1] @ basis.T
        yield Solution(coef=coef, intercept=back[:, -1].copy(), gradient=size, n_iter=n_iter)


class LogisticProblem(Problem):
    """Rows and classes of one data set; unknowns are (n_unknown, n_columns + 1), the intercepts last."""

    def __init__(
        self,
        Z: Float64Array,
        label: npt.NDArray[np.integer],
        weight: Float64Array,
        *,
        rotated: bool,
        n_classes: int | None = None,
    ) -> None:
        n_classes = n_classes or int(label.max()) + 1
        self.Z = Z
        self.rotated = rotated  # columns are not those of the caller: components of a gradient mean nothing
        self.Z32 = np.empty((len(Z), Z.shape[1] + 1), dtype=np.float32)
        self.Z32[:, :-1], self.Z32[:, -1] = Z, 1.0
        self.label = label
        self.share = weight / weight.sum()  # (n_rows,)
        # Orthonormal contrasts: the class coefficients are back @ unknowns, and sum to zero.
        self.contrast = helmert(n_classes)  # (n_unknown, n_classes)
        self.n_unknown = n_classes - 1
        if n_classes == 2:
            # scikit-learn's one row is the difference of the two classes, and penalised as it is.
            difference = self.contrast[:, 1:] - self.contrast[:, :1]  # (1, 1)
            self.back, self.to_gradient, self.factor = difference, 1.0 / difference, 2.0
        else:
            self.back, self.to_gradient, self.factor = self.contrast.T, self.contrast.T, 1.0
        self._moments: Float32Array | None = None

    def _size(self, gradient: Float64Array) -> float:
        original = self.to_gradient @ gradient
        if self.rotated:  # a component in the caller's columns is no larger than the length in these
            return float(max(np.linalg.norm(original[:, :-1], axis=1).max(), np.abs(original[:, -1]).max()))
        return float(np.abs(original).max())

    def _evaluate(self, unknowns: Float64Array, penalty: float) -> tuple[float, Float64Array, Float64Array]:
        """Return the loss, its gradient, and each class's share in each row: (n_classes, n_rows)."""
        loss, gradient, shares = self.loss_of_rows(unknowns, self.Z, self.label, self.share)
        gradient[:, :-1] += penalty * unknowns[:, :-1]
        return loss + 0.5 * penalty * float(np.sum(unknowns[:, :-1] ** 2)), gradient, shares

    def loss_of_rows(
        self, unknowns: Float64Array, Z: Float64Array, label: npt.NDArray[np.integer], share: Float64Array
    ) -> tuple[float, Float64Array, Float64Array]:
        """Return the same for some rows, without the penalty."""
        scores = self.contrast.T @ (times_columns(unknowns[:, :-1], Z) + unknowns[:, -1:])
        total = logsumexp(scores, axis=0)
        rows = np.arange(len(label))
        loss = float(share @ (total - scores[label, rows]))
        shares = np.exp(scores - total)
        residual = shares * share
        residual[label, rows] -= share
        residual = self.contrast @ residual  # (n_unknown, n_rows)
        gradient = np.empty_like(unknowns)
        gradient[:, :-1] = times_rows(residual, Z)
        gradient[:, -1] = residual.sum(axis=1)
        return loss, gradient, shares

    def _curvature(self, vector: Float32Array, shares: Float64Array, penalty: float) -> Float32Array:
        """Return the Hessian times a vector; what is small in `shares` is kept by float64."""
        product = self.curvature_of_rows(vector, shares, self.Z32, self.share)
        product[:, :-1] += np.float32(penalty) * vector[:, :-1]
        return product

    def curvature_of_rows(
        self, vector: Float32Array, shares: Float64Array, Z32: Float32Array, share: Float64Array
    ) -> Float32Array:
        """Return the same for some rows, a column of ones behind them, without the penalty."""
        scores = self.contrast.T @ times_columns(vector, Z32).astype(np.float64)
        change = shares * (scores - np.sum(shares * scores, axis=0)) * share
        return times_rows((self.contrast @ change).astype(np.float32), Z32)

    def _preconditioner(
        self, shares: Float64Array, penalty: float, *, weighted: bool
    ) -> tuple[Float32Array, bool]:
        # The mean diagonal of each row's Hessian; rounding must not make it negative.
        doubt = np.maximum(1.0 - np.sum(shares**2, axis=0), 0.0) / self.n_unknown
        if weighted:
            scaled = self.Z32 * np.sqrt(doubt * self.share).astype(np.float32)[:, None]
            moments = scaled.T @ scaled
        else:
            if self._moments is None:
                scaled = self.Z32 * np.sqrt(self.share).astype(np.float32)[:, None]
                self._moments = scaled.T @ scaled
            moments = self._moments * np.float32(self.share @ doubt)
        diagonal = np.arange(len(moments))
        moments[diagonal[:-1], diagonal[:-1]] += np.float32(penalty)
        return factorise(moments)


def solve_streamed(
    scaled: Scaled,
    label: npt.NDArray[np.integer],
    *,
    C: float,
    weight: Float64Array,
    tol: float = 1e-6,
    max_iter: int = 100,
    seed: int = 0,
) -> Solution:
    """Return the solution for one C from rows that stay on disk; see `classify.heads.solvers.newton_cg`.

    Parameters
    ----------
    scaled : Scaled
    label, weight : ndarray of shape (n_rows,)
        As in `classify.heads.solvers.softmax_loss.solve_path`.
    C, tol, max_iter
        As there.
    seed : int
        Of the sample of rows that steps are preconditioned with; the solution does not depend on it.
    """
    rows, Z = scaled.sample(seed=seed)
    model = _Streaming(label, weight, rows=rows, Z=Z)
    del Z
    problem, one = Streamed(scaled, model), model.sample
    start, _, _ = one.minimise(
        np.zeros((one.n_unknown, scaled.stream.n_features + 1)),
        one.factor / (C * weight[rows].sum()),
        tol=100 * tol,
        max_iter=max_iter,
    )
    model.sample.Z = model.sample.Z[:0]  # float64, no longer needed
    unknowns, size, n_iter = problem.minimise(
        start, one.factor / (C * weight.sum()), tol=tol, max_iter=max_iter
    )
    back = one.back @ unknowns
    return Solution(coef=back[:, :-1].copy(), intercept=back[:, -1].copy(), gradient=size, n_iter=n_iter)


class _Streaming:
    """The same loss for rows that come a block at a time: a `classify.heads.solvers.newton_cg.RowModel`."""

    def __init__(
        self, label: npt.NDArray[np.integer], weight: Float64Array, *, rows: IntArray, Z: Float64Array
    ) -> None:
        self.label, self.share = label, weight / weight.sum()
        self.sample = LogisticProblem(
            Z, label[rows], weight[rows], rotated=False, n_classes=int(label.max()) + 1
        )

    def loss_of(self, unknowns: Float64Array, Z: Float64Array, rows: IntArray) -> tuple[float, Float64Array]:
        return self.sample.loss_of_rows(unknowns, Z, self.label[rows], self.share[rows])[:2]

    def curvature_of(
        self, vector: Float32Array, unknowns: Float64Array, Z: Float32Array, rows: IntArray
    ) -> Float32Array:
        return self.sample.curvature_of_rows(vector, self._shares(unknowns, Z), Z, self.share[rows])

    def rest(self, unknowns: Float64Array, penalty: float) -> tuple[float, Float64Array]:
        gradient = penalty * unknowns
        gradient[:, -1] = 0.0
        return 0.5 * penalty * float(np.sum(unknowns[:, :-1] ** 2)), gradient

    def rest_curvature(self, vector: Float32Array, unknowns: Float64Array, penalty: float) -> Float32Array:
        product = np.float32(penalty) * vector
        product[:, -1] = 0.0
        return product

    def factor(self, unknowns: Float64Array, penalty: float) -> tuple[Float32Array, bool]:
        shares = self._shares(unknowns, self.sample.Z32)
        return self.sample._preconditioner(shares, penalty, weighted=True)

    def size(self, gradient: Float64Array) -> float:
        return self.sample._size(gradient)

    def _shares(self, unknowns: Float64Array, Z: Float32Array) -> Float64Array:
        """Return each class's share in rows with a column of ones: (n_classes, n_rows)."""
        found = times_columns(unknowns.astype(np.float32), Z).astype(np.float64)
        shares: Float64Array = softmax(self.sample.contrast.T @ found, axis=0)
        return shares
