"""Ordinal logistic regression as an estimator, and its grid."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler

from classify.heads.registry import get_head, grid_points, make_head
from classify.heads.scoring import grid_scores

SCALERS = {"standardise": StandardScaler, "l2": Normalizer}


def ordered(n=150, n_features=20, n_classes=4, *, seed=0, apart=1.0):
    """Return rows with classes ordered along one direction, plus noise, and their classes."""
    generator = np.random.default_rng(seed)
    y = generator.integers(0, n_classes, n)
    direction = np.random.default_rng(99).normal(size=n_features) / np.sqrt(n_features)
    X = apart * y[:, None] * direction * 2 + generator.normal(size=(n, n_features))
    return np.maximum(X + 1, 0).astype(np.float32), y


@pytest.mark.parametrize("scaling", ["standardise", "l2"])
@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_two_classes_agree_with_a_plain_pipeline(scaling, class_weight):
    X, y = ordered(n_classes=2)
    params = {"scaling": scaling, "C": 0.3, "tol": 1e-9}
    ours = make_head("ordinal-logistic", params=params, class_weight=class_weight).fit(X[:100], y[:100])
    regression = LogisticRegression(C=0.3, tol=1e-10, max_iter=10**5, class_weight=class_weight)
    theirs = make_pipeline(SCALERS[scaling](), regression).fit(X[:100].astype(float), y[:100])
    np.testing.assert_allclose(
        ours.predict_proba(X[100:]), theirs.predict_proba(X[100:].astype(float)), atol=1e-6
    )
    assert ours.converged_


@pytest.mark.parametrize("class_weight", [None, "balanced"])
@pytest.mark.parametrize("entry", [None, np.arange(150) // 2])
def test_every_grid_point_agrees_with_a_separate_fit(class_weight, entry):
    X, y = ordered()
    y[100:] = np.repeat(y[100::2], 2)
    head = get_head("ordinal-logistic")
    rows = {"fit_rows": np.arange(100), "score_rows": np.arange(100, 150), "entry": entry}
    predicted = []
    grid_scores(head, X, y, class_weight=class_weight, scorer=lambda _, p: predicted.append(p) or 0.0, **rows)
    for point, ours in zip(grid_points(head), predicted, strict=True):
        fitted = make_head(head.name, params=point, class_weight=class_weight).fit(X[:100], y[:100])
        alone = fitted.predict_proba(X[100:])
        if entry is not None:
            alone = (alone[::2] + alone[1::2]) / 2
        np.testing.assert_array_equal(ours, np.argmax(alone, axis=1), err_msg=str(point))


def test_labels_of_any_type_are_sorted():
    X, y = ordered()
    head = make_head("ordinal-logistic").fit(X, np.array(["a", "b", "c", "d"])[y])
    np.testing.assert_array_equal(head.classes_, ["a", "b", "c", "d"])
    expected = make_head("ordinal-logistic").fit(X, 10 * y).predict_proba(X)
    np.testing.assert_array_equal(head.predict_proba(X), expected)


def test_a_fit_of_one_step_reports_that_it_did_not_converge():
    X, y = ordered()
    assert not make_head("ordinal-logistic", params={"C": 10.0, "max_iter": 1}).fit(X, y).converged_


def best_error(name, X, y):
    """Return the mean absolute error on the last rows of the grid point that is best on the middle rows."""
    head = get_head(name)
    rows = {"fit_rows": np.arange(80), "score_rows": np.arange(80, 160)}
    scores = grid_scores(head, X, y, scorer=lambda t, p: -float(np.mean(np.abs(t - p))), **rows)
    point = grid_points(head)[int(np.argmax(scores))]
    return np.mean(np.abs(make_head(name, params=point).fit(X[:160], y[:160]).predict(X[160:]) - y[160:]))


@pytest.mark.slow
def test_errors_are_smaller_only_if_classes_are_ordered_along_a_direction():
    ordinal, nominal, stirred, plain = [], [], [], []
    for seed in range(8):
        X, y = ordered(660, 60, 5, seed=seed, apart=0.7)
        ordinal.append(best_error("ordinal-logistic", X, y))
        nominal.append(best_error("logreg", X, y))
        mixed = np.array([2, 0, 4, 1, 3])[y]  # the order of the classes is destroyed
        stirred.append(best_error("ordinal-logistic", X, mixed))
        plain.append(best_error("logreg", X, mixed))
    differences = np.array(nominal) - np.array(ordinal)
    assert differences.mean() > 2 * differences.std(ddof=1) / np.sqrt(8)
    assert np.mean(stirred) > np.mean(plain)
