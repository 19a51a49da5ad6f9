"""Exact nearest neighbors of images by cosine similarity of their features, computed in blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from classify.errors import CompareError
from featurize.base.typing import Float32Array, IntArray

Groups = tuple[npt.ArrayLike, npt.ArrayLike]  # groups of the rows of X, and of the rows of X_fitted

_BLOCK_SIMILARITIES = 16_000_000  # computed at a time, about 64 MB
_ROUNDING = np.float32(5e-6)  # more than the float32 rounding error of a product of rows of length 1
_MAX_TIES = 200  # equally similar rows that are compared exactly: there are many if features are constant


@dataclass(frozen=True, kw_only=True, eq=False)
class NearestRows:
    """The most similar rows of each row, the most similar one first."""

    index: IntArray  # (n, k) row of X_fitted; -1 where there are fewer than k
    similarity: Float32Array  # (n, k) cosine, -1 to 1; 0 where there are fewer than k


def nearest_rows(
    X: Float32Array, X_fitted: Float32Array, *, k: int = 5, exclude_groups: Sequence[Groups] = ()
) -> NearestRows:
    """Return the rows of `X_fitted` with the largest cosine similarity to each row of `X`.

    All pairs of rows are compared, by matrix products over blocks, so that memory does not grow with the
    number of rows. Of equally similar rows the first is returned. Rows of zeros have similarity 0 to all.

    Parameters
    ----------
    X : ndarray of shape (n, n_features), float32
        Rows to find neighbors of.
    X_fitted : ndarray of shape (n_fitted, n_features), float32
        Rows to search.
    k : int, default=5
        Number of neighbors per row.
    exclude_groups : sequence of pairs of array-like of int, shapes (n,) and (n_fitted,)
        Groups of the rows of `X` and of `X_fitted`: rows of the same group are not returned. With the groups
        of the folds, these are the image itself, other images of its entry and near duplicates.

    Returns
    -------
    NearestRows

    Raises
    ------
    CompareError
        If the numbers of features differ, `k` is below 1, or there is not one group per row.
    """
    groups = [(np.asarray(group), np.asarray(fitted)) for group, fitted in exclude_groups]
    X, X_fitted = np.asarray(X, dtype=np.float32), np.asarray(X_fitted, dtype=np.float32)
    _check(X, X_fitted, k=k, groups=groups)
    n, n_fitted = len(X), len(X_fitted)
    index = np.full((n, k), -1, dtype=np.int64)
    similarity = np.zeros((n, k), dtype=np.float32)
    unit_fitted = unit_rows(X_fitted)
    block = max(1, _BLOCK_SIMILARITIES // max(1, n_fitted))
    for start in range(0, n if n_fitted else 0, block):
        rows = slice(start, min(start + block, n))
        like = unit_rows(X[rows]) @ unit_fitted.T  # (block, n_fitted)
        for group, group_fitted in groups:
            like[group[rows, None] == group_fitted[None, :]] = -np.inf
        for row, row_like in enumerate(like, start=start):
            chosen = _candidates(row_like, k=k)
            # Computed again in float64, because a matrix product can round equal rows differently.
            exact = np.sum(unit_fitted[chosen] * unit_rows(X[row, None]).astype(np.float64), axis=1)
            order = np.argsort(-exact, kind="stable")[:k]
            index[row, : len(order)] = chosen[order]
            similarity[row, : len(order)] = np.clip(exact[order], -1, 1)
    return NearestRows(index=index, similarity=similarity)


def unit_rows(X: npt.NDArray[Any], *, copy: bool = True) -> npt.NDArray[Any]:
    """Return rows scaled to length 1; rows of zeros stay zero.

    Parameters
    ----------
    X : ndarray of shape (n, n_features), float32 or float64
    copy : bool, default=True
        False scales X in place. This is faster, but squares of very large or small values can overflow or
        underflow.

    Returns
    -------
    ndarray of shape (n, n_features), same dtype
    """
    if copy:
        largest = np.abs(X).max(axis=1, keepdims=True, initial=0.0)
        X = X / np.where(largest > 0, largest, np.float32(1))
    length = np.sqrt(np.einsum("ij,ij->i", X, X))[:, None]
    X /= np.where(length > 0, length, np.float32(1))
    return X


def _candidates(like: Float32Array, *, k: int) -> IntArray:
    """Return, ascending, the columns that can be among the k largest, considering rounding errors."""
    least = np.partition(like, -k)[-k] if k < len(like) else -np.inf
    if least == -np.inf:
        return np.flatnonzero(like > -np.inf)
    above, equal = np.flatnonzero(like > least + _ROUNDING), np.abs(like - least) <= _ROUNDING
    return np.sort(np.concatenate([above, np.flatnonzero(equal)[:_MAX_TIES]]))


def _check(
    X: Float32Array, X_fitted: Float32Array, *, k: int, groups: Sequence[tuple[npt.NDArray, npt.NDArray]]
) -> None:
    if X.ndim != 2 or X_fitted.ndim != 2 or X.shape[1] != X_fitted.shape[1]:
        raise CompareError(
            f"rows of shapes {X.shape} and {X_fitted.shape}: expected the same number of features"
        )
    if k < 1:
        raise CompareError(f"k is {k}: expected a number of neighbors from 1")
    for group, fitted in groups:
        if group.shape != (len(X),) or fitted.shape != (len(X_fitted),):
            raise CompareError(
                f"groups of shapes {group.shape} and {fitted.shape}: expected "
                f"({len(X)},) and ({len(X_fitted)},)"
            )
