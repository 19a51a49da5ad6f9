"""Intervals and verdicts of a comparison: which heads are compared, and the description of the methods."""

import numpy as np
import pytest

from classify.evaluation.verdicts import head_statistics
from classify.model_selection.predictions import EntryPredictions

GRADES = ("low", "middle", "award")


def predictions_of(right, *, n=90, seed=0, group=None, entry=None):
    generator = np.random.default_rng(seed)
    y = np.arange(n) % 3
    answers = np.where(generator.random(n) < right, y, (y + 1) % 3)
    names = tuple(f"test/{k}.jpg" for k in range(n)) if entry is None else entry
    return EntryPredictions(
        entry=names,
        path=names,
        n_images=np.ones(n, dtype=np.int64),
        y=y,
        group=np.arange(n) if group is None else group,
        fold=np.zeros(n, dtype=np.int64),
        probabilities=0.8 * np.eye(3)[answers] + 0.2 / 3,
    )


def statistics_of(*predictions, names=None, ordered=False, nested=False):
    names = names or [{"store": "vgg16", "head": f"head {k}"} for k in range(len(predictions))]
    return head_statistics(names, predictions, classes=GRADES, ordered=ordered, nested=nested, seed=0)


def test_all_heads_are_compared():
    got = statistics_of(predictions_of(0.9), predictions_of(0.4, seed=1), predictions_of(0.5, seed=2))
    assert len(got.intervals) == len(got.verdicts) == 3
    assert got.verdicts[0]["verdict"] == "better"
    described = got.description
    assert (described["primary_metric"], described["n_groups"], described["n_entries"]) == (
        "accuracy",
        90,
        90,
    )
    assert described["correction"] == "Holm-corrected over 3 pairs"
    assert not described["approximate"]


def test_the_primary_metric_of_ordered_classes_is_kappa():
    got = statistics_of(predictions_of(0.9), predictions_of(0.4, seed=1), ordered=True)
    assert got.description["primary_metric"] == "quadratic_kappa"
    assert "quadratic_kappa" in got.intervals[0]
    assert got.verdicts[0]["metric"] == "quadratic_kappa"


def test_a_baseline_is_compared_once_and_has_its_intervals():
    names = [
        {"store": store, "head": head} for store in ("vgg16", "resnet50") for head in ("logreg", "baseline")
    ]
    flat = predictions_of(0.33, seed=3)
    got = statistics_of(predictions_of(0.9), flat, predictions_of(0.8, seed=1), flat, names=names)
    assert len(got.intervals) == 4
    assert len(got.verdicts) == 3
    pairs = [{one["a"]["store"], one["b"]["store"]} for one in got.verdicts if "baseline" in str(one)]
    assert sorted(map(sorted, pairs)) == [["resnet50", "vgg16"], ["vgg16"]]


def test_approximate_statistics_have_a_reason():
    group = np.arange(90) // 4
    got = statistics_of(
        predictions_of(0.9, group=group), predictions_of(0.5, seed=1, group=group), nested=True
    )
    assert got.description["approximate"]
    assert got.description["why"] == "the heads of two folds share training images; fewer than 30 groups"
    assert all(one["approximate"] for one in got.intervals[0].values() if one["low"] is not None)


def test_predictions_of_other_entries_are_refused():
    with pytest.raises(ValueError, match="only predictions of the same entries"):
        statistics_of(predictions_of(0.9), predictions_of(0.9, entry=tuple(f"other/{k}" for k in range(90))))


def test_no_head_at_all():
    got = statistics_of()
    assert (got.intervals, got.verdicts, got.description["primary_metric"]) == ((), [], None)
