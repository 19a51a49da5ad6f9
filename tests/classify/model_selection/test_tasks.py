"""Search and fitting as tasks: choices by hand, scores as scikit-learn's."""

from dataclasses import replace

import numpy as np
import pytest

from classify.data.samples import load_samples
from classify.heads.base import all_classes
from classify.model_selection.grid_search import SearchSettings, score_tasks
from classify.model_selection.protocol import make_protocol
from classify.model_selection.tasks import (
    FitTask,
    GridScores,
    ScoreTask,
    choose_params,
    reason_unfittable,
    search_points,
)

SETTINGS = SearchSettings(seed=0, class_weight=None, dense_options={}, log_folder=None)


def scores(*values):
    return GridScores(scores=values, seconds=1.0)


def test_the_best_mean_over_folds_is_chosen():
    points = [{"C": 0.1}, {"C": 1.0}, {"C": 10.0}]
    choice = choose_params(points, [scores(0.5, 0.7, 0.9), scores(0.5, 0.9, 0.6)])
    assert choice.params == {"C": 1.0}
    assert choice.score == pytest.approx(0.8)  # (0.7 + 0.9) / 2
    assert choice.seconds == 2.0


def test_equal_scores_take_the_first_point_even_after_rounding():
    points = [{"C": 0.1}, {"C": 1.0}]
    folds = [scores(0.1, 0.3), scores(0.2, 0.2), scores(0.3, 0.1)]  # equal sums, not always equal floats
    assert choose_params(points, folds).params == {"C": 0.1}
    assert choose_params(points, folds[::-1]).params == {"C": 0.1}


def test_without_folds_the_first_point_is_chosen_with_a_note():
    choice = choose_params([{"scaling": "standardise"}, {"scaling": "l2"}], [])
    assert (choice.params, choice.score) == ({"scaling": "standardise"}, None)
    assert "not searched" in choice.notes[0]
    assert "Used: scaling=standardise" in choice.notes[0]


def test_a_class_of_two_groups_leaves_the_dense_head_unsearched_but_fitted(make_store):
    samples = load_samples(make_store(counts={"train": 6, "test": 3}))
    entry = [0 if image % 2 else 1 for image in range(len(samples.y))]
    group = np.where(samples.y == 1, 100 + np.array(entry), np.arange(len(samples.y)))
    tied = replace(samples, group=group)
    (work,) = make_protocol(tied, seed=0).outer_folds
    assert len(work.inner_folds) == 2
    assert score_tasks(tied, "dense", work, settings=SETTINGS, options={}) == []
    assert (
        len(score_tasks(tied, "svm-linear", work, settings=SETTINGS, options={})) == 2
    )  # scored before calibration
    assert reason_unfittable(tied, "dense", work.fit) == ""
    assert reason_unfittable(tied, "logreg", work.inner_folds[0][0]) == ""
    for head in ("dense", "svm-rbf"):
        assert reason_unfittable(tied, head, work.inner_folds[0][0]).startswith(
            "class 'low' has a single group"
        )


def test_options_that_are_not_searched_are_in_every_point():
    points = search_points("dense", {"units": (4,)})
    assert [point["scaling"] for point in points] == ["standardise", "l2"]
    assert all(point["units"] == (4,) for point in points)
    assert search_points("baseline", {}) == ({},)


def test_a_class_never_seen_gets_probability_zero():
    full = all_classes(np.array([[0.3, 0.7]]), labels=[0, 2], n_classes=3)
    np.testing.assert_array_equal(full, [[0.3, 0.0, 0.7]])


def test_a_search_scores_plain_views_as_scikit_learn_does(make_store):
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    samples = load_samples(make_store(distance=1.0))
    fitted, scored = samples.train_images[::2], samples.train_images[1::2]
    task = ScoreTask(
        samples=samples,
        head="logreg",
        points=({"C": 0.01, "scaling": "standardise"}, {"C": 10.0, "scaling": "standardise"}),
        fit=fitted,
        score=scored,
        class_weight=None,
        seed=0,
    )
    plain, views = samples.plain[samples.content], samples.augmented[samples.augmented_row[samples.content]]
    X = np.concatenate([plain[fitted], views[fitted].reshape(-1, 8)])
    y = np.concatenate([samples.y[fitted], np.repeat(samples.y[fitted], 2)])
    expected = []
    for C in (0.01, 10.0):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=C, tol=1e-6, max_iter=10_000)).fit(X, y)
        expected.append(balanced_accuracy_score(samples.y[scored], model.predict(plain[scored])))
    np.testing.assert_allclose(task.run().scores, expected, atol=1e-12)


def test_a_fit_that_did_not_converge_has_a_note(make_store):
    samples = load_samples(make_store(distance=0.5))
    task = FitTask(
        samples=samples,
        head="logreg",
        params={"C": 1000.0, "max_iter": 1},
        fit=samples.train_images,
        test=samples.test_images,
        val=None,
        class_weight=None,
        seed=0,
        return_head=False,
    )
    done = task.run()
    assert done.saved is None
    assert done.probabilities.shape == (20, 2)
    assert "before it converged (C=1000.0, max_iter=1)" in done.notes[0]
