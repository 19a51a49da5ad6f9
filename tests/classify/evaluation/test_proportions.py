"""Intervals of shares against SciPy's Wilson and against samples of whole groups."""

import numpy as np
import pytest
import scipy.stats

from classify.evaluation.intervals import effective_n, wilson_interval


@pytest.mark.parametrize(("part", "n"), [(0, 20), (20, 20), (60, 75), (13, 30), (150, 180)])
def test_wilson_is_scipys(part, n):
    expected = scipy.stats.binomtest(part, n).proportion_ci(0.95, method="wilson")
    assert wilson_interval(part / n, n) == pytest.approx(expected)


@pytest.mark.parametrize("part", [1, 2, 3])
def test_few_have_the_further_end(part):
    # Brown, Cai & DasGupta 2001, section 4.1.1: chi-squared over 2n for one to three successes.
    n = 180
    plain = scipy.stats.binomtest(part, n).proportion_ci(0.95, method="wilson")
    low, high = wilson_interval(part / n, n)
    assert low == pytest.approx(scipy.stats.chi2.ppf(0.05, 2 * part) / 2 / n)
    assert low < plain.low
    assert high == pytest.approx(plain.high)
    mirrored = wilson_interval(1 - part / n, n)
    assert mirrored == pytest.approx((1 - high, 1 - low))


def test_coverage_of_all_outcomes_is_near_95_percent():
    # Exactly, over the binomial distribution: no simulation.
    for truth in (0.02, 0.1, 0.5, 0.8, 0.9):
        counts = np.arange(181)
        ends = [wilson_interval(k / 180, 180) for k in counts]
        held = [low <= truth <= high for low, high in ends]
        assert 0.93 < scipy.stats.binom.pmf(counts, 180, truth)[held].sum() < 0.985


def test_groups_that_agree_are_worth_one_entry_each():
    whole = np.full(100, 4.0)
    all_or_none = np.where(np.arange(100) % 5 == 0, 0.0, 4.0)
    got = effective_n(all_or_none, whole)
    assert got == pytest.approx(100, rel=0.04)  # less what degrees of freedom cost
    assert got < 100


def test_independent_entries_are_worth_all_of_them():
    generator = np.random.default_rng(0)
    whole = np.full(4000, 4.0)
    got = effective_n(generator.binomial(4, 0.8, size=4000).astype(float), whole)
    assert got == pytest.approx(16_000, rel=0.05)
    assert effective_n(np.tile([3.0, 3.0], 20), np.full(40, 4.0)) == 40  # nothing to be seen: one a group


def test_nothing_wrong_counts_groups():
    assert effective_n(np.full(12, 4.0), np.full(12, 4.0)) == 12
    low, high = wilson_interval(1.0, 12)
    assert high == 1.0
    assert low == pytest.approx(12 / (12 + 1.959964**2))
