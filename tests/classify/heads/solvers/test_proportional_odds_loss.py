"""Proportional odds against scikit-learn, against SciPy on the likelihood, and by hand."""

import numpy as np
import pytest
from hypothesis import given, strategies as st
from scipy.optimize import minimize
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.utils.class_weight import compute_class_weight

from classify.heads.solvers import newton_cg
from classify.heads.solvers.proportional_odds_loss import class_probabilities, solve_ordinal_path


def rows(n, n_columns, n_classes, *, seed=0):
    """Return ordered, overlapping classes in correlated columns of unit variance, not centred."""
    generator = np.random.default_rng(seed)
    label = np.concatenate([np.arange(n_classes), generator.integers(0, n_classes, n - n_classes)])
    hidden = generator.normal(size=(n, 8)) + 0.8 * label[:, None] * np.eye(8)[0]
    Z = hidden @ generator.normal(size=(8, n_columns)) + 0.7 * generator.normal(size=(n, n_columns))
    return Z / Z.std(axis=0) + 0.3, label


def likelihoods(Z, label, coef, thresholds):
    """Return the probability of the class of each row, from the definition of the model."""
    ends = np.concatenate([[-np.inf], thresholds, [np.inf]])
    score = Z @ coef
    return expit(ends[label + 1] - score) - expit(ends[label] - score)


def gradient(Z, label, solution, *, C, weight=None):
    """Return the gradient of the mean loss, from its definition: columns, then thresholds."""
    weight = np.ones(len(Z)) if weight is None else weight
    share = weight / weight.sum()
    ends = np.concatenate([[-np.inf], solution.thresholds, [np.inf]])
    score = Z @ solution.coef
    above, below = ends[label + 1] - score, ends[label] - score
    P = np.where(above + below > 0, expit(-below) - expit(-above), expit(above) - expit(below))
    at_above, at_below = expit(above) * expit(-above) / P * share, expit(below) * expit(-below) / P * share
    columns = Z.T @ (at_above - at_below) + solution.coef / (C * weight.sum())
    n_thresholds = len(solution.thresholds)
    upper = np.array([at_above[label == k].sum() for k in range(n_thresholds)])
    lower = np.array([at_below[label == k + 1].sum() for k in range(n_thresholds)])
    return np.concatenate([columns, lower - upper])


@pytest.mark.parametrize("shape", [(160, 30), (60, 150)])  # solved in all columns, and in the row space
@pytest.mark.parametrize("class_weight", [None, "balanced", {0: 3.0, 1: 0.5}])
def test_two_classes_agree_with_logistic_regression(shape, class_weight):
    Z, label = rows(*shape, 2)
    weight = compute_class_weight(class_weight, classes=np.arange(2), y=label)[label]
    values = [1e-3, 1e-1, 10.0]
    for C, ours in zip(values, solve_ordinal_path(Z, label, C=values, weight=weight, tol=1e-9), strict=True):
        theirs = LogisticRegression(
            C=C, tol=1e-10, max_iter=10**5, solver="newton-cg", class_weight=class_weight
        ).fit(Z, label)
        np.testing.assert_allclose(ours.coef, theirs.coef_[0], atol=1e-5)
        np.testing.assert_allclose(-ours.thresholds, theirs.intercept_, atol=1e-5)
        probabilities = class_probabilities(Z @ ours.coef, ours.thresholds)
        np.testing.assert_allclose(probabilities, theirs.predict_proba(Z), atol=1e-6)


@pytest.mark.parametrize("n_classes", [3, 5])
@pytest.mark.parametrize("C", [1e-2, 1.0])
def test_solutions_agree_with_scipy_on_the_likelihood(n_classes, C):
    Z, label = rows(150, 6, n_classes)
    weight = np.random.default_rng(2).uniform(0.5, 2.0, len(Z))

    def loss(unknowns):
        thresholds = np.cumsum(np.concatenate([unknowns[6:7], np.exp(unknowns[7:])]))
        found = likelihoods(Z, label, unknowns[:6], thresholds)
        return -C * weight @ np.log(found) + 0.5 * unknowns[:6] @ unknowns[:6]

    start = np.concatenate([np.zeros(6), [-1.0], np.zeros(n_classes - 2)])
    theirs = minimize(loss, start, method="BFGS", options={"gtol": 1e-7})
    (ours,) = solve_ordinal_path(Z, label, C=[C], weight=weight, tol=1e-9)
    np.testing.assert_allclose(ours.coef, theirs.x[:6], atol=1e-4)
    thresholds = np.cumsum(np.concatenate([theirs.x[6:7], np.exp(theirs.x[7:])]))
    np.testing.assert_allclose(ours.thresholds, thresholds, atol=1e-4)


