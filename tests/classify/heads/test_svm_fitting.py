"""Decisions out of fold against scikit-learn's own cross-validation on features."""

import numpy as np
import pytest
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from classify.heads.registry import make_head
from classify.heads.svm_fitting import decisions_out_of_fold


def rows(n_classes, *, n=120, n_features=30):
    generator = np.random.default_rng(0)
    y = np.arange(n) % n_classes
    return generator.normal(size=(n, n_features)) + 1.5 * np.eye(n_features)[y], y


@pytest.mark.parametrize("name", ["svm-linear", "svm-rbf"])
@pytest.mark.parametrize("n_classes", [2, 4])
def test_decisions_agree_with_cross_validation_on_features(name, n_classes):
    X, y = rows(n_classes)
    folds = list(StratifiedKFold(4).split(X, y))
    head = make_head(name, params={"solver": "exact", "C": 2.0})
    decisions, converged = decisions_out_of_fold(head, X, y, folds, gamma=0.02)
    machine = SVC(kernel=name[4:], C=2.0, gamma=0.02, tol=1e-6, break_ties=True)
    expected = cross_val_predict(
        make_pipeline(StandardScaler(), machine), X, y, cv=folds, method="decision_function"
    )
    np.testing.assert_allclose(decisions, expected.reshape(len(y), -1), atol=1e-4)
    assert decisions.shape == (len(y), n_classes if n_classes > 2 else 1)
    assert converged


@pytest.mark.parametrize("solver", ["exact", "approximate"])
def test_a_fold_that_does_not_converge_is_reported(solver):
    X, y = rows(3)
    folds = list(StratifiedKFold(4).split(X, y))
    head = make_head("svm-linear", params={"solver": solver, "max_iter": 1})
    assert not decisions_out_of_fold(head, X, y, folds, gamma=1.0)[1]
