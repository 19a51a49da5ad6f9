"""How doubtful a grade is, from probabilities by heads that have not seen it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Doubts:
    """What each row looks like beside the grade it has."""

    doubt: FloatArray  # (n,) above 0: another grade fits better, each by the measure of its own class
    other: IntArray  # (n,) the grade that fits best of all others
    sure: npt.NDArray[np.bool_]  # (n,) it fits better, and as well as is usual among those graded so
    thresholds: FloatArray  # (n_classes,) mean probability of a class over the rows graded so


def doubts(y: npt.ArrayLike, probabilities: npt.ArrayLike) -> Doubts:
    """Return for each row by how much another grade fits better than its own, from −2 to 2.

    Heads are surer of some classes than of others. So each probability is measured against what is usual in
    its class: the mean over the rows that are graded so. The doubt is the greatest such surplus of any other
    class, less that of the grade itself.

    Parameters
    ----------
    y : array-like of shape (n,), int
        The grades; every class that has none is never the better one.
    probabilities : array-like of shape (n, n_classes), float
        Out of fold.

    Returns
    -------
    Doubts

    References
    ----------
    Northcutt, Jiang & Chuang, "Confident learning: estimating uncertainty in dataset labels",
    arXiv:1911.00068, section 3: thresholds, and `sure` as the off-diagonal of the confident joint.
    """
    labels, scores = np.asarray(y, dtype=np.int64), np.asarray(probabilities, dtype=np.float64)
    n_classes = scores.shape[1]
    counts = np.bincount(labels, minlength=n_classes)
    given = scores[np.arange(len(labels)), labels]
    sums = np.bincount(labels, weights=given, minlength=n_classes)
    thresholds = np.divide(sums, counts, out=np.full(n_classes, np.inf), where=counts > 0)
    surplus = scores - thresholds  # (n, n_classes)
    own = surplus[np.arange(len(labels)), labels].copy()
    surplus[np.arange(len(labels)), labels] = -np.inf
    other = np.argmax(surplus, axis=1)
    best = surplus.max(axis=1)
    return Doubts(doubt=best - own, other=other, sure=(best >= 0) & (best > own), thresholds=thresholds)
