"""The pipelines behind an SVM head: the exact machine, and what stands in for it above `EXACT_ROWS` rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from sklearn.base import TransformerMixin, clone
from sklearn.kernel_approximation import Nystroem
from sklearn.pipeline import Pipeline
from sklearn.svm import SVC, LinearSVC

from classify.heads import EXACT_ROWS
from classify.heads.base import FitError, make_scaler
from classify.heads.linear import fit_quietly

if TYPE_CHECKING:
    from classify.heads.kernel import SVMHead

COMPONENTS = 500  # of the Nyström map: liblinear's time is proportional to it
# SVC's columns of the kernel. Half of it or less is used where a Gram matrix is allowed; more gains nothing.
CACHE_MEGABYTES = 500
LINEAR_TOL = 1e-4  # of liblinear's first gradient, its default; 1e-6 takes half as long again
SOLVERS = ("auto", "exact", "approximate")


def settle_solver(head: SVMHead, n_rows: int) -> SVMHead:
    """Return a copy of a head that is to be fitted on so many rows, its solver no longer "auto".

    Raises
    ------
    FitError
        If the head's kernel or solver is unknown.
    """
    if head.kernel not in ("linear", "rbf"):
        raise FitError(f"Unknown kernel {head.kernel!r}: expected linear or rbf.")
    if head.solver not in SOLVERS:
        raise FitError(f"Unknown solver {head.solver!r}: expected one of {', '.join(SOLVERS)}.")
    solver = "exact" if n_rows <= EXACT_ROWS else "approximate"
    return clone(head).set_params(solver=solver if head.solver == "auto" else head.solver)


def exact_machine(head: SVMHead, *, kernel: str, gamma: float | str = "scale") -> SVC:
    """Return libsvm's machine, unfitted, for features or (kernel "precomputed") matrices of kernel values."""
    return SVC(
        kernel=kernel,
        C=head.C,
        gamma=gamma,
        class_weight=head.class_weight,
        tol=head.tol,
        max_iter=head.max_iter,
        cache_size=CACHE_MEGABYTES,
        break_ties=True,  # equal votes go by the decision values, not by the order of the classes
    )


def approximate_machine(head: SVMHead) -> LinearSVC:
    """Return liblinear's primal machine, unfitted: its time is proportional to the rows, whatever C."""
    return LinearSVC(
        C=head.C,
        class_weight=head.class_weight,
        loss="squared_hinge",
        dual=False,
        tol=LINEAR_TOL,
        max_iter=head.max_iter,
    )


def make_features(head: SVMHead, n_rows: int, *, gamma: float) -> list[tuple[str, TransformerMixin]]:
    """Return the steps before the machine, unfitted: all that does not depend on C."""
    steps = [("scale", make_scaler(head.scaling))]
    if head.kernel == "rbf" and head.solver == "approximate":
        n_components = min(COMPONENTS, n_rows)
        nystroem = Nystroem(kernel="rbf", gamma=gamma, n_components=n_components, random_state=head.seed)
        steps.append(("map", nystroem))
    return steps


def fit_pipeline(head: SVMHead, X: np.ndarray, y: np.ndarray, *, gamma: float) -> tuple[Pipeline, bool]:
    """Return a head with a settled solver as a pipeline fitted on features, and whether it converged."""
    features = Pipeline(make_features(head, len(X), gamma=gamma))
    rows = features.fit_transform(X)
    if head.solver == "exact":
        machine = exact_machine(head, kernel=head.kernel, gamma=gamma if head.kernel == "rbf" else "scale")
    else:
        machine = approximate_machine(head)
    converged = fit_quietly(machine, rows, y)
    return Pipeline([*features.steps, ("classify", machine)]), converged


def describe(head: SVMHead, n_rows: int) -> tuple[str, ...]:
    """Say what fits a head with a settled solver on so many rows, where it is not SVC."""
    if head.solver == "exact":
        return ()
    what = "a linear SVM in the primal (LinearSVC: squared hinge, one class against the rest)"
    if head.kernel == "rbf":
        what += f" on {min(COMPONENTS, n_rows):,} Nyström features"
    return (f"approximate, for {n_rows:,} training rows: {what} stands in for SVC, in the search too",)


def free_of_c(machine: SVC) -> bool:
    """Return whether no multiplier of a fitted SVC is at its bound: larger C then have the same solution."""
    bound = np.repeat(machine.C * machine.class_weight_, machine.n_support_)  # (n_support,), by class
    return bool(np.all(np.abs(machine.dual_coef_) < bound * (1 - 1e-9)))
