"""Study of leakage: features that identify images but not their classes."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from classify.evaluation.studies.views import study_leakage


def test_views_of_an_image_on_both_sides_show_skill_where_there_is_none(make_case):
    """Labels were drawn at random, but each image's views lie close together: 40 wide, 20 images a class."""
    case = make_case(permute_labels=True, n_features=40, n_views=4, seed=2)
    (found,) = study_leakage(case)["heads"]
    assert found["grouped"] < 0.65
    assert found["by_row"] > 0.85
    assert found["by_image"] is None  # each image is a group of its own
    said = study_leakage(case)
    points = 100 * (found["by_row"] - found["grouped"])
    assert said["shown"][0] == (
        f"{case.head}: grouped folds {found['grouped']:.3f}, folds over single views (4 per image) "
        f"{found['by_row']:.3f} ({points:+.1f} points)"
    )
    assert "without grouped folds, scores are up to " in said["text"]


def test_the_naive_score_matches_scikit_learn(make_case):
    case = make_case(distance=1.0, n_views=3, view_noise=0.5)
    samples = case.samples
    rows = samples.rows(samples.fit_images)
    folds = StratifiedKFold(n_splits=5, shuffle=True, random_state=0)

    def score(C):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=C, tol=1e-8, max_iter=10_000))
        return cross_val_score(model, rows.X, rows.y, cv=folds, scoring="balanced_accuracy").mean()

    best = max(score(C) for C in (1e-5, 1e-4, 1e-3, 1e-2, 1e-1))
    assert study_leakage(case)["heads"][0]["by_row"] >= best - 1e-9  # the grid has l2 as well
    plain = replace(case, head="logreg")
    assert study_leakage(plain)["heads"][0]["by_row"] == pytest.approx(best, abs=0.03)


def test_groups_that_are_ignored_leak_too(make_case):
    """Groups of four near copies under labels drawn a group: without views there is the middle case alone."""
    case = make_case(permute_labels=True, n_features=24, n_views=0, seed=4)
    samples, generator = case.samples, np.random.default_rng(0)
    images = samples.train_images
    group, plain, y = samples.group.copy(), samples.plain.copy(), samples.y.copy()
    for first in range(0, len(images), 4):
        mine = images[first : first + 4]
        group[mine], y[mine] = group[mine[0]], generator.integers(2)
        plain[samples.content[mine]] = plain[samples.content[mine[0]]] + 0.1 * generator.normal(size=(4, 24))
    tied = make_case(samples=replace(samples, group=group, plain=plain, y=y))
    (found,) = study_leakage(tied)["heads"]
    assert found["by_row"] is None
    assert found["by_image"] > found["grouped"] + 0.2
    assert "folds over images that ignore groups" in study_leakage(tied)["shown"][0]


def test_without_views_and_groups_there_is_nothing_to_leak(make_case):
    found = study_leakage(make_case(n_views=0))
    assert found["heads"] == []
    assert "not measured" in found["text"]


def test_every_head_that_costs_little_is_searched_and_the_recommended_one_first(make_case):
    case = make_case("svm-linear", heads=("dense", "logreg", "svm-linear"))
    assert [one["head"] for one in study_leakage(case)["heads"]] == ["svm-linear", "logreg"]
