"""Doubtful grades by hand."""

import numpy as np

from classify.evaluation.studies.label_quality import doubt_scores


def test_a_surplus_is_measured_against_what_is_usual_in_each_class():
    y = [0, 0, 0, 1, 1]
    p = np.array([0.9, 0.7, 0.5, 0.1, 0.5])  # of class 0
    found = doubt_scores(y, np.column_stack([p, 1 - p]))
    # Thresholds: (0.9 + 0.7 + 0.5) / 3 = 0.7 and (0.9 + 0.5) / 2 = 0.7, so that a doubt is p_other − p_own.
    np.testing.assert_allclose(found.thresholds, [0.7, 0.7])
    np.testing.assert_allclose(found.doubt, [-0.8, -0.4, 0.0, -0.8, 0.0], atol=1e-12)
    np.testing.assert_array_equal(found.other, [1, 1, 1, 0, 0])


def test_a_class_that_is_never_sure_is_doubted_by_its_own_measure():
    """Probabilities of 0.6 and 0.4 are usual in class 1; the third row has 0.45 there and 0.55 in class 0."""
    y = [0, 0, 1, 1, 1]
    own = np.array([1.0, 0.9, 0.45, 0.4, 0.35])  # probability of the row's own class
    p0 = np.where(np.array(y) == 0, own, 1 - own)
    found = doubt_scores(y, np.column_stack([p0, 1 - p0]))
    np.testing.assert_allclose(found.thresholds, [0.95, 0.4])
    # Class 0 exceeds its threshold in none of them, so the third row is far from doubtful.
    np.testing.assert_allclose(found.doubt[2], (0.55 - 0.95) - (0.45 - 0.4))


def test_a_class_without_rows_is_never_the_better_one():
    found = doubt_scores([0, 1], [[0.1, 0.2, 0.7], [0.3, 0.3, 0.4]])
    np.testing.assert_array_equal(found.other, [1, 0])
    assert np.isfinite(found.doubt).all()
