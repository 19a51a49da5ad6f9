"""The approximate SVM on rows that stay on disk: a linear machine, for the RBF kernel on Nyström features."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import svd
from sklearn.kernel_approximation import Nystroem
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.pipeline import Pipeline
from sklearn.svm import LinearSVC
from sklearn.utils import check_random_state
from sklearn.utils.class_weight import compute_class_weight

from classify.heads.hinge import Machines, solve_machines
from classify.heads.machines import COMPONENTS, approximate_machine
from classify.heads.scaled import Scaled, as_it_is, fit_scaling
from classify.streams import Piece, RowStream, SpooledRows

if TYPE_CHECKING:
    from classify.heads.kernel import SVMHead

F64 = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

TOL = 1e-6  # of the gradient; liblinear's own is coarser


def fit_streamed(
    head: SVMHead, rows: RowStream, label: IntArray, part: IntArray
) -> tuple[Pipeline, F64, Machines]:
    """Fit a head whose solver is "approximate", and one machine without each part.

    In memory each part's machine has a scaling, and Nyström rows, of its own; here they are those of all
    rows. Neither knows labels.

    Parameters
    ----------
    head : SVMHead
    rows : RowStream
    label : ndarray of shape (n_rows,), int
        0 to n_classes - 1.
    part : ndarray of shape (n_rows,), int
        Calibration part of each row, from 0.

    Returns
    -------
    pipeline : Pipeline
        Fitted on all rows.
    decisions : ndarray of shape (n_rows, n_classes), one column for two classes
        Of each row by the machine fitted without its part.
    machines : Machines
    """
    scaled = fit_scaling(rows, head.scaling)
    steps: list[tuple[str, Any]] = [("scale", scaled.scaler)]
    if head.kernel == "linear":
        machine, decisions, machines = _solve(head, scaled, label, part)
    else:
        chosen = _basis_rows(head, len(rows))
        basis = scaled.scale(rows.take(chosen))
        features = nystroem(head, basis, chosen, gamma=head.gamma_factor * scaled.gamma)
        steps.append(("map", features))
        with SpooledRows(len(basis), rows_at_once=1024) as spool:
            mapped = as_it_is(_mapped(scaled, features, spool))
            machine, decisions, machines = _solve(head, mapped, label, part)
    return Pipeline([*steps, ("classify", machine)]), decisions, machines


def _solve(head: SVMHead, scaled: Scaled, label: IntArray, part: IntArray) -> tuple[LinearSVC, F64, Machines]:
    y, n_rows = scaled.stream.y, len(scaled.stream)
    classes = np.unique(y)
    weights = np.stack(
        [
            compute_class_weight(head.class_weight, classes=classes, y=y[part != one])
            for one in range(int(part.max()) + 2)  # the last is nobody's part
        ]
    )
    machines = solve_machines(scaled, label, part, C=head.C, weights=weights, tol=TOL, seed=head.seed)
    decisions = np.empty((n_rows, machines.coef.shape[1]))

    def decide(where: IntArray, Z: F64) -> None:
        decisions[where] = machines.decisions(Z, part[where])

    for _ in scaled.each(decide):
        pass
    machine = approximate_machine(head)
    machine.classes_, machine.n_iter_ = classes, machines.n_iter
    machine.coef_, machine.intercept_ = machines.coef[-1], machines.intercept[-1]
    machine.n_features_in_ = machine.coef_.shape[1]
    return machine, decisions, machines


def nystroem(head: SVMHead, basis: F64, chosen: IntArray, *, gamma: float) -> Nystroem:
    """Return scikit-learn's map as if it had been fitted, from the rows that it would have chosen."""
    fitted = Nystroem(kernel="rbf", gamma=gamma, n_components=len(basis), random_state=head.seed)
    U, S, V = svd(rbf_kernel(basis, gamma=gamma))
    fitted.normalization_ = np.dot(U / np.sqrt(np.maximum(S, 1e-12)), V)
    fitted.components_, fitted.component_indices_ = basis, chosen
    fitted.n_features_in_, fitted._n_features_out = basis.shape[1], len(basis)
    return fitted


def _basis_rows(head: SVMHead, n_rows: int) -> IntArray:
    """Return the rows that scikit-learn would draw from all of them."""
    drawn: IntArray = check_random_state(head.seed).permutation(n_rows)[: min(COMPONENTS, n_rows)]
    return drawn


def _mapped(scaled: Scaled, features: Nystroem, spool: SpooledRows) -> RowStream:
    """Return the rows as a map has them, kept in a file while they are needed: 2 GB for a million."""
    rows = scaled.stream
    position = []
    for where, mapped in scaled.each(lambda where, Z: (where, features.transform(Z).astype(np.float32))):
        spool.append(mapped)
        position.append(where)
    piece = Piece(source=spool, rows=np.arange(len(rows)), position=np.concatenate(position)[:, None])
    return replace(rows, pieces=(piece,), columns=slice(0, spool.shape[1]))
