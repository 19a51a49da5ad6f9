"""Newton's method for convex losses of many rows: steps by conjugate gradients on float32 copies.

What a model brings is its loss, its curvature times a vector, and a matrix to precondition with.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import LinAlgError, cho_factor, cho_solve, qr

F64 = npt.NDArray[np.float64]
F32 = npt.NDArray[np.float32]

FORCING = 0.1  # a Newton step is solved until its residual has shrunk to this
REFRESH = 10  # conjugate gradient steps that cost more than a preconditioner that fits the current weights
INNER_STEPS = 500
ROW_SPACE = 0.75  # rows per column below which a QR pays for itself
FEW = 3  # vectors up to which products one by one beat OpenBLAS' product of matrices
ROUNDING = 1e-14  # of the loss
PATIENCE = 20  # steps in which the gradient must halve: what float32 can gain, it gains in fewer


class Problem(ABC):
    """A loss to be made smallest over unknowns (n_vectors, n_columns + something)."""

    inner_steps = INNER_STEPS
    patience = PATIENCE

    def minimise(self, unknowns: F64, penalty: float, *, tol: float, max_iter: int) -> tuple[F64, float, int]:
        """Return the minimum, the largest component of the gradient there, and the Newton steps it took."""
        loss, gradient, state = self._evaluate(unknowns, penalty)
        factor, weighted = None, False
        goal, deadline = np.inf, 0
        for step in range(max_iter):
            size = self._size(gradient)
            if size <= goal:
                goal, deadline = size / 2, step + self.patience
            if size <= tol or step >= deadline:
                return unknowns, size, step
            if factor is None:
                factor = self._preconditioner(state, penalty, weighted=weighted)
            direction, n_inner = self._direction(gradient, state, penalty, factor)
            found = self._search(unknowns, loss, gradient, direction, penalty)
            if found is None:
                return unknowns, size, step
            unknowns, loss, gradient, state = found
            if n_inner >= REFRESH:
                factor, weighted = None, True
        return unknowns, self._size(gradient), max_iter

    @abstractmethod
    def _size(self, gradient: F64) -> float:
        """Return the largest component of a gradient in the caller's coordinates, or a bound of it."""

    @abstractmethod
    def _evaluate(self, unknowns: F64, penalty: float) -> tuple[float, F64, Any]:
        """Return the loss, its gradient, and what the curvature there is computed from."""

    @abstractmethod
    def _curvature(self, vector: F32, state: Any, penalty: float) -> F32:
        """Return the Hessian times a vector."""

    @abstractmethod
    def _preconditioner(self, state: Any, penalty: float, *, weighted: bool) -> tuple[F32, bool]:
        """Return the Cholesky factor of a matrix near the Hessian; nearer, and dearer, when `weighted`."""

    def _direction(
        self, gradient: F64, state: Any, penalty: float, factor: tuple[F32, bool]
    ) -> tuple[F64, int]:
        """Solve for the Newton step by conjugate gradients; return it and the number of their steps."""
        scale = float(np.abs(gradient).max())
        residual = (-gradient / scale).astype(np.float32)
        found = np.zeros_like(residual)
        preconditioned = cho_solve(factor, residual.T, check_finite=False).T
        along = np.ascontiguousarray(preconditioned)
        size = first = float(np.vdot(residual, preconditioned))
        steps = 0
        while steps < self.inner_steps:
            steps += 1
            product = self._curvature(along, state, penalty)
            curvature = float(np.vdot(along, product))
            if not curvature > 0:
                break
            length = np.float32(size / curvature)
            found += length * along
            residual -= length * product
            preconditioned = cho_solve(factor, residual.T, check_finite=False).T
            before, size = size, float(np.vdot(residual, preconditioned))
            if not size > FORCING**2 * first:
                break
            along = np.ascontiguousarray(preconditioned + np.float32(size / before) * along)
        return found.astype(np.float64) * scale, steps

    def _search(
        self, unknowns: F64, loss: float, gradient: F64, direction: F64, penalty: float
    ) -> tuple[F64, float, F64, Any] | None:
        """Halve the step until the loss falls as it should; None when rounding leaves nothing to gain."""
        slope = float(np.vdot(gradient, direction))
        length = 1.0
        while slope < 0 and length > 1e-8:
            there = unknowns + length * direction
            found = self._evaluate(there, penalty)
            if found[0] <= loss + 1e-4 * length * slope + ROUNDING * abs(loss):
                return there, *found
            length /= 2
        return None


def row_space(Z: F64) -> tuple[F64, F64 | None]:
    """Return rows in the space that they span, and its basis (n_columns, n_rows): where these are few.

    Otherwise they are returned as they are, and None. A penalty of squared coefficients keeps those of a
    solution in that space.
    """
    if len(Z) >= ROW_SPACE * Z.shape[1]:
        return Z, None
    basis, triangle = qr(Z.T, mode="economic", check_finite=False)  # (n_columns, n_rows), (n_rows, n_rows)
    return np.ascontiguousarray(triangle.T), basis


def factorise(matrix: F32) -> tuple[F32, bool]:
    """Return the Cholesky factor of a positive matrix, which is changed.

    float32 sees a singular one where the penalty is lost against the rest: as much is added as it can see.
    """
    diagonal = np.arange(len(matrix))
    seen = matrix[diagonal, diagonal].mean()
    for extra in (1e-6, 1e-5, 1e-4, 1e-3, 1e-2):
        try:
            return cho_factor(matrix, lower=True, check_finite=False)
        except LinAlgError:
            matrix[diagonal, diagonal] += np.float32(extra) * seen
    return cho_factor(matrix, lower=True, check_finite=False)


def times_columns(vectors: npt.NDArray, matrix: npt.NDArray) -> npt.NDArray:
    """Return vectors @ matrix.T, for (k, n_columns) and (n_rows, n_columns)."""
    if len(vectors) > FEW:
        return vectors @ matrix.T
    product = np.empty((len(vectors), len(matrix)), dtype=matrix.dtype)
    for vector, out in zip(vectors, product, strict=True):
        np.dot(matrix, vector, out=out)
    return product


def times_rows(vectors: npt.NDArray, matrix: npt.NDArray) -> npt.NDArray:
    """Return vectors @ matrix, for (k, n_rows) and (n_rows, n_columns)."""
    if len(vectors) > FEW:
        return vectors @ matrix
    product = np.empty((len(vectors), matrix.shape[1]), dtype=matrix.dtype)
    for vector, out in zip(vectors, product, strict=True):
        np.dot(vector, matrix, out=out)
    return product
