"""An interval of the expected calibration error, which noise alone makes larger than it is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from classify.significance.resampling import LEVEL

FloatArray = npt.NDArray[np.float64]

_MOST = 8.0  # times the gaps that were seen: no interval reaches further
_STEPS = 40  # halvings on the way to an end


def calibration_interval(
    gaps: FloatArray, resampled: FloatArray, *, level: float = LEVEL
) -> tuple[float, float]:
    """Return the interval of a sum of absolute gaps, by inverting tests.

    The sum of absolute values of noisy gaps is above that of the true gaps, by far where these are near zero,
    and so are bootstrap intervals of it. Instead, true gaps are supposed to be t times those seen, for each
    t from 0 on, with the noise that resampling shows; the interval holds the sums of those with which the sum
    that was seen is neither too large nor too small. 0 is in it where perfect calibration would do.

    Parameters
    ----------
    gaps : ndarray of shape (n_bins,), float
        Right answers minus confidence in each bin, as a share of all entries.
    resampled : ndarray of shape (n_resamples, n_bins), float
        The same on resamples.
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
    noise = resampled - gaps
    tail = (1 - level) / 2

    def above(times: float) -> float:
        """Return how often the sum would be as large as the one seen; grows with `times`."""
        return float(np.mean(np.abs(times * gaps + noise).sum(axis=1) >= seen))

    low = 0.0 if above(0.0) > tail else _crossing(above, tail)
    high = 0.0 if above(0.0) > 1 - tail else _crossing(above, 1 - tail)
    return low * seen, high * seen


def _crossing(above: Callable[[float], float], share: float) -> float:
    low, high = 0.0, _MOST
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if above(middle) > share else (middle, high)
    return (low + high) / 2
