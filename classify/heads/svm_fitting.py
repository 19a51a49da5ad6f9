"""The pipelines behind an SVM head: the exact machine, and what stands in for it above `EXACT_ROWS` rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeVar

import numpy as np
from scipy.linalg import svd
from sklearn import config_context
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin, clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.kernel_approximation import Nystroem
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.pipeline import Pipeline
from sklearn.svm import SVC, LinearSVC
from sklearn.utils import check_random_state
from sklearn.utils.class_weight import compute_class_weight, compute_sample_weight

from classify.data.blocks import RowStream, SourceRows, SpooledRows
from classify.heads.base import FitError, make_scaler
from classify.heads.kernels import inner_products, linear_kernel, rbf_kernels
from classify.heads.logistic import fit_quietly
from classify.heads.registry import EXACT_ROWS
from classify.heads.solvers.scaling import Scaled, fit_scaling, unscaled
from classify.heads.solvers.squared_hinge_loss import Machines, solve_machines
from featurize.base.typing import Float64Array, IntArray

COMPONENTS = 500  # of the Nyström map: liblinear's time is proportional to it
# SVC's columns of the kernel. Half of it or less is used where a Gram matrix is allowed; more gains nothing.
CACHE_MEGABYTES = 500
LINEAR_TOL = 1e-4  # of liblinear's first gradient, its default; 1e-6 takes half as long again
SOLVERS = ("auto", "exact", "approximate")


class SVMSettings(Protocol):
    """The parameters of an SVM head that its machines are made from."""

    kernel: str
    C: float
    gamma_factor: float
    scaling: str
    class_weight: str | dict | None
    n_folds: int
    solver: str
    tol: float
    max_iter: int
    seed: int


Head = TypeVar("Head", bound=SVMSettings)


def resolve_solver(head: Head, n_rows: int) -> Head:
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


def exact_machine(head: SVMSettings, *, kernel: str, gamma: float | str = "scale") -> SVC:
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


def approximate_machine(head: SVMSettings) -> LinearSVC:
    """Return liblinear's primal machine, unfitted: its time is proportional to the rows, whatever C."""
    return LinearSVC(
        C=head.C,
        class_weight=head.class_weight,
        loss="squared_hinge",
        dual=False,
        tol=LINEAR_TOL,
        max_iter=head.max_iter,
    )


def make_features(head: SVMSettings, n_rows: int, *, gamma: float) -> list[tuple[str, TransformerMixin]]:
    """Return the steps before the machine, unfitted: all that does not depend on C."""
    steps = [("scale", make_scaler(head.scaling))]
    if head.kernel == "rbf" and head.solver == "approximate":
        n_components = min(COMPONENTS, n_rows)
        nystroem = Nystroem(kernel="rbf", gamma=gamma, n_components=n_components, random_state=head.seed)
        steps.append(("map", nystroem))
    return steps


def fit_pipeline(head: SVMSettings, X: np.ndarray, y: np.ndarray, *, gamma: float) -> tuple[Pipeline, bool]:
    """Return a head with a settled solver as a pipeline fitted on features, and whether it converged."""
    features = Pipeline(make_features(head, len(X), gamma=gamma))
    rows = features.fit_transform(X)
    if head.solver == "exact":
        machine = exact_machine(head, kernel=head.kernel, gamma=gamma if head.kernel == "rbf" else "scale")
    else:
        machine = approximate_machine(head)
    converged = fit_quietly(machine, rows, y)
    return Pipeline([*features.steps, ("classify", machine)]), converged


def solver_notes(head: SVMSettings, n_rows: int) -> tuple[str, ...]:
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


def decisions_out_of_fold(
    head: SVMSettings,
    X: np.ndarray,
    y: np.ndarray,
    folds: Sequence[tuple[np.ndarray, np.ndarray]],
    *,
    gamma: float,
    centred: bool = False,
) -> tuple[np.ndarray, bool]:
    """Return the decisions for each row by a machine fitted without its fold, and whether all had converged.

    Exact machines are fitted on kernel values: what SVC gives on features, in a fraction of the time.

    Parameters
    ----------
    head : SVMSettings
        With a settled solver.
    X : ndarray of shape (n_rows, n_features), float64
    y : ndarray of shape (n_rows,)
    folds : sequence of (training rows, held out rows)
        Each row is held out once.
    gamma : float
        Of the RBF kernel.
    centred : bool
        Whether each machine's decisions are counted from its own `centre` on the rows it was fitted on.

    Returns
    -------
    decisions : ndarray of shape (n_rows, n_classes), one column for two classes
    converged : bool
    """
    n_columns = len(np.unique(y))
    decisions = np.empty((len(X), n_columns if n_columns > 2 else 1))
    converged = True
    for fitted, held in folds:
        if head.solver == "exact":
            products = inner_products(X[fitted], X[held], scaling=head.scaling)
            rows, held_rows = (
                linear_kernel(products) if head.kernel == "linear" else next(rbf_kernels(products, [gamma]))
            )
            machine = exact_machine(head, kernel="precomputed")
            with config_context(assume_finite=True):
                settled = fit_quietly(machine, rows, y[fitted])
                found = machine.decision_function(held_rows)
                start = centre(machine.decision_function(rows), y[fitted]) if centred else 0.0
        else:
            pipeline, settled = fit_pipeline(head, X[fitted], y[fitted], gamma=gamma)
            found = pipeline.decision_function(X[held])
            start = centre(pipeline.decision_function(X[fitted]), y[fitted]) if centred else 0.0
        decisions[held] = found.reshape(len(held), -1) - start
        converged &= settled
    return decisions, converged


