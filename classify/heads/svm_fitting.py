"""Pipelines of the SVM heads: exact (SVC), approximate (LinearSVC) and on rows on disk; their calibration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

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

from classify.heads.base import FitError, make_scaler
from classify.heads.kernels import inner_products, linear_kernel, rbf_kernels
from classify.heads.logistic import fit_quietly
from classify.heads.registry import EXACT_ROWS
from featurize.base.typing import Float32Array, Float64Array, IntArray

if TYPE_CHECKING:
    from classify.data.blocks import RowStream, SpooledRows
    from classify.heads.solvers.scaling import ScaledStream
    from classify.heads.solvers.squared_hinge_loss import LinearSVMs

N_COMPONENTS = 500  # Nyström features; the time of liblinear is proportional to their number
# libsvm's cache of kernel columns. Up to `EXACT_ROWS` rows at most half of it is used; more is not faster.
CACHE_SIZE_MB = 500
LINEAR_TOL = 1e-4  # relative to the initial gradient; liblinear's default. 1e-6 takes 1.5 times as long
STREAMED_TOL = 1e-6  # largest component of the gradient, for rows on disk
SOLVERS = ("auto", "exact", "approximate")


class SVMParams(Protocol):
    """Parameters of an SVM head."""

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


Head = TypeVar("Head", bound=SVMParams)


def resolve_solver(head: Head, n_rows: int) -> Head:
    """Return an unfitted copy of a head in which solver "auto" is replaced by the one for `n_rows` rows.

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


def make_svc(head: SVMParams, *, kernel: str, gamma: float | str = "scale") -> SVC:
    """Return an unfitted SVC for features or, with kernel "precomputed", for kernel matrices."""
    return SVC(
        kernel=kernel,
        C=head.C,
        gamma=gamma,
        class_weight=head.class_weight,
        tol=head.tol,
        max_iter=head.max_iter,
        cache_size=CACHE_SIZE_MB,
        break_ties=True,  # ties between votes are decided by the decision values, not by the class order
    )


def make_linear_svc(head: SVMParams) -> LinearSVC:
    """Return an unfitted LinearSVC in the primal: its time is proportional to the rows for every C."""
    return LinearSVC(
        C=head.C,
        class_weight=head.class_weight,
        loss="squared_hinge",
        dual=False,
        tol=LINEAR_TOL,
        max_iter=head.max_iter,
    )


def make_transformers(head: SVMParams, n_rows: int, *, gamma: float) -> list[tuple[str, TransformerMixin]]:
    """Return the unfitted pipeline steps before the SVM; they do not depend on C."""
    steps = [("scale", make_scaler(head.scaling))]
    if head.kernel == "rbf" and head.solver == "approximate":
        n_components = min(N_COMPONENTS, n_rows)
        nystroem = Nystroem(kernel="rbf", gamma=gamma, n_components=n_components, random_state=head.seed)
        steps.append(("map", nystroem))
    return steps


def fit_pipeline(head: SVMParams, X: np.ndarray, y: np.ndarray, *, gamma: float) -> tuple[Pipeline, bool]:
    """Fit the pipeline of a head from `resolve_solver` on features; return it and whether it converged."""
    transformers = Pipeline(make_transformers(head, len(X), gamma=gamma))
    Z = transformers.fit_transform(X)
    if head.solver == "exact":
        svm = make_svc(head, kernel=head.kernel, gamma=gamma if head.kernel == "rbf" else "scale")
    else:
        svm = make_linear_svc(head)
    converged = fit_quietly(svm, Z, y)
    return Pipeline([*transformers.steps, ("classify", svm)]), converged


def solver_notes(head: SVMParams, n_rows: int) -> tuple[str, ...]:
    """Return a note about the model of a head from `resolve_solver`, if it is not SVC."""
    if head.solver == "exact":
        return ()
    model = "a linear SVM in the primal (LinearSVC: squared hinge, one class against the rest)"
    if head.kernel == "rbf":
        model += f" on {min(N_COMPONENTS, n_rows):,} Nyström features"
    return (f"approximate, for {n_rows:,} training rows: {model} replaces SVC, also in the search",)


def is_hard_margin(svc: SVC) -> bool:
    """Return whether no multiplier of a fitted SVC is at its bound: a larger C then has the same solution."""
    bound = np.repeat(svc.C * svc.class_weight_, svc.n_support_)  # (n_support,), by class
    return bool(np.all(np.abs(svc.dual_coef_) < bound * (1 - 1e-9)))


