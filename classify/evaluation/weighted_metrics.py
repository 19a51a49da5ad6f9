"""Metrics as functions of group weights, computed from sums over the entries of each group.

A bootstrap resample is a row of group counts, and a jackknife sample is a row of ones with some zeros. One
matrix product gives the weighted sums of thousands of such rows; the metrics follow from the sums.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from classify.evaluation.metrics import N_BINS, confidence_bins, ordinal_metrics, squared_errors
from classify.heads.select import is_ordinal
from featurize.base.typing import Float64Array, IntArray

_EPS = float(np.finfo(np.float64).eps)  # scikit-learn's log loss clips probabilities at this value
_N_LOSSES = 2


@dataclass(frozen=True, kw_only=True, eq=False)
class GroupSums:
    """Sums over the test entries of each group, for the predictions of one head."""

    n_groups: int
    n_entries: int
    classes: tuple[str, ...]
    ordinal: bool  # whether the metrics of ordered classes apply
    confusions: Float64Array  # (n_groups, n_classes, n_classes): number of entries by true, predicted class
    losses: Float64Array  # (n_groups, 2): log loss, Brier score
    gaps: Float64Array  # (n_groups, n_bins): correct predictions minus confidence, per bin of confidence
    bin_fractions: Float64Array  # (n_bins,): fraction of the entries in each bin
    rankings: tuple[Ranking, ...]  # for ROC-AUC: one per class; with two classes, the second class only


def group_sums(
    true: IntArray,
    scores: Float64Array,
    group: IntArray,
    *,
    classes: tuple[str, ...],
    ordered: bool = False,
    predicted: IntArray | None = None,
) -> GroupSums:
    """Return the sums that the metrics are computed from.

    Parameters
    ----------
    true : ndarray of shape (n,), int
        Index into ``classes``.
    scores : ndarray of shape (n, n_classes), float
        Rows sum to one.
    group : ndarray of shape (n,), int
        Group of each entry, any integers. Groups are resampled as a whole.
    classes : tuple of str
    ordered : bool, default=False
        Whether the classes are ordered.
    predicted : ndarray of shape (n,), int, optional
        Predicted classes; by default the arg max of the scores.

    Returns
    -------
    GroupSums
        Groups are sorted by their number in ``group``.
    """
    if predicted is None:
        predicted = np.argmax(scores, axis=1)
    names, number = np.unique(group, return_inverse=True)
    n_groups, n_classes = len(names), len(classes)
    confusions = np.zeros((n_groups, n_classes, n_classes))
    np.add.at(confusions, (number, true, predicted), 1.0)
    losses = np.zeros((n_groups, _N_LOSSES))
    log_losses = -np.log(np.clip(scores[np.arange(len(true)), true], _EPS, 1 - _EPS))
    np.add.at(losses, number, np.column_stack([log_losses, squared_errors(true, scores)]))
    gaps = np.zeros((n_groups, N_BINS))
    confidence, bins = confidence_bins(scores)
    np.add.at(gaps, (number, bins), (predicted == true) - confidence)
    ranked_classes = range(1, 2) if n_classes == 2 else range(n_classes)
    return GroupSums(
        n_groups=n_groups,
        n_entries=len(true),
        classes=classes,
        ordinal=is_ordinal(n_classes, ordered=ordered),
        confusions=confusions,
        losses=losses,
        gaps=gaps,
        bin_fractions=np.bincount(bins, minlength=N_BINS) / len(true),
        rankings=tuple(make_ranking(scores[:, k], true == k, number) for k in ranked_classes),
    )


def weighted_metrics(sums: GroupSums, weights: Float64Array) -> dict[str, Float64Array]:
    """Return every metric of `classify.evaluation.metrics.evaluate` for each row of weights.

    Parameters
    ----------
    sums : GroupSums
    weights : ndarray of shape (n_rows, n_groups), float
        Weight of each group; at least one per row is above 0.

    Returns
    -------
    dict
        Metric → ndarray of shape (n_rows,); NaN where undefined. Metrics of one class are named
        ``"recall of NAME"``.
    """
    total = weights @ sums.confusions.sum(axis=(1, 2))
    losses = weights @ sums.losses / total[:, None]
    return {
        **confusion_metrics(sums, weights),
        "roc_auc": np.mean([weighted_auc(ranking, weights) for ranking in sums.rankings], axis=0),
        "log_loss": losses[:, 0],
        "brier_score": losses[:, 1],
        "calibration_error": np.abs(weighted_gaps(sums, weights)).sum(axis=1),
    }


def weighted_gaps(sums: GroupSums, weights: Float64Array) -> Float64Array:
    """Return correct predictions minus confidence per bin, divided by the total weight: (n_rows, n_bins)."""
    gaps: Float64Array = weights @ sums.gaps
    return gaps / (weights @ sums.confusions.sum(axis=(1, 2)))[:, None]


def log_loss_standard_error(sums: GroupSums, weights: Float64Array) -> Float64Array:
    """Return the standard error of the log loss for each row of weights, by linearising the ratio."""
    loss, entries = sums.losses[:, 0], sums.confusions.sum(axis=(1, 2))
    mean = weights @ loss / (weights @ entries)
    squares = weights @ loss**2 - 2 * mean * (weights @ (loss * entries)) + mean**2 * (weights @ entries**2)
    error: Float64Array = np.sqrt(np.maximum(squares, 0)) / (weights @ entries)
    return error


def confusion_metrics(sums: GroupSums, weights: Float64Array) -> dict[str, Float64Array]:
    """Return the metrics of `weighted_metrics` that depend on predicted classes only."""
    n_classes = len(sums.classes)
    flat = weights @ sums.confusions.reshape(sums.n_groups, -1)
    confusions = flat.reshape(-1, n_classes, n_classes)  # (n_rows, true, predicted)
    correct = np.diagonal(confusions, axis1=1, axis2=2)
    support, predicted = confusions.sum(axis=2), confusions.sum(axis=1)
    recall = _ratio(correct, support)
    f1 = _ratio(2 * correct, support + predicted)
    metrics = {
        "accuracy": correct.sum(axis=1) / support.sum(axis=1),
        "balanced_accuracy": np.nanmean(recall, axis=1),
        "macro_f1": np.nanmean(f1, axis=1),
    }
    if sums.ordinal:
        metrics |= ordinal_metrics(confusions)
    per_class = {"precision": _ratio(correct, predicted), "recall": recall, "error": 1 - recall, "f1": f1}
    for k, name in enumerate(sums.classes):
        metrics |= {f"{metric} of {name}": values[:, k] for metric, values in per_class.items()}
    return metrics


def _ratio(part: Float64Array, total: Float64Array) -> Float64Array:
    return np.divide(part, total, out=np.full(part.shape, np.nan), where=total > 0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Ranking:
    """Positive and negative entries of one class, ranked by score."""

    negative: IntArray  # (n_negative,): group of each negative entry, by ascending score
    positive: IntArray  # (n_positive,): group of each positive entry
    n_below: IntArray  # (n_positive,): number of negative entries with a lower score
    n_not_above: IntArray  # (n_positive,): number of negative entries with a lower or equal score


def make_ranking(score: Float64Array, positive: npt.NDArray[np.bool_], group: IntArray) -> Ranking:
    """Return entries ranked by score; all arrays have shape (n,), and groups are numbered from 0."""
    order = np.argsort(score[~positive], kind="stable")
    negative_scores = score[~positive][order]
    return Ranking(
        negative=group[~positive][order],
        positive=group[positive],
        n_below=np.searchsorted(negative_scores, score[positive], side="left"),
        n_not_above=np.searchsorted(negative_scores, score[positive], side="right"),
    )


def weighted_auc(ranking: Ranking, weights: Float64Array) -> Float64Array:
    """Return the area under the ROC curve for each row of group weights.

    It is the proportion of (positive, negative) pairs that are in the right order; ties count one half.

    Parameters
    ----------
    ranking : Ranking
    weights : ndarray of shape (n_rows, n_groups), float

    Returns
    -------
    ndarray of shape (n_rows,)
        NaN where the positive or the negative entries have no weight.
    """
    cumulative = np.zeros((len(weights), len(ranking.negative) + 1))
    np.cumsum(weights[:, ranking.negative], axis=1, out=cumulative[:, 1:])
    positive_weights = weights[:, ranking.positive]  # (n_rows, n_positive)
    weight_below = (cumulative[:, ranking.n_below] + cumulative[:, ranking.n_not_above]) / 2
    n_pairs = positive_weights.sum(axis=1) * cumulative[:, -1]
    in_order = np.einsum("ij,ij->i", positive_weights, weight_below)
    return np.divide(in_order, n_pairs, out=np.full(len(weights), np.nan), where=n_pairs > 0)
