"""How good predictions are, from labels and probabilities alone: scikit-learn's metrics over all labels."""

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
from featurize.base.typing import Float64Array, IntArray


def evaluate(
    y: npt.ArrayLike, probabilities: npt.ArrayLike, *, classes: Sequence[str], ordered: bool = False
) -> dict[str, Any]:
    """Return every metric of one set of predictions; the predicted class is the arg max of the probabilities.

    Parameters
    ----------
    y : array-like of shape (n,), int
        True class of each image, as an index into ``classes``. A class may be absent.
    probabilities : array-like of shape (n, n_classes), float
        Rows that do not sum to one are scaled to.
    classes : sequence of str
        Names of the classes, in label order.
    ordered : bool, default=False
        Whether label order is the order of the grades.

    Returns
    -------
    dict
        Ready for JSON. ``accuracy``, ``balanced_accuracy`` (mean recall over the classes that have images),
        ``macro_f1`` (mean over the classes that have images or predictions), ``roc_auc`` (two classes: of the
        second one; more: mean of each class against the rest), ``log_loss`` (natural logarithm; probabilities
        clipped as scikit-learn does), ``brier_score`` (two classes: squared error of the second one's
        probability; more: summed over the classes), ``calibration_error`` (15 bins): float or None. With
        three or more ordered classes also `ORDERED_METRICS`. ``confusion_matrix``: rows are
        true, columns predicted classes. ``reliability``: the bins of the calibration error. ``per_class``:
        class → precision, recall, error (1 − recall), f1 (float or None), support. ``undefined``: metric →
        why it is None; of a class it is written ``"precision of NAME"``.

    Raises
    ------
    CompareError
        If there are no images, shapes or labels do not fit, or a probability is negative or not finite.
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
            "precision": "no image was predicted to be of this class",
            "recall": "no image is of this class",
            "error": "no image is of this class",
            "f1": "no image is of this class, and none was predicted to be",
        }
        values = {"precision": precision[k], "recall": recall[k], "error": 1 - recall[k], "f1": f1[k]}
        per_class[name] = {**_settled(values, reasons, undefined, of=name), "support": int(support[k])}
    auc, why_no_auc = _roc_auc(true, scores, classes)
    if auc is None:
        undefined["roc_auc"] = why_no_auc
    confusion = confusion_matrix(true, predicted, labels=labels)
    calibration = reliability(true, scores, predicted)
    graded: dict[str, float | None] = {}
    if has_grades(ordered=ordered, n_classes=len(classes)):
        found = ordered_metrics(confusion.astype(np.float64))
        graded = {name: None if np.isnan(value) else float(value) for name, value in found.items()}
        if graded["quadratic_kappa"] is None:
            undefined["quadratic_kappa"] = NO_KAPPA
    return {
        "accuracy": float(accuracy_score(true, predicted)),
        "balanced_accuracy": float(np.nanmean(recall)),
        "macro_f1": float(np.nanmean(f1)),
        "roc_auc": auc,
        "log_loss": _log_loss(true, scores, labels) if len(classes) > 1 else 0.0,
        "brier_score": float(squared_errors(true, scores).mean()),
        "calibration_error": calibration["calibration_error"],
        **graded,
        "per_class": per_class,
        "confusion_matrix": confusion.tolist(),
        "reliability": calibration["bins"],
        "undefined": undefined,
    }


def check_predictions(
    y: npt.ArrayLike, probabilities: npt.ArrayLike, *, n_classes: int
) -> tuple[IntArray, Float64Array]:
    """Return labels, and probabilities whose rows sum to one; see `evaluate` for what is refused."""
    true = np.asarray(y, dtype=np.int64)
    scores = np.asarray(probabilities, dtype=np.float64)
    if not len(true):
        raise CompareError("there are no images to score: metrics need one or more")
    if scores.shape != (len(true), n_classes):
        raise CompareError(
            f"probabilities of shape {scores.shape}: expected ({len(true)}, {n_classes}), "
            "a row an image and a column a class"
        )
    if true.min() < 0 or true.max() >= n_classes:
        raise CompareError(f"labels from {true.min()} to {true.max()}: expected 0 to {n_classes - 1}")
    total = scores.sum(axis=1, keepdims=True)
    if not (np.isfinite(total).all() and (scores >= 0).all() and (total > 0).all()):
        raise CompareError(
            "a probability is negative or not a number, or a row holds zeros only: cannot score it"
        )
    # Rows that sum to one stay as they are: a division would tell equal scores apart by their last bit.
    return true, scores if np.allclose(total, 1) else scores / total


def _settled(
    values: Mapping[str, float], reasons: Mapping[str, str], undefined: dict[str, str], *, of: str
) -> dict[str, float | None]:
    """Turn NaN into None, with its reason in ``undefined``."""
    for name, value in values.items():
        if np.isnan(value):
            undefined[f"{name} of {of}"] = reasons[name]
    return {name: None if np.isnan(value) else float(value) for name, value in values.items()}


def _log_loss(true: IntArray, scores: Float64Array, labels: IntArray) -> float:
    return float(log_loss(true, scores / scores.sum(axis=1, keepdims=True), labels=labels))


def _roc_auc(true: IntArray, scores: Float64Array, classes: Sequence[str]) -> tuple[float | None, str]:
    present = np.bincount(true, minlength=len(classes)) > 0
    if present.sum() == 1:
        return None, f"all images are of one class ({classes[int(true[0])]})"
    if not present.all():
        absent = ", ".join(name for name, there in zip(classes, present, strict=True) if not there)
        return None, f"no image of {absent}"
    if len(classes) == 2:
        return float(roc_auc_score(true, scores[:, 1])), ""
    return float(
        roc_auc_score(true, scores, multi_class="ovr", average="macro", labels=np.arange(len(classes)))
    ), ""


N_BINS = 15  # of equal width over the confidence, as in Guo et al.


def squared_errors(true: IntArray, scores: Float64Array) -> Float64Array:
    """Return the Brier score of each row: squared distance to the truth, summed over the classes.

    Parameters
    ----------
    true : ndarray of shape (n,), int
    scores : ndarray of shape (n, n_classes), float
        Rows sum to one.

    Returns
    -------
    ndarray of shape (n,)
        From 0 to 2; with two classes half of it, the squared error of the second class' probability, as
        scikit-learn and weather services have it.

    References
    ----------
    Brier, "Verification of forecasts expressed in terms of probability", Monthly Weather Review 78, 1950.
    """
    truth = np.eye(scores.shape[1])[true]
    distances: Float64Array = np.sum((scores - truth) ** 2, axis=1)
    return distances / 2 if scores.shape[1] == 2 else distances


def confidence_bins(scores: Float64Array) -> tuple[Float64Array, IntArray]:
    """Return the largest probability of each row, and its bin: bin b holds b/15 < confidence ≤ (b+1)/15."""
    confidence = scores.max(axis=1)
    bins = np.ceil(np.round(confidence * N_BINS, 9)).astype(np.int64) - 1
    return confidence, np.clip(bins, 0, N_BINS - 1)


def reliability(true: IntArray, scores: Float64Array, predicted: IntArray) -> dict[str, Any]:
    """Return the expected calibration error and the curve that it sums up.

    Parameters
    ----------
    true, predicted : ndarray of shape (n,), int
    scores : ndarray of shape (n, n_classes), float
        Rows sum to one.

    Returns
    -------
    dict
        ``calibration_error``: |accuracy − mean confidence| of each bin, weighted by its share of the rows.
        ``bins``: one mapping a bin, low to high: its ``low`` and ``high`` end, ``count``, ``confidence`` and
        ``accuracy`` (means; None in an empty bin).

    References
    ----------
    Naeini, Cooper & Hauskrecht, "Obtaining well calibrated probabilities using Bayesian binning", AAAI 2015;
    Guo, Pleiss, Sun & Weinberger, arXiv:1706.04599, section 2.
    """
    confidence, number = confidence_bins(scores)
    counts = np.bincount(number, minlength=N_BINS)
    sure = np.bincount(number, weights=confidence, minlength=N_BINS)
    right = np.bincount(number, weights=predicted == true, minlength=N_BINS)
    bins = [
        {
            "low": b / N_BINS,
            "high": (b + 1) / N_BINS,
            "count": int(counts[b]),
            "confidence": float(sure[b] / counts[b]) if counts[b] else None,
            "accuracy": float(right[b] / counts[b]) if counts[b] else None,
        }
        for b in range(N_BINS)
    ]
    return {"calibration_error": float(np.abs(right - sure).sum() / len(true)), "bins": bins}


NO_KAPPA = "all images are of one class, and all were predicted to be"


def has_grades(*, ordered: bool, n_classes: int) -> bool:
    """Return whether distances between grades say more than right and wrong: three ordered classes."""
    return ordered and n_classes >= 3


def grade_distances(n_classes: int) -> Float64Array:
    """Return the distance in grades of each pair of classes, (n_classes, n_classes)."""
    grade = np.arange(n_classes, dtype=np.float64)
    return np.abs(grade[:, None] - grade)


def ordered_metrics(confusions: Float64Array) -> dict[str, Float64Array]:
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
