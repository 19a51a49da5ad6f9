"""Kernel matrices from inner products that are computed once and shared by all values of gamma and C.

A grid search that passes features to SVC recomputes each kernel value for every C, with one BLAS call per
pair of rows. Here one matrix product gives all inner products, gamma is an elementwise exp, and another C
costs libsvm's iterations only.

The product is float32, because libsvm rounds the kernel to float32 anyway. The rows are centred first, in
float64: this changes neither a distance nor a decision of a linear SVM, but keeps the digits in which rows
differ. Everything else, exp included, is float64. Decisions then agree with those of SVC on features to 4e-5
in the worst case and usually to 1e-6 (265 fits on damage3). Without centring and with exp in float32 the
error was 2e-3 at gamma_factor 1e-3 and C 1000.

One matrix of L2-normalised rows could serve all folds, and one matrix per fold both kernels. But folds and
heads are tasks of separate processes, and a product takes 0.1 s where solving a fold takes 1 to 3 s.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from classify.heads.base import make_scaler
from featurize.base.typing import Float32Array, Float64Array


@dataclass(frozen=True, kw_only=True, eq=False)
class Products:
    """Inner products of centred rows."""

    fit: Float32Array  # (n_fit, n_fit)
    score: Float32Array  # (n_score, n_fit)
    fit_norms: Float64Array  # (n_fit,) squared norms
    score_norms: Float64Array  # (n_score,)
    gamma: float  # scikit-learn's gamma="scale" of the rows to fit


def inner_products(X_fit: np.ndarray, X_score: np.ndarray, *, scaling: str) -> Products:
    """Scale rows with a scaler fitted on `X_fit`, and return their inner products.

    Parameters
    ----------
    X_fit, X_score : ndarray of shape (n_fit, n_features) and (n_score, n_features)
        Left unchanged.
    scaling : {"standardise", "l2"}
    """
    scaler = make_scaler(scaling, copy=False)
    Z_fit = scaler.fit_transform(X_fit.astype(np.float64))
    Z_score = scaler.transform(X_score.astype(np.float64))
    gamma = scale_gamma(Z_fit)
    centre = Z_fit.mean(axis=0)
    Z_fit -= centre
    Z_score -= centre
    fit_norms, score_norms = _squared_norms(Z_fit), _squared_norms(Z_score)
    fit_rows = Z_fit.astype(np.float32)
    score_rows = Z_score.astype(np.float32)
    del Z_fit, Z_score  # freed before the products, which take the most memory, are computed
    return Products(
        fit=fit_rows @ fit_rows.T,
        score=score_rows @ fit_rows.T,
        fit_norms=fit_norms,
        score_norms=score_norms,
        gamma=gamma,
    )


def linear_kernel(products: Products) -> tuple[Float64Array, Float64Array]:
    """Return the linear kernel of fit rows (n_fit, n_fit), and of score and fit rows (n_score, n_fit)."""
    return products.fit.astype(np.float64), products.score.astype(np.float64)


def rbf_kernels(products: Products, gammas: Iterable[float]) -> Iterator[tuple[Float64Array, Float64Array]]:
    """Yield the RBF kernel for each gamma, with the shapes of `linear_kernel`; overwrites `products`.

    The same two arrays are yielded every time and overwritten in the next iteration.
    """
    _to_distances(products.fit, products.fit_norms, products.fit_norms)
    np.fill_diagonal(products.fit, 0.0)
    _to_distances(products.score, products.score_norms, products.fit_norms)
    K_fit, K_score = np.empty(products.fit.shape), np.empty(products.score.shape)
    for gamma in gammas:
        for distances, kernel in ((products.fit, K_fit), (products.score, K_score)):
            np.multiply(distances, -gamma, out=kernel, dtype=np.float64)
            np.exp(kernel, out=kernel)
        yield K_fit, K_score


def scale_gamma(Z: np.ndarray) -> float:
    """Return scikit-learn's ``gamma="scale"`` of scaled rows (n_rows, n_features)."""
    variance = float(Z.var())
    return 1.0 / (Z.shape[1] * variance) if variance else 1.0


def peak_bytes(n_fit: int, n_score: int, n_features: int) -> int:
    """Return the most memory that one fold takes, not counting the features and libsvm's cache.

    While scaling: the rows in float64 twice (`Z.var()` makes a copy) and in float32. While solving: the inner
    products in float32 and one kernel in float64.
    """
    rows, pairs = (n_fit + n_score) * n_features, (n_fit + n_score) * n_fit
    return max(2 * 8 * rows, 4 * rows + 4 * pairs, 4 * pairs + 8 * pairs) + 4 * rows


def _squared_norms(Z: Float64Array) -> Float64Array:
    return np.einsum("ij,ij->i", Z, Z)


def _to_distances(products: Float32Array, rows: Float64Array, columns: Float64Array) -> None:
    """Replace inner products by squared distances, in place; `rows` and `columns` are squared norms."""
    products *= -2.0
    products += rows[:, None].astype(np.float32)
    products += columns[None, :].astype(np.float32)
    np.maximum(products, 0.0, out=products)
