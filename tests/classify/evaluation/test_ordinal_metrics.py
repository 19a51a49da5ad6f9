"""Metrics of ordered grades against scikit-learn and hand arithmetic."""

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as arrays

from classify.evaluation.metrics import grade_distances, ordinal_metrics
from classify.heads.select import is_ordinal


def test_by_hand():
    # True 0: one right, one two off. True 1: one right. True 2: one right, one off by one.
    got = ordinal_metrics(np.array([[1.0, 0, 1], [0, 1, 0], [0, 1, 1]]))
    assert got["mean_absolute_error"] == pytest.approx((2 + 1) / 5)
    assert got["off_by_two"] == pytest.approx(1 / 5)
    # Squared distances: 4 + 1. By chance: rows 2, 1, 2, columns 1, 2, 2; sum over pairs / 5:
    by_chance = (2 * (0 * 1 + 1 * 2 + 4 * 2) + 1 * (1 * 1 + 0 + 1 * 2) + 2 * (4 * 1 + 1 * 2 + 0)) / 5
    assert got["quadratic_kappa"] == pytest.approx(1 - 5 / by_chance)


@given(st.data(), st.integers(3, 6), st.integers(1, 30))
def test_kappa_is_that_of_scikit_learn(data, n_classes, n):
    labels = arrays.arrays(np.int64, n, elements=st.integers(0, n_classes - 1))
    true, predicted = data.draw(labels), data.draw(labels)
    confusion = sklearn.metrics.confusion_matrix(true, predicted, labels=np.arange(n_classes))
    got = ordinal_metrics(confusion.astype(np.float64))
    if len(np.union1d(true, predicted)) == 1:
        assert np.isnan(got["quadratic_kappa"])
    else:
        expected = sklearn.metrics.cohen_kappa_score(
            true, predicted, weights="quadratic", labels=np.arange(n_classes)
        )
        assert got["quadratic_kappa"] == pytest.approx(expected)
    assert got["mean_absolute_error"] == pytest.approx(sklearn.metrics.mean_absolute_error(true, predicted))


def test_many_matrices_at_once():
    generator = np.random.default_rng(0)
    matrices = generator.integers(0, 9, (7, 4, 4)).astype(np.float64)
    together = ordinal_metrics(matrices)
    for metric, values in together.items():
        np.testing.assert_allclose(values, [ordinal_metrics(one)[metric] for one in matrices])


def test_distances_count_grades():
    np.testing.assert_array_equal(grade_distances(3), [[0, 1, 2], [1, 0, 1], [2, 1, 0]])
    assert is_ordinal(3, ordered=True)
    assert not is_ordinal(2, ordered=True)  # right or wrong is all there is
    assert not is_ordinal(3, ordered=False)
