"""Newton's method for linear models with an L2 penalty, in few, cheap, well-conditioned steps.

What plain L-BFGS needs hundreds of passes over the rows for, these two together do in tens:

* Each Newton step is solved by conjugate gradients on float32 copies; only the gradient, which decides when
  to stop, needs float64.
* The conjugate gradients are preconditioned by one Cholesky factor: the second moments of the rows, weighted
  by how much each row still bends the loss, plus the penalty. It stands for the Hessian of all unknown
  vectors but for what differs between them, and it is the Hessian itself where there is one.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from scipy.linalg import LinAlgError, cho_factor, cho_solve

F64 = npt.NDArray[np.float64]
F32 = npt.NDArray[np.float32]

REFRESH = 10  # conjugate gradient steps that cost more than a preconditioner that fits the current weights
INNER_STEPS = 500
FEW = 3  # vectors up to which products one by one beat OpenBLAS' product of matrices
ROUNDING = 1e-14  # of the loss
PATIENCE = 20  # steps in which the gradient must halve: what float32 can gain, it gains in fewer


class Loss(Protocol):
    """A convex loss of the scores (n_unknown, n_rows) that rows have by each unknown vector."""

    n_unknown: int
    penalises_intercept: bool
    forcing: float  # a Newton step is solved until its residual has shrunk to this

    def evaluate(self, scores: F64) -> tuple[float, F64, Any]:
        """Return the loss, its derivative by the scores, and a state for the other two."""
        ...

    def curve(self, state: Any, change: F64) -> F64:
        """Return the second derivative by the scores, times a change of them."""
        ...

    def weights(self, state: Any) -> F64:
        """Return the mean second derivative of each row, (n_rows,), never negative."""
        ...

    def gradient_size(self, gradient: F64) -> float:
        """Return what is to shrink to `tol`, of a gradient by the unknowns."""
        ...


class Minimiser:
    """A loss on the rows of one data set; unknowns are (n_unknown, n_columns + 1), the intercepts last."""

    def __init__(self, Z: F64, loss: Loss) -> None:
        self.Z = Z
        self.Z32 = np.empty((len(Z), Z.shape[1] + 1), dtype=np.float32)
        self.Z32[:, :-1], self.Z32[:, -1] = Z, 1.0
        self.loss = loss
        self.n_penalised = Z.shape[1] + loss.penalises_intercept
        self._first: tuple[F32, float] | None = None  # moments and the sum of their weights

    def minimise(self, unknowns: F64, penalty: float, *, tol: float, max_iter: int) -> tuple[F64, float, int]:
        """Minimise loss + penalty / 2 * squares of the unknowns, from a start.

        Returns
        -------
        unknowns : ndarray of shape (n_unknown, n_columns + 1)
        size : float
            Of the gradient there. Above `tol` after fewer than `max_iter` steps, it is the best that float32
            steps reach.
        n_iter : int
            Newton steps.
        """
        value, gradient, state = self._evaluate(unknowns, penalty)
        factor, fresh = None, False
        goal, deadline = np.inf, 0
        for step in range(max_iter):
            size = self.loss.gradient_size(gradient)
            if size <= goal:
                goal, deadline = size / 2, step + PATIENCE
            if size <= tol or step >= deadline:
                return unknowns, size, step
            if factor is None:
                factor = self._preconditioner(state, penalty, fresh=fresh)
            direction, n_inner = self._direction(gradient, state, penalty, factor)
            found = self._search(unknowns, value, gradient, direction, penalty)
            if found is None:
                return unknowns, size, step
            unknowns, value, gradient, state = found
            if n_inner >= REFRESH:
                factor, fresh = None, True
        return unknowns, self.loss.gradient_size(gradient), max_iter

    def _evaluate(self, unknowns: F64, penalty: float) -> tuple[float, F64, Any]:
        scores = _times_columns(unknowns[:, :-1], self.Z) + unknowns[:, -1:]
        value, by_scores, state = self.loss.evaluate(scores)
        gradient = np.empty_like(unknowns)
        gradient[:, :-1] = _times_rows(by_scores, self.Z)
        gradient[:, -1] = by_scores.sum(axis=1)
        penalised = unknowns[:, : self.n_penalised]
        gradient[:, : self.n_penalised] += penalty * penalised
        return value + 0.5 * penalty * float(np.sum(penalised**2)), gradient, state

    def _curvature(self, vector: F32, state: Any, penalty: float) -> F32:
        """Return the Hessian times a vector; float64 between the products keeps what is small there."""
        change = self.loss.curve(state, _times_columns(vector, self.Z32).astype(np.float64))
        product = _times_rows(change.astype(np.float32), self.Z32)
        product[:, : self.n_penalised] += np.float32(penalty) * vector[:, : self.n_penalised]
        return product

    def _preconditioner(self, state: Any, penalty: float, *, fresh: bool) -> tuple[F32, bool]:
        """Factor the moments of the rows: by their first weights, rescaled, or by those of now."""
        weights = self.loss.weights(state)
        if fresh:
            moments = self._moments(weights)
        else:
            if self._first is None:
                self._first = self._moments(weights), float(weights.sum())
            moments = self._first[0] * np.float32(weights.sum() / self._first[1])
        diagonal = np.arange(len(moments))
        penalised = diagonal[: self.n_penalised]
        moments[penalised, penalised] += np.float32(penalty)
        # float32 sees a singular matrix where the penalty is lost against the moments: add what it can see.
        seen = moments[diagonal, diagonal].mean()
        for extra in (1e-6, 1e-5, 1e-4, 1e-3, 1e-2):
            try:
                return cho_factor(moments, lower=True, check_finite=False)
            except LinAlgError:
                moments[diagonal, diagonal] += np.float32(extra) * seen
        return cho_factor(moments, lower=True, check_finite=False)

    def _moments(self, weights: F64) -> F32:
        scaled = self.Z32 * np.sqrt(weights).astype(np.float32)[:, None]
        return scaled.T @ scaled

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
        while steps < INNER_STEPS:
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
            if not size > self.loss.forcing**2 * first:
                break
            along = np.ascontiguousarray(preconditioned + np.float32(size / before) * along)
        return found.astype(np.float64) * scale, steps

    def _search(
        self, unknowns: F64, value: float, gradient: F64, direction: F64, penalty: float
    ) -> tuple[F64, float, F64, Any] | None:
        """Halve the step until the loss falls as it should; None when rounding leaves nothing to gain."""
        slope = float(np.vdot(gradient, direction))
        length = 1.0
        while slope < 0 and length > 1e-8:
            there = unknowns + length * direction
            found = self._evaluate(there, penalty)
            if found[0] <= value + 1e-4 * length * slope + ROUNDING * abs(value):
                return there, *found
            length /= 2
        return None


def _times_columns(vectors: npt.NDArray, matrix: npt.NDArray) -> npt.NDArray:
    """Return vectors @ matrix.T, for (k, n_columns) and (n_rows, n_columns)."""
    if len(vectors) > FEW:
        return vectors @ matrix.T
    product = np.empty((len(vectors), len(matrix)), dtype=matrix.dtype)
    for vector, out in zip(vectors, product, strict=True):
        np.dot(matrix, vector, out=out)
    return product


def _times_rows(vectors: npt.NDArray, matrix: npt.NDArray) -> npt.NDArray:
    """Return vectors @ matrix, for (k, n_rows) and (n_rows, n_columns)."""
    if len(vectors) > FEW:
        return vectors @ matrix
    product = np.empty((len(vectors), matrix.shape[1]), dtype=matrix.dtype)
    for vector, out in zip(vectors, product, strict=True):
        np.dot(vector, matrix, out=out)
    return product
