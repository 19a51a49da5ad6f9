"""Graphs of heads equal scikit-learn, SciPy and Keras on the same rows, in every runtime."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from scipy.optimize import isotonic_regression
from sklearn.svm import SVC
from sklearn.utils.multiclass import _ovr_decision_function

from classify.deploy.export.formats import FORMATS, format_module
from classify.deploy.export.layers import at_temperature, unit_rows
from classify.deploy.export.network import GRAPHS, require_size
from classify.deploy.export.svm import _votes, isotonic_nonincreasing
from classify.errors import ExportError
from classify.heads.registry import HEADS, SCALINGS, make_head
from classify.heads.solvers.temperature import apply_temperature

SVMS = ("svm-linear", "svm-rbf", "ordinal-svm")


def every_head(fitted_head, *, all_of_it=True):
    """Return name → (head, fitted): each head, scaling and number of classes, and what stands in for SVMs.

    Not `all_of_it`: the scalings by turns over heads and numbers of classes.
    """
    found = {}
    for number, head in enumerate(HEADS):
        for n_classes in (2, 3, 4) if "svm" in head else (2, 3):
            scalings = list(SCALINGS) if all_of_it else [list(SCALINGS)[(number + n_classes) % 2]]
            for scaling in scalings if head != "baseline" else ("",):
                params = {"scaling": scaling} if scaling else {}
                name = f"{head}_{scaling}_{n_classes}".replace("-", "_")
                found[name] = (head, fitted_head(head, n_classes, **params))
    for head in SVMS:
        approximate = fitted_head(head, 3, solver="approximate", scaling="l2")
        found[f"approximate_{head}".replace("-", "_")] = (head, approximate)
    return found


def expression(inputs, made):
    """Return a function of arrays from what was made of Keras' inputs."""
    model = keras.Model(inputs, made)
    return lambda *arrays: np.asarray(model(list(arrays) if len(arrays) > 1 else arrays[0]))


def test_every_head_has_a_graph():
    assert list(GRAPHS) == list(HEADS)


