"""Content of /about: facts of the manifest, no path of this machine."""

import json

from classify.deploy.serve import Limits
from classify.deploy.serve.app import describe_bundle, metric_rows
from classify.deploy.serve.predictor import Predictor
from classify.jobs.compare import compare

LIMITS = Limits(max_upload=1_500_000, max_pixels=7, rate=9)


def test_facts_are_those_of_the_manifest(bundle):
    manifest = json.loads((bundle / "manifest.json").read_text())
    about = describe_bundle(Predictor(bundle), LIMITS)
    assert about["classes"] == manifest["classes"] == ["award", "low", "middle"]
    assert (about["head"], about["head_title"]) == ("logreg", "Logistic regression")
    assert (about["bundle"], about["dataset"], about["ordered"]) == (bundle.name, "colours", False)
    assert about["metrics"] == manifest["metrics"]
    assert about["limits"] == {"max_upload": 1_500_000, "max_request": 6_000_000, "max_pixels": 7, "rate": 9}
    assert str(bundle.parent) not in json.dumps(about)
    json.dumps(about, allow_nan=False)


def test_an_ensemble_names_all_its_backbones(make_store, tmp_path):
    options = {"counts": {"train": 8, "test": 4}}
    stores = [make_store(**options), make_store("vgg16", config={"backbone": "vgg16"}, **options)]
    run = compare(stores, heads=("logreg", "nearest-mean", "ensemble"), out=tmp_path / "run", jobs=1)
    about = describe_bundle(Predictor(run.folder / "bundles" / "ensemble"), LIMITS)
    assert about["head_title"] == "ensemble of several heads"
    assert set(about["backbones"]) == {"efficientnet_lite0", "vgg16"}
    assert about["examples"] is None


def test_missing_metrics_are_left_out():
    metrics = {"accuracy": 0.71049, "log_loss": 1.2, "quadratic_kappa": None, "unknown": 3.0}
    assert metric_rows({"metrics": metrics}) == [("Accuracy", "0.710"), ("Log loss", "1.200")]
    assert metric_rows({"metrics": {}}) == []
