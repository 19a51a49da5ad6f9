"""A power law of the error through the points of a learning curve."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Law:
    """``error = scale * n_images ** -slope``, one or many of them."""

    scale: FloatArray  # (n_laws,)
    slope: FloatArray  # (n_laws,)


def fit_law(n_images: npt.ArrayLike, accuracy: npt.ArrayLike, *, n_scored: float) -> Law:
    """Fit a power law to each curve: a line through the logarithms, the larger sizes weighing more.

    A point weighs as much as it has images: the law holds for the far end of a curve, and that is the end
    which is prolonged. Half an error is added to each point, so that none is the logarithm of zero.

    Parameters
    ----------
    n_images : array-like of shape (n_sizes,), float
        Two different ones or more.
    accuracy : array-like of shape (n_laws, n_sizes), float
    n_scored : float
        Entries that each accuracy is a share of.

    Returns
    -------
    Law
    """
    sizes = np.asarray(n_images, dtype=np.float64)
    wrong = (1 - np.asarray(accuracy, dtype=np.float64)) * n_scored
    x, y = np.log(sizes), np.log((wrong + 0.5) / (n_scored + 1))
    weights = sizes / sizes.sum()
    from_mean = x - weights @ x
    slope = -(y @ (weights * from_mean)) / np.sum(weights * from_mean**2)
    return Law(scale=np.exp(y @ weights + slope * (weights @ x)), slope=slope)


def at(law: Law, n_images: float) -> FloatArray:
    """Return the accuracy that each law gives at a number of images, in [0, 1]."""
    return np.clip(1 - law.scale * n_images**-law.slope, 0.0, 1.0)
