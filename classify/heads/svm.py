"""Linear and RBF support vector machines with calibrated probabilities."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV

from classify.data.folds import grouped_folds
from classify.heads.base import BaseHead, FitError, make_scaler, require_two_classes, streamed_note
from classify.heads.grouping import resolve_groups
from classify.heads.kernels import scale_gamma
from classify.heads.svm_fitting import (
    STREAMED_TOL,
    calibrated_classifier,
    decisions_out_of_fold,
    fit_pipeline,
    fit_streamed,
    has_inverted_sigmoid,
    mean_decision,
    resolve_solver,
    solver_notes,
    undo_centering,
)

if TYPE_CHECKING:
    from classify.data.blocks import RowStream


class SVMHead(BaseHead):
    """A support vector machine with probabilities calibrated on out-of-fold decisions.

    The probabilities equal those of ``CalibratedClassifierCV(method="sigmoid", ensemble=False)`` on grouped,
    stratified folds of the training rows. The predicted class is their arg max, which may differ from
    ``SVC.predict`` for rows close to a decision boundary.

    Parameters
    ----------
    kernel : {"linear", "rbf"}, default="linear"
    C : float, default=1.0
        As in scikit-learn.
    gamma_factor : float, default=1.0
        RBF gamma as a multiple of scikit-learn's ``gamma="scale"``, which is 1 / (n_features * variance of
        the scaled training rows). Ignored by the linear kernel.
    scaling : {"standardise", "l2"}, default="standardise"
    class_weight : {None, "balanced"} or dict, default=None
        Also weighs the rows of the calibration. Without that the calibration would favour the more frequent
        classes again.
    n_folds : int, default=5
        Calibration folds; fewer if a class has fewer groups.
    solver : {"auto", "exact", "approximate"}, default="auto"
        "exact" is SVC, whose time and memory grow with the square of the rows. "approximate" is LinearSVC in
        the primal, with the RBF kernel on Nyström features. "auto" is "exact" up to `EXACT_ROWS` rows.
    tol : float, default=1e-6
        libsvm stops when the optimality conditions are violated by less than this.
    max_iter : int, default=5000000
        Maximum number of libsvm iterations for each pair of classes. This many take minutes; without a limit
        some fits would not end.
    seed : int, default=0
        Seed of the calibration folds and of the rows used for Nyström features.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    classifier_ : CalibratedClassifierCV
        Calibrated Pipeline that ends in SVC or LinearSVC and takes features. The only training rows it holds
        are support vectors or Nyström components.
    n_folds_ : int
        Number of calibration folds.
    n_iter_ : int
        Largest number of iterations for a pair of classes.
    converged_ : bool
        False if a solver stopped before it reached its tolerance; no warning is given.
    notes_ : tuple of str
        Notes for the user, such as that the approximate solver was used.

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
        """Fit on all rows, and calibrate the probabilities on grouped folds of them.

        Parameters
        ----------
        X : ndarray of shape (n_rows, n_features)
            Unscaled features.
        y : ndarray of shape (n_rows,)
        groups, image : ndarray of shape (n_rows,), optional
            Group and image of each row; no fold splits a group. By default each image is a group, and each
            row an image.

        Raises
        ------
        CompareError
            If there is only one class, or a class has a single group.
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
        # Computed once: gamma="scale" would differ slightly between the calibration folds.
        gamma = self.gamma_factor * scale_gamma(make_scaler(self.scaling).fit_transform(X))
        decisions, all_converged = decisions_out_of_fold(head, X, y, folds.pairs, gamma=gamma)
        pipeline, converged = fit_pipeline(head, X, y, gamma=gamma)
        self.converged_ = converged and all_converged
        self.classifier_ = calibrated_classifier(pipeline, decisions, y, class_weight=self.class_weight)
        if head.solver == "exact" and has_inverted_sigmoid(self.classifier_):
            decisions, _ = decisions_out_of_fold(head, X, y, folds.pairs, gamma=gamma, centred=True)
            self.classifier_ = calibrated_classifier(pipeline, decisions, y, class_weight=self.class_weight)
            undo_centering(self.classifier_, mean_decision(pipeline.decision_function(X), y))
        self.n_folds_ = folds.n_folds
        self.n_iter_ = int(np.max(pipeline["classify"].n_iter_))
        self.notes_ = solver_notes(head, len(X))
        return self

    def fit_stream(self, rows: RowStream) -> SVMHead:
        """Fit on rows that stay on disk, as `fit` does with solver "approximate".

        The solution equals that of `fit`. The probabilities differ slightly: the SVMs of the calibration
        folds share the scaling and the Nyström features of the final one, instead of having their own.

        Raises
        ------
        CompareError
            As in `fit`; or if the solver is "exact".
        """
        label = self._check_stream(rows)
        if self.solver == "exact":
            raise FitError(
                "solver=exact needs kernel matrices of all pairs of rows, but even the rows do not fit in "
                "memory. Leave it out, or raise --memory"
            )
        head = resolve_solver(clone(self).set_params(solver="approximate"), len(rows))
        folds = grouped_folds(
            label,
            rows.groups,
            n_folds=self.n_folds,
            seed=self.seed,
            classes=[str(name) for name in self.classes_],
        )
        fold = np.empty(len(rows), dtype=np.int64)
        for number, (_, held_out) in enumerate(folds.pairs):
            fold[held_out] = number
        pipeline, decisions, svms = fit_streamed(head, rows, label, fold)
        self.converged_ = svms.gradient <= STREAMED_TOL
        self.classifier_ = calibrated_classifier(pipeline, decisions, rows.y, class_weight=self.class_weight)
        self.n_folds_, self.n_iter_ = folds.n_folds, svms.n_iter
        how = "the same optimum, by Newton steps summed over blocks"
        self.notes_ = (*solver_notes(head, len(rows)), streamed_note(len(rows), how))
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return the class probabilities: (n_rows, n_classes), float64, columns as in `classes_`."""
        X = self._check_predict(X, dtype=np.float64)
        return self.classifier_.predict_proba(X)
