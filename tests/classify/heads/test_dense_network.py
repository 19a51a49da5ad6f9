"""Scaling layers of the network against scikit-learn."""

import numpy as np
import pytest
from sklearn.preprocessing import StandardScaler, normalize

from classify.heads import dense_network as net

keras = pytest.importorskip("keras")


def test_standardising_agrees_with_scikit_learn_for_constant_columns_too(blobs):
    X, _ = blobs()
    X[:, 3], X[:, 4] = 0.1, 0.0
    (layer,) = net.scaling_layers(X, "standardise")
    expected = StandardScaler().fit(X.astype(np.float64)).transform(X.astype(np.float64))
    np.testing.assert_allclose(layer(X).numpy(), expected, atol=1e-5)
    X[:, 3] += 1e-3  # a new value in a column that was constant stays small
    assert np.abs(layer(X).numpy()[:, 3]).max() < 1e-2


def test_l2_scaling_agrees_with_scikit_learn_up_to_a_constant(blobs):
    X, _ = blobs()
    X[5] = 0.0
    scaled = X
    for layer in net.scaling_layers(X, "l2"):
        scaled = layer(scaled)
    np.testing.assert_allclose(scaled.numpy(), normalize(X) * 12**0.5, atol=1e-5)
