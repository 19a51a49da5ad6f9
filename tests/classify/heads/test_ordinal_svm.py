"""The ordinal SVM against one scikit-learn SVM per threshold."""

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.calibration import CalibratedClassifierCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler
from sklearn.svm import SVC, LinearSVC
from sklearn.utils.class_weight import compute_sample_weight

from classify.data.folds import grouped_folds
from classify.errors import CompareError
from classify.heads import svm_search
from classify.heads.ordinal_svm import class_probabilities, fold_predictions, isotonic_nonincreasing
from classify.heads.registry import get_head, grid_points, make_head
from classify.heads.scoring import grid_scores

SCALERS = {"standardise": StandardScaler, "l2": Normalizer}


def graded(n=120, n_features=20, n_classes=4, *, seed=0, noise=0.7, wide=1.0):
    """Return rows with ordered classes of unequal size along one direction."""
    generator = np.random.default_rng(seed)
    hidden = generator.normal(size=n)
    shares = np.linspace(0, 1, n_classes + 1)[1:-1] ** 1.3
    y = np.searchsorted(np.quantile(hidden, shares), hidden + 0.2 * generator.normal(size=n))
    X = generator.normal(size=(n, n_features)) * noise
    X[:, 0] += wide * 2 * hidden
    return np.maximum(X + 3, 0).astype(np.float32), y


def scale(X, scaling):
    return SCALERS[scaling]().fit_transform(X.astype(np.float64))


@pytest.mark.parametrize("scaling", ["standardise", "l2"])
@pytest.mark.parametrize("class_weight", [None, "balanced"])
@pytest.mark.filterwarnings("ignore:Since Pipeline does not appear:UserWarning")
def test_probabilities_agree_with_separate_scikit_learn_estimators(scaling, class_weight):
    X, y = graded()
    groups = np.arange(120) // 2
    head = make_head("ordinal-svm", params={"scaling": scaling, "C": 3.0}, seed=5, class_weight=class_weight)
    head.fit(X, y, groups=groups)

    X = X.astype(np.float64)
    Z = scale(X, scaling)
    gamma = 1.0 / (Z.shape[1] * Z.var())
    # "balanced": a class of 1/4 of the weight, so that a side of m classes has m/4 of it.
    above = np.empty((120, 3))
    for k in range(3):
        upper = (y > k).astype(int)
        folds = grouped_folds(upper, groups, n_folds=5, seed=5).pairs
        sides = {0: 120 * (k + 1) / 4 / np.sum(y <= k), 1: 120 * (3 - k) / 4 / np.sum(y > k)}
        weight = None if class_weight is None else sides
        machine = SVC(C=3.0, gamma=gamma, tol=1e-6, class_weight=weight)
        plain = CalibratedClassifierCV(
            make_pipeline(SCALERS[scaling](), machine), method="sigmoid", ensemble=False, cv=folds
        )
        rows = None if class_weight is None else compute_sample_weight(sides, upper)
        above[:, k] = plain.fit(X, upper, sample_weight=rows).predict_proba(X)[:, 1]
    expected = np.empty((120, 4))
    for row, raised in zip(expected, above, strict=True):
        a, b, c = raised  # the nearest nonincreasing triple is one of these averages
        candidates = [
            (a, b, c),
            ((a + b) / 2, (a + b) / 2, c),
            (a, (b + c) / 2, (b + c) / 2),
            ((a + b + c) / 3,) * 3,
        ]
        valid = [p for p in candidates if p[0] >= p[1] - 1e-12 and p[1] >= p[2] - 1e-12]
        p, q, r = min(valid, key=lambda p: sum((np.array(p) - raised) ** 2))
        row[:] = 1 - p, p - q, q - r, r
    expected = np.maximum(expected, 1 / 122)  # smallest target of Platt scaling: (0 + 1) / (120 + 2)
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(head.predict_proba(X), expected, atol=1e-5)
    assert head.converged_
    assert head.n_folds_ == 5


def test_two_classes_give_the_nominal_head():
    X, y = graded(n_classes=2)
    for class_weight in (None, "balanced"):
        ours, theirs = (
            make_head(name, class_weight=class_weight, seed=3).fit(X, y)
            for name in ("ordinal-svm", "svm-rbf")
        )
        np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-9)
    points = grid_points(get_head("svm-rbf"))
    assert points == grid_points(get_head("ordinal-svm"))
    for soft in (False, True):
        ours, theirs = (
            search([make_head(name, params=one) for one in points], X[:80], y[:80], X[80:], soft=soft)
            for name, search in (("ordinal-svm", fold_predictions), ("svm-rbf", svm_search.fold_predictions))
        )
        if soft:  # only the differences of the columns matter
            ours, theirs = (np.array(one)[:, :, 1] - np.array(one)[:, :, 0] for one in (ours, theirs))
            theirs /= 2
        np.testing.assert_allclose(ours, theirs, atol=1e-12)


