"""How far off grades are, where classes are ordered: calling the best "low" is worse than "middle"."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

NO_KAPPA = "all images are of one class, and all were predicted to be"


def has_grades(*, ordered: bool, n_classes: int) -> bool:
    """Return whether distances between grades say more than right and wrong: three ordered classes."""
    return ordered and n_classes >= 3


def grade_distances(n_classes: int) -> FloatArray:
    """Return the distance in grades of each pair of classes, (n_classes, n_classes)."""
    grade = np.arange(n_classes, dtype=np.float64)
    return np.abs(grade[:, None] - grade)


def ordered_metrics(confusions: FloatArray) -> dict[str, FloatArray]:
    """Return the metrics of ordered classes for each of many confusion matrices.

    Parameters
    ----------
    confusions : ndarray of shape (..., n_classes, n_classes), float
        Rows true, columns predicted classes, in the order of the grades; each sums to more than 0.

    Returns
    -------
    dict
        ``quadratic_kappa``: 1 − squared distances / those expected of the same shares by chance (NaN where
        all images are of one class and predicted to be). ``mean_absolute_error``: mean distance in grades.
        ``off_by_two``: share of images two grades off or more. Arrays of shape (...).

    References
    ----------
    Cohen, "Weighted kappa", Psychological Bulletin 70, 1968.
    """
    distance = grade_distances(confusions.shape[-1])
    total = confusions.sum(axis=(-2, -1))
    squared = np.sum(distance**2 * confusions, axis=(-2, -1))
    by_chance = np.einsum(
        "...i,ij,...j->...", confusions.sum(axis=-1), distance**2, confusions.sum(axis=-2), optimize=True
    )
    share = np.full(total.shape, np.nan)
    np.divide(squared * total, by_chance, out=share, where=by_chance > 0)
    return {
        "quadratic_kappa": 1.0 - share,
        "mean_absolute_error": np.sum(distance * confusions, axis=(-2, -1)) / total,
        "off_by_two": np.sum((distance >= 2) * confusions, axis=(-2, -1)) / total,
    }