def decisions_out_of_fold(
    head: SVMParams,
    X: np.ndarray,
    y: np.ndarray,
    folds: Sequence[tuple[np.ndarray, np.ndarray]],
    *,
    gamma: float,
    centred: bool = False,
) -> tuple[np.ndarray, bool]:
    """Return the decisions for each row by an SVM fitted without its fold, and whether all fits converged.

    SVC is fitted on kernel matrices: the result is that on features, in a fraction of the time.

    Parameters
    ----------
    head : SVMParams
        As from `resolve_solver`.
    X : ndarray of shape (n_rows, n_features), float64
    y : ndarray of shape (n_rows,)
    folds : sequence of (training rows, held-out rows)
        Each row is held out once.
    gamma : float
        Gamma of the RBF kernel.
    centred : bool
        Subtract from the decisions of each SVM its `mean_decision` on its training rows.

    Returns
    -------
    decisions : ndarray of shape (n_rows, n_classes), one column for two classes
    converged : bool
    """
    n_columns = len(np.unique(y))
    decisions = np.empty((len(X), n_columns if n_columns > 2 else 1))
    converged = True
    for training, held_out in folds:
        if head.solver == "exact":
            products = inner_products(X[training], X[held_out], scaling=head.scaling)
            K_fit, K_score = (
                linear_kernel(products) if head.kernel == "linear" else next(rbf_kernels(products, [gamma]))
            )
            svc = make_svc(head, kernel="precomputed")
            with config_context(assume_finite=True):
                fold_converged = fit_quietly(svc, K_fit, y[training])
                scores = svc.decision_function(K_score)
                offset = mean_decision(svc.decision_function(K_fit), y[training]) if centred else 0.0
        else:
            pipeline, fold_converged = fit_pipeline(head, X[training], y[training], gamma=gamma)
            scores = pipeline.decision_function(X[held_out])
            offset = mean_decision(pipeline.decision_function(X[training]), y[training]) if centred else 0.0
        decisions[held_out] = scores.reshape(len(held_out), -1) - offset
        converged &= fold_converged
    return decisions, converged


