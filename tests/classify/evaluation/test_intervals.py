"""The method, the groups and the reasons of the intervals of each metric."""

import numpy as np
import pytest
import scipy.stats

from classify.evaluation.intervals import head_intervals
from classify.evaluation.weighted_metrics import group_sums, weighted_metrics

GRADES = ("low", "middle", "award")


def summed(n_groups=60, *, size=1, right=0.8, classes=GRADES, ordered=True, seed=0):
    generator = np.random.default_rng(seed)
    group = np.repeat(np.arange(n_groups), size)
    y = np.arange(len(group)) % len(classes)
    answers = np.where(generator.random(len(y)) < right, y, (y + 1) % len(classes))
    scores = 0.6 * np.eye(len(classes))[answers]
    scores += 0.4 * generator.dirichlet(np.ones(len(classes)), size=len(y))
    return group_sums(y, scores, group, classes=classes, ordered=ordered)


def test_every_metric_has_an_interval_around_its_figure():
    for size in (1, 4):
        sums = summed(size=size)
        figures = weighted_metrics(sums, np.ones((1, sums.n_groups)))
        (found,) = head_intervals([sums])
        assert set(found) == set(figures)
        for metric, interval in found.items():
            if metric == "calibration_error":
                continue  # noise is in the figure, and not in its interval
            assert interval["low"] <= figures[metric][0] <= interval["high"], metric
            assert interval["low"] < interval["high"]


def test_proportions_of_single_entries_have_wilson_intervals():
    sums = summed()
    (found,) = head_intervals([sums])
    right = int(np.trace(sums.confusions.sum(axis=0)))
    expected = scipy.stats.binomtest(right, 60).proportion_ci(0.95, method="wilson")
    assert (found["accuracy"]["low"], found["accuracy"]["high"]) == pytest.approx(expected)
    assert found["accuracy"]["method"] == found["recall of low"]["method"] == "wilson"
    assert found["error of low"]["low"] == pytest.approx(1 - found["recall of low"]["high"])
    methods = {found[metric]["method"] for metric in ("roc_auc", "brier_score", "quadratic_kappa")}
    assert methods == {"bca"}


def test_groups_of_several_entries_reduce_the_effective_n():
    single, several = summed(240), summed(60, size=4)
    wide, narrow = (
        interval["accuracy"]["high"] - interval["accuracy"]["low"]
        for one in (several, single)
        for interval in head_intervals([one])
    )
    assert head_intervals([several])[0]["accuracy"]["method"] == "wilson, effective n"
    assert wide > 0.9 * narrow  # independent entries: hardly less


def test_few_groups_are_approximate_and_counted_by_class():
    (found,) = head_intervals([summed(60)])
    assert not found["accuracy"]["approximate"]
    assert (found["accuracy"]["n_groups"], found["recall of low"]["n_groups"]) == (60, 20)
    assert found["recall of low"]["approximate"]
    assert found["recall of low"]["why"] == "fewer than 30 groups"
    (nested,) = head_intervals([summed(60)], nested=True)
    assert nested["accuracy"]["approximate"]
    assert "nested cross-validation" in nested["accuracy"]["why"]


@pytest.mark.parametrize("right", [0.0, 1.0])
@pytest.mark.parametrize("size", [1, 3])
def test_all_correct_and_all_wrong(right, size):
    (found,) = head_intervals([summed(40, size=size, right=right)])
    accuracy = found["accuracy"]
    assert (accuracy["low"], accuracy["high"])[int(right)] == right
    assert 0.05 < accuracy["high"] - accuracy["low"] < 0.2  # of 40 groups, not of their entries
    kappa = found["quadratic_kappa"]
    if right:
        assert (kappa["low"], kappa["high"], kappa["method"]) == (None, None, "none")
        assert "all resamples have the same value" in kappa["why"]


def test_a_head_that_predicts_one_class_only():
    y = np.arange(45) % 3
    sums = group_sums(y, np.tile([0.5, 0.3, 0.2], (45, 1)), np.arange(45), classes=GRADES, ordered=True)
    (found,) = head_intervals([sums])
    assert found["precision of award"]["why"] == "the metric is undefined"
    assert found["roc_auc"]["low"] is None
    assert found["accuracy"]["low"] < 1 / 3 < found["accuracy"]["high"]


def test_a_class_that_resamples_miss_leaves_no_interval():
    y = np.r_[np.zeros(30, int), np.ones(30, int), 2]
    generator = np.random.default_rng(0)
    sums = group_sums(y, generator.dirichlet(np.ones(3), size=61), np.arange(61), classes=GRADES)
    (found,) = head_intervals([sums])
    assert found["roc_auc"]["low"] is None
    assert "undefined in 3" in found["roc_auc"]["why"]  # (60/61)^61 of them: 36 %


def test_one_group_alone():
    (found,) = head_intervals([summed(1, size=12)])
    assert found["accuracy"]["approximate"]
    assert found["macro_f1"]["why"] == "there is only one group"


def test_intervals_depend_on_the_seed_and_not_on_other_heads():
    sums = [summed(seed=seed) for seed in range(3)]
    together = head_intervals(sums, seed=5)
    assert together[1] == head_intervals([sums[1]], seed=5)[0]
    assert together[1]["brier_score"] != head_intervals([sums[1]], seed=6)[0]["brier_score"]


@pytest.mark.slow
def test_ten_thousand_images_fit_in_memory():
    (found,) = head_intervals([summed(10_000)], n_resamples=200)
    assert found["roc_auc"]["high"] - found["roc_auc"]["low"] < 0.02
