"""SVM grid search with shared kernels and skipped C, against plain scikit-learn pipelines."""

import numpy as np
import pytest
from sklearn.kernel_approximation import Nystroem
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler
from sklearn.svm import SVC, LinearSVC

from classify.heads import svm_fitting, svm_search
from classify.heads.registry import get_head, grid_points, make_head
from classify.heads.scoring import grid_scores
from classify.heads.svm_search import fold_predictions

SCALERS = {"standardise": StandardScaler, "l2": Normalizer}


def features(n=150, n_features=50, n_classes=3, *, seed=0):
    """Return overlapping classes of unequal size in correlated features that are not negative."""
    generator = np.random.default_rng(seed)
    y = np.minimum(generator.integers(0, n_classes + 1, n), n_classes - 1)
    hidden = generator.normal(size=(n, 10)) + 0.9 * np.eye(10)[y]
    X = hidden @ generator.normal(size=(10, n_features)) + generator.normal(size=(n, n_features))
    return np.maximum(X + 1, 0), y


def plain_pipeline(X, *, kernel, scaling, C, gamma_factor=1.0, class_weight=None):
    """Return the plain scikit-learn pipeline."""
    Z = SCALERS[scaling]().fit_transform(X)
    gamma = gamma_factor / (Z.shape[1] * Z.var())
    machine = SVC(kernel=kernel, C=C, gamma=gamma, tol=1e-6, class_weight=class_weight, break_ties=True)
    return make_pipeline(SCALERS[scaling](), machine)


@pytest.mark.parametrize("name", ["svm-linear", "svm-rbf"])
@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("class_weight", [None, "balanced"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_grid_point_decides_as_a_plain_pipeline(name, n_classes, class_weight, dtype):
    X, y = features(240, n_classes=n_classes)
    X = X.astype(dtype)
    fit_rows, score_rows = np.arange(140), np.arange(140, 240)
    points = grid_points(get_head(name))
    predicted = []
    grid_scores(
        get_head(name),
        X,
        y,
        fit_rows=fit_rows,
        score_rows=score_rows,
        class_weight=class_weight,
        scorer=lambda _, p: predicted.append(p) or 0.0,
    )
    assert len(predicted) == len(points)
    X = X.astype(np.float64)
    for point, ours in zip(points, predicted, strict=True):
        plain = plain_pipeline(X[fit_rows], kernel=name[4:], class_weight=class_weight, **point)
        plain.fit(X[fit_rows], y[fit_rows])
        np.testing.assert_array_equal(ours, plain.predict(X[score_rows]), err_msg=str(point))


@pytest.mark.parametrize("name", ["svm-linear", "svm-rbf"])
@pytest.mark.parametrize("class_weight", [None, "balanced", {0: 0.01, 1: 1.0, 2: 1.0}])
def test_a_c_that_changes_nothing_is_not_solved_again(name, class_weight, monkeypatch):
    fits = []
    fit = SVC.fit
    monkeypatch.setattr(SVC, "fit", lambda self, *rows: fits.append(self.C) or fit(self, *rows))
    X, y = features()
    values = [10.0**exponent for exponent in range(-4, 7)]
    heads = [make_head(name, params={"C": C}, class_weight=class_weight) for C in reversed(values)]
    found = fold_predictions(heads, X[:100], y[:100], X[100:])
    solved = sorted(fits)
    assert solved == values[: len(solved)]
    assert 2 < len(solved) < len(values)
    for C, ours in zip(reversed(values), found, strict=True):
        plain = plain_pipeline(
            X[:100], kernel=name[4:], scaling="standardise", C=C, class_weight=class_weight
        )
        np.testing.assert_array_equal(ours, plain.fit(X[:100], y[:100]).predict(X[100:]))
    # The last C that was solved is the first whose multipliers all stay below their bounds.
    Z = StandardScaler().fit_transform(X[:100])
    share = {None: [1.0] * 3, "balanced": 100 / 3 / np.bincount(y[:100])}
    weights = np.asarray(share[class_weight] if not isinstance(class_weight, dict) else [0.01, 1.0, 1.0])
    for C in solved[-2:]:
        plain = SVC(
            kernel=name[4:], C=C, gamma=1 / (Z.shape[1] * Z.var()), tol=1e-6, class_weight=class_weight
        )
        plain.fit(Z, y[:100])
        at_bound = np.abs(plain.dual_coef_) >= C * weights[y[:100][plain.support_]] * (1 - 1e-6)
        assert at_bound.any() == (solved[-1] != C)


def test_svms_that_differ_in_more_than_c_are_solved_separately():
    X, y = features()
    # With the second weights the first class weighs little, and the path ends at a larger C.
    weights = (None, {0: 1e-6, 1: 1.0, 2: 1.0})
    params = [{"C": C, "class_weight": weight} for C in (1.0, 1e2, 1e4) for weight in weights]
    heads = [make_head("svm-rbf", params=one) for one in params]
    for one, ours in zip(params, fold_predictions(heads, X[:100], y[:100], X[100:]), strict=True):
        (alone,) = fold_predictions([make_head("svm-rbf", params=one)], X[:100], y[:100], X[100:])
        np.testing.assert_array_equal(ours, alone)
        assert (0 in ours) == (one["class_weight"] is None)


def test_an_svm_that_did_not_converge_does_not_end_the_path(monkeypatch):
    fits = []
    fit = SVC.fit
    monkeypatch.setattr(SVC, "fit", lambda self, *rows: fits.append(self.C) or fit(self, *rows))
    X, y = features()
    heads = [make_head("svm-rbf", params={"C": C, "max_iter": 3}) for C in (1e4, 1e5, 1e6)]
    fold_predictions(heads, X[:100], y[:100], X[100:])
    assert fits == [1e4, 1e5, 1e6]


@pytest.mark.parametrize("name", ["svm-linear", "svm-rbf"])
def test_many_rows_decide_as_a_plain_approximate_pipeline(name, monkeypatch):
    monkeypatch.setattr(svm_fitting, "EXACT_ROWS", 100)
    monkeypatch.setattr(svm_fitting, "N_COMPONENTS", 40)
    X, y = features(200)
    points = grid_points(get_head(name))[::4]
    heads = [make_head(name, params=point, seed=3) for point in points]
    found = fold_predictions(heads, X[:120].astype(np.float32), y[:120], X[120:].astype(np.float32))
    X = X.astype(np.float32).astype(np.float64)
    for point, ours in zip(points, found, strict=True):
        scaler = SCALERS[point["scaling"]]
        Z = scaler().fit_transform(X[:120])
        machine = LinearSVC(C=point["C"], loss="squared_hinge", dual=False, max_iter=10**6)
        steps = [scaler(), machine]
        if name == "svm-rbf":
            gamma = point["gamma_factor"] / (Z.shape[1] * Z.var())
            steps.insert(1, Nystroem(gamma=gamma, n_components=40, random_state=3))
        plain = make_pipeline(*steps).fit(X[:120], y[:120])
        np.testing.assert_array_equal(ours, plain.predict(X[120:]), err_msg=str(point))


def test_all_c_share_one_nystroem_map(monkeypatch):
    made = []
    make = svm_search.make_transformers
    monkeypatch.setattr(
        svm_search, "make_transformers", lambda *how, **more: made.append(1) or make(*how, **more)
    )
    X, y = features()
    heads = [make_head("svm-rbf", params={"C": C, "solver": "approximate"}) for C in (0.1, 1.0, 10.0)]
    fold_predictions(heads, X[:100], y[:100], X[100:])
    assert len(made) == 1
