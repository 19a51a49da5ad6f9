"""Squared hinge loss: several linear SVMs at once in the primal, on rows that stay on disk.

The objective is that of ``LinearSVC(loss="squared_hinge", dual=False)``, including liblinear's penalty of the
intercept and its use of class weights: with one class against the rest only that class is weighted, with two
classes each has its own weight. The solver is the Newton method of Keerthi & DeCoste, "A modified finite
Newton method for fast solution of large scale linear SVMs", 2005.

Calibration needs one SVM without each fold. These and the SVM of all rows are solved together: most of the
time is spent reading the rows, and each pass over the rows serves all SVMs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from classify.heads.solvers.newton_cg import (
    CholeskyFactor,
    StreamedProblem,
    factorise,
    times_columns,
    times_rows,
)
from classify.heads.solvers.scaling import ScaledStream
from featurize.base.typing import Float32Array, Float64Array, IntArray


@dataclass(frozen=True, kw_only=True)
class LinearSVMs:
    """Fitted linear SVMs: one without each fold, and the last one on all rows."""

    coef: Float64Array  # (n_folds + 1, n_columns, n_features); n_columns is 1 for two classes, else n_classes
    intercept: Float64Array  # (n_folds + 1, n_columns)
    gradient: float  # largest component of the gradient of the mean loss
    n_iter: int  # Newton steps

    def decisions(self, Z: Float64Array, fold: IntArray) -> Float64Array:
        """Return the decisions for each row by the SVM fitted without its fold: (n_rows, n_columns)."""
        all_decisions = np.einsum("ij,pkj->ipk", Z, self.coef[:-1], optimize=True) + self.intercept[:-1]
        decisions: Float64Array = all_decisions[np.arange(len(Z)), fold]
        return decisions


def solve_linear_svms(
    scaled: ScaledStream,
    label: npt.NDArray[np.integer],
    fold: IntArray,
    *,
    C: float,
    weights: Float64Array,
    tol: float = 1e-6,
    max_iter: int = 100,
    seed: int = 0,
) -> LinearSVMs:
    """Solve one-against-the-rest SVMs without each fold and on all rows.

    Parameters
    ----------
    scaled : ScaledStream
    label : ndarray of shape (n_rows,), int
        0 to n_classes - 1, each present outside every fold.
    fold : ndarray of shape (n_rows,), int
        Fold of each row, from 0.
    C : float
        As in scikit-learn.
    weights : ndarray of shape (n_folds + 1, n_classes)
        Class weights without each fold, and on all rows.
    tol : float
        Stop when the largest component of the gradient of the mean loss is below this.
    max_iter, seed
        As in `classify.heads.solvers.softmax_loss.solve_streamed`.
    """
    n_folds, n_classes = len(weights) - 1, weights.shape[1]
    rows, Z = scaled.sample(seed=seed)
    model = _SquaredHinge(label, fold, weights, rows=rows, Z=Z)
    n_columns = scaled.stream.n_features
    start = np.zeros((model.n_svms, n_columns + 1))
    # The solution for the sample is a good start: from there only a few passes over all rows are needed.
    start, _, _ = _SampleProblem(model).minimise(
        start, 1.0 / (C * len(rows)), tol=100 * tol, max_iter=max_iter
    )
    unknowns, size, n_iter = StreamedProblem(scaled, model).minimise(
        start, 1.0 / (C * len(label)), tol=tol, max_iter=max_iter
    )
    shaped = unknowns.reshape(n_folds + 1, 1 if n_classes == 2 else n_classes, n_columns + 1)
    return LinearSVMs(
        coef=shaped[..., :-1].copy(), intercept=shaped[..., -1].copy(), gradient=size, n_iter=n_iter
    )


class _SquaredHinge:
    """Squared hinges plus half the squared coefficients: a `classify.heads.solvers.newton_cg.RowLoss`."""

    def __init__(
        self,
        label: npt.NDArray[np.integer],
        fold: IntArray,
        weights: Float64Array,
        *,
        rows: IntArray,
        Z: Float64Array,
    ) -> None:
        self.label, self.fold, self.n_rows = label, fold, len(label)
        n_folds, n_classes = len(weights) - 1, weights.shape[1]
        positive = np.arange(1, 2) if n_classes == 2 else np.arange(n_classes)
        positive_weight = weights[:, positive]  # (n_folds + 1, n_positive)
        rest_weight = weights[:, :1] if n_classes == 2 else np.ones_like(positive_weight)
        # All of shape (n_svms,):
        self.positive_weight, self.rest_weight = positive_weight.ravel(), rest_weight.ravel()
        self.left_out = np.repeat(np.append(np.arange(n_folds), -1), len(positive))  # fold; -1 is none
        self.positive_class = np.tile(positive, n_folds + 1)
        self.n_svms = len(self.left_out)
        self.rows = rows
        self.Z32 = np.empty((len(Z), Z.shape[1] + 1), dtype=np.float32)
        self.Z32[:, :-1], self.Z32[:, -1] = Z, 1.0

    def signs_and_costs(self, rows: IntArray) -> tuple[Float64Array, Float64Array]:
        """Return the sign (1 or -1) and the cost of the given rows in each SVM: (n_svms, n)."""
        positive = self.label[rows] == self.positive_class[:, None]
        cost = np.where(positive, self.positive_weight[:, None], self.rest_weight[:, None])
        cost[self.fold[rows] == self.left_out[:, None]] = 0.0
        return np.where(positive, 1.0, -1.0), cost

    def rows_loss(
        self, unknowns: Float64Array, Z: Float64Array, rows: IntArray
    ) -> tuple[float, Float64Array]:
        sign, cost = self.signs_and_costs(rows)
        scores = unknowns[:, :-1] @ Z.T + unknowns[:, -1:]
        slack = np.maximum(1.0 - sign * scores, 0.0)
        weighted_slack = cost * slack / self.n_rows
        residual = -2.0 * sign * weighted_slack
        gradient = np.empty_like(unknowns)
        gradient[:, :-1] = times_rows(residual, Z)
        gradient[:, -1] = residual.sum(axis=1)
        return float(np.sum(weighted_slack * slack)), gradient

    def rows_hessian_product(
        self, vector: Float32Array, unknowns: Float64Array, Z: Float32Array, rows: IntArray
    ) -> Float32Array:
        curvature = self._curvature(unknowns, Z, rows, n_rows=self.n_rows)
        return times_rows((times_columns(vector, Z) * curvature).astype(np.float32), Z)

    def penalty_loss(self, unknowns: Float64Array, penalty: float) -> tuple[float, Float64Array]:
        return 0.5 * penalty * float(np.sum(unknowns**2)), penalty * unknowns

    def penalty_hessian_product(
        self, vector: Float32Array, unknowns: Float64Array, penalty: float
    ) -> Float32Array:
        return np.float32(penalty) * vector

    def preconditioner(self, unknowns: Float64Array, penalty: float) -> CholeskyFactor:
        curvature = self._curvature(unknowns, self.Z32, self.rows, n_rows=len(self.rows))
        scaled = self.Z32 * np.sqrt(curvature.mean(axis=0)).astype(np.float32)[:, None]
        moments = scaled.T @ scaled
        diagonal = np.arange(len(moments))
        moments[diagonal, diagonal] += np.float32(penalty)
        return factorise(moments)

    def gradient_size(self, gradient: Float64Array) -> float:
        return float(np.abs(gradient).max())

    def _curvature(
        self, unknowns: Float64Array, Z: Float32Array, rows: IntArray, *, n_rows: int
    ) -> Float64Array:
        """Return the second derivative of each hinge: (n_svms, n); 0 outside the margin."""
        sign, cost = self.signs_and_costs(rows)
        inside = sign * times_columns(unknowns.astype(np.float32), Z) < 1.0
        curvature: Float64Array = 2.0 / n_rows * cost * inside
        return curvature


class _SampleProblem(StreamedProblem):
    """The same loss over the rows of the sample only."""

    def __init__(self, hinge: _SquaredHinge) -> None:
        self.loss = self.hinge = hinge
        self.ratio = hinge.n_rows / len(hinge.rows)

    def _evaluate(self, unknowns: Float64Array, penalty: float) -> tuple[float, Float64Array, Float64Array]:
        loss, gradient = self.hinge.penalty_loss(unknowns, penalty)
        Z = self.hinge.Z32[:, :-1].astype(np.float64)
        rows_loss, rows_gradient = self.hinge.rows_loss(unknowns, Z, self.hinge.rows)
        return loss + self.ratio * rows_loss, gradient + self.ratio * rows_gradient, unknowns

    def _hessian_product(self, vector: Float32Array, state: Float64Array, penalty: float) -> Float32Array:
        product = self.hinge.rows_hessian_product(vector, state, self.hinge.Z32, self.hinge.rows)
        return np.float32(self.ratio) * product + self.hinge.penalty_hessian_product(vector, state, penalty)
