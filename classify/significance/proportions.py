"""Intervals of shares: Wilson's; where groups hold several entries, for as many as those are worth."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy.stats import chi2, norm, t

from classify.significance.resampling import LEVEL

FloatArray = npt.NDArray[np.float64]

_FEW = 3.5  # entries; whole ones up to three, and what lies about as near where they are not whole


def wilson_interval(share: float, n: float, *, level: float = LEVEL) -> tuple[float, float]:
    """Return Wilson's score interval of a share, with a further end where it counts three entries or fewer.

    There Wilson's near end is too close to the figure: with one in 180 it would leave out a truth of one in a
    thousand. As proposed by Brown, Cai and DasGupta it is Poisson's then.

    Parameters
    ----------
    share : float
        Between 0 and 1.
    n : float
        Entries that it is a share of; above 0, and whole only where they are independent.
    level : float, default=0.95

    References
    ----------
    Wilson, "Probable inference, the law of succession, and statistical inference", Journal of the American
    Statistical Association 22, 1927; Brown, Cai & DasGupta, "Interval estimation for a binomial proportion",
    Statistical Science 16, 2001, section 4.1.1.
    """
    z = float(norm.ppf((1 + level) / 2))
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    reach = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    low, high = centre - reach, centre + reach
    few, lacking = share * n, (1 - share) * n
    if 0 < few <= _FEW:
        low = min(low, float(chi2.ppf(1 - level, 2 * few)) / 2 / n)
    if 0 < lacking <= _FEW:
        high = max(high, 1 - float(chi2.ppf(1 - level, 2 * lacking)) / 2 / n)
    # At the ends of the scale rounding must not leave the figure outside its interval.
    return max(0.0, min(share, low)), min(1.0, max(share, high))


def effective_n(part: FloatArray, whole: FloatArray, *, level: float = LEVEL) -> float:
    """Return how many independent entries a share over groups is worth.

    The variance of the share from group to group (linearised, as of a ratio) is held against that of
    independent entries; few groups pay for their degrees of freedom with the quantile of Student's t. Where
    all groups are right, or all are wrong, nothing can be measured: then each group counts as one entry.

    Parameters
    ----------
    part, whole : ndarray of shape (n_groups,), float
        Entries of a group that the share counts, and all it is a share of; sums above 0.

    Returns
    -------
    float
        At most the number of entries.

    References
    ----------
    Korn & Graubard, "Confidence intervals for proportions with small expected number of positive counts
    estimated from survey data", Survey Methodology 24, 1998; with Wilson's in place of the exact interval:
    Franco, Little, Louis & Slud, Journal of Survey Statistics and Methodology 7, 2019.
    """
    there = whole > 0
    n_groups, n = int(there.sum()), float(whole.sum())
    share = float(part.sum() / n)
    residuals = (part - share * whole)[there]
    variance = float(np.sum(residuals**2)) / n**2
    if n_groups < 2 or share in (0.0, 1.0) or variance == 0:
        return float(n_groups)
    variance *= n_groups / (n_groups - 1)
    tail = (1 + level) / 2
    freedom = float(norm.ppf(tail) / t.ppf(tail, n_groups - 1)) ** 2
    return min(n, share * (1 - share) / variance * freedom)
