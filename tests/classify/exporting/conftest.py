"""Fitted heads of all kinds, on rows like those of a store."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import pytest

from classify.heads import HEADS, make_head

N_FEATURES = 12
SMALL = {"units": (16, 8), "epochs": 25, "patience": 25}


def make_rows(n: int, n_classes: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return features like a backbone's, float32 and not negative, and classes that overlap."""
    generator = np.random.default_rng(seed)
    y = np.arange(n) % n_classes
    centres = np.random.default_rng(99).normal(size=(n_classes, N_FEATURES))
    X = np.maximum(centres[y] + generator.normal(size=(n, N_FEATURES)) + 1, 0)
    X[:, 3] = 0.25  # a constant column
    return X.astype(np.float32), y


@lru_cache
def fitted(head: str, scaling: str, n_classes: int, **_: Any) -> Any:
    """Return a fitted head."""
    X, y = make_rows(90, n_classes)
    params: dict[str, Any] = {} if head == "baseline" else {"scaling": scaling}
    if HEADS[head].tensorflow:
        params |= SMALL
    return make_head(head, params=params).fit(X, y)


@pytest.fixture(scope="session")
def fitted_head() -> Callable[..., Any]:
    """Fit a head, once in a session: ``fitted_head(head, scaling, n_classes)``."""
    return fitted


@pytest.fixture(scope="session")
def rows() -> np.ndarray:
    """Rows to grade: ordinary ones, fitted ones, zeros, tiny, huge, and with one huge column."""
    ordinary, _ = make_rows(200, 3, seed=1)
    known, _ = make_rows(90, 3)
    spike = ordinary[:1].copy()
    spike[0, 0] = 1e4
    extreme = [np.zeros((1, N_FEATURES)), ordinary[:2] * 1e-6, ordinary[:2] * 1e3, ordinary[:1] * 1e5, spike]
    return np.concatenate([ordinary, known, *extreme]).astype(np.float32)
