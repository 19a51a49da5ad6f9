"""Differences of paired predictions, against scikit-learn and SciPy's own bootstrap."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import bootstrap
from sklearn.metrics import cohen_kappa_score

from classify.data.samples import load_samples
from classify.evaluation.studies.compare import Difference, compare_predictions, difference, metric_value
from classify.model_selection.predictions import EntryPredictions


@pytest.fixture
def samples(make_store):
    return load_samples(make_store(classes=("1_low", "2_middle", "3_award"), counts={"train": 6}))


def predictions(y, guess, group=None):
    probabilities = np.full((len(y), 3), 0.1)
    probabilities[np.arange(len(y)), guess] = 0.8
    return EntryPredictions(
        entry=tuple(map(str, range(len(y)))),
        path=tuple(map(str, range(len(y)))),
        n_images=np.ones(len(y), dtype=np.int64),
        y=np.asarray(y),
        group=np.arange(len(y)) if group is None else group,
        fold=np.zeros(len(y), dtype=np.int64),
        probabilities=probabilities,
    )


def two_heads(n=80, seed=0):
    generator = np.random.default_rng(seed)
    y = generator.integers(3, size=n)
    one = np.where(generator.random(n) < 0.6, y, generator.integers(3, size=n))
    other = np.where(generator.random(n) < 0.5, y, one)
    return y, one, other


def test_the_interval_matches_scipy(samples):
    y, one, other = two_heads()
    found = difference(predictions(y, one), predictions(y, other), samples=samples, metric="accuracy", seed=0)
    gained = (other == y).astype(float) - (one == y)
    expected = bootstrap(
        (gained,), np.mean, n_resamples=20_000, method="BCa", random_state=np.random.default_rng(0)
    ).confidence_interval
    assert found.value == pytest.approx(gained.mean())
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.02)  # steps of 1/80
    assert found.verdict == "better"


def test_kappa_matches_scikit_learn_and_is_the_metric_of_ordered_classes(samples, make_case):
    y, one, _ = two_heads()
    for ordered, metric in ((True, "quadratic_kappa"), (False, "accuracy")):
        context = make_case(samples=replace(samples, ordered=ordered))
        assert compare_predictions(context, {"one": predictions(y, one)}).metric == metric
    found = metric_value(
        predictions(y, one), samples=replace(samples, ordered=True), metric="quadratic_kappa"
    )
    assert found == pytest.approx(cohen_kappa_score(y, one, weights="quadratic"))


def test_groups_are_drawn_as_a_whole(samples):
    """Four equal entries a group: as few groups, as wide an interval as without the three copies."""
    y, one, other = two_heads()
    alone = difference(predictions(y, one), predictions(y, other), samples=samples, metric="accuracy", seed=0)
    group = np.repeat(np.arange(80), 4)
    fourfold = [predictions(np.repeat(y, 4), np.repeat(guess, 4), group) for guess in (one, other)]
    assert difference(*fourfold, samples=samples, metric="accuracy", seed=0) == alone


def test_equal_predictions_have_no_difference(samples):
    y, one, _ = two_heads()
    found = difference(predictions(y, one), predictions(y, one), samples=samples, metric="accuracy", seed=0)
    assert found == Difference(value=0.0, low=0.0, high=0.0)
    assert found.verdict == "no detectable difference"
