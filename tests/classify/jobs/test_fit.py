"""One head fitted for use: where its hyper-parameters come from, how it is tested, what is written."""

import json

import numpy as np
import pytest

from classify.data.samples import load_samples
from classify.errors import BundleError, CompareError
from classify.heads.registry import validate_params
from classify.io.bundle import load_bundle
from classify.jobs.compare import compare
from classify.jobs.fit import fit
from classify.jobs.options import DenseOptions


@pytest.fixture
def store(make_store):
    return make_store(counts={"train": 10, "test": 6}, distance=1.5)


@pytest.fixture
def run(store, tmp_path):
    return compare([store], heads=("logreg", "svm-linear"), out=tmp_path / "run", jobs=1)


def chosen_by(run, head):
    return next(result for result in run.record["results"] if result["head"] == head)["bundle_params"]


def test_parameters_are_given_or_searched(store, tmp_path):
    searched = fit(store, head="logreg", out=tmp_path / "searched", jobs=1)
    assert searched.cv_balanced_accuracy is not None
    assert (searched.chosen, searched.n_train, searched.n_test) == ("searched in folds", 20, 12)
    assert searched.facts == tuple(load_samples(store).facts.lines())
    given = fit(store, head="logreg", params={"C": 0.5}, out=tmp_path / "given", jobs=1)
    assert json.loads((given.bundle / "manifest.json").read_text())["params"] == {
        "C": 0.5,
        "class_weight": None,
        "max_iter": 10_000,
        "scaling": "standardise",
        "tol": 1e-6,
    }
    assert (given.chosen, given.cv_balanced_accuracy, given.tune_seconds) == ("given", None, 0.0)


def test_the_head_of_the_bundle_is_the_one_that_was_tested(store, tmp_path):
    done = fit(store, head="logreg", params={"C": 0.1}, out=tmp_path / "bundle")
    samples = load_samples(store)
    test = samples.test_images
    said = load_bundle(done.bundle).predict_proba(samples.plain[samples.content[test]], samples.config_digest)
    assert done.metrics["accuracy"] == np.mean(said.argmax(axis=1) == samples.y[test])
    assert json.loads((done.bundle / "manifest.json").read_text())["metrics"] == {
        **done.metrics,
        "cv_balanced_accuracy": None,
    }


def test_without_a_test_split_there_is_no_test(make_store, tmp_path):
    done = fit(make_store(counts={"train": 8}), head="logreg", params={"C": 1}, out=tmp_path / "bundle")
    assert (done.metrics, done.n_test) == (None, 0)


def test_a_val_split_is_fitted_on_too(make_store, tmp_path):
    store = make_store(counts={"train": 8, "val": 4, "test": 5})
    done = fit(store, head="logreg", out=tmp_path / "bundle")
    assert (done.chosen, done.n_train, done.n_test) == ("searched on val", 24, 10)


@pytest.mark.parametrize("head", ["logreg", "svm-linear"])
def test_like_uses_the_hyper_parameters_of_a_run(run, store, tmp_path, head):
    done = fit(store, head=head, like=run.folder, out=tmp_path / "bundle", jobs=1)
    assert chosen_by(run, head).items() <= done.params.items()
    assert done.chosen == f"from {run.folder}"
    again = fit(store, head=head, like=done.bundle, out=tmp_path / "again", jobs=1)
    assert again.params == done.params
    other = fit(store, head=head, like=run.folder, params={"C": 0.25}, out=tmp_path / "other", jobs=1)
    assert other.params == {**done.params, "C": 0.25}


def test_like_uses_the_class_weight_of_a_run(store, tmp_path):
    run = compare([store], heads=("logreg",), out=tmp_path / "run", jobs=1, class_weight="balanced")
    done = fit(store, head="logreg", like=run.folder, out=tmp_path / "bundle", jobs=1)
    assert done.params["class_weight"] == "balanced"
    assert fit(store, head="logreg", like=done.bundle, out=tmp_path / "b").params == done.params


def test_like_uses_the_store_that_is_fitted(make_store, tmp_path):
    counts = {"train": 10, "test": 6}
    options = ({"telling": slice(0, 1), "distance": 1.0}, {"distance": 20.0})
    stores = [
        make_store(name, counts=counts, **more) for name, more in zip(("one", "two"), options, strict=True)
    ]
    run = compare(stores, heads=("logreg",), out=tmp_path / "run", jobs=1)
    chosen = {
        result["store"]: result["bundle_params"]
        for result in run.record["results"]
        if result["head"] == "logreg"
    }
    for store in stores:
        done = fit(store, head="logreg", like=run.folder, out=tmp_path / store.stem, jobs=1)
        assert chosen[store.stem].items() <= done.params.items()
    with pytest.raises(
        CompareError, match=r"compared on one, two, but not on three\. Give one of its bundles: --like .*run"
    ):
        fit(make_store("three", counts=counts), head="logreg", like=run.folder, out=tmp_path / "three")


