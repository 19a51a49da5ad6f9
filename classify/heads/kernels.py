"""Inner products of scaled rows, computed once and shared by every kernel, gamma and C.

A grid search that gives SVC the features computes each kernel value again for every C, with one call of BLAS
for each pair of rows. Here one product of matrices gives all inner products, gamma is an elementwise exp, and
a step in C costs what libsvm's own steps do.

The product is float32: libsvm rounds the kernel to float32 itself. The rows are centred before, in float64:
that changes neither a distance nor a decision of a linear SVM, but keeps the digits in which rows differ. The
rest, exp included, is float64. Decisions then agree with SVC's on the features to 4e-5 at worst and 1e-6 as a
rule (265 fits on damage3). Without centring and with exp in float32 that was 2e-3 at gamma_factor 1e-3 and
C 1000.

One matrix of L2-normalised rows could serve all folds, and one a fold both kernels; but folds and heads are
tasks of separate processes, and a product costs 0.1 s where a fold's solving takes 1 to 3.
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
    fit_norms: Float64Array  # (n_fit,) squared lengths
    score_norms: Float64Array  # (n_score,)
    gamma: float  # scikit-learn's gamma="scale" for the rows that are fitted on


def inner_products(X_fit: np.ndarray, X_score: np.ndarray, *, scaling: str) -> Products:
    """Scale rows as fitted on `X_fit`, and return their inner products.

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
    fit_norms, score_norms = _squares(Z_fit), _squares(Z_score)
    fit_rows = Z_fit.astype(np.float32)
    score_rows = Z_score.astype(np.float32)
    del Z_fit, Z_score  # not needed beside the products, the largest of all this
    return Products(
        fit=fit_rows @ fit_rows.T,
        score=score_rows @ fit_rows.T,
        fit_norms=fit_norms,
        score_norms=score_norms,
        gamma=gamma,
    )


def linear_kernel(products: Products) -> tuple[Float64Array, Float64Array]:
    """Return the linear kernel: among fit rows (n_fit, n_fit), of score with fit rows (n_score, n_fit)."""
    return products.fit.astype(np.float64), products.score.astype(np.float64)


def rbf_kernels(products: Products, gammas: Iterable[float]) -> Iterator[tuple[Float64Array, Float64Array]]:
    """Yield the Gaussian kernel for each gamma, shaped as the linear one; `products` are spent.

    The matrices are those of the step before, overwritten.
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
    """Return scikit-learn's ``gamma="scale"`` for scaled rows (n_rows, n_features)."""
    variance = float(Z.var())
    return 1.0 / (Z.shape[1] * variance) if variance else 1.0


def peak_bytes(n_fit: int, n_score: int, n_features: int) -> int:
    """Return the memory that a fold takes at most, beside its rows and libsvm's cache.

    While scaling: rows in float64 twice (`Z.var()` makes another) and in float32; while solving: inner
    products in float32 and a kernel in float64.
    """
    rows, pairs = (n_fit + n_score) * n_features, (n_fit + n_score) * n_fit
    return max(2 * 8 * rows, 4 * rows + 4 * pairs, 4 * pairs + 8 * pairs) + 4 * rows


def _squares(Z: Float64Array) -> Float64Array:
    return np.einsum("ij,ij->i", Z, Z)


def _to_distances(products: Float32Array, rows: Float64Array, columns: Float64Array) -> None:
    """Turn inner products into squared distances, in place."""
    products *= -2.0
    products += rows[:, None].astype(np.float32)
    products += columns[None, :].astype(np.float32)
    np.maximum(products, 0.0, out=products)
