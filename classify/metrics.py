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

from classify.ordered import NO_KAPPA, has_grades, ordered_metrics
from classify.reliability import reliability, squared_errors
from featurize import CompareError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


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
        three or more ordered classes also `classify.results.ORDERED_METRICS`. ``confusion_matrix``: rows are
        true, columns predicted classes. ``reliability``: the bins of the calibration error. ``per_class``:
        class → precision, recall, error (1 − recall), f1 (float or None), support. ``undefined``: metric →
        why it is None; of a class it is written ``"precision of NAME"``.

    Raises
    ------
    CompareError
        If there are no images, shapes or labels do not fit, or a probability is negative or not finite.
    """
    true, scores = checked(y, probabilities, n_classes=len(classes))
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


def checked(y: npt.ArrayLike, probabilities: npt.ArrayLike, *, n_classes: int) -> tuple[IntArray, FloatArray]:
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


def _log_loss(true: IntArray, scores: FloatArray, labels: IntArray) -> float:
    return float(log_loss(true, scores / scores.sum(axis=1, keepdims=True), labels=labels))


def _roc_auc(true: IntArray, scores: FloatArray, classes: Sequence[str]) -> tuple[float | None, str]:
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
