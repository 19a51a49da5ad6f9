"""The squared hinge against liblinear, which solves the same problem."""

import numpy as np
import pytest
from sklearn.svm import LinearSVC

from classify.heads.hinge import TOL, fit_path


def rows(n, n_columns, n_classes, *, seed=0):
    """Return overlapping classes of unequal size, named."""
    generator = np.random.default_rng(seed)
    label = np.minimum(generator.integers(0, n_classes + 1, n), n_classes - 1)
    hidden = generator.normal(size=(n, 8)) + 0.8 * np.eye(8)[label]
    Z = hidden @ generator.normal(size=(8, n_columns)) + generator.normal(size=(n, n_columns))
    return Z / Z.std(axis=0) + 0.3, np.array(["low", "middle", "high", "top", "best"])[label]


def machine(C, class_weight=None, **how):
    return LinearSVC(C=C, loss="squared_hinge", dual=False, class_weight=class_weight, max_iter=10**6, **how)


@pytest.mark.parametrize("n_classes", [2, 3, 5])
@pytest.mark.parametrize("shape", [(200, 20), (60, 90)])
@pytest.mark.parametrize("class_weight", [None, "balanced", {"low": 5.0, "middle": 0.3}])
def test_solutions_are_liblinear_s(n_classes, shape, class_weight):
    Z, y = rows(*shape, n_classes)
    values = [1e-3, 1e-1, 10.0]
    machines = [machine(C, class_weight) for C in values]
    assert fit_path(machines, Z, y) == [True] * 3
    for C, ours in zip(values, machines, strict=True):
        theirs = machine(C, class_weight, tol=1e-10).fit(Z, y)
        np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=3e-5 * np.abs(theirs.coef_).max())
        np.testing.assert_allclose(ours.intercept_, theirs.intercept_, atol=3e-5)
        np.testing.assert_array_equal(ours.predict(Z), theirs.predict(Z))
        np.testing.assert_array_equal(ours.classes_, theirs.classes_)
        assert ours.n_features_in_ == theirs.n_features_in_
        assert ours.coef_.shape == theirs.coef_.shape


def test_the_gradient_vanishes():
    Z, y = rows(200, 20, 2)
    ours = machine(3.0)
    fit_path([ours], Z, y)
    sign = np.where(y == ours.classes_[1], 1.0, -1.0)
    short = np.maximum(1 - sign * (Z @ ours.coef_[0] + ours.intercept_), 0)
    # of mean(short²) + (|w|² + b²) / (2 n C)
    by_coef = -2 * (sign * short) @ Z / 200 + ours.coef_[0] / 600
    by_intercept = -2 * (sign * short).sum() / 200 + ours.intercept_[0] / 600
    assert max(np.abs(by_coef).max(), abs(by_intercept)) <= TOL * (1 + 1e-6)


def test_it_says_where_it_stopped_short():
    Z, y = rows(200, 20, 3)
    machines = [machine(1e-3), machine(100.0).set_params(max_iter=1)]
    assert fit_path(machines, Z, y) == [True, False]
    assert machines[1].n_iter_ == 1
