"""Rows like those of a store."""

import numpy as np
import pytest


def make_blobs(n=90, n_features=12, n_classes=3, *, seed=0, apart=2.0):
    """Return features like a backbone's, float32 and not negative, and their classes."""
    generator = np.random.default_rng(seed)
    y = np.arange(n) % n_classes
    centres = np.random.default_rng(99).normal(size=(n_classes, n_features)) * apart
    return np.maximum(centres[y] + generator.normal(size=(n, n_features)) + 1, 0).astype(np.float32), y


@pytest.fixture
def blobs():
    """Make rows; see `make_blobs`."""
    return make_blobs
