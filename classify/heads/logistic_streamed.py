"""Logistic regression on rows that stay on disk."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.special import softmax

from classify.heads.logistic import LogisticProblem, Solution
from classify.heads.newton import times_columns
from classify.heads.scaled import Scaled
from classify.heads.streamed import Streamed

F64 = npt.NDArray[np.float64]
F32 = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]


def solve_streamed(
    scaled: Scaled,
    label: npt.NDArray[np.integer],
    *,
    C: float,
    weight: F64,
    tol: float = 1e-6,
    max_iter: int = 100,
    seed: int = 0,
) -> Solution:
    """Return the solution for one C from rows that stay on disk; see `classify.heads.streamed`.

    Parameters
    ----------
    scaled : Scaled
    label, weight : ndarray of shape (n_rows,)
        As in `classify.heads.logistic.solve_path`.
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
    """The same loss for rows that come a block at a time: a `classify.heads.streamed.RowModel`."""

    def __init__(self, label: npt.NDArray[np.integer], weight: F64, *, rows: IntArray, Z: F64) -> None:
        self.label, self.share = label, weight / weight.sum()
        self.sample = LogisticProblem(
            Z, label[rows], weight[rows], rotated=False, n_classes=int(label.max()) + 1
        )

    def loss_of(self, unknowns: F64, Z: F64, rows: IntArray) -> tuple[float, F64]:
        return self.sample.loss_of_rows(unknowns, Z, self.label[rows], self.share[rows])[:2]

    def curvature_of(self, vector: F32, unknowns: F64, Z: F32, rows: IntArray) -> F32:
        return self.sample.curvature_of_rows(vector, self._shares(unknowns, Z), Z, self.share[rows])

    def rest(self, unknowns: F64, penalty: float) -> tuple[float, F64]:
        gradient = penalty * unknowns
        gradient[:, -1] = 0.0
        return 0.5 * penalty * float(np.sum(unknowns[:, :-1] ** 2)), gradient

    def rest_curvature(self, vector: F32, unknowns: F64, penalty: float) -> F32:
        product = np.float32(penalty) * vector
        product[:, -1] = 0.0
        return product

    def factor(self, unknowns: F64, penalty: float) -> tuple[F32, bool]:
        shares = self._shares(unknowns, self.sample.Z32)
        return self.sample._preconditioner(shares, penalty, weighted=True)

    def size(self, gradient: F64) -> float:
        return self.sample._size(gradient)

    def _shares(self, unknowns: F64, Z: F32) -> F64:
        """Return each class's share in rows with a column of ones: (n_classes, n_rows)."""
        found = times_columns(unknowns.astype(np.float32), Z).astype(np.float64)
        shares: F64 = softmax(self.sample.contrast.T @ found, axis=0)
        return shares
