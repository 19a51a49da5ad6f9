"""Newton's method of `classify.heads.newton` on rows that are read anew in each pass: the same minimum.

What a step needs of all rows are sums: the loss and its gradient, in float64, and the curvature along a
direction, in float32. So full-batch Newton steps by conjugate gradients cost some dozen passes and end where
the solver in memory ends, to its own tolerance, whatever the size of the blocks. A stochastic solver makes
fewer passes to a rough solution and many more to this one, and depends on the order of the rows.

What is only to be near the truth, the start and the matrix that preconditions, comes from a sample of the
rows: with eight rows a column the preconditioned curvature has eigenvalues from about 0.4 to 1.8, so that a
few directions make a step.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from classify.heads.newton import Problem
from classify.heads.scaled import Scaled

F64 = npt.NDArray[np.float64]
F32 = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]


class RowModel(Protocol):
    """A loss that is a sum over rows, and a part that is not; unknowns are float64 of any one shape."""

    def loss_of(self, unknowns: F64, Z: F64, rows: IntArray) -> tuple[float, F64]:
        """Return what scaled rows with these numbers add to the loss and its gradient."""
        ...

    def curvature_of(self, vector: F32, unknowns: F64, Z: F32, rows: IntArray) -> F32:
        """Return what rows, a column of ones behind them, add to the Hessian times a vector."""
        ...

    def rest(self, unknowns: F64, penalty: float) -> tuple[float, F64]:
        """Return what does not depend on rows of the loss, infinite where it is undefined, and gradient."""
        ...

    def rest_curvature(self, vector: F32, unknowns: F64, penalty: float) -> F32:
        """Return the same of the Hessian times a vector."""
        ...

    def factor(self, unknowns: F64, penalty: float) -> tuple[F32, bool]:
        """Return the Cholesky factor of a matrix near the Hessian."""
        ...

    def size(self, gradient: F64) -> float:
        """Return the largest component of a gradient in the caller's coordinates."""
        ...


class Streamed(Problem):
    """The loss of a model over all rows of a stream."""

    inner_steps = 60  # each is a pass over all rows
    patience = 5

    def __init__(self, scaled: Scaled, model: RowModel) -> None:
        self.scaled, self.model = scaled, model

    def _size(self, gradient: F64) -> float:
        return self.model.size(gradient)

    def _evaluate(self, unknowns: F64, penalty: float) -> tuple[float, F64, Any]:
        loss, gradient = self.model.rest(unknowns, penalty)
        if not np.isfinite(loss):
            return loss, gradient, None
        parts = self.scaled.each(lambda rows, Z: self.model.loss_of(unknowns, Z, rows))
        for more, slope in parts:
            loss += more
            gradient += slope
        return loss, gradient, unknowns

    def _curvature(self, vector: F32, state: F64, penalty: float) -> F32:
        parts = self.scaled.each_short(lambda rows, Z: self.model.curvature_of(vector, state, Z, rows))
        return (summed(parts) + self.model.rest_curvature(vector, state, penalty)).astype(np.float32)

    def _preconditioner(self, state: F64, penalty: float, *, weighted: bool) -> tuple[F32, bool]:
        return self.model.factor(state, penalty)


def summed(parts: Iterable[npt.NDArray[Any]]) -> F64:
    """Return the sum of arrays of one shape, in their order and in float64."""
    total: F64 | None = None
    for part in parts:
        total = part.astype(np.float64) if total is None else total + part
    assert total is not None
    return total
