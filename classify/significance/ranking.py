"""ROC-AUC under weights: one sort of the entries, then running sums for thousands of rows of weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Ranking:
    """Entries by ascending score; those of one score are a tie."""

    negative: IntArray  # group of each negative entry, ascending by score
    positive: IntArray  # group of each positive entry
    below: IntArray  # negative entries with a score below each positive one's
    up_to: IntArray  # those with a score not above it


def make_ranking(score: FloatArray, positive: npt.NDArray[np.bool_], group: IntArray) -> Ranking:
    """Return what `weighted_auc` needs of a score, all arrays of shape (n,); groups are numbered from 0."""
    order = np.argsort(score[~positive], kind="stable")
    ranked = score[~positive][order]
    return Ranking(
        negative=group[~positive][order],
        positive=group[positive],
        below=np.searchsorted(ranked, score[positive], side="left"),
        up_to=np.searchsorted(ranked, score[positive], side="right"),
    )


def weighted_auc(ranking: Ranking, weights: FloatArray) -> FloatArray:
    """Return the share of pairs of a positive and a negative entry in right order, ties as halves.

    Parameters
    ----------
    ranking : Ranking
    weights : ndarray of shape (n_rows, n_groups), float

    Returns
    -------
    ndarray of shape (n_rows,)
        NaN where one side has no weight.
    """
    running = np.zeros((len(weights), len(ranking.negative) + 1))
    np.cumsum(weights[:, ranking.negative], axis=1, out=running[:, 1:])
    counts = weights[:, ranking.positive]  # (n_rows, n_positive)
    beaten = (running[:, ranking.below] + running[:, ranking.up_to]) / 2
    pairs = counts.sum(axis=1) * running[:, -1]
    in_order = np.einsum("ij,ij->i", counts, beaten)
    return np.divide(in_order, pairs, out=np.full(len(weights), np.nan), where=pairs > 0)
