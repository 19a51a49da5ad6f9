"""Newton's method for convex losses of many rows: steps by conjugate gradients on float32 copies.

What a model brings is its loss, its curvature times a vector, and a matrix to precondition with.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from scipy.linalg import LinAlgError, cho_factor, cho_solve, qr

from classify.heads.solvers.scaling import Scaled
from featurize.base.typing import Float32Array, Float64Array, IntArray

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

    def minimise(
        self, unknowns: Float64Array, penalty: float, *, tol: float, max_iter: int
    ) -> tuple[Float64Array, float, int]:
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
    def _size(self, gradient: Float64Array) -> float:
        """Return the largest component of a gradient in the caller's coordinates, or a bound of it."""

    @abstractmethod
    def _evaluate(self, unknowns: Float64Array, penalty: float) -> tuple[float, Float64Array, Any]:
        """Return the loss, its gradient, and what the curvature there is computed from."""

    @abstractmethod
    def _curvature(self, vector: Float32Array, state: Any, penalty: float) -> Float32Array:
        """Return the Hessian times a vector."""

    @abstractmethod
    def _preconditioner(self, state: Any, penalty: float, *, weighted: bool) -> tuple[Float32Array, bool]:
        """Return the Cholesky factor of a matrix near the Hessian; nearer, and dearer, when `weighted`."""

    def _direction(
        self, gradient: Float64Array, state: Any, penalty: float, factor: tuple[Float32Array, bool]
    ) -> tuple[Float64Array, int]:
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
        self,
        unknowns: Float64Array,
        loss: float,
        gradient: Float64Array,
        direction: Float64Array,
        penalty: float,
    ) -> tuple[Float64Array, float, Float64Array, Any] | None:
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


def row_space(Z: Float64Array) -> tuple[Float64Array, Float64Array | None]:
    """Return rows in the space that they span, and its basis (n_columns, n_rows): where these are few.

    Otherwise they are returned as they are, and None. A penalty of squared coefficients keeps those of a
    solution in that space.
    """
    if len(Z) >= ROW_SPACE * Z.shape[1]:
        return Z, None
    basis, triangle = qr(Z.T, mode="economic", check_finite=False)  # (n_columns, n_rows), (n_rows, n_rows)
    return np.ascontiguousarray(triangle.T), basis


def factorise(matrix: Float32Array) -> tuple[Float32Array, bool]:
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


class RowModel(Protocol):
    """A loss that is a sum over rows, and a part that is not; unknowns are float64 of any one shape."""

    def loss_of(self, unknowns: Float64Array, Z: Float64Array, rows: IntArray) -> tuple[float, Float64Array]:
        """Return what scaled rows with these numbers add to the loss and its gradient."""
        ...

    def curvature_of(
        self, vector: Float32Array, unknowns: Float64Array, Z: Float32Array, rows: IntArray
    ) -> Float32Array:
        """Return what rows, a column of ones behind them, add to the Hessian times a vector."""
        ...

    def rest(self, unknowns: Float64Array, penalty: float) -> tuple[float, Float64Array]:
        """Return what does not depend on rows of the loss, infinite where it is undefined, and gradient."""
        ...

    def rest_curvature(self, vector: Float32Array, unknowns: Float64Array, penalty: float) -> Float32Array:
        """Return the same of the Hessian times a vector."""
        ...

    def factor(self, unknowns: Float64Array, penalty: float) -> tuple[Float32Array, bool]:
        """Return the Cholesky factor of a matrix near the Hessian."""
        ...

    def size(self, gradient: Float64Array) -> float:
        """Return the largest component of a gradient in the caller's coordinates."""
        ...


class Streamed(Problem):
    """The loss of a model over all rows of a stream."""

    inner_steps = 60  # each is a pass over all rows
    patience = 5

    def __init__(self, scaled: Scaled, model: RowModel) -> None:
        self.scaled, self.model = scaled, model

    def _size(self, gradient: Float64Array) -> float:
        return self.model.size(gradient)

    def _evaluate(self, unknowns: Float64Array, penalty: float) -> tuple[float, Float64Array, Any]:
        loss, gradient = self.model.rest(unknowns, penalty)
        if not np.isfinite(loss):
            return loss, gradient, None
        parts = self.scaled.map_blocks(lambda rows, Z: self.model.loss_of(unknowns, Z, rows))
        for more, slope in parts:
            loss += more
            gradient += slope
        return loss, gradient, unknowns

    def _curvature(self, vector: Float32Array, state: Float64Array, penalty: float) -> Float32Array:
        parts = self.scaled.each_short(lambda rows, Z: self.model.curvature_of(vector, state, Z, rows))
        return (summed(parts) + self.model.rest_curvature(vector, state, penalty)).astype(np.float32)

    def _preconditioner(
        self, state: Float64Array, penalty: float, *, weighted: bool
    ) -> tuple[Float32Array, bool]:
        return self.model.factor(state, penalty)


def summed(parts: Iterable[npt.NDArray[Any]]) -> Float64Array:
    """Return the sum of arrays of one shape, in their order and in float64."""
    total: Float64Array | None = None
    for part in parts:
        total = part.astype(np.float64) if total is None else total + part
    assert total is not None
    return total
