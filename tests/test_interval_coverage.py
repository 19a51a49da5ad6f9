"""Simulation of intervals and verdicts: true values by other means, and coarse checks of its results."""

import numpy as np
import pytest
from interval_coverage import Design, coverage_rows, draw, false_verdicts, family_rows, print_table, truth
from scipy.stats import binomtest, norm

SMALL = Design(n_groups=60, size=1, accuracy=0.8)


def test_simulated_heads_have_the_requested_accuracy():
    (sums,) = draw(Design(n_groups=60_000, size=2, accuracy=0.8), np.random.default_rng(0))
    confusion = sums.confusions.sum(axis=0)
    assert np.trace(confusion) / confusion.sum() == pytest.approx(0.8, abs=0.005)
    # Off by two: beyond the midpoint of the two upper grades from the lowest, or vice versa.
    share = 2 / 3 * norm.sf(1.5 * SMALL.distance)
    assert (confusion[0, 2] + confusion[2, 0]) / confusion.sum() == pytest.approx(share, abs=5e-4)


def test_errors_are_correlated_within_groups():
    (sums,) = draw(Design(n_groups=20_000, size=2, accuracy=0.7), np.random.default_rng(0))
    right = np.trace(sums.confusions, axis1=1, axis2=2)
    assert np.mean(right == 2) > 0.7**2 + 0.03


def test_equal_heads_are_seldom_called_better():
    n_sets = 60
    wrong = false_verdicts(SMALL, ordinal=False, n_heads=4, n_sets=n_sets, seed=0)
    assert binomtest(wrong, n_sets, 0.05, alternative="greater").pvalue > 0.001


@pytest.mark.slow
def test_coverage(monkeypatch, capsys, long):
    monkeypatch.setattr("interval_coverage.N_TRUTH", 300_000)
    n_sets, least = (80, 86.0) if long else (40, 80.0)
    rows = list(
        coverage_rows([Design(n_groups=180, size=size, accuracy=0.8) for size in (1, 4)], n_sets=n_sets)
    )
    assert {row[1] for row in rows} == {"1", "4"}
    for row in rows:
        assert float(row[5]) >= least, row  # per cent of the sets; 95 % in truth
    print_table(("groups", "covered"), iter([["180", "95.0"]]))
    assert capsys.readouterr().out.splitlines()[:3] == ["| groups | covered |", "|---|---|", "| 180 | 95.0 |"]


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 4])
def test_rate_of_false_verdicts(size):
    designs = [Design(n_groups=90, size=size, accuracy=0.8)]
    for row in family_rows(designs, n_sets=60, n_heads=5):
        assert float(row[6].split()[0]) <= 5.0  # the lower exact bound


@pytest.mark.slow
def test_true_values(monkeypatch):
    monkeypatch.setattr("interval_coverage.N_TRUTH", 300_000)
    known = truth(SMALL)
    assert known["accuracy"] == pytest.approx(0.8, abs=0.004)
    assert known["mean_absolute_error"] == pytest.approx(
        1 - known["accuracy"] + known["off_by_two"], abs=1e-9
    )
