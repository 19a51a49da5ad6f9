"""The simulation of intervals and verdicts, small: its truth by other means, and that nothing is far off."""

import numpy as np
import pytest
from interval_coverage import Design, coverage_rows, draw, false_verdicts, family_rows, print_table, truth
from scipy.stats import binomtest, norm

SMALL = Design(n_groups=60, size=1, accuracy=0.8)


def test_heads_are_as_right_as_asked():
    (sums,) = draw(Design(n_groups=60_000, size=2, accuracy=0.8), np.random.default_rng(0))
    confusion = sums.confusions.sum(axis=0)
    assert np.trace(confusion) / confusion.sum() == pytest.approx(0.8, abs=0.005)
    # Two off: past the middle between the two upper grades, from the lowest, or the other way round.
    share = 2 / 3 * norm.sf(1.5 * SMALL.distance)
    assert (confusion[0, 2] + confusion[2, 0]) / confusion.sum() == pytest.approx(share, abs=5e-4)


def test_entries_of_a_group_err_together():
    (sums,) = draw(Design(n_groups=20_000, size=2, accuracy=0.7), np.random.default_rng(0))
    right = np.trace(sums.confusions, axis1=1, axis2=2)
    assert np.mean(right == 2) > 0.7**2 + 0.03


def test_equal_heads_are_seldom_called_better():
    n_sets = 60
    wrong = false_verdicts(SMALL, graded=False, n_heads=4, n_sets=n_sets, seed=0)
    assert binomtest(wrong, n_sets, 0.05, alternative="greater").pvalue > 0.001


@pytest.mark.slow
def test_intervals_hold_the_truth(monkeypatch, capsys):
    monkeypatch.setattr("interval_coverage.N_TRUTH", 300_000)
    n_sets = 80
    rows = list(
        coverage_rows([Design(n_groups=180, size=size, accuracy=0.8) for size in (1, 4)], n_sets=n_sets)
    )
    assert {row[1] for row in rows} == {"1", "4"}
    for row in rows:
        assert float(row[5]) >= 86.0, row  # of 80 sets; 95 % of them in truth
    print_table(("groups", "covered"), iter([["180", "95.0"]]))
    assert capsys.readouterr().out.splitlines()[:3] == ["| groups | covered |", "|---|---|", "| 180 | 95.0 |"]


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 4])
def test_false_verdicts_keep_to_their_rate(size):
    designs = [Design(n_groups=90, size=size, accuracy=0.8)]
    for row in family_rows(designs, n_sets=60, n_heads=5):
        assert float(row[6].split()[0]) <= 5.0  # the lower exact bound


@pytest.mark.slow
def test_the_truth_is_that_of_many(monkeypatch):
    monkeypatch.setattr("interval_coverage.N_TRUTH", 300_000)
    known = truth(SMALL)
    assert known["accuracy"] == pytest.approx(0.8, abs=0.004)
    assert known["mean_absolute_error"] == pytest.approx(
        1 - known["accuracy"] + known["off_by_two"], abs=1e-9
    )
