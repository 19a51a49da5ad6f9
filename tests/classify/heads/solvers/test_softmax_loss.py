"""Softmax loss and Newton-CG against scikit-learn's solvers and explicit gradients."""

import numpy as np
import pytest
from hypothesis import given, strategies as st
from scipy.special import expit, softmax
from sklearn.linear_model import LogisticRegression
from sklearn.utils.class_weight import compute_class_weight

from classify.heads.solvers import newton_cg
from classify.heads.solvers.softmax_loss import solve_path


def rows(n, n_columns, n_classes, *, seed=0):
    """Return overlapping classes in correlated columns of unit variance, not centred."""
    generator = np.random.default_rng(seed)
    label = np.concatenate([np.arange(n_classes), generator.integers(0, n_classes, n - n_classes)])
    hidden = generator.normal(size=(n, 8)) + 0.8 * np.eye(8)[label]
    Z = hidden @ generator.normal(size=(8, n_columns)) + 0.7 * generator.normal(size=(n, n_columns))
    return Z / Z.std(axis=0) + 0.3, label


def gradient(Z, label, solution, *, C, weight=None):
    """Return scikit-learn's gradient of the mean loss, from its definition; intercepts last."""
    weight = np.ones(len(Z)) if weight is None else weight
    scores = Z @ solution.coef.T + solution.intercept
    if solution.coef.shape[0] == 1:
        residual = expit(scores) - label[:, None]
    else:
        residual = softmax(scores, axis=1) - np.eye(solution.coef.shape[0])[label]
    residual *= weight[:, None] / weight.sum()
    return np.column_stack([residual.T @ Z + solution.coef / (C * weight.sum()), residual.sum(axis=0)])


@pytest.mark.parametrize("n_classes", [2, 3, 5])
@pytest.mark.parametrize("shape", [(160, 30), (60, 150)])  # solved in all columns, and in the row space
@pytest.mark.parametrize("class_weight", [None, "balanced", {0: 3.0, 1: 0.5}])
def test_solutions_agree_with_scikit_learn(n_classes, shape, class_weight):
    Z, label = rows(*shape, n_classes)
    weight = compute_class_weight(class_weight, classes=np.arange(n_classes), y=label)[label]
    weight = None if class_weight is None else weight
    values = [1e-3, 1e-1, 10.0]
    for C, ours in zip(values, solve_path(Z, label, C=values, weight=weight, tol=1e-9), strict=True):
        theirs = LogisticRegression(
            C=C, tol=1e-10, max_iter=10**5, solver="newton-cg", class_weight=class_weight
        ).fit(Z, label)
        np.testing.assert_allclose(ours.coef, theirs.coef_, atol=1e-5)
        # newton-cg does not change the mean of the intercepts; only their differences matter
        theirs_centred = theirs.intercept_ - (theirs.intercept_.mean() if n_classes > 2 else 0.0)
        np.testing.assert_allclose(ours.intercept, theirs_centred, atol=1e-5)


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
    (solution,) = solve_path(Z, label, C=[C])
    size = np.abs(gradient(Z, label, solution, C=C)).max()
    assert size <= 1e-6 * (1 + 1e-6)
    assert solution.gradient >= size - 1e-12  # an upper bound in the row space
    if n_classes > 2:
        np.testing.assert_allclose(solution.coef.sum(axis=0), 0.0, atol=1e-9 * np.abs(solution.coef).max())


def test_the_reported_gradient_is_an_upper_bound_in_the_row_space():
    # One column for all rows, and one column per row: the gradient lies in the first.
    label = np.arange(40) % 2
    Z = np.hstack([2.0 * label[:, None] - 1.0, np.eye(40), np.zeros((40, 40))])
    (solution,) = solve_path(Z, label, C=[100.0], max_iter=1)
    size = np.abs(gradient(Z, label, solution, C=100.0)).max()
    assert size > 1e-3
    assert size <= solution.gradient <= 2 * size


def test_a_path_agrees_with_single_solutions():
    Z, label = rows(100, 40, 3)
    values = [1e-2, 1.0, 100.0]
    for C, along in zip(values, solve_path(Z, label, C=values, tol=1e-9), strict=True):
        (alone,) = solve_path(Z, label, C=[C], tol=1e-9)
        np.testing.assert_allclose(along.coef, alone.coef, atol=1e-5 * np.abs(alone.coef).max())


def test_a_warm_start_saves_steps():
    Z, label = rows(300, 40, 3)
    warm = list(solve_path(Z, label, C=[10.0, 10.0]))
    assert warm[0].n_iter > 3
    assert warm[1].n_iter == 0


def test_the_row_space_is_used_if_it_is_smaller(monkeypatch):
    sizes = []
    cholesky = newton_cg.cho_factor
    monkeypatch.setattr(newton_cg, "cho_factor", lambda M, **how: sizes.append(len(M)) or cholesky(M, **how))
    for shape in ((40, 100), (100, 40)):
        (solution,) = solve_path(*rows(*shape, 3), C=[1.0])
        assert solution.coef.shape == (3, shape[1])
    assert set(sizes) == {41}  # 40, and the intercept


def test_it_stops_at_max_iter():
    Z, label = rows(100, 40, 3)
    (solution,) = solve_path(Z, label, C=[100.0], max_iter=2)
    assert solution.n_iter == 2
    expected = np.abs(gradient(Z, label, solution, C=100.0)).max()
    assert solution.gradient == pytest.approx(expected, rel=1e-6)
    assert solution.gradient > 1e-6


def test_it_stops_when_rounding_prevents_progress():
    for shape in ((40, 100), (100, 40)):
        Z, label = rows(*shape, 3)
        (solution,) = solve_path(Z, label, C=[100.0], tol=0.0, max_iter=10**6)
        assert solution.n_iter < 100
        assert solution.gradient < 1e-9


def test_the_rows_of_the_caller_are_unchanged():
    for shape in ((40, 100), (100, 40)):
        Z, label = rows(*shape, 3)
        before = Z.copy()
        list(solve_path(Z, label, C=[1.0]))
        np.testing.assert_array_equal(Z, before)


def test_preconditioned_steps_are_few(monkeypatch):
    """Counts instead of times: each solve with the Cholesky factor comes with one pass over the rows."""
    solves = []
    solve = newton_cg.cho_solve
    monkeypatch.setattr(newton_cg, "cho_solve", lambda *how, **more: solves.append(1) or solve(*how, **more))
    Z, label = rows(400, 200, 3)
    Z *= np.logspace(0, -3, 200)  # ill-conditioned, like features
    theirs = LogisticRegression(C=1e3, tol=1e-6, max_iter=10**5).fit(Z, label)
    (ours,) = solve_path(Z, label, C=[1e3])
    assert theirs.n_iter_[0] > 150
    assert ours.n_iter < 15
    assert len(solves) + ours.n_iter < 0.4 * theirs.n_iter_[0]
