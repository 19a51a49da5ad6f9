"""Probabilities of an SVM: sigmoids fitted on its decisions for rows that it was not fitted on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from sklearn import config_context
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.pipeline import Pipeline
from sklearn.utils.class_weight import compute_sample_weight

from classify.heads.gram import inner_products, linear_kernel, rbf_kernels
from classify.heads.linear import fit_quietly
from classify.heads.machines import exact_machine, fit_pipeline

if TYPE_CHECKING:
    from classify.heads.kernel import SVMHead


def decisions_out_of_fold(
    head: SVMHead,
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
    head : SVMHead
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


def is_turned_round(classifier: CalibratedClassifierCV) -> bool:
    """Tell whether, by a sigmoid, a class is the less likely the larger its decision.

    Where C is so small that every multiplier is at its bound, a machine's offset is that of the classes'
    numbers in its fold, and larger than all that tells them apart: then the held out rows of the class that
    was the rarer one for that reason have the decisions of the other.
    """
    return any(sigmoid.a_ > 0 for sigmoid in classifier.calibrated_classifiers_[0].calibrators)


def count_from(classifier: CalibratedClassifierCV, start: np.ndarray) -> None:
    """Have sigmoids of centred decisions take the machine's own, whose centre is `start`."""
    for sigmoid, value in zip(classifier.calibrated_classifiers_[0].calibrators, start, strict=True):
        sigmoid.b_ -= sigmoid.a_ * value


def calibrated(
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
