"""The bootstrap against SciPy's, and the jackknife against leaving out by hand."""

import numpy as np
import pytest
import scipy.stats

from classify.evaluation import bootstrap as bootstrap_module
from classify.evaluation.bootstrap import (
    bca_interval,
    bootstrap,
    expanded_quantile,
    jackknife,
    studentised_interval,
)

VALUES = np.random.default_rng(3).exponential(size=40)


def mean(weights):
    return {"mean": weights @ VALUES / weights.sum(axis=1)}


def resampled(n_resamples=20_000):
    return bootstrap([mean], n_groups=40, n_entries=40, n_resamples=n_resamples)[0]["mean"]


def test_bca_matches_scipy_except_for_the_expansion():
    left_out = jackknife([mean], n_groups=40, n_entries=40)[0]["mean"]
    # Asking SciPy for the level that the expanded quantile has under the normal distribution undoes it.
    level = 2 * scipy.stats.norm.cdf(expanded_quantile(40)) - 1
    theirs = scipy.stats.bootstrap(
        (VALUES,), np.mean, n_resamples=20_000, confidence_level=level, method="BCa", rng=0
    ).confidence_interval
    np.testing.assert_allclose(bca_interval(VALUES.mean(), resampled(), left_out), theirs, rtol=0.015)


def test_the_expansion_by_table():
    assert expanded_quantile(30) == pytest.approx(2.0452 * np.sqrt(30 / 29), abs=1e-3)
    assert expanded_quantile(10_000) == pytest.approx(1.96, abs=1e-3)


def test_jackknife_by_hand():
    got = jackknife([mean], n_groups=40, n_entries=40)[0]["mean"]
    np.testing.assert_allclose(got, [np.delete(VALUES, i).mean() for i in range(40)])


def test_many_groups_are_left_out_in_blocks(monkeypatch):
    monkeypatch.setattr(bootstrap_module, "JACKKNIFE_BLOCKS", 8)
    got = jackknife([mean], n_groups=40, n_entries=40)[0]["mean"]
    expected = [np.delete(VALUES, np.arange(part, 40, 8)).mean() for part in range(8)]
    np.testing.assert_allclose(got, expected)


def test_the_chunk_size_changes_nothing(monkeypatch):
    whole = resampled(500)
    monkeypatch.setattr(bootstrap_module, "_CHUNK_BYTES", 8 * 40 * 7)
    np.testing.assert_allclose(resampled(500), whole, rtol=1e-12)


def test_resamples_have_n_groups_draws_and_depend_on_the_seed():
    seen = []
    bootstrap(
        [lambda weights: seen.append(weights) or mean(weights)], n_groups=40, n_entries=40, n_resamples=100
    )
    weights = np.concatenate(seen)
    assert weights.shape == (100, 40)
    np.testing.assert_array_equal(weights.sum(axis=1), 40)
    other = bootstrap([mean], n_groups=40, n_entries=40, n_resamples=100, seed=1)[0]["mean"]
    assert not np.array_equal(other, resampled(100))


def test_the_interval_of_a_constant_is_the_constant():
    assert bca_interval(0.5, np.full(100, 0.5), np.full(40, 0.5)) == (0.5, 0.5)


def test_studentised_by_hand():
    # Each resample's distance from 2 in its own errors: -2, -1, 0, 1, 4.
    moved, errors = np.array([1.0, 1.0, 2.0, 3.0, 4.0]), np.array([0.5, 1.0, 1.0, 1.0, 0.5])
    low, high = studentised_interval(2.0, 0.1, moved, errors)
    # Quantiles 2.5 % and 97.5 % of five values, between the first two and the last two: 0.1 and 3.9 steps.
    assert low == pytest.approx(2 - 0.1 * (1 + 0.9 * 3))
    assert high == pytest.approx(2 - 0.1 * (-2 + 0.1 * 1))


def test_the_jackknife_refuses_one_group():
    with pytest.raises(ValueError, match="two groups or more"):
        jackknife([mean], n_groups=1, n_entries=40)


def test_pooled_groups_have_the_same_standard_error(monkeypatch):
    monkeypatch.setattr(bootstrap_module, "MAX_GROUPS", 400)
    group = np.arange(20_000) // 2 * 7
    parts = bootstrap_module.pool_groups(group, seed=0)
    assert np.array_equal(np.unique(parts), np.arange(400))
    assert np.array_equal(parts[::2], parts[1::2])  # whole groups
    right = np.repeat(np.random.default_rng(0).random(10_000) < 0.8, 2).astype(float)
    by_part = np.bincount(parts, weights=right) - right.mean() * np.bincount(parts)
    by_group = np.bincount(group // 7, weights=right - right.mean())
    assert by_part.std() * 400**0.5 == pytest.approx(by_group.std() * 10_000**0.5, rel=0.1)
    few = group[:700]
    assert bootstrap_module.pool_groups(few) is few
