"""Metrics of predictions, computed from labels and probabilities with scikit-learn.

Metrics of ordered classes and the calibration error, which scikit-learn lacks, are computed here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    log_loss,
    precision_recall_fscore_support,
    roc_auc_score,
)

from classify.errors import CompareError
from classify.heads.select import is_ordinal
from featurize.base.typing import Float64Array, IntArray


def evaluate(
    y: npt.ArrayLike, probabilities: npt.ArrayLike, *, classes: Sequence[str], ordered: bool = False
) -> dict[str, Any]:
    """Return every metric of one set of predictions.

    The predicted class is the arg max of the probabilities.

    Parameters
    ----------
    y : array-like of shape (n,), int
        True class of each image, as an index into ``classes``. A class may be absent.
    probabilities : array-like of shape (n, n_classes), float
        Rows that do not sum to one are normalised.
    classes : sequence of str
        Names of the classes, in label order.
    ordered : bool, default=False
        Whether the classes are ordered, in label order.

    Returns
    -------
    dict
        Can be written as JSON. The metrics below are float, or None if undefined:

        - ``accuracy``, ``balanced_accuracy`` (mean recall over the classes that have images), ``macro_f1``
          (mean over the classes that have images or predictions);
        - ``roc_auc``: with two classes that of the second one, with more the mean of one-vs-rest values;
        - ``log_loss``: natural logarithm; probabilities are clipped as in scikit-learn;
        - ``brier_score``: with two classes the squared error of the second one's probability, with more the
          sum over the classes;
        - ``calibration_error``: expected calibration error with 15 bins;
        - with three or more ordered classes, also those of `ordinal_metrics`.

        ``confusion_matrix``: rows are true, columns are predicted classes. ``reliability``: the bins of the
        calibration error. ``per_class``: class → precision, recall, error (1 − recall), f1 (float or None)
        and support. ``undefined``: metric → reason why it is None; a metric of one class is named
        ``"precision of NAME"``.

    Raises
    ------
    CompareError
        If there are no images, if shapes or labels do not match, or if a probability is negative or not
        finite.
    """
    true, scores = check_predictions(y, probabilities, n_classes=len(classes))
    predicted = np.argmax(np.asarray(probabilities), axis=1)
    labels = np.arange(len(classes))
    undefined: dict[str, str] = {}
    precision, recall, f1, support = precision_recall_fscore_support(
        true, predicted, labels=labels, average=None, zero_division=np.nan
    )
    per_class = {}
    for k, name in enumerate(classes):
        reasons = {
            "precision": "no image was predicted as this class",
            "recall": "no image has this class",
            "error": "no image has this class",
            "f1": "no image has this class or was predicted as it",
        }
        values = {"precision": precision[k], "recall": recall[k], "error": 1 - recall[k], "f1": f1[k]}
        undefined |= {f"{metric} of {name}": reasons[metric] for metric in values if np.isnan(values[metric])}
        per_class[name] = {**_nan_to_none(values), "support": int(support[k])}
    auc, why_no_auc = _roc_auc(true, scores, classes)
    if auc is None:
        undefined["roc_auc"] = why_no_auc
    confusion = confusion_matrix(true, predicted, labels=labels)
    calibration = reliability(true, scores, predicted)
    ordinal: dict[str, float | None] = {}
    if is_ordinal(len(classes), ordered=ordered):
        ordinal = _nan_to_none(ordinal_metrics(confusion.astype(np.float64)))
        if ordinal["quadratic_kappa"] is None:
            undefined["quadratic_kappa"] = KAPPA_UNDEFINED
    return {
        "accuracy": float(accuracy_score(true, predicted)),
        "balanced_accuracy": float(np.nanmean(recall)),
        "macro_f1": float(np.nanmean(f1)),
        "roc_auc": auc,
        "log_loss": _log_loss(true, scores, labels) if len(classes) > 1 else 0.0,
        "brier_score": float(squared_errors(true, scores).mean()),
        "calibration_error": calibration["calibration_error"],
        **ordinal,
        "per_class": per_class,
        "confusion_matrix": confusion.tolist(),
        "reliability": calibration["bins"],
        "undefined": undefined,
    }


def check_predictions(
    y: npt.ArrayLike, probabilities: npt.ArrayLike, *, n_classes: int
) -> tuple[IntArray, Float64Array]:
    """Return the labels and the probabilities as arrays, with rows that sum to one.

    Raises
    ------
    CompareError
        As in `evaluate`.
    """
    true = np.asarray(y, dtype=np.int64)
    scores = np.asarray(probabilities, dtype=np.float64)
    if not len(true):
        raise CompareError("Metrics need at least one image, got none")
    if scores.shape != (len(true), n_classes):
        raise CompareError(
            f"Expected probabilities of shape ({len(true)}, {n_classes}), one row per image and one column "
            f"per class. Received shape {scores.shape}"
        )
    if true.min() < 0 or true.max() >= n_classes:
        raise CompareError(
            f"Expected labels from 0 to {n_classes - 1}. Received labels from {true.min()} to {true.max()}"
        )
    total = scores.sum(axis=1, keepdims=True)
    if not (np.isfinite(total).all() and (scores >= 0).all() and (total > 0).all()):
        raise CompareError(
            "Cannot compute metrics: a probability is negative or not finite, or a row has only zeros"
        )
    # Rows that already sum to one are not divided: that could break ties between equal scores by rounding.
    return true, scores if np.allclose(total, 1) else scores / total


def _nan_to_none(values: Mapping[str, Any]) -> dict[str, float | None]:
    return {name: None if np.isnan(value) else float(value) for name, value in values.items()}


def _log_loss(true: IntArray, scores: Float64Array, labels: IntArray) -> float:
    return float(log_loss(true, scores / scores.sum(axis=1, keepdims=True), labels=labels))


def _roc_auc(true: IntArray, scores: Float64Array, classes: Sequence[str]) -> tuple[float | None, str]:
    present = np.bincount(true, minlength=len(classes)) > 0
    if present.sum() == 1:
        return None, f"all images have the same class ({classes[int(true[0])]})"
    if not present.all():
        absent = ", ".join(name for name, is_present in zip(classes, present, strict=True) if not is_present)
        return None, f"no image has class {absent}"
    if len(classes) == 2:
        return float(roc_auc_score(true, scores[:, 1])), ""
    return float(
        roc_auc_score(true, scores, multi_class="ovr", average="macro", labels=np.arange(len(classes)))
    ), ""


N_BINS = 15  # bins of confidence, of equal width, as in Guo et al.


def squared_errors(true: IntArray, scores: Float64Array) -> Float64Array:
    """Return the Brier score of each row: squared error of the probabilities, summed over the classes.

    Parameters
    ----------
    true : ndarray of shape (n,), int
    scores : ndarray of shape (n, n_classes), float
        Rows sum to one.

    Returns
    -------
    ndarray of shape (n,)
        From 0 to 2. With two classes from 0 to 1: the squared error of the second class's probability, as
        in scikit-learn and in weather forecasting.

    References
    ----------
    Brier, "Verification of forecasts expressed in terms of probability", Monthly Weather Review 78, 1950.
    """
    truth = np.eye(scores.shape[1])[true]
    distances: Float64Array = np.sum((scores - truth) ** 2, axis=1)
    return distances / 2 if scores.shape[1] == 2 else distances


def confidence_bins(scores: Float64Array) -> tuple[Float64Array, IntArray]:
    """Return the largest probability of each row and its bin; bin b holds b/15 < confidence ≤ (b+1)/15."""
    confidence = scores.max(axis=1)
    bins = np.ceil(np.round(confidence * N_BINS, 9)).astype(np.int64) - 1
    return confidence, np.clip(bins, 0, N_BINS - 1)


def reliability(true: IntArray, scores: Float64Array, predicted: IntArray) -> dict[str, Any]:
    """Return the expected calibration error and the reliability curve.

    Parameters
    ----------
    true, predicted : ndarray of shape (n,), int
    scores : ndarray of shape (n, n_classes), float
        Rows sum to one.

    Returns
    -------
    dict
        ``calibration_error``: mean over the rows of |accuracy − mean confidence| of their bin.
        ``bins``: one mapping per bin, in ascending order: its ``low`` and ``high`` end, ``count``,
        ``confidence`` and ``accuracy`` (means; None in an empty bin).

    References
    ----------
    Naeini, Cooper & Hauskrecht, "Obtaining well calibrated probabilities using Bayesian binning", AAAI 2015;
    Guo, Pleiss, Sun & Weinberger, arXiv:1706.04599, section 2.
    """
    confidence, number = confidence_bins(scores)
    counts = np.bincount(number, minlength=N_BINS)
    confidence_sums = np.bincount(number, weights=confidence, minlength=N_BINS)
    correct = np.bincount(number, weights=predicted == true, minlength=N_BINS)
    bins = [
        {
            "low": b / N_BINS,
            "high": (b + 1) / N_BINS,
            "count": int(counts[b]),
            "confidence": float(confidence_sums[b] / counts[b]) if counts[b] else None,
            "accuracy": float(correct[b] / counts[b]) if counts[b] else None,
        }
        for b in range(N_BINS)
    ]
    error = float(np.abs(correct - confidence_sums).sum() / len(true))
    return {"calibration_error": error, "bins": bins}


KAPPA_UNDEFINED = "all images have the same class, and all were predicted as it"


def grade_distances(n_classes: int) -> Float64Array:
    """Return the distance in grades between each two classes, (n_classes, n_classes)."""
    grade = np.arange(n_classes, dtype=np.float64)
    return np.abs(grade[:, None] - grade)


def ordinal_metrics(confusions: Float64Array) -> dict[str, Float64Array]:
    """Return the metrics of ordered classes for each of several confusion matrices.

    Parameters
    ----------
    confusions : ndarray of shape (..., n_classes, n_classes), float
        Rows are true, columns are predicted classes, lowest grade first. The sum of each matrix is above 0.

    Returns
    -------
    dict
        Arrays of shape (...). ``quadratic_kappa``: 1 − squared distances / squared distances expected by
        chance from the same class frequencies; NaN where all images have the same class and are predicted as
        it. ``mean_absolute_error``: mean distance in grades. ``off_by_two``: proportion of images whose
        prediction is two or more grades off.

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
    ratio = np.full(total.shape, np.nan)
    np.divide(squared * total, by_chance, out=ratio, where=by_chance > 0)
    return {
        "quadratic_kappa": 1.0 - ratio,
        "mean_absolute_error": np.sum(distance * confusions, axis=(-2, -1)) / total,
        "off_by_two": np.sum((distance >= 2) * confusions, axis=(-2, -1)) / total,
    }