def test_with_columns_of_zeros_thresholds_are_log_odds_of_class_frequencies():
    # Shares 1/2, 1/4, 1/4: thresholds at log(1) = 0 and log(3/4 / 1/4) = log 3.
    label = np.array([0, 0, 0, 0, 1, 1, 2, 2])
    (solution,) = solve_ordinal_path(np.zeros((8, 3)), label, C=[1.0])
    np.testing.assert_allclose(solution.thresholds, [0.0, np.log(3)], atol=1e-9)
    np.testing.assert_array_equal(solution.coef, 0.0)


def test_probabilities_by_hand():
    # Thresholds at the log odds of 0.2 and 0.7; a score of log 4 moves them to those of 1/17 and 7/19.
    thresholds = np.log([0.2 / 0.8, 0.7 / 0.3])
    found = class_probabilities(np.array([0.0, np.log(4)]), thresholds)
    np.testing.assert_allclose(found, [[0.2, 0.5, 0.3], [1 / 17, 7 / 19 - 1 / 17, 12 / 19]], atol=1e-12)


def test_probabilities_of_extreme_scores_keep_their_digits():
    found = class_probabilities(np.array([-800.0, -40.0, 40.0, 800.0]), np.array([-1.0, 1.0]))
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found.sum(axis=1), 1.0, atol=1e-12)
    # A difference of two sigmoids would be 1 - 1 = 0; to first order it is e^-40 (e - 1/e).
    assert found[2, 1] == pytest.approx(np.exp(-40) * (np.e - 1 / np.e), rel=1e-9)


@given(
    n_rows=st.integers(6, 60),
    n_columns=st.integers(1, 80),
    n_classes=st.integers(2, 5),
    exponent=st.floats(-5, 5),
    seed=st.integers(0, 2**32 - 1),
    oddity=st.sampled_from(["none", "constant", "twice", "outlier"]),
)
def test_the_gradient_vanishes_in_the_original_columns(n_rows, n_columns, n_classes, exponent, seed, oddity):
    Z, label = rows(n_rows, n_columns, n_classes, seed=seed)
    if oddity == "constant":
        Z[:, 0] = 1.0
    elif oddity == "twice":
        Z = np.repeat(Z, 2, axis=1)
    elif oddity == "outlier":
        Z[seed % n_rows] *= 100.0
    C = 10.0**exponent
    (solution,) = solve_ordinal_path(Z, label, C=[C])
    size = np.abs(gradient(Z, label, solution, C=C)).max()
    assert size <= 1e-6 * (1 + 1e-5)
    assert (np.diff(solution.thresholds) > 0).all()


def test_a_path_agrees_with_single_solutions_in_fewer_steps():
    Z, label = rows(100, 40, 3)
    values = [1e-2, 1.0, 1.0]
    path = list(solve_ordinal_path(Z, label, C=values, tol=1e-9))
    for C, along in zip(values, path, strict=True):
        (alone,) = solve_ordinal_path(Z, label, C=[C], tol=1e-9)
        np.testing.assert_allclose(along.coef, alone.coef, atol=1e-5 * np.abs(alone.coef).max())
    assert path[0].n_iter > 2
    assert path[2].n_iter == 0


def test_preconditioned_steps_are_few(monkeypatch):
    """Counts instead of times: each solve with the Cholesky factor comes with one pass over the rows."""
    solves = []
    solve = newton_cg.cho_solve
    monkeypatch.setattr(newton_cg, "cho_solve", lambda *how, **more: solves.append(1) or solve(*how, **more))
    Z, label = rows(400, 200, 4)
    Z *= np.logspace(0, -3, 200)  # ill-conditioned, like features
    (solution,) = solve_ordinal_path(Z, label, C=[1e3])
    assert solution.gradient <= 1e-6
    assert solution.n_iter < 25
    assert len(solves) < 100


def test_the_rows_of_the_caller_are_unchanged():
    for shape in ((40, 100), (100, 40)):
        Z, label = rows(*shape, 3)
        before = Z.copy()
        list(solve_ordinal_path(Z, label, C=[1.0]))
        np.testing.assert_array_equal(Z, before)
