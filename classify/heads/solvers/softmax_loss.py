"""Softmax loss with an L2 penalty, solved along a path of C by Newton's method.

Plain L-BFGS needs hundreds of passes over the rows. These four measures together reduce them to tens:

* With a softmax and an L2 penalty the coefficients of the classes sum to zero, so K classes need only K - 1
  vectors of unknowns.
* If there are clearly fewer rows than columns, the solution lies in the space of the rows. An exact QR
  reduces the problem to as many columns as rows.
* Each Newton step is solved by conjugate gradients on float32 copies. Only the gradient, on which the
  stopping criterion depends, needs float64.
* The conjugate gradients are preconditioned by one Cholesky factor: the second moments of the rows, weighted
  by the uncertainty of their predictions, plus the penalty. It approximates the Hessian blocks of all classes
  by one block; with two classes it is the exact Hessian.

CPU seconds for the 11 points of the grid on one thread of an AMD EPYC of 2024, each point starting from the
previous solution, to a gradient of 1e-6 (EfficientNet-Lite0 features of damage3):

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
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy.linalg import helmert
from scipy.special import logsumexp, softmax

from classify.heads.solvers.newton_cg import (
    CholeskyFactor,
    Problem,
    StreamedProblem,
    factorise,
    row_space,
    times_columns,
    times_rows,
)
from featurize.base.typing import Float32Array, Float64Array, IntArray

if TYPE_CHECKING:
    from classify.heads.solvers.scaling import ScaledStream


@dataclass(frozen=True, kw_only=True)
class Solution:
    """Coefficients with the shapes of scikit-learn: one row per class, or a single row for two classes."""

    coef: Float64Array  # (n_classes or 1, n_columns)
    intercept: Float64Array  # (n_classes or 1,)
    gradient: float  # largest component of the gradient of the mean loss
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
    """Yield the solution for each C, starting from the previous one.

    The objective is that of scikit-learn: the weighted sum of the log losses times C, plus half the sum of
    the squared coefficients; intercepts are not penalised. If the gradient of a solution is still above
    `tol`, float32 steps could not improve it; refine it with another solver.

    Parameters
    ----------
    Z : ndarray of shape (n_rows, n_columns), float64
        Scaled rows. Left unchanged.
    label : ndarray of shape (n_rows,), int
        Class of each row, 0 to n_classes - 1, each present.
    C : sequence of float
        Ascending values are fastest.
    weight : ndarray of shape (n_rows,), optional
        Weight of each row; 1 by default.
    tol : float
        Stop when the largest component of the gradient of the mean loss, in scikit-learn's coordinates, is
        below this.
    max_iter : int
        Maximum number of Newton steps for each C.

    References
    ----------
    Dembo, Eisenstat & Steihaug, "Inexact Newton methods", 1982.
    """
    weight = np.ones(len(Z)) if weight is None else np.asarray(weight, dtype=np.float64)
    Z, basis = row_space(Z)
    problem = LogisticProblem(Z, label, weight, rotated=basis is not None)
    unknowns = np.zeros((problem.n_unknown, Z.shape[1] + 1))
    for value in C:
        penalty = problem.penalty_factor / (value * weight.sum())
        unknowns, size, n_iter = problem.minimise(unknowns, penalty, tol=tol, max_iter=max_iter)
        back = problem.back @ unknowns
        coef = back[:, :-1] if basis is None else back[:, :-1] @ basis.T
        yield Solution(coef=coef, intercept=back[:, -1].copy(), gradient=size, n_iter=n_iter)


class LogisticProblem(Problem):
    """Softmax loss of rows in memory; unknowns are (n_unknown, n_columns + 1), intercepts last."""

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
        self.rotated = rotated  # the columns are those of `row_space`, not those of the caller
        self.Z32 = np.empty((len(Z), Z.shape[1] + 1), dtype=np.float32)
        self.Z32[:, :-1], self.Z32[:, -1] = Z, 1.0
        self.label = label
        self.share = weight / weight.sum()  # (n_rows,)
        # Orthonormal contrasts: the coefficients of the classes are back @ unknowns, and sum to zero.
        self.contrast = helmert(n_classes)  # (n_unknown, n_classes)
        self.n_unknown = n_classes - 1
        if n_classes == 2:
            # scikit-learn's single row is the difference of the two classes, and the penalty is on this row.
            difference = self.contrast[:, 1:] - self.contrast[:, :1]  # (1, 1)
            self.back, self.to_gradient, self.penalty_factor = difference, 1.0 / difference, 2.0
        else:
            self.back, self.to_gradient, self.penalty_factor = self.contrast.T, self.contrast.T, 1.0
        self._moments: Float32Array | None = None

    def _gradient_size(self, gradient: Float64Array) -> float:
        original = self.to_gradient @ gradient
        if self.rotated:  # the norm is an upper bound of the components in the columns of the caller
            return float(max(np.linalg.norm(original[:, :-1], axis=1).max(), np.abs(original[:, -1]).max()))
        return float(np.abs(original).max())

    def _evaluate(self, unknowns: Float64Array, penalty: float) -> tuple[float, Float64Array, Float64Array]:
        """Return the loss, its gradient, and the class probabilities of the rows: (n_classes, n_rows)."""
        loss, gradient, probabilities = self.rows_loss(unknowns, self.Z, self.label, self.share)
        gradient[:, :-1] += penalty * unknowns[:, :-1]
        return loss + 0.5 * penalty * float(np.sum(unknowns[:, :-1] ** 2)), gradient, probabilities

    def rows_loss(
        self, unknowns: Float64Array, Z: Float64Array, label: npt.NDArray[np.integer], share: Float64Array
    ) -> tuple[float, Float64Array, Float64Array]:
        """As `_evaluate`, for some rows with these shares of the total weight, without the penalty."""
        scores = self.contrast.T @ (times_columns(unknowns[:, :-1], Z) + unknowns[:, -1:])
        normaliser = logsumexp(scores, axis=0)
        rows = np.arange(len(label))
        loss = float(share @ (normaliser - scores[label, rows]))
        probabilities = np.exp(scores - normaliser)
        residual = probabilities * share
        residual[label, rows] -= share
        residual = self.contrast @ residual  # (n_unknown, n_rows)
        gradient = np.empty_like(unknowns)
        gradient[:, :-1] = times_rows(residual, Z)
        gradient[:, -1] = residual.sum(axis=1)
        return loss, gradient, probabilities

    def _hessian_product(
        self, vector: Float32Array, probabilities: Float64Array, penalty: float
    ) -> Float32Array:
        """Return the Hessian times a vector; float64 keeps the digits of small probabilities."""
        product = self.rows_hessian_product(vector, probabilities, self.Z32, self.share)
        product[:, :-1] += np.float32(penalty) * vector[:, :-1]
        return product

    def rows_hessian_product(
        self, vector: Float32Array, probabilities: Float64Array, Z32: Float32Array, share: Float64Array
    ) -> Float32Array:
        """As `_hessian_product`, for some rows with a last column of ones, without the penalty."""
        scores = self.contrast.T @ times_columns(vector, Z32).astype(np.float64)
        change = probabilities * (scores - np.sum(probabilities * scores, axis=0)) * share
        return times_rows((self.contrast @ change).astype(np.float32), Z32)

    def _preconditioner(
        self, probabilities: Float64Array, penalty: float, *, weighted: bool
    ) -> CholeskyFactor:
        # Mean of the diagonal of the Hessian of each row; not negative despite rounding.
        uncertainty = np.maximum(1.0 - np.sum(probabilities**2, axis=0), 0.0) / self.n_unknown
        if weighted:
            scaled = self.Z32 * np.sqrt(uncertainty * self.share).astype(np.float32)[:, None]
            moments = scaled.T @ scaled
        else:
            if self._moments is None:
                scaled = self.Z32 * np.sqrt(self.share).astype(np.float32)[:, None]
                self._moments = scaled.T @ scaled
            moments = self._moments * np.float32(self.share @ uncertainty)
        diagonal = np.arange(len(moments))
        moments[diagonal[:-1], diagonal[:-1]] += np.float32(penalty)
        return factorise(moments)


def solve_streamed(
    scaled: ScaledStream,
    label: npt.NDArray[np.integer],
    *,
    C: float,
    weight: Float64Array,
    tol: float = 1e-6,
    max_iter: int = 100,
    seed: int = 0,
) -> Solution:
    """Return the solution for one C on rows that stay on disk.

    Parameters
    ----------
    scaled : ScaledStream
    label, weight : ndarray of shape (n_rows,)
        As in `solve_path`.
    C, tol, max_iter
        As in `solve_path`.
    seed : int
        Seed of the sample of rows for the initial solution and the preconditioner. The solution does not
        depend on it.
    """
    rows, Z = scaled.sample(seed=seed)
    loss = _StreamedSoftmax(label, weight, rows=rows, Z=Z)
    del Z
    sample = loss.sample
    start, _, _ = sample.minimise(
        np.zeros((sample.n_unknown, scaled.stream.n_features + 1)),
        sample.penalty_factor / (C * weight[rows].sum()),
        tol=100 * tol,
        max_iter=max_iter,
    )
    sample.Z = sample.Z[:0]  # frees the float64 copy, which is no longer needed
    unknowns, size, n_iter = StreamedProblem(scaled, loss).minimise(
        start, sample.penalty_factor / (C * weight.sum()), tol=tol, max_iter=max_iter
    )
    back = sample.back @ unknowns
    return Solution(coef=back[:, :-1].copy(), intercept=back[:, -1].copy(), gradient=size, n_iter=n_iter)


class _StreamedSoftmax:
    """The same loss for a stream of rows: a `classify.heads.solvers.newton_cg.RowLoss`."""

    def __init__(
        self, label: npt.NDArray[np.integer], weight: Float64Array, *, rows: IntArray, Z: Float64Array
    ) -> None:
        self.label, self.share = label, weight / weight.sum()
        self.sample = LogisticProblem(
            Z, label[rows], weight[rows], rotated=False, n_classes=int(label.max()) + 1
        )

    def rows_loss(
        self, unknowns: Float64Array, Z: Float64Array, rows: IntArray
    ) -> tuple[float, Float64Array]:
        return self.sample.rows_loss(unknowns, Z, self.label[rows], self.share[rows])[:2]

    def rows_hessian_product(
        self, vector: Float32Array, unknowns: Float64Array, Z: Float32Array, rows: IntArray
    ) -> Float32Array:
        probabilities = self._probabilities(unknowns, Z)
        return self.sample.rows_hessian_product(vector, probabilities, Z, self.share[rows])

    def penalty_loss(self, unknowns: Float64Array, penalty: float) -> tuple[float, Float64Array]:
        gradient = penalty * unknowns
        gradient[:, -1] = 0.0
        return 0.5 * penalty * float(np.sum(unknowns[:, :-1] ** 2)), gradient

    def penalty_hessian_product(
        self, vector: Float32Array, unknowns: Float64Array, penalty: float
    ) -> Float32Array:
        product = np.float32(penalty) * vector
        product[:, -1] = 0.0
        return product

    def preconditioner(self, unknowns: Float64Array, penalty: float) -> CholeskyFactor:
        probabilities = self._probabilities(unknowns, self.sample.Z32)
        return self.sample._preconditioner(probabilities, penalty, weighted=True)

    def gradient_size(self, gradient: Float64Array) -> float:
        return self.sample._gradient_size(gradient)

    def _probabilities(self, unknowns: Float64Array, Z: Float32Array) -> Float64Array:
        """Return the class probabilities of rows with a last column of ones: (n_classes, n_rows)."""
        scores = times_columns(unknowns.astype(np.float32), Z).astype(np.float64)
        probabilities: Float64Array = softmax(self.sample.contrast.T @ scores, axis=0)
        return probabilities
