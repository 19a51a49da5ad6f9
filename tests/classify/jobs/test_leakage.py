"""Nothing leaks: on permuted labels every score lies at chance; the same measure sees a leak that is there.

Labels are permuted once per content over train and test together; views are their content plus a little noise
and there are more features than contents, so that any head that meets a content twice knows its label.
"""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom

import classify.data.samples
from classify.data.exclusions import exclude
from classify.data.samples import load_samples
from classify.evaluation.metrics import evaluate
from classify.model_selection.grid_search import SearchSettings, run_candidates
from classify.model_selection.predictions import image_predictions
from classify.model_selection.protocol import make_protocol

HEADS = [
    "logreg",
    "svm-linear",
    "svm-rbf",
    pytest.param("dense", marks=pytest.mark.slow),
]
SETTINGS = SearchSettings(
    seed=0,
    class_weight=None,
    dense_options={"units": (32,), "epochs": 40, "patience": 8, "learning_rate": 0.01},
    log_folder=None,
)
SPLIT = {"train": 60, "test": 50}  # images a class
NO_SPLIT = {"train": 60}


@pytest.fixture(autouse=True)
def fewer_folds(monkeypatch):
    monkeypatch.setattr("classify.model_selection.protocol.OUTER_FOLDS", 3)
    monkeypatch.setattr("classify.model_selection.protocol.INNER_FOLDS", 2)


@pytest.fixture
def permuted(make_store):
    def permuted(counts, **options):
        return make_store(
            counts=counts, permute_labels=True, n_features=200, n_views=2, view_noise=0.1, seed=5, **options
        )

    return permuted


def measure(samples, head):
    """Return (score, images scored) of the inner search and of the images tested."""
    protocol = make_protocol(samples, seed=0)
    (candidate,) = run_candidates([samples], [head], protocol, settings=SETTINGS, jobs=1)
    assert not candidate.reason, candidate.reason
    images, _, probabilities = image_predictions(candidate, protocol)
    figures = evaluate(samples.y[images], probabilities, classes=samples.classes)
    searched = sum(len(scored) for _, scored in protocol.outer_folds[0].inner_folds)
    return (candidate.searches[0].score, searched), (figures["balanced_accuracy"], len(images))


def at_chance(score, n):
    low, high = binom.interval(0.999, n, 0.5)
    return low / n <= score <= high / n


def as_view_rows(samples):
    """Let every view be an image and a group of its own: folds over view rows."""
    rows = samples.rows(np.arange(len(samples.y)))
    n = len(rows.y)
    return replace(
        samples,
        path=[samples.path[image] for image in rows.image],
        entry=[samples.entry[image] for image in rows.image],
        split=samples.split[rows.image],
        y=rows.y,
        content=np.arange(n),
        group=np.arange(n),
        plain=rows.X,
        augmented=np.zeros((0, 0, rows.X.shape[1]), np.float32),
        augmented_row=np.full(n, -1),
        fit=samples.fit[rows.image],
        scored=samples.scored[rows.image] & rows.is_plain,
    )


@pytest.mark.parametrize("head", HEADS)
def test_with_a_test_split_every_score_is_at_chance(permuted, head):
    inner, outer = measure(load_samples(permuted(SPLIT)), head)
    assert inner[1] == 120
    assert outer[1] == 100
    assert at_chance(*inner), inner
    assert at_chance(*outer), outer


@pytest.mark.parametrize("head", HEADS)
def test_without_one_every_score_is_at_chance(permuted, head):
    inner, outer = measure(load_samples(permuted(NO_SPLIT)), head)
    assert outer[1] == 120
    assert at_chance(*inner), inner
    assert at_chance(*outer), outer


@pytest.mark.parametrize("head", HEADS)
def test_folds_over_view_rows_raise_the_scores(permuted, head):
    inner, outer = measure(as_view_rows(load_samples(permuted(NO_SPLIT))), head)
    assert not at_chance(inner[0], inner[1]), inner
    assert not at_chance(outer[0], 120), outer  # 120 contents, however many rows
    assert outer[0] > 0.7


@pytest.mark.parametrize("head", HEADS)
def test_test_images_in_train_are_left_out(permuted, head):
    samples = load_samples(permuted(SPLIT, copy_test_into_train=True))
    assert len(samples.train_images) == 120
    inner, outer = measure(samples, head)
    assert at_chance(*inner), inner
    assert at_chance(*outer), outer


@pytest.mark.parametrize("head", HEADS)
def test_test_images_in_train_raise_the_scores_if_not_left_out(permuted, head, monkeypatch):
    def leave_nothing_out(path, split, y, content, near):
        _, scored, left_out = exclude(path, split, y, content, near)
        return split == "train", scored, left_out

    monkeypatch.setattr(classify.data.samples, "exclude", leave_nothing_out)
    samples = load_samples(permuted(SPLIT, copy_test_into_train=True))
    assert len(samples.train_images) == 220
    _, outer = measure(samples, head)
    assert not at_chance(*outer), outer
    assert outer[0] > 0.7
