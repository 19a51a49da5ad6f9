"""Stores with several levels: which columns a head is fitted on is searched, kept and obeyed."""

import json

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from classify.data.levels import resolve_levels, with_levels
from classify.data.samples import load_samples
from classify.deploy.predict import predict
from classify.errors import CompareError
from classify.io.bundle import load_bundle
from classify.jobs.compare import compare
from classify.jobs.fit import fit
from classify.report.console import print_comparison
from featurize.extraction.inference import ImageFeatures

NAMES, ENDS = ("1/2", "1/4", "final"), (3, 8, 12)  # three columns, five, four


@pytest.fixture
def store(make_store):
    def make(name="efficientnet_lite0", **options):
        levels = {"level_names": NAMES, "level_ends": ENDS, "n_features": 12}
        return make_store(name, **{"counts": {"train": 15, "test": 8}, **levels, **options})

    return make


def result_of(done, head):
    return next(result for result in done.record["results"] if result["head"] == head)


def test_final_is_the_last_level_and_all_is_everything(store):
    samples = load_samples(store())
    assert (samples.level_names, samples.level_ends) == (NAMES, ENDS)
    everything = samples.rows(samples.train_images)
    final = samples.rows(samples.train_images, levels="final")
    assert (everything.X.shape[1], final.X.shape[1]) == (12, 4)
    np.testing.assert_array_equal(final.X, everything.X[:, 8:])
    np.testing.assert_array_equal(final.groups, everything.groups)


def test_levels_are_not_searched_for_a_store_of_one_level(make_store, tmp_path):
    samples = load_samples(make_store())
    assert samples.columns("final") == samples.columns("all") == slice(0, 8)
    assert with_levels([{"C": 1.0}], n_levels=1) == ({"C": 1.0},)
    done = compare([make_store()], heads=("logreg",), out=tmp_path / "run", jobs=1)
    assert "levels" not in result_of(done, "logreg")["params"]


def test_the_grid_is_repeated_per_levels_value_with_final_first():
    assert with_levels([{"C": 1.0}, {"C": 2.0}], n_levels=3) == (
        {"C": 1.0, "levels": "final"},
        {"C": 2.0, "levels": "final"},
        {"C": 1.0, "levels": "all"},
        {"C": 2.0, "levels": "all"},
    )


@pytest.mark.parametrize(("telling", "chosen"), [(slice(0, 8), "all"), (slice(8, 12), "final")])
def test_the_informative_levels_are_chosen(store, tmp_path, telling, chosen):
    path = store(telling=telling, distance=4.0)
    done = compare([path], heads=("logreg", "svm-linear"), out=tmp_path / "run", jobs=1)
    assert json.loads((done.folder / "results.json").read_text())["stores"][0]["level_names"] == list(NAMES)
    for head in ("logreg", "svm-linear"):
        result = result_of(done, head)
        assert result["params"]["levels"] == result["bundle_params"]["levels"] == chosen
        assert result["metrics"]["accuracy"] > 0.85


def test_the_table_shows_levels_where_there_are_several(store, make_store, tmp_path, capsys):
    path = store(telling=slice(0, 8), distance=4.0)
    print_comparison(compare([path], heads=("logreg",), out=tmp_path / "run", jobs=1))
    lines = capsys.readouterr().out.splitlines()
    header, row = (next(line for line in lines if word in line) for word in ("bal. acc.", "logreg *"))
    assert "levels" in header
    assert row.split()[:4] == ["efficientnet_lite0", "logreg", "*", "all"]
    assert max(map(len, lines[: lines.index(row)])) <= 100
    print_comparison(compare([make_store("plain")], heads=("logreg",), out=tmp_path / "plain", jobs=1))
    assert not any("levels" in line for line in capsys.readouterr().out.splitlines() if "acc." in line)


def test_equal_scores_take_the_final_level(store, tmp_path):
    path = store(telling=slice(8, 12), distance=40.0)  # right with any columns that hold the last four
    done = compare([path], heads=("logreg", "baseline"), out=tmp_path / "run", jobs=1)
    assert result_of(done, "logreg")["cv_balanced_accuracy"] == 1.0
    assert result_of(done, "logreg")["params"]["levels"] == "final"
    assert result_of(done, "baseline")["params"] == {}  # it has nothing to choose


@pytest.mark.parametrize(("levels", "first"), [("final", 8), ("all", 0)])
def test_a_bundle_selects_its_columns(store, tmp_path, levels, first):
    path = store(distance=1.5)
    done = fit(path, head="logreg", params={"C": 0.1, "levels": levels}, out=tmp_path / "bundle")
    samples = load_samples(path)
    bundle = load_bundle(done.bundle)
    assert bundle.manifest["columns"] == [first, 12]
    assert (bundle.manifest["n_features"], bundle.manifest["params"]["levels"]) == (12, levels)
    train, views = samples.train_images, samples.augmented[samples.augmented_row[samples.content]]
    X = np.concatenate([samples.plain[samples.content[train]], views[train].reshape(-1, 12)])[:, first:]
    X, y = X.astype(np.float64), np.concatenate([samples.y[train], np.repeat(samples.y[train], 2)])
    oracle = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, tol=1e-8, max_iter=10_000)).fit(X, y)
    features = samples.plain[samples.content[samples.test_images]]
    np.testing.assert_allclose(
        bundle.predict_proba(features, samples.config_digest),
        oracle.predict_proba(features[:, first:]),
        atol=1e-5,
    )


def test_new_images_are_predicted_from_the_columns_of_the_bundle(store, tmp_path, monkeypatch):
    path = store(telling=slice(8, 12), distance=6.0)
    samples = load_samples(path)
    bundle = fit(path, head="logreg", params={"C": 1, "levels": "final"}, out=tmp_path / "bundle").bundle
    features = samples.plain[samples.content[samples.test_images]]
    (tmp_path / "new").mkdir()
    for number in range(len(features)):
        (tmp_path / "new" / f"{number:03}.jpg").write_text("x")

    def image_features(paths, config, **options):
        assert config["levels"] is True  # so the network gives all of them
        return ImageFeatures(features=features, index=np.arange(len(features)), problems={})

    monkeypatch.setattr("featurize.extraction.inference.image_features", image_features)
    grades = [grade.grade for grade in predict(bundle, [tmp_path / "new"]).grades]
    assert grades == [samples.classes[label] for label in samples.y[samples.test_images]]


def test_missing_levels_are_refused(make_store, store, tmp_path):
    with pytest.raises(CompareError, match="parameter 'levels' is 'some': expected one of final, all"):
        fit(store(), head="logreg", params={"levels": "some"}, out=tmp_path / "a")
    with pytest.raises(CompareError, match=r"levels=all: store 'plain' has .*--levels"):
        fit(make_store("plain"), head="logreg", params={"levels": "all"}, out=tmp_path / "b")
    done = fit(make_store("plain"), head="logreg", params={"levels": "final"}, out=tmp_path / "c")
    assert "levels" not in done.params


def test_the_final_level_is_the_default():
    assert resolve_levels({"C": 1.0}, level_names=NAMES, store="s") == {"C": 1.0, "levels": "final"}