def centre(decisions: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the mean over the classes of the mean decision for the rows of each: (n_classes or 1,)."""
    columns = decisions.reshape(len(y), -1)
    return np.mean([columns[y == label].mean(axis=0) for label in np.unique(y)], axis=0)


def has_inverted_sigmoid(classifier: CalibratedClassifierCV) -> bool:
    """Tell whether, by a sigmoid, a class is the less likely the larger its decision.

    Where C is so small that every multiplier is at its bound, a machine's offset is that of the classes'
    numbers in its fold, and larger than all that tells them apart: then the held out rows of the class that
    was the rarer one for that reason have the decisions of the other.
    """
    return any(sigmoid.a_ > 0 for sigmoid in classifier.calibrated_classifiers_[0].calibrators)


def undo_centering(classifier: CalibratedClassifierCV, start: np.ndarray) -> None:
    """Have sigmoids of centred decisions take the machine's own, whose centre is `start`."""
    for sigmoid, value in zip(classifier.calibrated_classifiers_[0].calibrators, start, strict=True):
        sigmoid.b_ -= sigmoid.a_ * value


def calibrated_classifier(
    fitted: Pipeline, decisions: np.ndarray, y: np.ndarray, *, class_weight: str | dict | None
) -> CalibratedClassifierCV:
    """Return scikit-learn's calibrated classifier of a fitted pipeline, with sigmoids of given decisions.

    Parameters
    ----------
    fitted : Pipeline
        Fitted on all rows.
    decisions : ndarray of shape (n_rows, n_classes or 1)
        As from `decisions_out_of_fold`.
    y : ndarray of shape (n_rows,)
    class_weight : {None, "balanced"} or dict
        Weighs the rows for the sigmoids.
    """
    weight = None if class_weight is None else compute_sample_weight(class_weight, y)
    every = np.arange(len(y))
    classifier = CalibratedClassifierCV(_Given(), method="sigmoid", cv=[(every, every)], ensemble=False).fit(
        decisions, y, sample_weight=weight
    )
    # cv: row numbers of the training data, of no use after the fit
    classifier.set_params(estimator=clone(fitted), cv=None)
    classifier.calibrated_classifiers_[0].estimator = fitted
    classifier.n_features_in_ = fitted.n_features_in_
    return classifier


class _Given(ClassifierMixin, BaseEstimator):
    """Stands for a machine whose decisions are known: they are its rows."""

    def fit(self, X: np.ndarray, y: np.ndarray, sample_weight: np.ndarray | None = None) -> _Given:
        self.classes_ = np.unique(y)
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        raise NotImplementedError  # scikit-learn asks whether it is there

    def decision_function(self, X: np.ndarray) -> np.ndarray:
        return X if len(self.classes_) > 2 else X[:, 0]


TOL = 1e-6  # of the gradient; liblinear's own is coarser


def fit_streamed(
    head: SVMSettings, rows: RowStream, label: IntArray, part: IntArray
) -> tuple[Pipeline, Float64Array, Machines]:
    """Fit a head whose solver is "approximate", and one machine without each part.

    In memory each part's machine has a scaling, and Nyström rows, of its own; here they are those of all
    rows. Neither knows labels.

    Parameters
    ----------
    head : SVMSettings
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
            mapped = unscaled(_mapped(scaled, features, spool))
            machine, decisions, machines = _solve(head, mapped, label, part)
    return Pipeline([*steps, ("classify", machine)]), decisions, machines


def _solve(
    head: SVMSettings, scaled: Scaled, label: IntArray, part: IntArray
) -> tuple[LinearSVC, Float64Array, Machines]:
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

    def decide(where: IntArray, Z: Float64Array) -> None:
        decisions[where] = machines.decisions(Z, part[where])

    for _ in scaled.map_blocks(decide):
        pass
    machine = approximate_machine(head)
    machine.classes_, machine.n_iter_ = classes, machines.n_iter
    machine.coef_, machine.intercept_ = machines.coef[-1], machines.intercept[-1]
    machine.n_features_in_ = machine.coef_.shape[1]
    return machine, decisions, machines


def nystroem(head: SVMSettings, basis: Float64Array, chosen: IntArray, *, gamma: float) -> Nystroem:
    """Return scikit-learn's map as if it had been fitted, from the rows that it would have chosen."""
    fitted = Nystroem(kernel="rbf", gamma=gamma, n_components=len(basis), random_state=head.seed)
    U, S, V = svd(rbf_kernel(basis, gamma=gamma))
    fitted.normalization_ = np.dot(U / np.sqrt(np.maximum(S, 1e-12)), V)
    fitted.components_, fitted.component_indices_ = basis, chosen
    fitted.n_features_in_, fitted._n_features_out = basis.shape[1], len(basis)
    return fitted


def _basis_rows(head: SVMSettings, n_rows: int) -> IntArray:
    """Return the rows that scikit-learn would draw from all of them."""
    drawn: IntArray = check_random_state(head.seed).permutation(n_rows)[: min(COMPONENTS, n_rows)]
    return drawn


def _mapped(scaled: Scaled, features: Nystroem, spool: SpooledRows) -> RowStream:
    """Return the rows as a map has them, kept in a file while they are needed: 2 GB for a million."""
    rows = scaled.stream
    position = []
    for where, mapped in scaled.map_blocks(
        lambda where, Z: (where, features.transform(Z).astype(np.float32))
    ):
        spool.append(mapped)
        position.append(where)
    piece = SourceRows(source=spool, rows=np.arange(len(rows)), position=np.concatenate(position)[:, None])
    return replace(rows, pieces=(piece,), columns=slice(0, spool.shape[1]))