def mean_decision(decisions: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the mean decision, in which all classes weigh the same: (n_classes or 1,)."""
    columns = decisions.reshape(len(y), -1)
    return np.mean([columns[y == label].mean(axis=0) for label in np.unique(y)], axis=0)


def has_inverted_sigmoid(classifier: CalibratedClassifierCV) -> bool:
    """Return whether some class becomes less probable as its decision increases.

    This happens if C is so small that all multipliers are at their bounds. Then the intercept of each SVM
    depends on the class counts in its training folds, and by more than the decisions of the classes differ.
    A class with more held-out rows in a fold is rarer in training, so the decisions for these rows favour the
    other class.
    """
    return any(sigmoid.a_ > 0 for sigmoid in classifier.calibrated_classifiers_[0].calibrators)


def undo_centering(classifier: CalibratedClassifierCV, offset: np.ndarray) -> None:
    """Change sigmoids of centred decisions to take decisions that are not centred; `offset` is their mean."""
    for sigmoid, value in zip(classifier.calibrated_classifiers_[0].calibrators, offset, strict=True):
        sigmoid.b_ -= sigmoid.a_ * value


def calibrated_classifier(
    fitted: Pipeline, decisions: np.ndarray, y: np.ndarray, *, class_weight: str | dict | None
) -> CalibratedClassifierCV:
    """Return a CalibratedClassifierCV of a fitted pipeline, its sigmoids fitted on the given decisions.

    Parameters
    ----------
    fitted : Pipeline
        Fitted on all rows.
    decisions : ndarray of shape (n_rows, n_classes or 1)
        As from `decisions_out_of_fold`.
    y : ndarray of shape (n_rows,)
    class_weight : {None, "balanced"} or dict
        Weighs the rows when the sigmoids are fitted.
    """
    weight = None if class_weight is None else compute_sample_weight(class_weight, y)
    rows = np.arange(len(y))
    classifier = CalibratedClassifierCV(
        _PrecomputedDecisions(), method="sigmoid", cv=[(rows, rows)], ensemble=False
    ).fit(decisions, y, sample_weight=weight)
    # cv holds indices of training rows, which are useless after the fit.
    classifier.set_params(estimator=clone(fitted), cv=None)
    classifier.calibrated_classifiers_[0].estimator = fitted
    classifier.n_features_in_ = fitted.n_features_in_
    return classifier


class _PrecomputedDecisions(ClassifierMixin, BaseEstimator):
    """A classifier that takes decisions as X and returns them as its decision function."""

    def fit(
        self, X: np.ndarray, y: np.ndarray, sample_weight: np.ndarray | None = None
    ) -> _PrecomputedDecisions:
        self.classes_ = np.unique(y)
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        raise NotImplementedError  # never called, but scikit-learn requires the method

    def decision_function(self, X: np.ndarray) -> np.ndarray:
        return X if len(self.classes_) > 2 else X[:, 0]


def fit_streamed(
    head: SVMParams, rows: RowStream, label: IntArray, fold: IntArray
) -> tuple[Pipeline, Float64Array, LinearSVMs]:
    """Fit a head with solver "approximate" on all rows, and one SVM without each calibration fold.

    In memory, the SVM of each fold has its own scaling and Nyström components. Here all SVMs share those of
    all rows; neither depends on labels.

    Parameters
    ----------
    head : SVMParams
    rows : RowStream
    label : ndarray of shape (n_rows,), int
        0 to n_classes - 1.
    fold : ndarray of shape (n_rows,), int
        Calibration fold of each row, from 0.

    Returns
    -------
    pipeline : Pipeline
        Fitted on all rows.
    decisions : ndarray of shape (n_rows, n_classes), one column for two classes
        Decisions for each row by the SVM fitted without its fold.
    svms : LinearSVMs
    """
    from classify.heads.solvers.scaling import fit_scaling, unscaled

    scaled = fit_scaling(rows, head.scaling)
    steps: list[tuple[str, Any]] = [("scale", scaled.scaler)]
    if head.kernel == "linear":
        svm, decisions, svms = _solve(head, scaled, label, fold)
    else:
        basis_rows = _basis_rows(head, len(rows))
        basis = scaled.scale(rows.take(basis_rows))
        nystroem = _fitted_nystroem(head, basis, basis_rows, gamma=head.gamma_factor * scaled.gamma)
        steps.append(("map", nystroem))
        from classify.data.blocks import SpooledRows

        with SpooledRows(len(basis), rows_at_once=1024) as spool:
            mapped = unscaled(_map_rows(scaled, nystroem, spool))
            svm, decisions, svms = _solve(head, mapped, label, fold)
    return Pipeline([*steps, ("classify", svm)]), decisions, svms


def _solve(
    head: SVMParams, scaled: ScaledStream, label: IntArray, fold: IntArray
) -> tuple[LinearSVC, Float64Array, LinearSVMs]:
    """Return the fitted LinearSVC of all rows, the out-of-fold decisions, and all SVMs."""
    y, n_rows = scaled.stream.y, len(scaled.stream)
    classes = np.unique(y)
    weights = np.stack(
        [
            compute_class_weight(head.class_weight, classes=classes, y=y[fold != k])
            for k in range(int(fold.max()) + 2)  # no row has the last number: that SVM has all rows
        ]
    )
    from classify.heads.solvers.squared_hinge_loss import solve_linear_svms

    svms = solve_linear_svms(scaled, label, fold, C=head.C, weights=weights, tol=STREAMED_TOL, seed=head.seed)
    decisions = np.empty((n_rows, svms.coef.shape[1]))

    def decide(position: IntArray, Z: Float64Array) -> None:
        decisions[position] = svms.decisions(Z, fold[position])

    for _ in scaled.map_blocks(decide):
        pass
    svm = make_linear_svc(head)
    svm.classes_, svm.n_iter_ = classes, svms.n_iter
    svm.coef_, svm.intercept_ = svms.coef[-1], svms.intercept[-1]
    svm.n_features_in_ = svm.coef_.shape[1]
    return svm, decisions, svms


def _fitted_nystroem(head: SVMParams, basis: Float64Array, basis_rows: IntArray, *, gamma: float) -> Nystroem:
    """Return scikit-learn's Nystroem with the fitted attributes that a fit on all rows would set."""
    fitted = Nystroem(kernel="rbf", gamma=gamma, n_components=len(basis), random_state=head.seed)
    U, S, V = svd(rbf_kernel(basis, gamma=gamma))
    fitted.normalization_ = np.dot(U / np.sqrt(np.maximum(S, 1e-12)), V)
    fitted.components_, fitted.component_indices_ = basis, basis_rows
    fitted.n_features_in_, fitted._n_features_out = basis.shape[1], len(basis)
    return fitted


def _basis_rows(head: SVMParams, n_rows: int) -> IntArray:
    """Return the rows that Nystroem would draw from `n_rows` rows."""
    drawn: IntArray = check_random_state(head.seed).permutation(n_rows)[: min(N_COMPONENTS, n_rows)]
    return drawn


def _map_rows(scaled: ScaledStream, nystroem: Nystroem, spool: SpooledRows) -> RowStream:
    """Return a stream of the transformed rows, which are written to `spool`: 2 GB for a million rows."""
    rows = scaled.stream

    def transform(position: IntArray, Z: Float64Array) -> tuple[IntArray, Float32Array]:
        return position, nystroem.transform(Z).astype(np.float32)

    positions = []
    for position, mapped in scaled.map_blocks(transform):
        spool.append(mapped)
        positions.append(position)
    from classify.data.blocks import SourceRows

    piece = SourceRows(source=spool, rows=np.arange(len(rows)), position=np.concatenate(positions)[:, None])
    return replace(rows, pieces=(piece,), columns=slice(0, spool.shape[1]))
