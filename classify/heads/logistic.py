"""Logistic regression along a path of C.

Beside what `newton` does, these keep the problem small:

* A softmax with an L2 penalty has class coefficients that sum to zero: K classes are K - 1 unknown vectors.
* With clearly fewer rows than columns the solution lies in the space of the rows: an exact QR turns the
  problem into one of as many columns as rows.

CPU seconds for the 11 points of the grid on one thread of an AMD EPYC of 2024, each point from the solution
before it, to a gradient of 1e-6 (EfficientNet-Lite0 features of damage3):

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

import numpy as np
import numpy.typing as npt
from scipy.linalg import helmert, qr
from scipy.special import logsumexp

from classify.heads.newton import F64, Minimiser

ROW_SPACE = 0.75  # rows per column below which a QR pays for itself


@dataclass(frozen=True, kw_only=True)
class Solution:
    """Coefficients in scikit-learn's form: one row a class, a single one for two classes."""

    coef: F64  # (n_classes or 1, n_columns)
    intercept: F64  # (n_classes or 1,)
    gradient: float  # largest component of the mean loss's gradient
    n_iter: int  # Newton steps


def solve_path(
    Z: F64,
    label: npt.NDArray[np.integer],
    *,
    C: Sequence[float],
    weight: F64 | None = None,
    tol: float = 1e-6,
    max_iter: int = 100,
) -> Iterator[Solution]:
    """Yield the solution for each C, each found from the one before it.

    The objective is scikit-learn's: the weighted sum of the log losses times C, plus half the squared
    coefficients; intercepts are not penalised. A solution whose gradient is still above `tol` was the best
    that float32 steps reach: polish it.

    Parameters
    ----------
    Z : ndarray of shape (n_rows, n_columns), float64
        Scaled rows. Left unchanged.
    label : ndarray of shape (n_rows,), int
        Class of each row, 0 to n_classes - 1, each present.
    C : sequence of float
        Ascending is quickest.
    weight : ndarray of shape (n_rows,), optional
        Of each row; 1 by default.
    tol : float
        Largest component of the mean loss's gradient, in scikit-learn's coordinates, at which to stop.
    max_iter : int
        Newton steps for each C.

    References
    ----------
    Dembo, Eisenstat & Steihaug, "Inexact Newton methods", 1982.
    """
    weight = np.ones(len(Z)) if weight is None else np.asarray(weight, dtype=np.float64)
    basis = None
    if len(Z) < ROW_SPACE * Z.shape[1]:
        basis, triangle = qr(
            Z.T, mode="economic", check_finite=False
        )  # (n_columns, n_rows), (n_rows, n_rows)
        Z = np.ascontiguousarray(triangle.T)
    loss = _Softmax(label, weight, rotated=basis is not None)
    problem = Minimiser(Z, loss)
    unknowns = np.zeros((loss.n_unknown, Z.shape[1] + 1))
    for value in C:
        penalty = loss.penalty_factor / (value * weight.sum())
        unknowns, size, n_iter = problem.minimise(unknowns, penalty, tol=tol, max_iter=max_iter)
        back = loss.back @ unknowns
        coef = back[:, :-1] if basis is None else back[:, :-1] @ basis.T
        yield Solution(coef=coef, intercept=back[:, -1].copy(), gradient=size, n_iter=n_iter)


class _Softmax:
    """The mean log loss. Unknown are orthonormal contrasts: class coefficients are ``back @ unknowns``."""

    penalises_intercept = False
    forcing = 0.1

    def __init__(self, label: npt.NDArray[np.integer], weight: F64, *, rotated: bool) -> None:
        n_classes = int(label.max()) + 1
        self.label = label
        self.share = weight / weight.sum()  # (n_rows,)
        self.rotated = rotated  # columns are not those of the caller: components of a gradient mean nothing
        self.contrast = helmert(n_classes)  # (n_unknown, n_classes)
        self.n_unknown = n_classes - 1
        if n_classes == 2:
            # scikit-learn's one row is the difference of the two classes, and penalised as it is.
            difference = self.contrast[:, 1:] - self.contrast[:, :1]  # (1, 1)
            self.back, self.to_gradient, self.penalty_factor = difference, 1.0 / difference, 2.0
        else:
            self.back, self.to_gradient, self.penalty_factor = self.contrast.T, self.contrast.T, 1.0

    def evaluate(self, scores: F64) -> tuple[float, F64, F64]:
        """As in `newton.Loss`; the state is each class's share in each row, (n_classes, n_rows)."""
        scores = self.contrast.T @ scores
        total = logsumexp(scores, axis=0)
        rows = np.arange(len(self.label))
        loss = float(self.share @ (total - scores[self.label, rows]))
        shares = np.exp(scores - total)
        residual = shares * self.share
        residual[self.label, rows] -= self.share
        return loss, self.contrast @ residual, shares

    def curve(self, state: F64, change: F64) -> F64:
        change = self.contrast.T @ change
        return self.contrast @ (state * (change - np.sum(state * change, axis=0)) * self.share)

    def weights(self, state: F64) -> F64:
        # Rounding must not make one negative.
        return np.maximum(1.0 - np.sum(state**2, axis=0), 0.0) / self.n_unknown * self.share

    def gradient_size(self, gradient: F64) -> float:
        """Return the largest component in scikit-learn's coordinates, or in the row space a bound of it."""
        original = self.to_gradient @ gradient
        if self.rotated:  # a component in the caller's columns is no larger than the length in these
            return float(max(np.linalg.norm(original[:, :-1], axis=1).max(), np.abs(original[:, -1]).max()))
        return float(np.abs(original).max())
