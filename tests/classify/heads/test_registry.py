import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.utils.estimator_checks import parametrize_with_checks

from classify.errors import CompareError
from classify.heads.registry import HEADS, get_head, grid_points, make_head
from classify.heads.scoring import balanced_accuracy, grid_scores

SMALL_DENSE = {"units": (16,), "epochs": 15, "patience": 10, "batch_size": 16, "learning_rate": 3e-2}


def blobs(n=90, n_features=12, n_classes=3, *, seed=0, apart=1.5):
    """Return features like those of a backbone, float32 and not negative, and their classes."""
    generator = np.random.default_rng(seed)
    y = np.arange(n) % n_classes
    centres = np.random.default_rng(99).normal(size=(n_classes, n_features)) * apart
    return np.maximum(centres[y] + generator.normal(size=(n, n_features)) + 1, 0).astype(np.float32), y


def test_listing_heads_imports_nothing_heavy():
    heavy = "{'sklearn', 'scipy', 'tensorflow', 'keras'}"
    code = (
        "import sys, classify.heads.registry as h; [h.grid_points(head) for head in h.HEADS.values()];"
        f"print({heavy} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_only_heads_marked_tensorflow_import_it():
    code = (
        "import sys, numpy as np; from classify.heads.registry import HEADS, make_head\n"
        "X = np.random.default_rng(0).normal(size=(40, 4)).astype('f'); y = np.arange(40) % 2\n"
        "[make_head(n).fit(X, y).predict_proba(X) for n, h in HEADS.items() if not h.tensorflow]\n"
        "make_head('dense'); print('tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_registry_has_the_expected_heads():
    asked = {"dense", "logreg", "svm-linear", "svm-rbf", "nearest-mean", "knn", "lda", "baseline"}
    assert asked <= set(HEADS)
    assert all(name == head.name for name, head in HEADS.items())


def test_an_unknown_head_is_refused_with_the_known_names():
    with pytest.raises(
        CompareError, match=r"'svm'.*dense, logreg, svm-linear, svm-rbf, .*baseline.*classify heads"
    ):
        get_head("svm")


def test_an_unknown_parameter_is_refused_with_the_known_names():
    with pytest.raises(CompareError, match=r"'logreg' has no parameter 'gamma'.*C, class_weight, max_iter"):
        make_head("logreg", params={"gamma": 1.0})


def test_seed_and_class_weight_reach_the_heads_that_have_them():
    assert make_head("dense", seed=7, class_weight="balanced").get_params()["seed"] == 7
    assert make_head("logreg", seed=7, class_weight="balanced").class_weight == "balanced"
    assert make_head("svm-rbf", seed=7).get_params().items() >= {"seed": 7, "kernel": "rbf"}.items()
    assert make_head("baseline", seed=7, class_weight="balanced").get_params() == {}
    assert (
        make_head("svm-linear", params={"class_weight": None}, class_weight="balanced").class_weight is None
    )


@pytest.mark.parametrize("name", ["logreg", "svm-linear", "svm-rbf"])
def test_grids_span_four_orders_of_magnitude_in_each_scaling(name):
    points = grid_points(get_head(name))
    for key in {"C", "gamma_factor"} & set(points[0]):
        for scaling in ("standardise", "l2"):
            values = [point[key] for point in points if point["scaling"] == scaling]
            assert max(values) / min(values) >= 0.999e4


@pytest.mark.parametrize("name", list(HEADS))
def test_grid_points_are_in_ascending_c(name):
    points = grid_points(get_head(name))
    assert len({tuple(sorted(point.items())) for point in points}) == len(points)
    strength = [point.get("C", 0) for point in points]
    assert strength == sorted(strength)
    assert grid_points(get_head("baseline")) == [{}]


def test_balanced_accuracy_agrees_with_scikit_learn():
    generator = np.random.default_rng(0)
    y_true, y_pred = generator.integers(0, 4, (2, 200))
    assert balanced_accuracy(y_true, y_pred) == pytest.approx(
        balanced_accuracy_score(y_true, y_pred), abs=1e-12
    )
    # A predicted class may be missing in a fold: by hand, (1/2 + 1) / 2.
    assert balanced_accuracy(np.array([0, 0, 1]), np.array([0, 2, 1])) == 0.75


@pytest.mark.parametrize("name", ["baseline", "dense"])
def test_heads_without_a_search_of_their_own_are_fitted_point_by_point(name):
    X, y = blobs(60)
    fit_rows, score_rows = np.arange(45), np.arange(45, 60)
    points = [{}] if name == "baseline" else [{**SMALL_DENSE, "scaling": s} for s in ("standardise", "l2")]
    image = np.arange(60) // 3 * 3 + y
    scores = grid_scores(
        get_head(name), X, y, fit_rows=fit_rows, score_rows=score_rows, points=points, image=image, seed=3
    )
    expected = []
    for point in points:
        head = make_head(name, params=point, seed=3).fit(X[:45], y[:45], image=image[:45])
        expected.append(balanced_accuracy_score(y[45:], head.predict(X[45:])))
    assert scores == pytest.approx(expected, abs=1e-12)


def test_the_scorer_is_given_truth_and_predictions():
    X, y = blobs(60)
    seen = []

    def scorer(y_true, y_pred):
        seen.append((y_true, y_pred))
        return 0.5

    points = grid_points(get_head("logreg"))[:2]
    rows = {"fit_rows": np.arange(40), "score_rows": np.arange(40, 60)}
    assert grid_scores(get_head("logreg"), X, y, points=points, scorer=scorer, **rows) == [0.5, 0.5]
    np.testing.assert_array_equal(seen[0][0], y[40:])
    assert seen[0][1].shape == (20,)


def test_baseline_counts_images_not_views():
    X = np.zeros((8, 3), dtype=np.float32)
    y = np.array(
        [0, 1, 1, 0, 0, 0, 0, 0]
    )  # image 0 of class 0 has six views, images 1 and 2 of class 1 have one
    head = make_head("baseline").fit(X, y, image=np.array([0, 1, 2, 0, 0, 0, 0, 0]))
    np.testing.assert_allclose(head.predict_proba(X[:2]), [[1 / 3, 2 / 3]] * 2, atol=1e-12)
    np.testing.assert_array_equal(head.predict(X[:2]), [1, 1])


@pytest.mark.parametrize("name", [name for name, head in HEADS.items() if not head.tensorflow])
@pytest.mark.parametrize("scaling", ["standardise", "l2"])
def test_saved_without_pickle_predicts_the_same(name, scaling, saved_and_loaded):
    X, y = blobs()
    params = {} if name == "baseline" else {"scaling": scaling}
    head = make_head(name, params=params, class_weight="balanced").fit(X, y)
    loaded = saved_and_loaded(head, name)
    np.testing.assert_array_equal(loaded.predict_proba(X), head.predict_proba(X))
    np.testing.assert_array_equal(loaded.classes_, head.classes_)


@pytest.mark.parametrize("name", ["dense", "svm-rbf", "ordinal-svm", "nearest-mean", "baseline"])
def test_rows_that_do_not_match_are_refused(name):
    X, y = blobs(30)
    with pytest.raises(CompareError, match="image has 5 rows: expected 30"):
        make_head(name).fit(X, y, image=np.arange(5))


@pytest.mark.parametrize("name", [name for name in HEADS if name != "baseline"])
def test_one_class_is_refused(name):
    X, _ = blobs(30)
    with pytest.raises(CompareError, match="one class, '4': expected at least 2"):
        make_head(name).fit(X, np.full(30, 4))


@pytest.mark.parametrize("name", [name for name in HEADS if name != "baseline"])
def test_unknown_scaling_is_refused(name):
    X, y = blobs(30)
    with pytest.raises(CompareError, match="scaling 'none': expected one of standardise, l2"):
        make_head(name, params={"scaling": "none"}).fit(X, y)


CHECKED = {
    name: make_head(name, params=SMALL_DENSE if head.tensorflow else {}) for name, head in HEADS.items()
}


# No check is expected to fail. scikit-learn itself skips check_array_api_input: our heads take NumPy arrays.
@parametrize_with_checks([estimator for name, estimator in CHECKED.items() if name != "ordinal-dense"])
def test_scikit_learn_estimator_checks(estimator, check):
    check(estimator)


@pytest.mark.long
@parametrize_with_checks([CHECKED["ordinal-dense"]])
def test_scikit_learn_estimator_checks_of_ordinal_dense(estimator, check):
    """The same class as the dense head, which the default run checks."""
    check(estimator)


@pytest.mark.parametrize("name", ["logreg", "svm-linear", "svm-rbf", "one by one"])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_images_of_an_entry_are_averaged_before_it_is_scored(name, n_classes):
    """Against scikit-learn: mean probabilities, or mean decisions, of each entry."""
    generator = np.random.default_rng(4)
    y = np.repeat(np.arange(n_classes), 60)[generator.permutation(60 * n_classes)]
    X = generator.normal(size=(len(y), 6)) + 0.6 * np.eye(6)[y]
    n_fit = len(y) // 2
    entry = np.full(len(y), -1)
    entry[n_fit:] = 100 + (np.arange(len(y) - n_fit) // 3)[::-1]
    y[n_fit:] = (entry[n_fit:] % n_classes).astype(y.dtype)  # an entry has one class
    predicted = []
    rows = {"fit_rows": np.arange(n_fit), "score_rows": np.arange(n_fit, len(y)), "entry": entry}
    head = get_head(name) if name in HEADS else replace(get_head("logreg"), search="")
    points = [{"C": 0.5, "scaling": "standardise"}]
    seen = []
    grid_scores(
        head, X, y, **rows, points=points, scorer=lambda t, p: seen.append(t) or predicted.append(p) or 0.0
    )
    scaler = StandardScaler().fit(X[:n_fit])
    Z = scaler.transform(X)
    if "svm" in name:
        gamma = 1.0 / (Z.shape[1] * Z[:n_fit].var())
        machine = SVC(C=0.5, kernel=name[4:], gamma=gamma, tol=1e-6).fit(Z[:n_fit], y[:n_fit])
        soft = machine.decision_function(Z[n_fit:])
        soft = soft if n_classes > 2 else np.column_stack([-soft, soft])
    else:
        regression = LogisticRegression(C=0.5, tol=1e-8, max_iter=10_000).fit(Z[:n_fit], y[:n_fit])
        soft = regression.predict_proba(Z[n_fit:])
    entries = np.unique(entry[n_fit:])
    expected = [np.argmax(soft[entry[n_fit:] == one].mean(axis=0)) for one in entries]
    np.testing.assert_array_equal(seen[0], entries % n_classes)
    np.testing.assert_array_equal(predicted[0], expected)