def test_by_hand():
    above = np.array([[0.9, 0.5, 0.2], [0.6, 0.8, 0.1], [0.2, 0.3, 0.7], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    expected = [[0.1, 0.4, 0.3, 0.2], [0.3, 0.0, 0.6, 0.1], [0.6, 0.0, 0.0, 0.4], [0, 0, 0, 1], [1, 0, 0, 0]]
    before = above.copy()
    found = class_probabilities(isotonic_nonincreasing(above), floor=0.0)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    raised = class_probabilities(np.array([[0.6, 0.6]]), floor=0.1)
    np.testing.assert_allclose(raised, [[0.4 / 1.1, 0.1 / 1.1, 0.6 / 1.1]], atol=1e-12)
    np.testing.assert_array_equal(above, before)


def test_isotonic_probabilities_are_the_nearest_nonincreasing_ones():
    above = np.random.default_rng(0).uniform(size=(20, 4))
    bounds = [{"type": "ineq", "fun": lambda p, k=k: p[k] - p[k + 1]} for k in range(3)]
    for row, ours in zip(above, isotonic_nonincreasing(above), strict=True):
        nearest = minimize(
            lambda p, row=row: np.sum((p - row) ** 2), row.mean() * np.ones(4), constraints=bounds, tol=1e-12
        )
        np.testing.assert_allclose(ours, nearest.x, atol=1e-5)


def test_probabilities_are_nonincreasing_and_sum_to_one():
    X, y = graded(90, n_classes=5, noise=2.0)  # overlapping, so that the SVMs contradict each other
    head = make_head("ordinal-svm", params={"C": 100.0}).fit(X, y)
    probabilities = head.predict_proba(np.random.default_rng(1).uniform(0, 6, (500, 20)))
    raw = [one.predict_proba(X)[:, 1] for one in head.machines_]
    assert (np.diff(raw, axis=0) > 1e-6).any()
    assert (probabilities > 0).all()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, atol=1e-12)


@pytest.mark.parametrize("class_weight", [None, "balanced"])
@pytest.mark.parametrize("entry", [None, np.arange(120) // 2])
def test_every_grid_point_decides_as_plain_svms(class_weight, entry):
    X, y = graded(n_classes=3, noise=1.5)
    y[80:] = np.repeat(y[80::2], 2)
    fit_rows, score_rows = np.arange(80), np.arange(80, 120)
    points, predicted = grid_points(get_head("ordinal-svm"))[::3], []
    grid_scores(
        get_head("ordinal-svm"),
        X,
        y,
        points=points,
        fit_rows=fit_rows,
        score_rows=score_rows,
        entry=entry,
        class_weight=class_weight,
        scorer=lambda _, p: predicted.append(p) or 0.0,
    )
    for point, ours in zip(points, predicted, strict=True):
        scaler = SCALERS[point["scaling"]]().fit(X[:80].astype(np.float64))
        Z = scaler.transform(X.astype(np.float64))
        gamma = point["gamma_factor"] / (20 * Z[:80].var())
        first, second = [], []
        for k, found in enumerate((first, second)):
            upper = y[:80] > k
            weight = {False: 80 * (k + 1) / 3 / np.sum(~upper), True: 80 * (2 - k) / 3 / np.sum(upper)}
            machine = SVC(
                C=point["C"], gamma=gamma, tol=1e-6, class_weight=None if class_weight is None else weight
            )
            found.extend(machine.fit(Z[:80], upper).decision_function(Z[80:]))
        first, second = np.array(first), np.array(second)
        if entry is not None:
            first, second = (first[::2] + first[1::2]) / 2, (second[::2] + second[1::2]) / 2
        top = np.where(first + second > 0, 2, 0)
        middle = (first > 0) & (second <= 0)
        np.testing.assert_array_equal(ours, np.where(middle, 1, top), err_msg=str(point))


def test_all_thresholds_share_one_kernel(monkeypatch):
    made = []
    make = svm_search.inner_products
    monkeypatch.setattr(
        svm_search, "inner_products", lambda *how, **more: made.append(1) or make(*how, **more)
    )
    X, y = graded()
    fold_predictions(
        [make_head("ordinal-svm", params=p) for p in grid_points(get_head("ordinal-svm"))], X, y, X[:5]
    )
    assert len(made) == 2  # one per scaling


def test_many_rows_use_the_approximate_solver():
    X, y = graded(n_classes=3)
    head = make_head("ordinal-svm", params={"solver": "approximate"}).fit(X, y)
    (inner, _) = (one.classifier_.calibrated_classifiers_[0].estimator for one in head.machines_)
    assert isinstance(inner["classify"], LinearSVC)
    assert head.notes_[0].startswith("approximate, for 120 training rows")
    (hard,) = fold_predictions([head], X[:80], y[:80], X[80:])
    assert np.mean(np.abs(hard - y[80:])) < 0.6


def test_labels_of_any_type_are_sorted():
    X, y = graded(n_classes=3)
    plain, named = (make_head("ordinal-svm").fit(X, labels) for labels in (y, np.array(["a", "m", "z"])[y]))
    np.testing.assert_array_equal(plain.predict_proba(X), named.predict_proba(X))
    assert list(named.classes_) == ["a", "m", "z"]


def test_a_class_with_one_group_is_refused_by_name():
    X, y = graded(n_classes=3)
    with pytest.raises(CompareError, match="'1'"):
        make_head("ordinal-svm").fit(X, y, groups=np.where(y == 1, 1000, np.arange(120)))


def test_the_fitted_head_holds_scikit_learn_objects(saved_and_loaded):
    X, y = graded(n_classes=3)
    head = make_head("ordinal-svm").fit(X, y)
    assert [type(one.classifier_) for one in head.machines_] == [CalibratedClassifierCV] * 2
    loaded = saved_and_loaded(head, "ordinal-svm")
    np.testing.assert_array_equal(loaded.predict_proba(X), head.predict_proba(X))


def test_the_absolute_error_is_smaller_than_that_of_the_nominal_head():
    """Five classes ordered along one direction of thirty, few training rows: the mean of eight data sets."""
    errors = {"svm-rbf": [], "ordinal-svm": []}
    for seed in range(8):
        X, y = graded(600, 30, 5, seed=seed, noise=1.0)
        for name, found in errors.items():
            head = make_head(name, params={"C": 10.0, "gamma_factor": 0.1}).fit(X[:150], y[:150])
            found.append(np.mean(np.abs(head.predict(X[150:]) - y[150:])))
    assert np.mean(errors["ordinal-svm"]) < np.mean(errors["svm-rbf"]) - 0.05
