"""Linear machines of the squared hinge in the primal, several at once, on rows that stay on disk.

The objective of each is that of ``LinearSVC(loss="squared_hinge", dual=False)``, so is liblinear's penalty of
the intercept, and so is what it does with class weights: one class against the rest weighs the class alone,
where there are two classes each its own. Newton's method on it is that of Keerthi & DeCoste, "A modified
finite Newton method for fast solution of large scale linear SVMs", 2005.

A calibration needs a machine for each part that is left out. All of them and the one on all rows are solved
together: what costs is reading the rows, and every pass serves all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from classify.heads.solvers.newton_cg import Streamed, factorise, times_columns, times_rows
from classify.heads.solvers.scaling import Scaled
from featurize.base.typing import Float32Array, Float64Array, IntArray


@dataclass(frozen=True, kw_only=True)
class Machines:
    """One machine for each part left out, and behind them the one on all rows."""

    coef: Float64Array  # (n_parts + 1, n_machines, n_columns); one machine for two classes, else one a class
    intercept: Float64Array  # (n_parts + 1, n_machines)
    gradient: float  # largest component of the mean loss's gradient
    n_iter: int  # Newton steps

    def decisions(self, Z: Float64Array, part: IntArray) -> Float64Array:
        """Return the decisions for each row (n_rows, n_columns) by the machine fitted without its part."""
        every = np.einsum("ij,pkj->ipk", Z, self.coef[:-1], optimize=True) + self.intercept[:-1]
        found: Float64Array = every[np.arange(len(Z)), part]
        return found


def solve_machines(
    scaled: Scaled,
    label: npt.NDArray[np.integer],
    part: IntArray,
    *,
    C: float,
    weights: Float64Array,
    tol: float = 1e-6,
    max_iter: int = 100,
    seed: int = 0,
) -> Machines:
    """Solve one against the rest, without each part in turn and on all rows.

    Parameters
    ----------
    scaled : Scaled
    label : ndarray of shape (n_rows,), int
        0 to n_classes - 1, each present in the rest of every part.
    part : ndarray of shape (n_rows,), int
        Which part each row is left out with, from 0.
    C : float
        As in scikit-learn.
    weights : ndarray of shape (n_parts + 1, n_classes)
        Of the classes, for each of the machines.
    tol : float
        Largest component of the mean loss's gradient at which to stop.
    max_iter, seed
        As in `classify.heads.solvers.softmax_loss.solve_streamed`.
    """
    n_parts, n_classes = len(weights) - 1, weights.shape[1]
    rows, Z = scaled.sample(seed=seed)
    model = _Hinge(label, part, weights, rows=rows, Z=Z)
    n_columns = scaled.stream.n_features
    start = np.zeros((model.n_machines, n_columns + 1))
    # A hinge has few Newton steps to go from anywhere; the sample's own minimum is as near as a guess can be.
    start, _, _ = _OfSample(model).minimise(start, 1.0 / (C * len(rows)), tol=100 * tol, max_iter=max_iter)
    unknowns, size, n_iter = Streamed(scaled, model).minimise(
        start, 1.0 / (C * len(label)), tol=tol, max_iter=max_iter
    )
    shaped = unknowns.reshape(n_parts + 1, 1 if n_classes == 2 else n_classes, n_columns + 1)
    return Machines(
        coef=shaped[..., :-1].copy(), intercept=shaped[..., -1].copy(), gradient=size, n_iter=n_iter
    )


class _Hinge:
    """Half the squared coefficients and the squared hinges: a `classify.heads.solvers.newton_cg.RowModel`."""

    def __init__(
        self,
        label: npt.NDArray[np.integer],
        part: IntArray,
        weights: Float64Array,
        *,
        rows: IntArray,
        Z: Float64Array,
    ) -> None:
        self.label, self.part, self.n_rows = label, part, len(label)
        n_parts, n_classes = len(weights) - 1, weights.shape[1]
        self.positive = np.arange(1, 2) if n_classes == 2 else np.arange(n_classes)
        own = weights[:, self.positive]  # (n_parts + 1, n_positive)
        rest = weights[:, :1] if n_classes == 2 else np.ones_like(own)
        self.own, self.rest_weight = own.ravel(), rest.ravel()
        self.without = np.repeat(np.append(np.arange(n_parts), -1), len(self.positive))  # the part; -1: none
        self.sign_of = np.tile(self.positive, n_parts + 1)
        self.n_machines = len(self.without)
        self.rows = rows
        self.Z32 = np.empty((len(Z), Z.shape[1] + 1), dtype=np.float32)
        self.Z32[:, :-1], self.Z32[:, -1] = Z, 1.0

    def sides(self, rows: IntArray) -> tuple[Float64Array, Float64Array]:
        """Return of rows with these numbers sign and cost in each machine: (n_machines, n)."""
        positive = self.label[rows] == self.sign_of[:, None]
        cost = np.where(positive, self.own[:, None], self.rest_weight[:, None])
        cost[self.part[rows] == self.without[:, None]] = 0.0
        return np.where(positive, 1.0, -1.0), cost

    def loss_of(self, unknowns: Float64Array, Z: Float64Array, rows: IntArray) -> tuple[float, Float64Array]:
        sign, cost = self.sides(rows)
        scores = unknowns[:, :-1] @ Z.T + unknowns[:, -1:]
        slack = np.maximum(1.0 - sign * scores, 0.0)
        pull = cost * slack / self.n_rows
        residual = -2.0 * sign * pull
        gradient = np.empty_like(unknowns)
        gradient[:, :-1] = times_rows(residual, Z)
        gradient[:, -1] = residual.sum(axis=1)
        return float(np.sum(pull * slack)), gradient

    def curvature_of(
        self, vector: Float32Array, unknowns: Float64Array, Z: Float32Array, rows: IntArray
    ) -> Float32Array:
        active = self._active(unknowns, Z, rows, n_rows=self.n_rows)
        return times_rows((times_columns(vector, Z) * active).astype(np.float32), Z)

    def rest(self, unknowns: Float64Array, penalty: float) -> tuple[float, Float64Array]:
        return 0.5 * penalty * float(np.sum(unknowns**2)), penalty * unknowns

    def rest_curvature(self, vector: Float32Array, unknowns: Float64Array, penalty: float) -> Float32Array:
        return np.float32(penalty) * vector

    def factor(self, unknowns: Float64Array, penalty: float) -> tuple[Float32Array, bool]:
        active = self._active(unknowns, self.Z32, self.rows, n_rows=len(self.rows))
        scaled = self.Z32 * np.sqrt(active.mean(axis=0)).astype(np.float32)[:, None]
        moments = scaled.T @ scaled
        diagonal = np.arange(len(moments))
        moments[diagonal, diagonal] += np.float32(penalty)
        return factorise(moments)

    def size(self, gradient: Float64Array) -> float:
        return float(np.abs(gradient).max())

    def _active(
        self, unknowns: Float64Array, Z: Float32Array, rows: IntArray, *, n_rows: int
    ) -> Float64Array:
        """Return the curvature of each hinge: (n_machines, n)."""
        sign, cost = self.sides(rows)
        inside = sign * times_columns(unknowns.astype(np.float32), Z) < 1.0
        active: Float64Array = 2.0 / n_rows * cost * inside
        return active


class _OfSample(Streamed):
    """The same loss over the sample's rows alone."""

    def __init__(self, model: _Hinge) -> None:
        self.model, self.hinge = model, model
        self.ratio = self.hinge.n_rows / len(self.hinge.rows)

    def _evaluate(self, unknowns: Float64Array, penalty: float) -> tuple[float, Float64Array, Float64Array]:
        loss, gradient = self.hinge.rest(unknowns, penalty)
        more, slope = self.hinge.loss_of(unknowns, self.hinge.Z32[:, :-1].astype(np.float64), self.hinge.rows)
        return loss + self.ratio * more, gradient + self.ratio * slope, unknowns

    def _curvature(self, vector: Float32Array, state: Float64Array, penalty: float) -> Float32Array:
        product = self.hinge.curvature_of(vector, state, self.hinge.Z32, self.hinge.rows)
        return np.float32(self.ratio) * product + self.hinge.rest_curvature(vector, state, penalty)
