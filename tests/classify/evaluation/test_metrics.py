"""Metrics against hand arithmetic, and against scikit-learn called on one metric at a time."""

import json
import math

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as arrays

from classify.errors import CompareError
from classify.evaluation.metrics import evaluate

GRADES = ("low", "middle", "award")

# Predicted: 0, 1, 1, 2, 0. True: 0, 0, 1, 2, 2.
TRUE = [0, 0, 1, 2, 2]
PROBABILITIES = [
    [0.8, 0.1, 0.1],
    [0.3, 0.5, 0.2],
    [0.2, 0.6, 0.2],
    [0.1, 0.2, 0.7],
    [0.5, 0.1, 0.4],
]


def test_three_classes_by_hand():
    got = evaluate(TRUE, PROBABILITIES, classes=GRADES)

    assert got["confusion_matrix"] == [[1, 1, 0], [0, 1, 0], [1, 0, 1]]  # rows: true
    assert got["accuracy"] == pytest.approx(3 / 5)
    assert got["balanced_accuracy"] == pytest.approx((1 / 2 + 1 + 1 / 2) / 3)
    assert got["per_class"]["low"] == {
        "precision": 0.5,
        "recall": 0.5,
        "error": 0.5,
        "f1": 0.5,
        "support": 2,
    }
    assert got["per_class"]["middle"] == {
        "precision": 0.5,
        "recall": 1.0,
        "error": 0.0,
        "f1": pytest.approx(2 / 3),
        "support": 1,
    }
    assert got["per_class"]["award"] == {
        "precision": 1.0,
        "recall": 0.5,
        "error": 0.5,
        "f1": pytest.approx(2 / 3),
        "support": 2,
    }
    assert got["macro_f1"] == pytest.approx((1 / 2 + 2 / 3 + 2 / 3) / 3)
    # low: 0.8 and 0.3 against 0.2, 0.1, 0.5: 3 + 2 of 6; middle: 0.6 against four lower ones;
    # award: 0.7 and 0.4 against 0.1, 0.2, 0.2: all of 6
    assert got["roc_auc"] == pytest.approx((5 / 6 + 1 + 1) / 3)
    assert got["log_loss"] == pytest.approx(-np.mean(np.log([0.8, 0.3, 0.6, 0.7, 0.4])))
    assert got["undefined"] == {}


def test_ordered_grades_by_hand():
    got = evaluate(TRUE, PROBABILITIES, classes=GRADES, ordered=True)  # off by 1 and by 2
    assert got["mean_absolute_error"] == pytest.approx(3 / 5)
    assert got["off_by_two"] == pytest.approx(1 / 5)
    assert got["quadratic_kappa"] == pytest.approx(
        sklearn.metrics.cohen_kappa_score(TRUE, [0, 1, 1, 2, 0], weights="quadratic")
    )
    assert "off_by_two" not in evaluate(TRUE, PROBABILITIES, classes=GRADES)


def test_kappa_of_one_class_alone_is_null_with_a_reason():
    got = evaluate([1, 1], [[0.1, 0.8, 0.1], [0.2, 0.6, 0.2]], classes=GRADES, ordered=True)
    assert got["quadratic_kappa"] is None
    assert (
        got["undefined"]["quadratic_kappa"] == "all images have the same class, and all were predicted as it"
    )
    assert got["mean_absolute_error"] == 0.0


def test_with_two_classes_the_auc_is_that_of_the_second():
    second = np.array([0.1, 0.4, 0.35, 0.8])  # true 0, 0, 1, 1: 3 of 4 pairs in order
    got = evaluate([0, 0, 1, 1], np.column_stack([1 - second, second]), classes=("bad", "good"))
    assert got["roc_auc"] == pytest.approx(3 / 4)


@given(st.data(), st.integers(2, 5), st.integers(1, 30))
def test_agrees_with_scikit_learn_and_never_yields_nan(data, n_classes, n):
    classes = tuple(f"class {k}" for k in range(n_classes))
    y = data.draw(arrays.arrays(np.int64, n, elements=st.integers(0, n_classes - 1)))
    raw = data.draw(arrays.arrays(np.float64, (n, n_classes), elements=st.floats(0.001, 1)))
    probabilities = raw / raw.sum(axis=1, keepdims=True)
    predicted, labels = probabilities.argmax(axis=1), np.arange(n_classes)

    got = evaluate(y, probabilities, classes=classes)

    assert json.loads(json.dumps(got, allow_nan=False)) == got
    assert got["accuracy"] == pytest.approx(np.mean(predicted == y))
    recalls = [np.mean(predicted[y == k] == k) for k in np.unique(y)]
    assert got["balanced_accuracy"] == pytest.approx(np.mean(recalls))
    named = np.union1d(y, predicted)  # a class neither there nor predicted has no F1
    assert got["macro_f1"] == pytest.approx(
        sklearn.metrics.f1_score(y, predicted, labels=named, average="macro", zero_division=0.0)
    )
    assert got["log_loss"] == pytest.approx(sklearn.metrics.log_loss(y, probabilities, labels=labels))
    assert np.sum(got["confusion_matrix"]) == n
    if len(np.unique(y)) == n_classes:
        each = [sklearn.metrics.roc_auc_score(y == k, probabilities[:, k]) for k in range(n_classes)]
        assert got["roc_auc"] == pytest.approx(np.mean(each) if n_classes > 2 else each[1])
    else:
        assert got["roc_auc"] is None
        assert got["undefined"]["roc_auc"]
    for name, values in got["per_class"].items():
        for metric, value in values.items():
            assert (value is None) == (f"{metric} of {name}" in got["undefined"])


