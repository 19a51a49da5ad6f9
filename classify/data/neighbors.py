"""Which of the images that were fitted on are most like an image, by their features: exact, in blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from classify.errors import CompareError
from featurize.base.typing import Float32Array, IntArray

Groups = tuple[npt.ArrayLike, npt.ArrayLike]  # of the rows of X, and of the rows fitted on

_CELLS = 16_000_000  # similarities held at a time, about 64 MB
_ROUNDING = np.float32(5e-6)  # more than float32 loses in a product of rows of length 1
_EQUALS = 200  # of equally similar rows no more are compared: features may be constant


@dataclass(frozen=True, kw_only=True, eq=False)
class NearestRows:
    """The most similar rows of each row, the most similar one first."""

    index: IntArray  # (n, k) row of those fitted on; -1 where fewer are left
    similarity: Float32Array  # (n, k) cosine, -1 to 1; 0 where fewer are left


def nearest_rows(
    X: Float32Array, X_fitted: Float32Array, *, k: int = 5, apart: Sequence[Groups] = ()
) -> NearestRows:
    """Find the rows whose features point most in the direction of each row's.

    Every row is compared with every other: by matrix products over blocks, so that memory does not grow with
    the number of rows. Of equally similar rows the first is taken; a row of zeros is as similar as a right
    angle to every other.

    Parameters
    ----------
    X : ndarray of shape (n, n_features), float32
        What is asked about.
    X_fitted : ndarray of shape (n_fitted, n_features), float32
        What is looked among.
    k : int, default=5
        How many of them.
    apart : sequence of pairs of array-like of int, shapes (n,) and (n_fitted,)
        Groups of the rows on either side: no row is given one of its own group. With the number of the group
        that no fold may split that is the image itself, other images of its entry and its near duplicates.

    Returns
    -------
    NearestRows

    Raises
    ------
    CompareError
        If the widths differ, `k` is below 1, or groups are not one a row.
    """
    groups = [(np.asarray(one), np.asarray(other)) for one, other in apart]
    _check(X, X_fitted, k=k, groups=groups)
    n, n_fitted = len(X), len(X_fitted)
    index = np.full((n, k), -1, dtype=np.int64)
    similarity = np.zeros((n, k), dtype=np.float32)
    fitted = unit_rows(X_fitted)
    block = max(1, _CELLS // max(1, n_fitted))
    for start in range(0, n if n_fitted else 0, block):
        rows = slice(start, min(start + block, n))
        like = unit_rows(X[rows]) @ fitted.T  # (block, n_fitted)
        for one, other in groups:
            like[one[rows, None] == other[None, :]] = -np.inf
        for row, likes in enumerate(like, start=start):
            chosen = _candidates(likes, k=k)
            # Anew in float64, term by term: a product of matrices rounds equal rows unequally.
            exact = np.sum(fitted[chosen] * unit_rows(X[row, None]).astype(np.float64), axis=1)
            order = np.argsort(-exact, kind="stable")[:k]
            index[row, : len(order)] = chosen[order]
            similarity[row, : len(order)] = np.clip(exact[order], -1, 1)
    return NearestRows(index=index, similarity=similarity)


def unit_rows(X: Float32Array) -> Float32Array:
    """Return rows of length 1, as float32; a row of zeros stays one."""
    X = np.asarray(X, dtype=np.float32)
    largest = np.abs(X).max(axis=1, keepdims=True, initial=0.0)  # squares of what is very large or small
    scaled = X / np.where(largest > 0, largest, np.float32(1))
    length = np.sqrt(np.einsum("ij,ij->i", scaled, scaled))[:, None]
    return np.asarray(scaled / np.where(length > 0, length, np.float32(1)), dtype=np.float32)


def _candidates(like: Float32Array, *, k: int) -> IntArray:
    """Return, in order, the columns that may be among the k largest once rounding is taken out."""
    least = np.partition(like, -k)[-k] if k < len(like) else -np.inf
    if least == -np.inf:
        return np.flatnonzero(like > -np.inf)
    above, equal = np.flatnonzero(like > least + _ROUNDING), np.abs(like - least) <= _ROUNDING
    return np.sort(np.concatenate([above, np.flatnonzero(equal)[:_EQUALS]]))


def _check(
    X: Float32Array, X_fitted: Float32Array, *, k: int, groups: Sequence[tuple[npt.NDArray, npt.NDArray]]
) -> None:
    if X.ndim != 2 or X_fitted.ndim != 2 or X.shape[1] != X_fitted.shape[1]:
        raise CompareError(
            f"rows of shapes {X.shape} and {X_fitted.shape}: expected as many features in both"
        )
    if k < 1:
        raise CompareError(f"k is {k}: expected how many nearest images to find, from 1")
    for one, other in groups:
        if one.shape != (len(X),) or other.shape != (len(X_fitted),):
            raise CompareError(
                f"groups of {one.shape} and {other.shape} rows: expected ({len(X)},) and ({len(X_fitted)},)"
            )
