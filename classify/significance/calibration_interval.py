"""An interval of the expected calibration error, which noise alone makes larger than it is."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from classify.significance.resampling import LEVEL

FloatArray = npt.NDArray[np.float64]

_MOST = 8.0  # times the gaps that were seen: no interval reaches further
_STEPS = 40  # halvings on the way to an end


def calibration_interval(
    gaps: FloatArray, resampled: FloatArray, filled: FloatArray, *, level: float = LEVEL
) -> tuple[float, float]:
    """Return the interval of a sum of absolute gaps, by inverting tests.

    The sum of absolute values of noisy gaps is above that of the true gaps, by far where these are near zero,
    and so are bootstrap intervals of it. Instead, true gaps are supposed to be t times those seen, for each
    t from 0 on, with the noise that resampling shows; the interval holds the sums of those with which the sum
    that was seen is neither too large nor too small. 0 is in it where perfect calibration would do. How much
    noise adds depends on how true gaps are spread over the bins, and those seen are spread unevenly by noise
    too: for the high end they are also drawn half-way to an equal gap in every bin, and the higher one holds.

    Parameters
    ----------
    gaps : ndarray of shape (n_bins,), float
        Right answers minus confidence in each bin, as a share of all entries.
    resampled : ndarray of shape (n_resamples, n_bins), float
        The same on resamples.
    filled : ndarray of shape (n_bins,), float
        Share of all entries in each bin.
    level : float, default=0.95

    Returns
    -------
    tuple of float

    References
    ----------
    Carpenter, "Test inversion bootstrap confidence intervals", Journal of the Royal Statistical Society B 61,
    1999; why plain resampling fails here: Sun, Chaudhari, Barnett & Dobriban, arXiv:2408.08998.
    """
    seen = float(np.abs(gaps).sum())
    tail = (1 - level) / 2
    even = np.where(gaps < 0, -1.0, 1.0) * (np.abs(gaps) + seen * filled) / 2
    low = _supposed(gaps, resampled - gaps, seen=seen, share=tail)
    high = max(_supposed(shape, resampled - gaps, seen=seen, share=1 - tail) for shape in (gaps, even))
    return low * seen, high * seen


def _supposed(shape: FloatArray, noise: FloatArray, *, seen: float, share: float) -> float:
    """Return how many times true gaps would be `shape` for that share of sums to be as large as that seen."""

    def above(times: float) -> float:
        return float(np.mean(np.abs(times * shape + noise).sum(axis=1) >= seen))

    if above(0.0) > share:
        return 0.0
    low, high = 0.0, _MOST
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if above(middle) > share else (middle, high)
    return (low + high) / 2
