"""Newton-CG: Newton's method for convex losses, with conjugate gradients on float32 copies of the rows.

A loss provides its value and gradient, its Hessian times a vector, and a preconditioner.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
from scipy.linalg import LinAlgError, cho_factor, cho_solve, qr

from featurize.base.typing import Float32Array, Float64Array, IntArray

if TYPE_CHECKING:
    from classify.heads.solvers.scaling import ScaledStream

CG_TOL = 0.1  # a Newton step is solved until its residual has shrunk by this factor
REFACTOR_STEPS = 10  # this many CG steps cost more than a new preconditioner for the current weights
MAX_CG_STEPS = 500
QR_ROWS_PER_COLUMN = 0.75  # with fewer rows per column a QR saves more time than it takes
FEW_VECTORS = 3  # for so few vectors one product per vector is faster than a matrix product in OpenBLAS
LOSS_ROUNDING = 1e-14  # relative
PATIENCE = 20  # stop if the gradient has not halved in so many steps: float32 cannot reduce it further

CholeskyFactor = tuple[Float32Array, bool]  # as from `scipy.linalg.cho_factor`


class Problem(ABC):
    """A convex loss to minimise over unknowns, an array of shape (n_vectors, n_unknowns)."""

    max_cg_steps = MAX_CG_STEPS
    patience = PATIENCE

    def minimise(
        self, unknowns: Float64Array, penalty: float, *, tol: float, max_iter: int
    ) -> tuple[Float64Array, float, int]:
        """Return the minimum, the largest component of its gradient, and the number of Newton steps."""
        loss, gradient, state = self._evaluate(unknowns, penalty)
        factor, weighted = None, False
        goal, deadline = np.inf, 0
        for step in range(max_iter):
            size = self._gradient_size(gradient)
            if size <= goal:
                goal, deadline = size / 2, step + self.patience
            if size <= tol or step >= deadline:
                return unknowns, size, step
            if factor is None:
                factor = self._preconditioner(state, penalty, weighted=weighted)
            direction, cg_steps = self._newton_direction(gradient, state, penalty, factor)
            better = self._line_search(unknowns, loss, gradient, direction, penalty)
            if better is None:
                return unknowns, size, step
            unknowns, loss, gradient, state = better
            if cg_steps >= REFACTOR_STEPS:
                factor, weighted = None, True
        return unknowns, self._gradient_size(gradient), max_iter

    @abstractmethod
    def _gradient_size(self, gradient: Float64Array) -> float:
        """Return the largest component of a gradient in the coordinates of the caller, or an upper bound."""

    @abstractmethod
    def _evaluate(self, unknowns: Float64Array, penalty: float) -> tuple[float, Float64Array, Any]:
        """Return the loss, its gradient, and the state from which the Hessian is computed."""

    @abstractmethod
    def _hessian_product(self, vector: Float32Array, state: Any, penalty: float) -> Float32Array:
        """Return the Hessian times a vector."""

    @abstractmethod
    def _preconditioner(self, state: Any, penalty: float, *, weighted: bool) -> CholeskyFactor:
        """Return the Cholesky factor of an approximate Hessian; more accurate but slower if `weighted`."""

    def _newton_direction(
        self, gradient: Float64Array, state: Any, penalty: float, factor: CholeskyFactor
    ) -> tuple[Float64Array, int]:
        """Solve for the Newton step by conjugate gradients; return it and the number of CG steps."""
        scale = float(np.abs(gradient).max())
        residual = (-gradient / scale).astype(np.float32)
        solution = np.zeros_like(residual)
        preconditioned = cho_solve(factor, residual.T, check_finite=False).T
        direction = np.ascontiguousarray(preconditioned)
        size = initial_size = float(np.vdot(residual, preconditioned))
        steps = 0
        while steps < self.max_cg_steps:
            steps += 1
            product = self._hessian_product(direction, state, penalty)
            curvature = float(np.vdot(direction, product))
            if not curvature > 0:
                break
            length = np.float32(size / curvature)
            solution += length * direction
            residual -= length * product
            preconditioned = cho_solve(factor, residual.T, check_finite=False).T
            previous_size, size = size, float(np.vdot(residual, preconditioned))
            if not size > CG_TOL**2 * initial_size:
                break
            direction = np.ascontiguousarray(preconditioned + np.float32(size / previous_size) * direction)
        return solution.astype(np.float64) * scale, steps

    def _line_search(
        self,
        unknowns: Float64Array,
        loss: float,
        gradient: Float64Array,
        direction: Float64Array,
        penalty: float,
    ) -> tuple[Float64Array, float, Float64Array, Any] | None:
        """Halve the step until the loss decreases enough (Armijo); None if rounding prevents any decrease.

        Return the new unknowns, and their loss, gradient and state.
        """
        slope = float(np.vdot(gradient, direction))
        length = 1.0
        while slope < 0 and length > 1e-8:
            candidate = unknowns + length * direction
            evaluated = self._evaluate(candidate, penalty)
            if evaluated[0] <= loss + 1e-4 * length * slope + LOSS_ROUNDING * abs(loss):
                return candidate, *evaluated
            length /= 2
        return None


def row_space(Z: Float64Array) -> tuple[Float64Array, Float64Array | None]:
    """Return few rows in the coordinates of the space they span, and its basis (n_columns, n_rows).

    With an L2 penalty the coefficients of the solution lie in this space. If the rows are not clearly fewer
    than the columns, return them unchanged, and None.
    """
    if len(Z) >= QR_ROWS_PER_COLUMN * Z.shape[1]:
        return Z, None
    basis, triangle = qr(Z.T, mode="economic", check_finite=False)  # (n_columns, n_rows), (n_rows, n_rows)
    return np.ascontiguousarray(triangle.T), basis


def factorise(matrix: Float32Array) -> CholeskyFactor:
    """Return the Cholesky factor of a positive definite matrix, which is overwritten.

    In float32 a small penalty can vanish by rounding, so that the matrix is singular. Then a multiple of the
    identity is added that is large enough for float32.
    """
    diagonal = np.arange(len(matrix))
    mean = matrix[diagonal, diagonal].mean()
    for relative in (1e-6, 1e-5, 1e-4, 1e-3, 1e-2):
        try:
            return cho_factor(matrix, lower=True, check_finite=False)
        except LinAlgError:
            matrix[diagonal, diagonal] += np.float32(relative) * mean
    return cho_factor(matrix, lower=True, check_finite=False)


def times_columns(vectors: npt.NDArray, matrix: npt.NDArray) -> npt.NDArray:
    """Return vectors @ matrix.T, for (k, n_columns) and (n_rows, n_columns)."""
    if len(vectors) > FEW_VECTORS:
        return vectors @ matrix.T
    product = np.empty((len(vectors), len(matrix)), dtype=matrix.dtype)
    for vector, out in zip(vectors, product, strict=True):
        np.dot(matrix, vector, out=out)
    return product


def times_rows(vectors: npt.NDArray, matrix: npt.NDArray) -> npt.NDArray:
    """Return vectors @ matrix, for (k, n_rows) and (n_rows, n_columns)."""
    if len(vectors) > FEW_VECTORS:
        return vectors @ matrix
    product = np.empty((len(vectors), matrix.shape[1]), dtype=matrix.dtype)
    for vector, out in zip(vectors, product, strict=True):
        np.dot(vector, matrix, out=out)
    return product


class RowLoss(Protocol):
    """A loss that is a sum over rows plus a penalty; the shape of the unknowns is up to the loss."""

    def rows_loss(
        self, unknowns: Float64Array, Z: Float64Array, rows: IntArray
    ) -> tuple[float, Float64Array]:
        """Return the loss and gradient of some rows: their scaled features, and their indices."""
        ...

    def rows_hessian_product(
        self, vector: Float32Array, unknowns: Float64Array, Z: Float32Array, rows: IntArray
    ) -> Float32Array:
        """Return the Hessian of some rows, with a last column of ones, times a vector."""
        ...

    def penalty_loss(self, unknowns: Float64Array, penalty: float) -> tuple[float, Float64Array]:
        """Return the penalty, infinite for unknowns outside the domain, and its gradient."""
        ...

    def penalty_hessian_product(
        self, vector: Float32Array, unknowns: Float64Array, penalty: float
    ) -> Float32Array:
        """Return the Hessian of the penalty times a vector."""
        ...

    def preconditioner(self, unknowns: Float64Array, penalty: float) -> CholeskyFactor:
        """Return the Cholesky factor of an approximate Hessian."""
        ...

    def gradient_size(self, gradient: Float64Array) -> float:
        """Return the largest component of a gradient in the coordinates of the caller."""
        ...


class StreamedProblem(Problem):
    """A loss over all rows of a stream."""

    max_cg_steps = 60  # each is a pass over all rows
    patience = 5

    def __init__(self, scaled: ScaledStream, loss: RowLoss) -> None:
        self.scaled, self.loss = scaled, loss

    def _gradient_size(self, gradient: Float64Array) -> float:
        return self.loss.gradient_size(gradient)

    def _evaluate(self, unknowns: Float64Array, penalty: float) -> tuple[float, Float64Array, Any]:
        loss, gradient = self.loss.penalty_loss(unknowns, penalty)
        if not np.isfinite(loss):
            return loss, gradient, None
        blocks = self.scaled.map_blocks(lambda rows, Z: self.loss.rows_loss(unknowns, Z, rows))
        for block_loss, block_gradient in blocks:
            loss += block_loss
            gradient += block_gradient
        return loss, gradient, unknowns

    def _hessian_product(self, vector: Float32Array, state: Float64Array, penalty: float) -> Float32Array:
        blocks = self.scaled.map_blocks_float32(
            lambda rows, Z: self.loss.rows_hessian_product(vector, state, Z, rows)
        )
        penalty_product = self.loss.penalty_hessian_product(vector, state, penalty)
        return (sum_blocks(blocks) + penalty_product).astype(np.float32)

    def _preconditioner(self, state: Float64Array, penalty: float, *, weighted: bool) -> CholeskyFactor:
        return self.loss.preconditioner(state, penalty)


def sum_blocks(blocks: Iterable[npt.NDArray[Any]]) -> Float64Array:
    """Return the sum of arrays of one shape, added in their order in float64."""
    total: Float64Array | None = None
    for block in blocks:
        total = block.astype(np.float64) if total is None else total + block
    assert total is not None
    return total
