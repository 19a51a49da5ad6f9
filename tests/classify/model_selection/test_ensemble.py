"""The soft-voting ensemble: its members, its votes and its score, against a recomputation by hand."""

import csv
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler

from classify.data.samples import load_samples
from classify.errors import BundleError
from classify.io.bundle import load_bundle
from classify.jobs.compare import compare
from classify.model_selection.ensemble import make_ensemble
from classify.model_selection.grid_search import SearchSettings, run_candidates
from classify.model_selection.parallel import Failure, run_tasks
from classify.model_selection.protocol import make_protocol
from featurize import open_store

SETTINGS = SearchSettings(seed=0, class_weight=None, dense_options={}, log_folder=None)
HEADS = ["logreg", "svm-linear", "svm-rbf", "baseline"]


@pytest.fixture
def compared(make_store):
    def compared(heads=HEADS, **options):
        samples = load_samples(make_store(distance=1.5, n_views=1, **options))
        protocol = make_protocol(samples, seed=0)
        candidates = run_candidates([samples], heads, protocol, settings=SETTINGS, jobs=1)
        return samples, protocol, candidates

    return compared


def ensemble_of(candidates, protocol, run=None):
    return make_ensemble(candidates, protocol, settings=SETTINGS, run=run or partial(run_tasks, jobs=1))


def test_the_ensemble_predicts_the_mean_of_its_members(compared):
    _, protocol, candidates = compared()
    found = ensemble_of(candidates, protocol)
    assert [member.head for member in found.members] == sorted(
        HEADS[:3], key=lambda name: -candidates[HEADS.index(name)].searches[0].score
    )
    expected = sum(candidate.fits[0].probabilities for candidate in candidates[:3]) / 3
    np.testing.assert_allclose(found.fits[0].probabilities, expected, atol=1e-12)


def test_the_score_is_computed_on_the_inner_folds(compared):
    samples, protocol, candidates = compared(["logreg", "baseline"])
    twin = replace(candidates[0], samples=replace(samples, store="another"))
    found = ensemble_of([candidates[0], twin, candidates[1]], protocol)
    params = candidates[0].searches[0].params
    scores = []
    for fitted, scored in protocol.outer_folds[0].inner_folds:
        scaler = StandardScaler() if params["scaling"] == "standardise" else Normalizer()
        alone = make_pipeline(scaler, LogisticRegression(C=params["C"], tol=1e-8, max_iter=10_000))
        rows = samples.rows(fitted)
        alone.fit(rows.X.astype(float), rows.y)
        predicted = alone.predict(samples.rows(scored, views=False).X.astype(float))
        scores.append(balanced_accuracy_score(samples.y[scored], predicted))
    assert found.searches[0].score == pytest.approx(np.mean(scores), abs=1e-12)  # equal votes
    assert found.samples.store == "efficientnet_lite0, another"


def test_test_images_do_not_influence_the_ensemble(compared):
    samples, protocol, candidates = compared()
    upside_down = [
        replace(
            candidate,
            samples=replace(samples, y=np.where(samples.split == "test", 1 - samples.y, samples.y)),
            fits=tuple(replace(fit, probabilities=1 - fit.probabilities) for fit in candidate.fits),
        )
        for candidate in candidates
    ]
    one, other = ensemble_of(candidates, protocol), ensemble_of(upside_down, protocol)
    assert [member.head for member in one.members] == [member.head for member in other.members]
    assert one.searches[0].score == other.searches[0].score


def test_without_a_test_split_each_outer_fold_has_its_members(compared, monkeypatch):
    monkeypatch.setattr("classify.model_selection.ensemble.MAX_MEMBERS", 1)
    _, protocol, candidates = compared(counts={"train": 15})
    found = ensemble_of(candidates, protocol)
    for k, fit in enumerate(found.fits):
        scores = [round(candidate.searches[k].score, 10) for candidate in candidates[:3]]
        best = candidates[int(np.argmax(scores))]
        assert found.searches[k].params["members"] == [f"{best.head} on efficientnet_lite0"]
        np.testing.assert_array_equal(fit.probabilities, best.fits[k].probabilities)


def test_one_head_alone_makes_no_ensemble(compared):
    _, protocol, candidates = compared(["logreg", "baseline"])
    assert ensemble_of(candidates, protocol) is None


def test_a_member_that_fails_in_a_fold_leaves_the_ensemble_without_a_score(compared):
    _, protocol, candidates = compared()
    found = ensemble_of(candidates, protocol, run=lambda tasks: [Failure(reason="no memory")] * len(tasks))
    assert found.searches[0].score is None
    assert len(found.members) == 3


def test_the_bundle_of_an_ensemble_predicts_the_mean_of_its_members(make_store, tmp_path):
    store = make_store(distance=1.5)
    done = compare([store], heads=["logreg", "svm-linear", "ensemble"], out=tmp_path / "run")
    row = next(row for row in done.record["results"] if row["head"] == "ensemble")
    whole = load_bundle(done.folder / row["bundle"])
    assert row["bundle_params"] == {
        "members": [f"{member.manifest['head']} on efficientnet_lite0" for member in whole.members]
    }
    with open_store(store) as opened:
        features, digest = opened.plain(), opened.config_digest
    said = [
        load_bundle(done.folder / "bundles" / f"efficientnet_lite0__{name}").predict_proba(features, digest)
        for name in ("logreg", "svm-linear")
    ]
    members = [member.predict_proba(features, digest) for member in whole.members]
    np.testing.assert_allclose(np.mean(members, axis=0), np.mean(said, axis=0), atol=1e-12)
    predictions = csv.DictReader((done.folder / "predictions.csv").read_text().splitlines())
    voted = [float(line["p_low"]) for line in predictions if line["head"] == "ensemble"]
    with open_store(store) as opened:
        tested = [i for i, split in enumerate(opened.images.split) if split == "test"]
        rows = opened.images.content[tested]
    np.testing.assert_allclose(voted, np.mean(said, axis=0)[rows, 1], atol=1e-6)


def test_a_bundle_whose_member_is_missing_or_altered_is_refused(make_store, tmp_path):
    done = compare([make_store()], heads=["logreg", "svm-linear", "ensemble"], out=tmp_path / "run")
    bundle = done.folder / "bundles" / "ensemble"
    manifest = bundle / "member_2" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"award"', '"gold"'))
    with pytest.raises(BundleError, match=r"member_2/manifest.json: altered"):
        load_bundle(bundle)
    manifest.unlink()
    with pytest.raises(BundleError, match=r"member_2: not a bundle"):
        load_bundle(bundle)
