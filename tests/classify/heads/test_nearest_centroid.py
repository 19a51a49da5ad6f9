"""Nearest centroids against scikit-learn, and their probabilities by hand."""

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import log_loss
from sklearn.neighbors import NearestCentroid
from sklearn.preprocessing import Normalizer, StandardScaler

from classify.heads.registry import make_head

SCALERS = {"standardise": StandardScaler, "l2": Normalizer}


@pytest.mark.parametrize("scaling", ["standardise", "l2"])
def test_predictions_agree_with_scikit_learn(blobs, scaling):
    X, y = blobs(240, apart=0.5)
    head = make_head("nearest-mean", params={"scaling": scaling}).fit(X[:120], y[:120])
    Z = SCALERS[scaling]().fit(X[:120].astype(float)).transform(X.astype(float))
    theirs = NearestCentroid().fit(Z[:120], y[:120])
    np.testing.assert_array_equal(head.predict(X[120:]), theirs.predict(Z[120:]))
    np.testing.assert_allclose(head.means_, theirs.centroids_, atol=1e-12)


def test_probabilities_by_hand():
    X = np.array([[0.0], [2.0], [8.0], [10.0]])
    head = make_head("nearest-mean").fit(X, np.array([0, 0, 1, 1]))
    # Mean 5, variance (25 + 9 + 9 + 25) / 4 = 17; means 1 and 9, squared distances of 4: 9/17 and 25/17.
    expected = softmax(-head.sharpness_ * np.array([9, 25]) / 17)
    np.testing.assert_allclose(head.predict_proba([[4.0]])[0], expected, atol=1e-12)


@pytest.mark.parametrize("n_features", [10, 1000])
def test_probabilities_are_not_overconfident(n_features):
    """With 1000 columns, a softmax of squared distances gives 1.00, but one prediction in six is wrong."""
    generator = np.random.default_rng(1)
    y = np.arange(600) % 3
    X = generator.normal(size=(600, n_features)) + np.eye(n_features)[y] * 2.0
    head = make_head("nearest-mean").fit(X[:300], y[:300])
    ours = head.predict_proba(X[300:])
    assert abs(ours.max(axis=1).mean() - np.mean(head.predict(X[300:]) == y[300:])) < 0.1
    Z = StandardScaler().fit(X[:300]).transform(X)
    means = np.stack([Z[:300][y[:300] == k].mean(axis=0) for k in range(3)])
    naive = softmax(-((Z[300:, None] - means) ** 2).sum(axis=2), axis=1)
    assert log_loss(y[300:], ours) < log_loss(y[300:], naive)
    np.testing.assert_array_equal(naive.argmax(axis=1), ours.argmax(axis=1))


def test_sharpness_is_fitted_with_whole_groups_held_out(blobs):
    """If the copies of an image were not one group, each would contribute to the mean it is compared with."""
    X, y = blobs(24, apart=0.0)
    X = np.repeat(X, 20, axis=0) + 0
    y, group = np.repeat(y, 20), np.repeat(np.arange(24), 20)
    apart, together = (make_head("nearest-mean").fit(X, y, groups=g) for g in (None, group))
    assert together.sharpness_ < apart.sharpness_


def test_means_use_all_views_and_sharpness_plain_views(blobs):
    X, y = blobs(60)
    views = X + np.random.default_rng(5).normal(size=X.shape).astype(np.float32)
    image = np.concatenate([np.arange(60), np.arange(60)])
    head = make_head("nearest-mean").fit(np.vstack([X, views]), np.tile(y, 2), image=image)
    Z = head.scaler_.transform(np.vstack([X, views]).astype(float))
    np.testing.assert_allclose(head.means_[1], Z[np.tile(y, 2) == 1].mean(axis=0), atol=1e-12)
