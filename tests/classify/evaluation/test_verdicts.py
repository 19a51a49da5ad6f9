"""Verdicts on pairs of heads against SciPy's tests and hand arithmetic."""

import numpy as np
import pytest
import scipy.stats

from classify.evaluation.verdicts import make_verdicts
from classify.evaluation.weighted_metrics import group_sums

GRADES = ("low", "middle", "award")


def named(*heads):
    return [{"store": "vgg16", "head": head} for head in heads]


def summed(y, answers, *, group=None, ordered=False):
    return [
        group_sums(
            y, np.eye(3)[one], np.arange(len(y)) if group is None else group, classes=GRADES, ordered=ordered
        )
        for one in answers
    ]


def wrong_at(y, rows):
    answers = y.copy()
    answers[rows] = (answers[rows] + 1) % 3
    return answers


def test_three_heads_by_hand():
    y = np.arange(120) % 3
    answers = [wrong_at(y, np.arange(60)), wrong_at(y, np.arange(12)), wrong_at(y, np.arange(4, 14))]
    found = make_verdicts(named("weak", "good", "best"), summed(y, answers))
    assert [(one["a"]["head"], one["b"]["head"]) for one in found] == [
        ("good", "weak"),
        ("best", "weak"),
        ("best", "good"),
    ]
    # Discordant entries: 48 to 0; 50 to 0; and 4 (rows 0 to 3) to 2 (rows 12 and 13).
    p = [2 * 0.5**48, 2 * 0.5**50, scipy.stats.binomtest(4, 6).pvalue]
    assert [one["p"] for one in found] == pytest.approx(p)
    assert [one["p_holm"] for one in found] == pytest.approx([2 * p[0], 3 * p[1], p[2]])
    assert [one["difference"] for one in found] == pytest.approx([48 / 120, 50 / 120, 2 / 120])
    assert [one["verdict"] for one in found] == ["better", "better", "no detectable difference"]
    assert {one["metric"] for one in found} == {"accuracy"}
    last = found[2]
    assert last["low"] < 0 < last["high"]
    assert last["more_images"] is None
    assert last["why"] == "not estimable: the interval of the difference contains zero"
    assert found[0]["why"] == "the difference is already detectable"
    # The interval of the difference is near the normal one of paired differences.
    spread = np.sqrt((0.4 - 0.4**2) / 120)
    assert found[0]["low"] == pytest.approx(0.4 - 1.96 * spread, abs=0.02)
    assert found[0]["high"] == pytest.approx(0.4 + 1.96 * spread, abs=0.02)


def test_how_many_more_images_by_hand():
    # 5 to 0 discordant of 100: p = 0.0625, and yet no resample puts the difference below 0.
    y = np.arange(100) % 3
    (found,) = make_verdicts(named("one", "other"), summed(y, [y, wrong_at(y, np.arange(5))]))
    assert found["p"] == pytest.approx(2 * 0.5**5)
    assert found["verdict"] == "no detectable difference"
    assert found["low"] > 0
    error = np.sqrt(0.05 * 0.95 / 100)
    reach = (1.959964 + 0.841621) * error
    low, high = (100 * ((reach / end) ** 2 - 1) for end in (found["high"], found["low"]))
    assert found["more_images"] == [pytest.approx(max(1, low), abs=1), pytest.approx(high, rel=0.1)]


def test_ordered_grades_are_judged_by_kappa():
    # Both are wrong as often; one is two grades off.
    y = np.arange(90) % 3
    near, far = y.copy(), y.copy()
    near[::3] = np.where(np.arange(30) < 20, 1, 0)
    far[::3] = np.where(np.arange(30) < 20, 2, 0)
    (found,) = make_verdicts(named("far", "near"), summed(y, [far, near], ordered=True))
    assert found["metric"] == "quadratic_kappa"
    assert (found["a"]["head"], found["verdict"]) == ("near", "better")
    (plain,) = make_verdicts(named("far", "near"), summed(y, [far, near]))
    assert (plain["difference"], plain["p"]) == (0.0, 1.0)
    assert plain["verdict"] == "no detectable difference"


def test_groups_that_are_swapped_whole_tell_less():
    y = np.arange(40) % 3
    answers = [y, wrong_at(y, np.arange(8))]
    (single,) = make_verdicts(named("one", "other"), summed(y, answers))
    (paired,) = make_verdicts(named("one", "other"), summed(y, answers, group=np.arange(40) // 4))
    assert single["p"] == pytest.approx(2 * 0.5**8)
    assert paired["p"] == pytest.approx(2 * 0.5**2)


def test_the_same_predictions_have_no_interval():
    y = np.arange(40) % 3
    (found,) = make_verdicts(named("one", "other"), summed(y, [wrong_at(y, [3])] * 2, ordered=True))
    assert (found["low"], found["high"], found["p"]) == (None, None, 1.0)


def test_nothing_to_compare():
    y = np.arange(40) % 3
    assert make_verdicts(named("one"), summed(y, [y])) == []
    one = np.ones(40, dtype=np.int64)
    assert make_verdicts(named("one", "other"), summed(one, [one, wrong_at(one, [3])], ordered=True)) == []


def test_the_seed_decides():
    generator = np.random.default_rng(0)
    y = np.arange(60) % 3
    sums = summed(y, [wrong_at(y, generator.permutation(60)[:15]) for _ in range(4)], ordered=True)
    names = named("a", "b", "c", "d")
    assert make_verdicts(names, sums, seed=1) == make_verdicts(names, sums, seed=1)
    assert make_verdicts(names, sums, seed=1) != make_verdicts(names, sums, seed=2)