def test_a_class_absent_from_test_is_null_with_a_reason():
    got = evaluate([0, 1], [[0.9, 0.1, 0], [0.8, 0.2, 0]], classes=GRADES)
    assert got["per_class"]["award"] == {
        "precision": None,
        "recall": None,
        "error": None,
        "f1": None,
        "support": 0,
    }
    assert got["per_class"]["middle"] == {
        "precision": None,
        "recall": 0.0,
        "error": 1.0,
        "f1": 0.0,
        "support": 1,
    }
    assert got["balanced_accuracy"] == pytest.approx(1 / 2)
    assert got["macro_f1"] == pytest.approx((2 / 3 + 0) / 2)
    assert got["undefined"] == {
        "precision of middle": "no image was predicted as this class",
        "precision of award": "no image was predicted as this class",
        "recall of award": "no image has this class",
        "error of award": "no image has this class",
        "f1 of award": "no image has this class or was predicted as it",
        "roc_auc": "no image has class award",
    }


def test_a_single_class_has_no_auc():
    got = evaluate([1, 1], [[0.5, 0.5], [0.2, 0.8]], classes=("bad", "good"))
    assert got["roc_auc"] is None
    assert got["undefined"]["roc_auc"] == "all images have the same class (good)"
    assert got["accuracy"] == 0.5  # a tie takes the first class


def test_equal_probabilities_stay_equal():
    # Rows one and two sum to one only to the last bit: scaling them once more would break a tie.
    probabilities = np.array([[1, 0.25, 0.25], [0.25, 0.25, 1], [0.5, 0.5, 0.5]]) / 1.5
    got = evaluate([0, 1, 2], probabilities, classes=GRADES)
    # low: 2/3 is above 1/6 and 1/3; middle: 1/6 ties with 1/6 and is below 1/3; award: 1/3 is between both
    assert got["roc_auc"] == pytest.approx((1 + 0.5 / 2 + 1 / 2) / 3)


def test_single_precision_probabilities_raise_no_warning():
    raw = np.random.default_rng(0).random((50, 3), dtype=np.float32)
    probabilities = raw / raw.sum(axis=1, keepdims=True)
    y = np.arange(50) % 3
    got = evaluate(y, probabilities, classes=GRADES)
    expected = -np.log(probabilities[np.arange(50), y].astype(np.float64)).mean()
    assert got["log_loss"] == pytest.approx(expected, rel=1e-6)


def test_probability_zero_of_the_truth_is_a_finite_loss():
    got = evaluate([0, 1], [[0.0, 1.0], [0.0, 1.0]], classes=("bad", "good"))
    assert got["log_loss"] == pytest.approx(-math.log(np.finfo(np.float64).eps) / 2)


def test_rows_are_scaled_to_sum_to_one_and_left_unchanged():
    probabilities = np.array([[2.0, 6.0], [3.0, 1.0]])
    before = probabilities.copy()
    got = evaluate([1, 0], probabilities, classes=("bad", "good"))
    assert got["log_loss"] == pytest.approx(-math.log(0.75))
    np.testing.assert_array_equal(probabilities, before)


@pytest.mark.parametrize(
    ("y", "probabilities", "message"),
    [
        ([], np.empty((0, 3)), "at least one image"),
        ([0], [[0.5, 0.5]], r"shape \(1, 3\).*Received shape \(1, 2\)"),
        ([3], [[0.2, 0.3, 0.5]], r"labels from 0 to 2\. Received labels from 3 to 3"),
        ([-1], [[0.2, 0.3, 0.5]], "labels from -1 to -1"),
        ([0], [[0.2, np.nan, 0.5]], "negative or not finite"),
        ([0], [[-0.2, 0.7, 0.5]], "negative or not finite"),
        ([0], [[0.0, 0.0, 0.0]], "a row has only zeros"),
    ],
)
def test_invalid_predictions_are_refused(y, probabilities, message):
    with pytest.raises(CompareError, match=message):
        evaluate(y, probabilities, classes=GRADES)
