"""Paired tests against SciPy, and against all swaps written out."""

from itertools import product

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

from classify.evaluation.paired_tests import accuracy_swap_test, holm, kappa_swap_test
from classify.evaluation.weighted_metrics import group_sums

GRADES = ("low", "middle", "award")


def test_single_entries_make_mcnemars_exact_test():
    difference = np.array([1] * 12 + [-1] * 4 + [0] * 60)
    expected = scipy.stats.binomtest(12, 16, 0.5).pvalue
    assert accuracy_swap_test(difference) == pytest.approx(expected)


def test_groups_of_several_are_all_swaps():
    difference = np.array([3, -1, 2, 2, 0, -4, 1, 1, 3])
    sums = [abs(np.dot(signs, difference)) for signs in product((-1, 1), repeat=len(difference))]
    assert accuracy_swap_test(difference) == pytest.approx(np.mean(np.array(sums) >= abs(difference.sum())))


def test_no_difference_is_no_evidence():
    assert accuracy_swap_test([]) == 1.0
    assert accuracy_swap_test([0, 0]) == 1.0
    assert accuracy_swap_test([1, -1]) == pytest.approx(1.0)


def test_thousands_of_groups_keep_small_p():
    got = accuracy_swap_test(np.array([1] * 3000 + [-1] * 2000))
    assert got == pytest.approx(scipy.stats.binomtest(3000, 5000, 0.5).pvalue, rel=1e-6)


def heads(n_groups=8, *, size=1, n_heads=2, seed=0):
    generator = np.random.default_rng(seed)
    group = np.repeat(np.arange(n_groups), size)
    y = np.arange(len(group)) % 3
    answers = [np.clip(y + generator.integers(-1, 2, len(y)), 0, 2) for _ in range(n_heads)]
    return y, group, answers


def summed(y, group, answers):
    return [group_sums(y, np.eye(3)[one], group, classes=GRADES, ordered=True) for one in answers]


@pytest.mark.parametrize("size", [1, 2])
def test_kappa_against_all_swaps_by_scikit_learn(size):
    y, group, (one, other) = heads(size=size)

    def gap(swap):
        first, second = np.where(swap[group], other, one), np.where(swap[group], one, other)
        return sklearn.metrics.cohen_kappa_score(
            y, first, weights="quadratic"
        ) - sklearn.metrics.cohen_kappa_score(y, second, weights="quadratic")

    swaps = np.array(list(product((False, True), repeat=8)))
    gaps = np.abs([gap(swap) for swap in swaps])
    expected = np.mean(gaps >= gaps[0] - 1e-9)
    got = kappa_swap_test(summed(y, group, (one, other)), [(0, 1)], n_swaps=20_000)
    assert got[0] == pytest.approx(expected, abs=0.012)


def test_equal_predictions_and_many_pairs():
    y, group, (one, other) = heads()
    sums = summed(y, group, (one, other, one))
    p = kappa_swap_test(sums, [(0, 2), (0, 1), (1, 2)], n_swaps=999)
    assert p[0] == 1.0
    assert p[1] == p[2]
    assert kappa_swap_test(sums, []).shape == (0,)
    np.testing.assert_array_equal(p, kappa_swap_test(sums, [(0, 2), (0, 1), (1, 2)], n_swaps=999))


def test_holm_by_hand():
    # 0.01 × 4, then 0.02 × 3, then 0.03 × 2 is no less than 0.06, then 0.4.
    np.testing.assert_allclose(holm([0.02, 0.01, 0.4, 0.03]), [0.06, 0.04, 0.4, 0.06])
    np.testing.assert_allclose(holm([0.6, 0.7]), [1.0, 1.0])
    assert holm([]).shape == (0,)


def test_long_distributions_are_convolved_by_fourier_transforms(monkeypatch):
    generator = np.random.default_rng(0)
    difference = generator.choice([-2, -1, 0, 1, 2, 3], size=900, p=[0.1, 0.2, 0.3, 0.22, 0.11, 0.07])
    expected = accuracy_swap_test(difference)
    monkeypatch.setattr("classify.evaluation.paired_tests._MAX_DIRECT", 10)
    assert accuracy_swap_test(difference) == pytest.approx(expected, abs=1e-12)
    assert 0 < expected < 0.05
