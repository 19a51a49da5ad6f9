"""Linear SVMs of the squared hinge along a path of C: LinearSVC's problem, solved by `newton`.

liblinear reads rows number by number: 8 to 10 CPU seconds for a fit of 15,000 rows of 1,280 features and 3
classes. Steps made of matrix products, each C from the one before, take 3 for all of the linear grid.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from sklearn.svm import LinearSVC
from sklearn.utils.class_weight import compute_class_weight

from classify.heads.linear import fit_quietly
from classify.heads.newton import F64, Minimiser

TOL = 1e-8  # largest component of the mean loss's gradient


def fit_path(machines: Sequence[LinearSVC], Z: F64, y: npt.NDArray) -> list[bool]:
    """Fit machines that differ in C alone, as LinearSVC with ``loss="squared_hinge"`` defines them.

    Each class against the rest, a class's weight on its own rows, the intercept penalised like a coefficient:
    all as liblinear has it.

    Parameters
    ----------
    machines : sequence of LinearSVC
        In ascending C for speed. Fitted afterwards.
    Z : ndarray of shape (n_rows, n_columns), float64
    y : ndarray of shape (n_rows,)

    Returns
    -------
    list of bool
        Whether each converged.
    """
    classes, label = np.unique(y, return_inverse=True)
    weight = compute_class_weight(machines[0].class_weight, classes=classes, y=y)
    loss = _SquaredHinge(label, weight)
    problem = Minimiser(Z, loss)
    unknowns = np.zeros((loss.n_unknown, Z.shape[1] + 1))
    converged = []
    for machine in machines:
        penalty = 1.0 / (machine.C * len(Z))
        unknowns, size, n_iter = problem.minimise(unknowns, penalty, tol=TOL, max_iter=machine.max_iter)
        machine.classes_, machine.n_features_in_ = classes, Z.shape[1]
        machine.coef_, machine.intercept_ = unknowns[:, :-1].copy(), unknowns[:, -1].copy()
        machine.n_iter_ = n_iter
        # Where float32 steps get no further (more columns than rows, and C of thousands), liblinear does.
        converged.append(size <= TOL or fit_quietly(machine, Z, y))
    return converged


class _SquaredHinge:
    """The mean of the squared shortfalls of the margins; one unknown vector a class, or one for two."""

    penalises_intercept = True
    forcing = 0.01  # between two kinks the loss is a parabola: one exact step finds its bottom

    def __init__(self, label: npt.NDArray[np.integer], weight: F64) -> None:
        n_classes = len(weight)
        self.n_unknown = n_classes if n_classes > 2 else 1
        positive = np.arange(n_classes)[:, None] == label if n_classes > 2 else (label == 1)[None, :]
        self.sign = np.where(positive, 1.0, -1.0)  # (n_unknown, n_rows)
        # For several classes liblinear weighs a class's own rows, not the rest.
        weights = np.where(positive, weight[label], 1.0) if n_classes > 2 else weight[label][None, :]
        self.share = weights / len(label)

    def evaluate(self, scores: F64) -> tuple[float, F64, F64]:
        """As in `newton.Loss`; the state is the second derivative, (n_unknown, n_rows)."""
        short = np.maximum(1.0 - self.sign * scores, 0.0)
        value = float(np.sum(self.share * short**2))
        return value, -2.0 * self.share * self.sign * short, 2.0 * self.share * (short > 0)

    def curve(self, state: F64, change: F64) -> F64:
        return state * change

    def weights(self, state: F64) -> F64:
        return state.mean(axis=0)

    def gradient_size(self, gradient: F64) -> float:
        return float(np.abs(gradient).max())
