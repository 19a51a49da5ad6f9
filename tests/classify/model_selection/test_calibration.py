"""Temperatures of a comparison: from held-out training images only, in the record and in the bundle."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler

from classify.data.samples import load_samples
from classify.errors import CompareError
from classify.heads.solvers.temperature import apply_temperature, fit_temperature
from classify.io.bundle import load_bundle
from classify.jobs.compare import compare
from classify.model_selection.calibration import apply_temperatures
from classify.model_selection.grid_search import SearchSettings, run_candidates
from classify.model_selection.parallel import Failure, run_tasks
from classify.model_selection.protocol import make_protocol
from featurize import open_store

SETTINGS = SearchSettings(seed=0, class_weight=None, dense_options={}, log_folder=None)


@pytest.fixture
def compared(make_store):
    def compared(heads=("logreg", "baseline"), **options):
        samples = load_samples(make_store(distance=1.5, n_views=1, **options))
        protocol = make_protocol(samples, seed=0)
        return samples, protocol, run_candidates([samples], heads, protocol, settings=SETTINGS, jobs=1)

    return compared


def tempered(candidates, protocol, run=None):
    return apply_temperatures(candidates, protocol, settings=SETTINGS, run=run or partial(run_tasks, jobs=1))


def by_hand(samples, params, pairs):
    """Return the temperature from scikit-learn's own fits in each fold."""
    held_out, probabilities = [], []
    for fitted, scored in pairs:
        scaler = StandardScaler() if params["scaling"] == "standardise" else Normalizer()
        alone = make_pipeline(scaler, LogisticRegression(C=params["C"], tol=1e-8, max_iter=10_000))
        rows = samples.rows(fitted)
        alone.fit(rows.X.astype(float), rows.y)
        held_out.append(scored)
        probabilities.append(alone.predict_proba(samples.rows(scored, views=False).X.astype(float)))
    return fit_temperature(samples.y[np.concatenate(held_out)], np.concatenate(probabilities))


def test_the_temperature_is_fitted_on_the_inner_folds(compared):
    samples, protocol, candidates = compared()
    (head, baseline) = tempered(candidates, protocol)
    expected = by_hand(samples, candidates[0].searches[0].params, protocol.outer_folds[0].inner_folds)
    assert head.temperature == pytest.approx(expected, rel=1e-3)
    np.testing.assert_array_equal(
        head.fits[0].probabilities, apply_temperature(candidates[0].fits[0].probabilities, head.temperature)
    )
    assert baseline is candidates[1]


def test_without_a_test_split_each_outer_fold_has_its_temperature(compared):
    samples, protocol, candidates = compared(counts={"train": 20})
    (head, _) = tempered(candidates, protocol)
    for k, one in enumerate(protocol.outer_folds):
        expected = by_hand(samples, candidates[0].searches[k].params, one.inner_folds)
        np.testing.assert_allclose(
            head.fits[k].probabilities,
            apply_temperature(candidates[0].fits[k].probabilities, expected),
            atol=1e-4,
        )
    expected = by_hand(samples, candidates[0].final_params, protocol.final.inner_folds)
    assert head.temperature == pytest.approx(expected, rel=1e-3)


def test_test_images_do_not_influence_the_temperature(compared):
    samples, protocol, candidates = compared()
    turned = replace(samples, y=np.where(samples.split == "test", 1 - samples.y, samples.y))
    one, other = (
        tempered(candidates, protocol)[0],
        tempered([replace(candidates[0], samples=turned)], protocol)[0],
    )
    assert one.temperature == other.temperature


def test_a_head_that_fails_in_a_fold_is_unchanged_with_a_note(compared):
    _, protocol, candidates = compared()
    (head, _) = tempered(candidates, protocol, run=lambda tasks: [Failure(reason="no memory")] * len(tasks))
    assert head.temperature == 1.0
    assert "cannot be fitted on some of the inner folds" in head.final.notes[-1]
    np.testing.assert_array_equal(head.fits[0].probabilities, candidates[0].fits[0].probabilities)


def test_the_bundle_predicts_at_its_temperature(make_store, tmp_path):
    store = make_store(distance=1.5)
    plain = compare([store], heads=["logreg"], out=tmp_path / "plain")
    scaled = compare([store], heads=["logreg"], calibrate="temperature", out=tmp_path / "scaled")
    one, other = (load_bundle(run.folder / run.record["recommended"]["bundle"]) for run in (plain, scaled))
    assert "temperature" not in one.manifest
    with open_store(store) as opened:
        features, digest = opened.plain(), opened.config_digest
    np.testing.assert_allclose(
        other.predict_proba(features, digest),
        apply_temperature(one.predict_proba(features, digest), other.manifest["temperature"]),
    )
    first, second = (run.record["results"][0] for run in (plain, scaled))
    assert first["metrics"]["accuracy"] == second["metrics"]["accuracy"]
    assert first["metrics"]["log_loss"] != second["metrics"]["log_loss"]
    assert any("scaled by temperature" in note for note in second["notes"])


def test_an_unknown_calibration_is_refused(make_store, tmp_path):
    with pytest.raises(CompareError, match="calibrate is 'isotonic': expected none or temperature"):
        compare([make_store()], calibrate="isotonic", out=tmp_path / "run")