def test_like_without_the_head_is_refused(run, store, tmp_path):
    def refused(like, head, message, error=CompareError):
        with pytest.raises(error, match=message):
            fit(store, head=head, like=like, out=tmp_path / "bundle")

    refused(tmp_path / "nowhere", "logreg", r"nowhere: neither a run \(results\.json\) nor a bundle")
    refused(run.folder, "svm-rbf", "has no head 'svm-rbf'; its heads are logreg, svm-linear, baseline")
    bundle = run.folder / "bundles" / "efficientnet_lite0__logreg"
    refused(bundle, "svm-linear", "a bundle of head 'logreg', expected 'svm-linear'")
    record = json.loads((run.folder / "results.json").read_text())
    for params, message in (
        (None, "'logreg' ok. Give each hyper-parameter with --param"),
        ([1], "'bundle_params' of logreg is not an object"),
        ({"C": "ten"}, "Parameter 'C' is 'ten'"),
        ({"D": 1}, "has no parameter 'D'"),
    ):
        record["results"][0]["bundle_params"] = params
        (run.folder / "results.json").write_text(json.dumps(record))
        refused(run.folder, "logreg", message)
    (bundle / "manifest.json").write_text("{}")
    refused(bundle, "logreg", "not the manifest of a bundle", BundleError)


def test_a_fit_reads_the_cache_of_a_comparison(run, store, tmp_path, monkeypatch):
    monkeypatch.setattr("classify.model_selection.cache.run_tasks", None)  # not to be called
    done = fit(store, head="svm-linear", out=tmp_path / "bundle")
    assert chosen_by(run, "svm-linear").items() <= done.params.items()
    assert done.from_cache
    (result,) = (result for result in run.record["results"] if result["head"] == "svm-linear")
    assert (done.fit_seconds, done.tune_seconds) == (result["fit_seconds"], result["tune_seconds"])
    assert done.metrics == result["metrics"]
    theirs = run.folder / result["bundle"] / "head.skops"
    assert (done.bundle / "head.skops").read_bytes() == theirs.read_bytes()


def test_an_existing_bundle_is_replaced_only_when_asked(store, tmp_path):
    fit(store, head="logreg", params={"C": 1}, out=tmp_path / "bundle")
    with pytest.raises(CompareError, match="already contains a bundle"):
        fit(store, head="logreg", params={"C": 1}, out=tmp_path / "bundle")
    fit(store, head="svm-linear", params={"C": 1}, out=tmp_path / "bundle", overwrite=True)
    assert load_bundle(tmp_path / "bundle").manifest["head"] == "svm-linear"


def test_a_folder_is_no_store(tmp_path):
    (tmp_path / "none").mkdir()
    with pytest.raises(CompareError, match=r"It has no \.h5 file"):
        fit(tmp_path / "none", head="logreg", params={"C": 1})


@pytest.mark.slow
def test_a_dense_head_like_that_of_a_run(store, tmp_path):
    dense = DenseOptions(units=(4,), epochs=3)
    run = compare([store], heads=("dense",), out=tmp_path / "run", dense=dense, jobs=1)
    done = fit(store, head="dense", like=run.folder, params={"epochs": 2}, out=tmp_path / "bundle")
    assert (done.params["units"], done.params["epochs"]) == ((4,), 2)
    assert done.params["scaling"] == chosen_by(run, "dense")["scaling"]
    assert fit(store, head="dense", like=run.folder, out=tmp_path / "same").from_cache


@pytest.mark.parametrize(
    ("head", "params", "message"),
    [
        ("svm-rbf", {"kernel": "linear"}, "'kernel' defines the head 'svm-rbf'"),
        ("svm-rbf", {"seed": 1}, "'seed' is no hyper-parameter: choose it with --seed"),
        ("dense", {"log_dir": "x"}, "'log_dir' is no hyper-parameter"),
        ("logreg", {"C": "ten"}, "Parameter 'C' is 'ten': expected a number"),
        ("logreg", {"C": float("nan")}, "Parameter 'C' is nan: expected a number"),
        ("logreg", {"max_iter": 1.5}, r"Parameter 'max_iter' is 1\.5: expected a whole number"),
        ("logreg", {"scaling": 3}, "Parameter 'scaling' is 3: expected a word"),
        ("logreg", {"class_weight": "heavy"}, "Parameter 'class_weight' is 'heavy'"),
        ("dense", {"units": "64,x"}, "Parameter 'units' is '64,x': expected whole numbers"),
    ],
)
def test_parameters_of_the_wrong_type_are_refused(tmp_path, head, params, message):
    with pytest.raises(CompareError, match=message):
        fit(tmp_path / "nowhere.h5", head=head, params=params)


@pytest.mark.parametrize("given", ["64,32", (64, 32), [64, 32]])
def test_layers_are_given_with_commas(given):
    assert validate_params("dense", {"units": given, "epochs": 3.0}) == {"units": (64, 32), "epochs": 3}


def test_an_order_may_be_a_str(make_store, tmp_path):
    store = str(make_store(classes=("low", "middle", "award"), counts={"train": 6, "test": 3}))
    done = fit(
        store, head="logreg", params={"C": 1.0}, order="award,middle,low", out=tmp_path / "bundle", jobs=1
    )
    bundle = load_bundle(done.bundle)
    assert bundle.classes == ("award", "middle", "low")
    assert bundle.manifest["ordered"] is True
