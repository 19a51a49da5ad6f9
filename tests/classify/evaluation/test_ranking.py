"""The weighted ROC-AUC against scikit-learn's."""

import numpy as np
import pytest
import sklearn.metrics

from classify.evaluation.weighted_metrics import make_ranking, weighted_auc


def test_weights_and_ties_as_in_scikit_learn():
    generator = np.random.default_rng(0)
    score = np.round(generator.random(80), 1)
    positive = generator.random(80) < 0.4
    group = generator.integers(30, size=80)
    weights = generator.integers(0, 3, size=(9, 30)).astype(float)
    got = weighted_auc(make_ranking(score, positive, group), weights)
    for value, row in zip(got, weights, strict=True):
        expected = sklearn.metrics.roc_auc_score(positive, score, sample_weight=row[group])
        assert value == pytest.approx(expected)


def test_by_hand():
    ranking = make_ranking(
        np.array([0.1, 0.5, 0.5, 0.9]), np.array([False, True, False, True]), np.array([0, 1, 2, 3])
    )
    # Pairs: 0.5 above 0.1, tied with 0.5; 0.9 above both.
    assert weighted_auc(ranking, np.ones((1, 4)))[0] == pytest.approx(3.5 / 4)
    assert np.isnan(weighted_auc(ranking, np.array([[1.0, 0, 1, 0]]))[0])
