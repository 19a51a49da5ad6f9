"""Every metric as a function of the weights of groups, from what the groups add up to.

A resample of groups is a row of counts, a jackknife sample a row of ones with a gap: one matrix product gives
the sums of thousands of them, and the metrics follow from those.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from classify.evaluation.metrics import N_BINS, confidence_bins, has_grades, ordered_metrics, squared_errors
from featurize.base.typing import Float64Array, IntArray

# scikit-learn's log loss clips probabilities so.
_EPS = float(np.finfo(np.float64).eps)
_LOSSES = 2


@dataclass(frozen=True, kw_only=True, eq=False)
class GroupSums:
    """What one head's predictions of test entries add up to, group by group."""

    n_groups: int
    n_entries: int
    classes: tuple[str, ...]
    graded: bool  # whether the metrics of ordered classes are among them
    confusions: Float64Array  # (n_groups, n_classes, n_classes) entries: true, predicted
    losses: Float64Array  # (n_groups, 2) log loss, Brier score
    gaps: Float64Array  # (n_groups, n_bins) right answers minus confidence, in each bin of confidence
    filled: Float64Array  # (n_bins,) share of the entries in each bin
    rankings: tuple[Ranking, ...]  # for the ROC-AUC: one a class, with two classes of the second


def group_sums(
    true: IntArray,
    scores: Float64Array,
    group: IntArray,
    *,
    classes: tuple[str, ...],
    ordered: bool = False,
    predicted: IntArray | None = None,
) -> GroupSums:
    """Return what metrics are made from.

    Parameters
    ----------
    true : ndarray of shape (n,), int
        Index into ``classes``.
    scores : ndarray of shape (n, n_classes), float
        Rows sum to one.
    group : ndarray of shape (n,), int
        Any numbers; what is resampled as a whole.
    classes : tuple of str
    ordered : bool, default=False
    predicted : ndarray of shape (n,), int, optional
        By default the arg max of the scores.

    Returns
    -------
    GroupSums
        Groups in ascending order of their numbers.
    """
    found = np.argmax(scores, axis=1) if predicted is None else predicted
    names, number = np.unique(group, return_inverse=True)
    n_groups, n_classes = len(names), len(classes)
    confusions = np.zeros((n_groups, n_classes, n_classes))
    np.add.at(confusions, (number, true, found), 1.0)
    losses = np.zeros((n_groups, _LOSSES))
    log_losses = -np.log(np.clip(scores[np.arange(len(true)), true], _EPS, 1 - _EPS))
    np.add.at(losses, number, np.column_stack([log_losses, squared_errors(true, scores)]))
    gaps = np.zeros((n_groups, N_BINS))
    confidence, bins = confidence_bins(scores)
    np.add.at(gaps, (number, bins), (found == true) - confidence)
    ranked = range(1, 2) if n_classes == 2 else range(n_classes)
    return GroupSums(
        n_groups=n_groups,
        n_entries=len(true),
        classes=classes,
        graded=has_grades(ordered=ordered, n_classes=n_classes),
        confusions=confusions,
        losses=losses,
        gaps=gaps,
        filled=np.bincount(bins, minlength=N_BINS) / len(true),
        rankings=tuple(make_ranking(scores[:, k], true == k, number) for k in ranked),
    )


def weighted_metrics(sums: GroupSums, weights: Float64Array) -> dict[str, Float64Array]:
    """Return every metric of `classify.evaluation.metrics.evaluate` for each row of weights.

    Parameters
    ----------
    sums : GroupSums
    weights : ndarray of shape (n_rows, n_groups), float
        How often each group counts; at least one of a row above 0.

    Returns
    -------
    dict
        Metric → ndarray of shape (n_rows,); NaN where it is undefined. Those of a class are named
        ``"recall of NAME"``.
    """
    found = from_confusions(sums, weights)
    total = weights @ sums.confusions.sum(axis=(1, 2))
    losses = weights @ sums.losses / total[:, None]
    return {
        **found,
        "roc_auc": np.mean([weighted_auc(ranking, weights) for ranking in sums.rankings], axis=0),
        "log_loss": losses[:, 0],
        "brier_score": losses[:, 1],
        "calibration_error": np.abs(weighted_gaps(sums, weights)).sum(axis=1),
    }


def weighted_gaps(sums: GroupSums, weights: Float64Array) -> Float64Array:
    """Return right answers minus confidence in each bin, as shares of all entries: (n_rows, n_bins)."""
    gaps: Float64Array = weights @ sums.gaps
    return gaps / (weights @ sums.confusions.sum(axis=(1, 2)))[:, None]


def log_loss_error(sums: GroupSums, weights: Float64Array) -> Float64Array:
    """Return the standard error of the log loss for each row of weights, linearised as of a ratio."""
    loss, entries = sums.losses[:, 0], sums.confusions.sum(axis=(1, 2))
    mean = weights @ loss / (weights @ entries)
    squares = weights @ loss**2 - 2 * mean * (weights @ (loss * entries)) + mean**2 * (weights @ entries**2)
    error: Float64Array = np.sqrt(np.maximum(squares, 0)) / (weights @ entries)
    return error


def from_confusions(sums: GroupSums, weights: Float64Array) -> dict[str, Float64Array]:
    """Return the metrics of predicted classes alone, as `weighted_metrics` does."""
    n_classes = len(sums.classes)
    flat = weights @ sums.confusions.reshape(sums.n_groups, -1)
    confusions = flat.reshape(-1, n_classes, n_classes)  # (n_rows, true, predicted)
    right = np.diagonal(confusions, axis1=1, axis2=2)
    support, answers = confusions.sum(axis=2), confusions.sum(axis=1)
    recall = _ratio(right, support)
    f1 = _ratio(2 * right, support + answers)
    found = {
        "accuracy": right.sum(axis=1) / support.sum(axis=1),
        "balanced_accuracy": np.nanmean(recall, axis=1),
        "macro_f1": np.nanmean(f1, axis=1),
    }
    if sums.graded:
        found |= ordered_metrics(confusions)
    parts = {"precision": _ratio(right, answers), "recall": recall, "error": 1 - recall, "f1": f1}
    for k, name in enumerate(sums.classes):
        found |= {f"{metric} of {name}": values[:, k] for metric, values in parts.items()}
    return found


def _ratio(part: Float64Array, whole: Float64Array) -> Float64Array:
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Ranking:
    """Entries by ascending score; those of one score are a tie."""

    negative: IntArray  # group of each negative entry, ascending by score
    positive: IntArray  # group of each positive entry
    below: IntArray  # negative entries with a score below each positive one's
    up_to: IntArray  # those with a score not above it


def make_ranking(score: Float64Array, positive: npt.NDArray[np.bool_], group: IntArray) -> Ranking:
    """Return what `weighted_auc` needs of a score, all arrays of shape (n,); groups are numbered from 0."""
    order = np.argsort(score[~positive], kind="stable")
    ranked = score[~positive][order]
    return Ranking(
        negative=group[~positive][order],
        positive=group[positive],
        below=np.searchsorted(ranked, score[positive], side="left"),
        up_to=np.searchsorted(ranked, score[positive], side="right"),
    )


def weighted_auc(ranking: Ranking, weights: Float64Array) -> Float64Array:
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
