"""Metrics under weights: those of the entries repeated as often, computed without weights."""

import numpy as np
import pytest

from classify.evaluation.metrics import evaluate
from classify.evaluation.weighted_metrics import (
    group_sums,
    log_loss_standard_error,
    weighted_gaps,
    weighted_metrics,
)

GRADES = ("low", "middle", "award")


def drawn(n_classes, *, n=60, n_groups=23, seed=0):
    generator = np.random.default_rng(seed)
    y = generator.integers(n_classes, size=n)
    scores = generator.dirichlet(np.ones(n_classes), size=n)
    scores[::3] = np.round(scores[::3], 1)  # ties
    scores /= scores.sum(axis=1, keepdims=True)
    return y, scores, generator.integers(n_groups, size=n)


def flat(figures):
    """Name metrics as the weighted ones are."""
    plain = {name: value for name, value in figures.items() if isinstance(value, float) or value is None}
    for name, values in figures["per_class"].items():
        plain |= {f"{metric} of {name}": value for metric, value in values.items() if metric != "support"}
    return plain


@pytest.mark.parametrize(("classes", "ordered"), [(GRADES, True), (GRADES, False), (("bad", "good"), True)])
def test_weights_are_repetitions(classes, ordered):
    y, scores, group = drawn(len(classes))
    names = np.unique(group)
    weights = np.random.default_rng(1).integers(0, 4, size=(12, len(names))).astype(float)
    weights[0] = 1
    sums = group_sums(y, scores, group, classes=classes, ordered=ordered)
    got = weighted_metrics(sums, weights)
    for row, counts in enumerate(weights):
        times = counts[np.searchsorted(names, group)].astype(int)
        expected = flat(
            evaluate(np.repeat(y, times), np.repeat(scores, times, axis=0), classes=classes, ordered=ordered)
        )
        assert set(got) == set(expected)
        for metric, value in expected.items():
            assert got[metric][row] == pytest.approx(np.nan if value is None else value, nan_ok=True), metric


def test_a_class_without_weight_leaves_metrics_undefined():
    y = np.array([0, 1, 2, 0])
    sums = group_sums(y, np.eye(3)[y], np.arange(4), classes=GRADES, ordered=True)
    got = weighted_metrics(sums, np.array([[1.0, 1, 0, 0]]))
    assert np.isnan(got["roc_auc"][0])
    assert np.isnan(got["recall of award"][0])
    assert got["balanced_accuracy"][0] == 1.0  # of the classes that are there
    alone = weighted_metrics(sums, np.array([[1.0, 0, 0, 1]]))
    assert np.isnan(alone["quadratic_kappa"][0])


def test_gaps_add_up_to_how_much_too_sure_a_head_is():
    y, scores, group = drawn(3)
    sums = group_sums(y, scores, group, classes=GRADES)
    right = scores.argmax(axis=1) == y
    got = weighted_gaps(sums, np.ones((1, sums.n_groups)))
    assert got.sum() == pytest.approx(right.mean() - scores.max(axis=1).mean())


def test_the_error_of_a_mean_is_the_known_one():
    y, scores, _ = drawn(3)
    sums = group_sums(y, scores, np.arange(60), classes=GRADES)
    losses = -np.log(np.clip(scores[np.arange(60), y], np.finfo(float).eps, 1))
    got = log_loss_standard_error(sums, np.ones((1, 60)))
    assert got[0] == pytest.approx(losses.std() / np.sqrt(60))
