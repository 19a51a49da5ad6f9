"""Whether probabilities mean what they say: Brier score, expected calibration error, reliability curve."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

N_BINS = 15  # of equal width over the confidence, as in Guo et al.


def squared_errors(true: IntArray, scores: FloatArray) -> FloatArray:
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
    distances: FloatArray = np.sum((scores - truth) ** 2, axis=1)
    return distances / 2 if scores.shape[1] == 2 else distances


def confidence_bins(scores: FloatArray) -> tuple[FloatArray, IntArray]:
    """Return the largest probability of each row, and its bin: bin b holds b/15 < confidence ≤ (b+1)/15."""
    confidence = scores.max(axis=1)
    bins = np.ceil(np.round(confidence * N_BINS, 9)).astype(np.int64) - 1
    return confidence, np.clip(bins, 0, N_BINS - 1)


def reliability(true: IntArray, scores: FloatArray, predicted: IntArray) -> dict[str, Any]:
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
