"""The soft-voting ensemble: its members, its votes and its score, against a recomputation by hand."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler

from classify.ensemble import make_ensemble
from classify.protocol import make_plan
from classify.running import Failure, run_tasks
from classify.samples import load_samples
from classify.search import Settings, run_trials

SETTINGS = Settings(seed=0, class_weight=None, dense_options={}, log_folder=None)
HEADS = ["logreg", "svm-linear", "svm-rbf", "baseline"]


@pytest.fixture
def compared(make_store):
    def compared(heads=HEADS, **options):
        samples = load_samples(make_store(distance=1.5, n_views=1, **options))
        plan = make_plan(samples, seed=0)
        trials = run_trials([samples], heads, plan, settings=SETTINGS, jobs=1)
        return samples, plan, trials

    return compared


def ensemble_of(trials, plan, run=None):
    return make_ensemble(trials, plan, settings=SETTINGS, run=run or partial(run_tasks, jobs=1))


def test_the_votes_are_the_mean_of_the_members_probabilities(compared):
    _, plan, trials = compared()
    found = ensemble_of(trials, plan)
    assert [member.head for member in found.members] == sorted(
        HEADS[:3], key=lambda name: -trials[HEADS.index(name)].choices[0].score
    )
    expected = sum(trial.fits[0].probabilities for trial in trials[:3]) / 3
    np.testing.assert_allclose(found.trial.fits[0].probabilities, expected, atol=1e-12)


def test_the_score_is_that_of_the_votes_in_the_folds_the_members_were_tuned_on(compared):
    samples, plan, trials = compared(["logreg", "baseline"])
    twin = replace(trials[0], samples=replace(samples, store="another"))
    found = ensemble_of([trials[0], twin, trials[1]], plan)
    params = trials[0].choices[0].params
    scores = []
    for fitted, scored in plan.rounds[0].pairs:
        scaler = StandardScaler() if params["scaling"] == "standardise" else Normalizer()
        alone = make_pipeline(scaler, LogisticRegression(C=params["C"], tol=1e-8, max_iter=10_000))
        rows = samples.rows(fitted)
        alone.fit(rows.X.astype(float), rows.y)
        predicted = alone.predict(samples.rows(scored, views=False).X.astype(float))
        scores.append(balanced_accuracy_score(samples.y[scored], predicted))
    assert found.trial.choices[0].score == pytest.approx(np.mean(scores), abs=1e-12)  # equal votes
    assert found.trial.samples.store == "efficientnet_lite0, another"


def test_what_was_tested_decides_nothing(compared):
    samples, plan, trials = compared()
    upside_down = [
        replace(
            trial,
            samples=replace(samples, y=np.where(samples.split == "test", 1 - samples.y, samples.y)),
            fits=tuple(replace(fit, probabilities=1 - fit.probabilities) for fit in trial.fits),
        )
        for trial in trials
    ]
    one, other = ensemble_of(trials, plan), ensemble_of(upside_down, plan)
    assert [member.head for member in one.members] == [member.head for member in other.members]
    assert one.trial.choices[0].score == other.trial.choices[0].score


def test_without_a_test_split_each_round_has_members_of_its_own(compared, monkeypatch):
    monkeypatch.setattr("classify.ensemble.MEMBERS", 1)
    _, plan, trials = compared(counts={"train": 15})
    found = ensemble_of(trials, plan)
    for k, fit in enumerate(found.trial.fits):
        scores = [round(trial.choices[k].score, 10) for trial in trials[:3]]
        best = trials[int(np.argmax(scores))]
        assert found.trial.choices[k].params["members"] == [f"{best.head} on efficientnet_lite0"]
        np.testing.assert_array_equal(fit.probabilities, best.fits[k].probabilities)


def test_one_head_alone_makes_no_ensemble(compared):
    _, plan, trials = compared(["logreg", "baseline"])
    assert ensemble_of(trials, plan) is None


def test_a_member_that_fails_in_a_fold_leaves_the_ensemble_without_a_score(compared):
    _, plan, trials = compared()
    found = ensemble_of(trials, plan, run=lambda tasks: [Failure(reason="no memory")] * len(tasks))
    assert found.trial.choices[0].score is None
    assert len(found.members) == 3
