"""Inner products against NumPy's in float64, kernels against scikit-learn's, memory against tracemalloc."""

import tracemalloc

import numpy as np
import pytest
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.preprocessing import Normalizer, StandardScaler

from classify.heads.kernels import inner_products, linear_kernel, peak_bytes, rbf_kernels, scale_gamma

SCALERS = {"standardise": StandardScaler, "l2": Normalizer}


def features(n=90, n_features=200, *, spread=1.0):
    generator = np.random.default_rng(0)
    return (3 * generator.random(n_features) + spread * generator.random((n, n_features))).astype(np.float32)


@pytest.mark.parametrize("scaling", ["standardise", "l2"])
def test_the_linear_kernel_is_of_centred_rows(scaling):
    X = features()
    K_fit, K_score = linear_kernel(inner_products(X[:60], X[60:], scaling=scaling))
    scaler = SCALERS[scaling]().fit(X[:60].astype(np.float64))
    Z = scaler.transform(X.astype(np.float64))
    Z -= Z[:60].mean(axis=0)
    scale = np.max(np.abs(Z @ Z.T))
    np.testing.assert_allclose(K_fit, Z[:60] @ Z[:60].T, atol=1e-6 * scale)
    np.testing.assert_allclose(K_score, Z[60:] @ Z[:60].T, atol=1e-6 * scale)
    assert K_fit.dtype == K_score.dtype == np.float64


@pytest.mark.parametrize("scaling", ["standardise", "l2"])
@pytest.mark.parametrize("spread", [1.0, 1e-2])  # the latter: rows whose cosine is 0.99999
def test_the_rbf_kernel_agrees_with_scikit_learn(scaling, spread):
    X = features(spread=spread)
    products = inner_products(X[:60], X[60:], scaling=scaling)
    scaler = SCALERS[scaling]().fit(X[:60].astype(np.float64))
    Z_fit, Z_score = (scaler.transform(part.astype(np.float64)) for part in (X[:60], X[60:]))
    if spread < 1 and scaling == "l2":
        assert np.min(Z_fit @ Z_fit.T) > 0.9999
    distance = rbf_kernel(Z_fit, gamma=1.0)
    gammas = [factor / np.median(-np.log(distance[np.triu_indices(60, 1)])) for factor in (0.1, 1.0, 10.0)]
    for gamma, (K_fit, K_score) in zip(gammas, rbf_kernels(products, gammas), strict=True):
        np.testing.assert_allclose(K_fit, rbf_kernel(Z_fit, gamma=gamma), atol=5e-6)
        np.testing.assert_allclose(K_score, rbf_kernel(Z_score, Z_fit, gamma=gamma), atol=5e-6)
        np.testing.assert_array_equal(np.diag(K_fit), 1.0)


@pytest.mark.parametrize("scaling", ["standardise", "l2"])
def test_gamma_is_computed_from_the_rows_to_fit(scaling):
    X = features()
    Z = SCALERS[scaling]().fit_transform(X[:60].astype(np.float64))
    assert inner_products(X[:60], X[60:], scaling=scaling).gamma == pytest.approx(1 / (200 * Z.var()))
    assert scale_gamma(np.ones((3, 4))) == 1.0  # as in SVC for rows without variance


def test_equal_rows_have_distance_zero():
    X = features()
    products = inner_products(X, X[:1], scaling="standardise")
    ((_, K_score),) = rbf_kernels(products, [1.0])
    assert K_score[0, 0] == pytest.approx(1.0, abs=1e-3)
    assert np.max(K_score) <= 1.0


@pytest.mark.parametrize(("n_fit", "n_score", "n_features"), [(1500, 100, 64), (150, 100, 3000)])
def test_peak_bytes_is_the_memory_used(n_fit, n_score, n_features):
    """Measured by tracemalloc; kernel matrices dominate in the first case, rows in the second."""
    X = features(n_fit + n_score, n_features)
    for kernel in ("linear", "rbf"):
        tracemalloc.start()
        products = inner_products(X[:n_fit], X[n_fit:], scaling="standardise")
        if kernel == "linear":
            linear_kernel(products)
        else:
            for _ in rbf_kernels(products, [1e-3, 1e-2]):
                pass
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak <= 1.02 * peak_bytes(n_fit, n_score, n_features) + 2**20


def test_the_rows_of_the_caller_are_unchanged():
    X = features().astype(np.float64)
    before = X.copy()
    inner_products(X[:60], X[60:], scaling="l2")
    np.testing.assert_array_equal(X, before)
