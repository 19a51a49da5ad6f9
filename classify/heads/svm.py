"""Support vector machines, linear and RBF, with calibrated probabilities."""

from __future__ import annotations

import numpy as np
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV

from classify.data.blocks import RowStream
from classify.data.folds import grouped_folds
from classify.heads.base import BaseHead, FitError, make_scaler, require_two_classes, streamed_note
from classify.heads.grouping import resolve_groups
from classify.heads.kernels import scale_gamma
from classify.heads.svm_fitting import (
    TOL,
    calibrated_classifier,
    centre,
    decisions_out_of_fold,
    fit_pipeline,
    fit_streamed,
    has_inverted_sigmoid,
    resolve_solver,
    solver_notes,
    undo_centering,
)


class SVMHead(BaseHead):
    """A support vector machine whose probabilities are fitted on decisions for rows it was not fitted on.

    The probabilities come from ``CalibratedClassifierCV(method="sigmoid", ensemble=False)`` on grouped,
    stratified splits of the training rows; the class is their arg max, which near a border may differ from
    the SVM's vote.

    Parameters
    ----------
    kernel : {"linear", "rbf"}, default="linear"
    C : float, default=1.0
        As in scikit-learn.
    gamma_factor : float, default=1.0
        RBF width in units of scikit-learn's ``gamma="scale"``, 1 / (n_features * variance of the scaled
        training rows). Without meaning for the linear kernel.
    scaling : {"standardise", "l2"}, default="standardise"
    class_weight : {None, "balanced"} or dict, default=None
        Weighs the calibration too, which would otherwise give the commoner classes their advantage back.
    n_folds : int, default=5
        Parts for the calibration; fewer where a class has fewer groups.
    solver : {"auto", "exact", "approximate"}, default="auto"
        SVC, whose time and memory grow with the square of the rows; or LinearSVC in the primal, for the RBF
        kernel on Nyström features. Left to itself it is the first up to `EXACT_ROWS` rows.
    tol : float, default=1e-6
        Violation of the optimality conditions at which libsvm stops.
    max_iter : int, default=5000000
        libsvm iterations for each pair of classes: minutes, where there would otherwise be no end.
    seed : int, default=0
        For the calibration splits, and the rows that Nyström features are made from.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    classifier_ : CalibratedClassifierCV
        Of a Pipeline that ends in SVC or LinearSVC, fitted on features. Of the training rows it keeps the
        support vectors, or Nyström's, only.
    n_folds_ : int
        Calibration parts used.
    n_iter_ : int
        Most iterations for a pair of classes.
    converged_ : bool
        False when a solver stopped short of its tolerance; no warning is given.
    notes_ : tuple of str
        What the user should know: that the machine is not the exact one.

    References
    ----------
    Platt, "Probabilistic outputs for support vector machines", 1999.
    Williams & Seeger, "Using the Nyström method to speed up kernel machines", 2001.
    """

    FITTED = BaseHead.FITTED | {
        "classifier_": CalibratedClassifierCV,
        "n_folds_": int,
        "n_iter_": int,
        "converged_": bool,
    }

    def __init__(
        self,
        *,
        kernel: str = "linear",
        C: float = 1.0,
        gamma_factor: float = 1.0,
        scaling: str = "standardise",
        class_weight: str | dict | None = None,
        n_folds: int = 5,
        solver: str = "auto",
        tol: float = 1e-6,
        max_iter: int = 5_000_000,
        seed: int = 0,
    ) -> None:
        self.kernel = kernel
        self.C = C
        self.gamma_factor = gamma_factor
        self.scaling = scaling
        self.class_weight = class_weight
        self.n_folds = n_folds
        self.solver = solver
        self.tol = tol
        self.max_iter = max_iter
        self.seed = seed

    def fit(
        self,
        X: np.ndarray,
        y: np.ndarray,
        *,
        groups: np.ndarray | None = None,
        image: np.ndarray | None = None,
    ) -> SVMHead:
        """Fit on all rows, and the probabilities on grouped splits of them.

        Parameters
        ----------
        X : ndarray of shape (n_rows, n_features)
            Unscaled features.
        y : ndarray of shape (n_rows,)
        groups, image : ndarray of shape (n_rows,), optional
            What no calibration split may part; by default each image, by default each row.

        Raises
        ------
        CompareError
            If there is one class only, or a class has a single group.
        """
        X, y = self._check_fit(X, y, dtype=np.float64)
        require_two_classes(self.classes_)
        head = resolve_solver(self, len(X))
        groups, _ = resolve_groups(len(y), groups, image)
        folds = grouped_folds(
            np.searchsorted(self.classes_, y),
            groups,
            n_folds=self.n_folds,
            seed=self.seed,
            classes=[str(label) for label in self.classes_],
        )
        # Settled once: "scale" would change a little with each calibration split.
        gamma = self.gamma_factor * scale_gamma(make_scaler(self.scaling).fit_transform(X))
        decisions, all_converged = decisions_out_of_fold(head, X, y, folds.pairs, gamma=gamma)
        pipeline, converged = fit_pipeline(head, X, y, gamma=gamma)
        self.converged_ = converged and all_converged
        self.classifier_ = calibrated_classifier(pipeline, decisions, y, class_weight=self.class_weight)
        if head.solver == "exact" and has_inverted_sigmoid(self.classifier_):
            decisions, _ = decisions_out_of_fold(head, X, y, folds.pairs, gamma=gamma, centred=True)
            self.classifier_ = calibrated_classifier(pipeline, decisions, y, class_weight=self.class_weight)
            undo_centering(self.classifier_, centre(pipeline.decision_function(X), y))
        self.n_folds_ = folds.n_folds
        self.n_iter_ = int(np.max(pipeline["classify"].n_iter_))
        self.notes_ = solver_notes(head, len(X))
        return self

    def fit_stream(self, rows: RowStream) -> SVMHead:
        """Fit on rows that stay on disk, as `fit` does with the solver "approximate".

        The machine's optimum is the same; the machines behind its probabilities share its scaling, and its
        Nyström features, in place of some of their own.

        Raises
        ------
        CompareError
            As in `fit`; or if the solver is to be exact.
        """
        label = self._check_stream(rows)
        if self.solver == "exact":
            raise FitError(
                "solver=exact needs matrices of all pairs of rows, which do not fit in memory where the "
                "rows do not. Leave it out, or raise --memory"
            )
        head = resolve_solver(clone(self).set_params(solver="approximate"), len(rows))
        folds = grouped_folds(
            label,
            rows.groups,
            n_folds=self.n_folds,
            seed=self.seed,
            classes=[str(one) for one in self.classes_],
        )
        part = np.empty(len(rows), dtype=np.int64)
        for number, (_, held) in enumerate(folds.pairs):
            part[held] = number
        pipeline, decisions, machines = fit_streamed(head, rows, label, part)
        self.converged_ = machines.gradient <= TOL
        self.classifier_ = calibrated_classifier(pipeline, decisions, rows.y, class_weight=self.class_weight)
        self.n_folds_, self.n_iter_ = folds.n_folds, machines.n_iter
        how = "the machine's own optimum, by Newton steps summed over blocks"
        self.notes_ = (*solver_notes(head, len(rows)), streamed_note(len(rows), how))
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return the class probabilities: (n_rows, n_classes), float64, columns as in `classes_`."""
        X = self._check_predict(X, dtype=np.float64)
        return self.classifier_.predict_proba(X)
