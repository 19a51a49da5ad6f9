"""Calibration against hand arithmetic and scikit-learn's Brier score."""

import numpy as np
import pytest
import sklearn.metrics

from classify.evaluation.metrics import N_BINS, confidence_bins, reliability, squared_errors


def test_brier_score_by_hand():
    scores = np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]])
    got = squared_errors(np.array([0, 1]), scores)
    np.testing.assert_allclose(got, [0.3**2 + 0.2**2 + 0.1**2, 0.1**2 + 0.9**2 + 0.8**2])


@pytest.mark.parametrize("n_classes", [2, 3, 5])
def test_brier_score_is_that_of_scikit_learn(n_classes):
    generator = np.random.default_rng(n_classes)
    scores = generator.dirichlet(np.ones(n_classes), size=40)
    true = np.arange(40) % n_classes
    expected = sklearn.metrics.brier_score_loss(
        true, scores[:, 1] if n_classes == 2 else scores, labels=np.arange(n_classes)
    )
    assert squared_errors(true, scores).mean() == pytest.approx(expected)


def test_the_curve_by_hand():
    # Confidence 0.9 twice, once right; 0.6 three times, always right.
    second = np.array([0.9, 0.9, 0.6, 0.6, 0.6])
    scores = np.column_stack([1 - second, second])
    true = np.array([1, 0, 1, 1, 1])
    got = reliability(true, scores, np.ones(5, dtype=int))
    filled = {(item["low"], item["high"]): item for item in got["bins"] if item["count"]}
    assert len(got["bins"]) == N_BINS
    assert set(filled) == {(13 / 15, 14 / 15), (8 / 15, 9 / 15)}
    assert filled[13 / 15, 14 / 15]["accuracy"] == 0.5
    assert filled[13 / 15, 14 / 15]["confidence"] == pytest.approx(0.9)
    assert filled[8 / 15, 9 / 15]["count"] == 3
    assert filled[8 / 15, 9 / 15]["accuracy"] == 1.0
    assert got["calibration_error"] == pytest.approx(2 / 5 * 0.4 + 3 / 5 * 0.4)
    empty = next(item for item in got["bins"] if not item["count"])
    assert (empty["confidence"], empty["accuracy"]) == (None, None)


def test_the_ends_of_bins_belong_to_the_lower_one():
    confidence, bins = confidence_bins(np.array([[1.0, 0.0], [0.5, 0.5], [0.4, 0.6], [0.2, 0.8]]))
    np.testing.assert_array_equal(confidence, [1.0, 0.5, 0.6, 0.8])
    np.testing.assert_array_equal(
        bins, [14, 7, 8, 11]
    )  # 0.6 is 9/15 and 0.8 is 12/15, whatever their last bit
