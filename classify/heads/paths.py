"""Heads that differ in C alone, on rows that are scaled once for all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
from sklearn.utils import assert_all_finite

from classify.heads.base import make_scaler

F64 = npt.NDArray[np.float64]


class PathHead(Protocol):
    """A linear head that is solved along C."""

    C: float
    scaling: str
    class_weight: str | dict | None
    tol: float
    max_iter: int


def along_c(
    heads: Sequence[PathHead], X_fit: np.ndarray, X_score: np.ndarray
) -> Iterator[tuple[list[int], F64, F64]]:
    """Yield heads that differ in C alone, in ascending C, with the rows as they scale them.

    Parameters
    ----------
    heads : sequence of PathHead
    X_fit, X_score : ndarray of shape (n_fit, n_features) and (n_score, n_features)
        Unscaled features; left unchanged.

    Yields
    ------
    members : list of int
        Numbers of the heads.
    Z_fit, Z_score : ndarray, float64
        Scaled as fitted on `X_fit`.

    Raises
    ------
    ValueError
        If a feature is not finite.
    """
    assert_all_finite(X_fit)
    assert_all_finite(X_score)
    by_scaling: dict[str, dict[tuple, list[int]]] = {}
    for index, head in enumerate(heads):
        path = (str(head.class_weight), head.tol, head.max_iter)
        by_scaling.setdefault(head.scaling, {}).setdefault(path, []).append(index)
    for scaling, paths in by_scaling.items():
        scaler = make_scaler(scaling, copy=False)
        Z_fit = scaler.fit_transform(X_fit.astype(np.float64))
        Z_score = scaler.transform(X_score.astype(np.float64))
        for members in paths.values():
            yield sorted(members, key=lambda index: heads[index].C), Z_fit, Z_score