def test_graphs_equal_the_estimators(fitted_head, as_network, rows):
    heads = every_head(fitted_head)
    outputs = as_network(heads)(rows)
    for name, (head, fitted) in heads.items():
        expected = fitted.predict_proba(rows)
        # Of float32 are the dense network, and the rows that neighbours are compared with.
        tolerance = 1e-6 if HEADS[head].tensorflow or head == "knn" else 1e-10
        np.testing.assert_allclose(outputs[name], expected, rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_graphs_in_other_runtimes(fitted_head, as_network, rows, tmp_path, name, long):
    """ONNX Runtime computes in float64, OpenVINO in nothing wider than float32."""
    heads = every_head(fitted_head, all_of_it=long)
    together = as_network(heads)
    order = list(heads)
    side_by_side = keras.layers.Concatenate(name="probabilities", dtype="float64")(
        [together.output[key] for key in order]
    )
    network = keras.Model(together.inputs, keras.ops.cast(side_by_side, "float32"))
    module, place = format_module(FORMATS[name]), tmp_path / f"heads{FORMATS[name].suffix}"
    module.write(network, place, {"classes": ["a", "b"]})
    outputs = module.load(place)({"features": rows})
    start = 0
    for key in order:
        expected = heads[key][1].predict_proba(rows)
        part = outputs[:, start : (start := start + expected.shape[1])]
        np.testing.assert_allclose(part, expected, rtol=0, atol=2e-5, err_msg=key)


def test_weighted_and_few_neighbours(fitted_head, as_network, make_rows, rows):
    heads = {
        "one": ("knn", fitted_head("knn", 3, k=1)),
        "most": ("knn", fitted_head("knn", 3, k=1000)),
        "weighted": ("knn", make_head("knn", params={"k": 7, "class_weight": {0: 1.0, 1: 2.5, 2: 0.3}})),
    }
    heads["weighted"][1].fit(*make_rows(90, 3))
    outputs = as_network(heads)(rows)
    for name, (_, fitted) in heads.items():
        np.testing.assert_allclose(outputs[name], fitted.predict_proba(rows), rtol=0, atol=1e-6, err_msg=name)


def test_votes_at_ties_equal_scikit_learn():
    """A decision of exactly 0 is a vote for the first class of the pair."""
    decisions = np.random.default_rng(0).normal(size=(200, 6))
    decisions[:60, 2] = 0.0
    decisions[60] = 0.0
    decisions[61] = -0.0
    given = keras.Input((6,), dtype="float64")
    votes = expression(given, _votes(given, n_classes=4, name="four"))
    expected = _ovr_decision_function(decisions < 0, -decisions, 4)
    np.testing.assert_allclose(votes(decisions), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("n_classes", [2, 3, 5])
@pytest.mark.parametrize("kernel", ["linear", "rbf"])
def test_decisions_of_pairs_equal_scikit_learn(n_classes, kernel, rows):
    """Classes of unequal numbers of support vectors, against SVC's own decision function."""
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler

    from classify.deploy.export.svm import _decisions

    generator = np.random.default_rng(1)
    y = generator.choice(
        n_classes, size=80, p=np.arange(1, n_classes + 1) / (n_classes * (n_classes + 1) / 2)
    )
    X = generator.normal(size=(80, rows.shape[1])) + y[:, None] / 2
    fitted = Pipeline([("scale", StandardScaler()), ("classify", SVC(kernel=kernel, gamma=0.03, C=2.0))])
    fitted.fit(X, y)
    given = keras.Input((rows.shape[1],), dtype="float32")
    decisions = expression(given, _decisions(fitted, given, name="svc"))
    expected = fitted.decision_function(rows.astype(np.float64)).reshape(len(rows), -1)
    np.testing.assert_allclose(decisions(rows), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("n", [1, 2, 3, 6])
def test_isotonic_nonincreasing(n):
    above = np.random.default_rng(n).random((300, n))
    above[:20] = np.round(above[:20], 1)  # ties
    given = keras.Input((n,), dtype="float64")
    nearest = expression(given, isotonic_nonincreasing(given, name="falling"))
    expected = [isotonic_regression(row, increasing=False).x for row in above]
    np.testing.assert_allclose(nearest(above), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("temperature", [0.05, 1.0, 20.0])
def test_temperature(temperature):
    outputs = np.array([[1.0, 0.0, 0.0], [0.2, 0.3, 0.5], [1 - 2e-9, 1e-9, 1e-9], [1 / 3, 1 / 3, 1 / 3]])
    given = keras.Input((3,), dtype="float64")
    scaled = expression(given, at_temperature(given, temperature))
    expected = apply_temperature(outputs, temperature)
    np.testing.assert_allclose(scaled(outputs), expected, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(
        outputs[1] ** (1 / temperature) / sum(outputs[1] ** (1 / temperature)), expected[1]
    )


def test_a_row_of_zeros_stays_unchanged():
    given = keras.Input((2,), dtype="float64")
    unit = expression(given, unit_rows(given))
    found = unit(np.array([[0.0, 0.0], [3.0, 4.0], [1e-16, 0.0]]))
    np.testing.assert_array_equal(found, [[0.0, 0.0], [0.6, 0.8], [1e-16, 0.0]])


def test_a_head_with_too_many_training_rows_is_refused(fitted_head):
    machine = fitted_head("svm-rbf", 3)
    (calibrated,) = machine.classifier_.calibrated_classifiers_
    n = len(calibrated.estimator["classify"].support_vectors_)
    with pytest.raises(
        ExportError,
        match=rf"work: svm-rbf stores {n} support vectors of 12 features, {12 * n:,} values; the limit of an "
        rf"export is {12 * n - 1:,}\. Export a head that stores no training rows, such as logreg",
    ):
        require_size("svm-rbf", machine, bundle="work", max_values=12 * n - 1)
    require_size("svm-rbf", machine, bundle="work", max_values=12 * n)
    with pytest.raises(ExportError, match="knn stores 90 training rows of 12 features, 1,080 values"):
        require_size("knn", fitted_head("knn", 3), bundle="work", max_values=1_079)
    ordinal = fitted_head("ordinal-svm", 3)
    kept = [
        len(one.classifier_.calibrated_classifiers_[0].estimator["classify"].support_vectors_)
        for one in ordinal.machines_
    ]
    with pytest.raises(ExportError, match=f"{12 * sum(kept):,} values"):
        require_size("ordinal-svm", ordinal, bundle="work", max_values=1)
    with pytest.raises(ExportError, match="svm-rbf stores 90 support vectors"):
        require_size("svm-rbf", fitted_head("svm-rbf", 3, solver="approximate"), bundle="work", max_values=1)


def test_heads_without_training_rows_are_never_too_large(fitted_head):
    for head in ("svm-linear", "logreg", "lda", "nearest-mean", "ordinal-logistic"):
        require_size(head, fitted_head(head, 3), bundle="work", max_values=0)


def test_layer_names_are_unique_per_head(fitted_head, as_network):
    network = as_network({name: ("svm-linear", fitted_head("svm-linear", 3)) for name in ("a", "b")})
    names = Counter(layer.name for layer in network.layers)
    assert max(names.values()) == 1
    assert {"head_a_pairs", "head_b_pairs"} <= set(names)


def test_equal_probabilities_if_all_sigmoids_are_0(as_network, rows):
    """Where all sigmoids are 0 in float64, CalibratedClassifierCV falls back to equal shares."""
    from classify.deploy.export import svm

    stand_in = SimpleNamespace(a_=1e6, b_=1e6)
    pipeline = SVC(kernel="linear").fit(rows[:6], [0, 1, 2, 0, 1, 2])
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler

    scaled = Pipeline([("scale", StandardScaler().fit(rows[:6])), ("classify", pipeline)])
    calibrated = SimpleNamespace(estimator=scaled, calibrators=[stand_in] * 3)
    head = SimpleNamespace(classifier_=SimpleNamespace(calibrated_classifiers_=[calibrated]))
    given = keras.Input((rows.shape[1],), dtype="float32")
    found = expression(given, svm.svm(head, given, name="sure"))(rows[:4])
    np.testing.assert_allclose(found, np.full((4, 3), 1 / 3))
