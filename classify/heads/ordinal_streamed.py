"""Proportional odds on rows that stay on disk."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from classify.heads.newton import times_columns
from classify.heads.ordinal_logistic import OrdinalProblem, OrdinalSolution, Sides
from classify.heads.scaled import Scaled
from classify.heads.streamed import Streamed

F64 = npt.NDArray[np.float64]
F32 = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]


def solve_ordinal_streamed(
    scaled: Scaled,
    label: npt.NDArray[np.integer],
    *,
    C: float,
    weight: F64,
    tol: float = 1e-6,
    max_iter: int = 100,
    seed: int = 0,
) -> OrdinalSolution:
    """Return the solution for one C from rows that stay on disk; see `classify.heads.streamed`.

    All as in `classify.heads.logistic_streamed.solve_streamed`.
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
    """The same loss for rows that come a block at a time: a `classify.heads.streamed.RowModel`."""

    def __init__(self, label: npt.NDArray[np.integer], weight: F64, *, rows: IntArray, Z: F64) -> None:
        n_classes, share = int(label.max()) + 1, weight / weight.sum()
        self.class_share = np.bincount(label, weights=share).astype(np.float64)
        self.sides = Sides.of(label, share, n_classes)
        self.sample = OrdinalProblem(Z, label[rows], weight[rows], rotated=False, n_classes=n_classes)

    def loss_of(self, unknowns: F64, Z: F64, rows: IntArray) -> tuple[float, F64]:
        return self.sample.loss_of_rows(unknowns, Z, self.sides.at(rows))[:2]

    def curvature_of(self, vector: F32, unknowns: F64, Z: F32, rows: IntArray) -> F32:
        Z, sides = Z[:, :-1], self.sides.at(rows)
        above, below = self._curvatures(unknowns, Z, sides)
        return self.sample.curvature_of_rows(vector, Z, sides, above, below)

    def rest(self, unknowns: F64, penalty: float) -> tuple[float, F64]:
        return self.sample.rest(unknowns, penalty, self.class_share)[:2]

    def rest_curvature(self, vector: F32, unknowns: F64, penalty: float) -> F32:
        return self.sample.rest_curvature(vector, self._gaps(unknowns), penalty)

    def factor(self, unknowns: F64, penalty: float) -> tuple[F32, bool]:
        one = self.sample
        above, below = self._curvatures(unknowns, one.Z32, one.sides)
        return one._preconditioner((above, below, self._gaps(unknowns)), penalty, weighted=True)

    def size(self, gradient: F64) -> float:
        return self.sample._size(gradient)

    def _gaps(self, unknowns: F64) -> F64:
        gaps = self.sample.rest(unknowns, 0.0, self.class_share)[2]
        assert gaps is not None
        return gaps

    def _curvatures(self, unknowns: F64, Z: F32, sides: Sides) -> tuple[F64, F64]:
        coef, thresholds = np.split(unknowns, [self.sample.n_columns], axis=1)
        score = times_columns(coef.astype(np.float32), Z)[0].astype(np.float64)
        above, below = thresholds[0][sides.upper] - score, thresholds[0][sides.lower] - score
        return (
            sides.upper_share * expit(-above) * expit(above),
            sides.lower_share * expit(below) * expit(-below),
        )
