import warnings

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler

from classify.heads import logistic
from classify.heads.logistic import fit_quietly, fold_predictions
from classify.heads.registry import get_head, grid_points, make_head
from classify.heads.scoring import grid_scores
from classify.heads.solvers.softmax_loss import Solution, solve_path

SCALERS = {"standardise": StandardScaler, "l2": Normalizer}


def features(n=150, n_features=60, n_classes=3, *, seed=0):
    """Return overlapping classes in correlated, non-negative float32 features."""
    generator = np.random.default_rng(seed)
    mixing = generator.normal(size=(15, n_features))
    y = generator.integers(0, n_classes, n)
    hidden = generator.normal(size=(n, 15)) + 0.8 * np.eye(15)[y]
    return np.maximum(hidden @ mixing + 0.5 * generator.normal(size=(n, n_features)), 0).astype(np.float32), y


@pytest.mark.parametrize("scaling", ["standardise", "l2"])
@pytest.mark.parametrize("class_weight", [None, "balanced"])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_probabilities_agree_with_a_plain_pipeline(scaling, class_weight, n_classes):
    X, y = features(n_classes=n_classes)
    head = make_head("logreg", params={"scaling": scaling, "C": 0.3}, class_weight=class_weight).fit(
        X[:100], y[:100]
    )
    plain = make_pipeline(
        SCALERS[scaling](), LogisticRegression(C=0.3, tol=1e-9, max_iter=10**5, class_weight=class_weight)
    ).fit(X[:100].astype(np.float64), y[:100])
    np.testing.assert_allclose(head.predict_proba(X[100:]), plain.predict_proba(X[100:]), atol=1e-4)
    assert head.converged_


def test_the_gradient_vanishes_at_the_solution():
    X, y = features()
    head = make_head("logreg", params={"C": 2.0}).fit(X, y)
    Z = (X - X.mean(0, dtype=np.float64)) / X.std(0, dtype=np.float64)
    W = head.pipeline_["classify"].coef_
    # d/dW of mean cross-entropy + |W|² / (2 n C)
    gradient = (
        (softmax(Z @ W.T + head.pipeline_["classify"].intercept_, axis=1) - np.eye(3)[y]).T @ Z / len(y)
    )
    assert np.abs(gradient + W / (len(y) * 2.0)).max() < 2e-6


def test_every_grid_point_scores_as_a_plain_pipeline():
    X, y = features(240)
    fit_rows, score_rows = np.arange(0, 160), np.arange(160, 240)
    points = grid_points(get_head("logreg"))
    predicted = []
    grid_scores(
        get_head("logreg"),
        X,
        y,
        fit_rows=fit_rows,
        score_rows=score_rows,
        scorer=lambda _, p: predicted.append(p) or 0.0,
    )
    assert len(predicted) == len(points)
    for point, ours in zip(points, predicted, strict=True):
        regression = LogisticRegression(C=point["C"], tol=1e-6, max_iter=10**5)
        plain = make_pipeline(SCALERS[point["scaling"]](), regression).fit(
            X[fit_rows].astype(np.float64), y[fit_rows]
        )
        np.testing.assert_array_equal(ours, plain.predict(X[score_rows]), err_msg=str(point))


def test_a_rough_solution_is_refined_by_scikit_learn(monkeypatch):
    def rough(Z, label, *, C, **_):
        for _ in C:
            yield Solution(coef=np.zeros((3, Z.shape[1])), intercept=np.zeros(3), gradient=1.0, n_iter=2)

    monkeypatch.setattr(logistic, "solve_path", rough)
    X, y = features(240)
    head = make_head("logreg", params={"C": 0.1}).fit(X[:160], y[:160])
    plain = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, tol=1e-6, max_iter=10**5))
    plain.fit(X[:160].astype(np.float64), y[:160])
    np.testing.assert_allclose(head.predict_proba(X), plain.predict_proba(X), atol=1e-5)
    assert head.converged_
    assert head.n_iter_ == head.pipeline_["classify"].n_iter_ > 20
    (found,) = fold_predictions([make_head("logreg", params={"C": 0.1})], X[:160], y[:160], X[160:])
    np.testing.assert_array_equal(found, plain.predict(X[160:]))


def test_the_path_ascends_for_any_order_of_the_heads(monkeypatch):
    paths = []
    monkeypatch.setattr(
        logistic, "solve_path", lambda *rows, C, **how: paths.append(list(C)) or solve_path(*rows, C=C, **how)
    )
    X, y = features()
    values = [1.0, 1e-2, 10.0]
    heads = [make_head("logreg", params={"C": C}) for C in values]
    found = fold_predictions(heads, X[:100], y[:100], X[100:])
    assert paths == [sorted(values)]
    for C, ours in zip(values, found, strict=True):
        head = make_head("logreg", params={"C": C}).fit(X[:100], y[:100])
        np.testing.assert_array_equal(ours, head.predict(X[100:]))


def test_a_fitted_head_holds_scikit_learn_objects():
    X, y = features()
    head = make_head("logreg").fit(X, y)
    assert [type(step) for _, step in head.pipeline_.steps] == [StandardScaler, LogisticRegression]
    regression = head.pipeline_["classify"]
    assert not regression.warm_start
    assert regression.max_iter == head.max_iter
    # scikit-learn's solver has nothing to do when it starts from the solution.
    Z = head.pipeline_["scale"].transform(X.astype(np.float64))
    again = LogisticRegression(tol=1e-6, warm_start=True)
    again.coef_, again.intercept_, again.classes_ = regression.coef_, regression.intercept_, np.unique(y)
    assert again.fit(Z, y).n_iter_ == 0


def test_a_solver_that_does_not_converge_is_reported_without_a_warning():
    X, y = features()
    head = make_head("logreg", params={"max_iter": 2, "C": 100.0}).fit(
        X, y
    )  # a warning would be an error here
    assert not head.converged_
    assert head.n_iter_ == 2


def test_other_warnings_reach_the_caller():
    class Grumbler:
        def fit(self, X, y):
            warnings.warn("odd features", UserWarning, stacklevel=1)

    with pytest.warns(UserWarning, match="odd features"):
        assert fit_quietly(Grumbler(), None, None)


def test_the_array_of_the_caller_is_unchanged():
    X, y = features()
    before = X.copy()
    make_head("logreg").fit(X, y).predict(X)
    np.testing.assert_array_equal(X, before)
