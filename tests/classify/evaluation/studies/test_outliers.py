"""Images too close to another, or too far from all, against scikit-learn's neighbours."""

import numpy as np
from sklearn.neighbors import NearestNeighbors

from classify.evaluation.studies import label_quality
from classify.evaluation.studies.label_quality import neighborhood, outliers


def cloud(n=60, n_features=20, seed=0):
    return np.random.default_rng(seed).normal(size=(n, n_features)).astype(np.float32)


def test_distances_are_those_of_scikit_learn(monkeypatch):
    monkeypatch.setattr(label_quality, "_CHUNK", 60 * 7)  # so that it takes several parts
    X = cloud()
    found = neighborhood(X, np.arange(60))
    centred = X - X.mean(axis=0)
    model = NearestNeighbors(n_neighbors=11, metric="cosine").fit(centred)
    distance = model.kneighbors(centred)[0][:, 1:]  # without the image itself
    np.testing.assert_allclose(found.nearest, distance[:, 0], atol=1e-5)
    np.testing.assert_allclose(found.typical, distance.mean(axis=1), atol=1e-5)
    assert not len(found.pairs)
    low, high = np.quantile(distance.mean(axis=1), (0.25, 0.75))
    beyond = np.flatnonzero(distance.mean(axis=1) > high + 1.5 * (high - low))
    assert sorted(outliers(found.typical)) == beyond.tolist()


def test_a_copy_with_a_little_noise_is_found_and_one_of_its_own_group_is_none():
    X = cloud()
    X[7] = X[3] + 0.01 * X[9]
    X[8] = X[4] + 0.02 * X[9]
    found = neighborhood(X, np.arange(60))
    np.testing.assert_array_equal(found.pairs, [[3, 7], [4, 8]])
    assert found.distance[0] < found.distance[1] < 0.01
    group = np.arange(60)
    group[7] = group[3]
    np.testing.assert_array_equal(neighborhood(X, group).pairs, [[4, 8]])


def test_what_points_where_nothing_else_does_is_farthest_from_all():
    generator = np.random.default_rng(1)
    X = (10 * np.eye(3)[np.arange(90) % 3] @ generator.normal(size=(3, 30))).astype(np.float32)
    X += 2 * generator.normal(size=X.shape).astype(np.float32)
    X[17] = 60 * generator.normal(size=30)
    assert outliers(neighborhood(X, np.arange(90)).typical)[0] == 17


def test_a_single_group_has_no_neighbours():
    found = neighborhood(cloud(4), np.zeros(4, dtype=np.int64))
    assert not len(found.pairs)
    assert not len(outliers(found.typical))
