"""Bundles: what was saved is what is loaded, and nothing else is."""

import hashlib
import json
import zipfile

import numpy as np
import pytest
import skops.io
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from classify.data.samples import load_samples
from classify.errors import BundleError
from classify.heads.registry import HEADS, make_head
from classify.io.bundle import load_bundle
from classify.io.bundle_extras import prepare_weights
from classify.io.bundle_writer import save_bundle
from classify.io.head_file import dump_head, head_state, load_head
from classify.jobs.fit import fit

CLASSICAL = [name for name, head in HEADS.items() if not head.tensorflow]


@pytest.fixture
def store(make_store):
    return make_store(counts={"train": 8, "test": 3})


@pytest.fixture
def bundle(store, tmp_path):
    return fit(store, head="logreg", params={"C": 0.5}, out=tmp_path / "bundle").bundle


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def edit(bundle, **changes):
    """Change fields (None removes one) and write a matching digest, as a forger would."""
    manifest = {**json.loads((bundle / "manifest.json").read_text()), **changes}
    manifest = {
        key: value for key, value in manifest.items() if value is not None and key != "manifest_sha256"
    }
    canonical = json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()
    manifest["manifest_sha256"] = sha256(canonical)
    (bundle / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("name", CLASSICAL)
def test_a_loaded_head_predicts_like_the_fitted_one(name, store, tmp_path):
    samples = load_samples(store)
    rows = samples.rows(samples.train_images)
    estimator = make_head(name).fit(rows.X, rows.y, groups=rows.groups, image=rows.image)
    folder = tmp_path / "bundle"
    save_bundle(
        folder,
        dump_head(estimator, name),
        head=name,
        params={},
        samples=samples,
        weights={"kind": "imagenet"},
        metrics={},
        seed=0,
    )
    loaded = load_bundle(folder)
    X = samples.plain
    np.testing.assert_array_equal(loaded.predict_proba(X, samples.config_digest), estimator.predict_proba(X))
    assert {path.name for path in folder.iterdir()} == {"manifest.json", "head.skops"}


@pytest.mark.slow
def test_a_dense_head_is_loaded_in_safe_mode(store, tmp_path):
    from classify.jobs.options import DenseOptions

    done = fit(
        store,
        head="dense",
        params={"scaling": "l2"},
        dense=DenseOptions(units=(4,), epochs=2),
        out=tmp_path / "b",
    )
    samples = load_samples(store)
    first, second = (
        load_bundle(done.bundle).predict_proba(samples.plain, samples.config_digest) for _ in range(2)
    )
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(first.sum(axis=1), 1, atol=1e-6)
    assert {path.name for path in done.bundle.iterdir()} == {"manifest.json", "head.keras"}
    assert not zipfile.ZipFile(done.bundle / "head.keras").testzip()


SMALL_DENSE = {"units": (4,), "epochs": 2}


@pytest.mark.parametrize("name", list(HEADS))
def test_no_bundle_contains_a_class_path_of_folio(name, make_store, tmp_path):
    """Of a bundle nothing names a module of ours, so that none can break it by being moved."""
    store = make_store(counts={"train": 8, "test": 3}, classes=("a", "b", "c"))
    done = fit(
        store,
        head=name,
        params=SMALL_DENSE if HEADS[name].tensorflow else {},
        order=("a", "b", "c"),
        out=tmp_path / "bundle",
        jobs=1,
    )
    found = [path for path in done.bundle.iterdir() if path.is_file()]
    data = {path.name: path.read_bytes() for path in found}
    for path in found:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                data |= {f"{path.name}/{one}": archive.read(one) for one in archive.namelist()}
    assert len(data) > 3  # manifest, head, and what is in the head
    for where, content in data.items():
        for ours in (b"classify.", b"featurize.", b"classify/", b"featurize/"):
            assert ours not in content, f"{where}: {content[max(0, content.find(ours) - 60) :][:120]!r}"


def test_the_manifest_has_all_fields(bundle, store):
    manifest = json.loads((bundle / "manifest.json").read_text())
    samples = load_samples(store)
    assert manifest["format"] == "folio-bundle"
    assert manifest["format_version"] == 3
    assert manifest["config"] == samples.config
    assert manifest["classes"] == ["award", "low"]
    assert (manifest["n_features"], manifest["backbone"]) == (8, "efficientnet_lite0")
    assert manifest["created_with"]["scikit-learn"]


def test_features_of_another_config_are_refused(bundle):
    loaded = load_bundle(bundle)
    with pytest.raises(
        BundleError,
        match="with: featurize extract IMAGES --backbone efficientnet_lite0 --precision float32",
    ):
        loaded.predict_proba(np.zeros((1, 8), np.float32), "f" * 64)
    with pytest.raises(BundleError, match=r"shape \(n, 8\), received \(1, 9\)"):
        loaded.predict_proba(np.zeros((1, 9), np.float32), loaded.manifest["config_digest"])


def test_a_damaged_head_is_refused(bundle):
    file = bundle / "head.skops"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(BundleError, match="its SHA-256 differs from manifest"):
        load_bundle(bundle)


def test_unknown_types_are_refused(bundle, store):
    from sklearn.naive_bayes import GaussianNB

    class Stranger(GaussianNB):
        pass

    file = bundle / "head.skops"
    skops.io.dump(Stranger(), file)
    edit(bundle, head_sha256=sha256(file.read_bytes()))
    with pytest.raises(
        BundleError, match=r"refused, because it contains .*Stranger, which no head of Folio has"
    ):
        load_bundle(bundle)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "other"}, "not the manifest of a bundle"),
        ({"format_version": 4}, r"format version 4, but this Folio reads version 3\. Upgrade folio-grader"),
        ({"format_version": "2"}, r"format version 2, but this Folio reads version 3\. Upgrade"),
        ({"format_version": 0}, r"format version 0, but this Folio reads version 3\. Upgrade"),
        ({"head_file": "../head.skops"}, "'head_file' is '../head.skops'; expected 'head.skops'"),
        ({"head_file": 3}, "'head_file' is 3; expected text"),
        ({"head": "forest"}, "Unknown head 'forest'"),
        ({"head": ["logreg"]}, "'head' is .*expected text"),
        ({"head": "dense"}, "expected 'head.keras'"),
        (
            {"head": "svm-linear"},
            "its parameters are not the parameters of this head: C, class",
        ),
        ({"head_sha256": "x"}, "'head_sha256' is 'x'; expected a SHA-256"),
        ({"labels": [1, 0]}, r"'labels' is \[1, 0\]; expected ascending numbers from 0 to 1"),
        ({"labels": [0, 2]}, r"'labels' is \[0, 2\]"),
        ({"labels": [0, 0]}, r"'labels' is \[0, 0\]"),
        ({"labels": [-1, 0]}, r"'labels' is \[-1, 0\]"),
        ({"labels": ["0", "1"]}, "expected a list of whole numbers"),
        ({"labels": []}, "expected a list of whole numbers"),
        ({"labels": [0]}, r"its classes are not the labels \[0\]"),
        ({"classes": "award"}, "expected a list of two or more different names"),
        ({"classes": ["a", "a"]}, "expected a list of two or more different names"),
        ({"classes": None}, "lacks 'classes'"),
        ({"config": []}, "'config' is .*expected an object"),
        ({"config": {}}, "lacks 'config.backbone'"),
        ({"config_digest": "f" * 64}, "'config_digest' does not match 'config'"),
        ({"ordered": 1}, "'ordered' is 1; expected true or false"),
        ({"n_features": "8"}, "'n_features' is '8'; expected a positive whole number"),
        ({"n_features": 9, "columns": None}, "not fitted on 9 features"),
        ({"columns": [0, 9]}, r"'columns' is \[0, 9\]; expected a range of the 8 features"),
        ({"columns": [4, 4]}, "expected a range of the 8 features"),
        ({"columns": [-1, 8]}, "expected a range of the 8 features"),
        ({"columns": "all"}, "'columns' is 'all'; expected the first column and the one after the last"),
        ({"columns": [2, 8]}, "not fitted on 6 features"),
        ({"weights": []}, "'weights' is .*expected an object"),
        ({"weights": {"kind": "file", "file": 3}}, "'weights.file' is 3"),
        ({"weights": {"kind": "file", "file": "weights.h5"}}, "lacks 'weights.file_sha256'"),
        (
            {"weights": {"kind": "file", "file": "../w.h5", "file_sha256": "0" * 64}},
            "'../w.h5', named in manifest.json, is not a file of the bundle",
        ),
    ],
)
def test_an_invalid_manifest_is_refused(bundle, changes, message):
    edit(bundle, **changes)
    with pytest.raises(BundleError, match=message):
        load_bundle(bundle)


@pytest.mark.parametrize(
    "change",
    [
        lambda manifest: manifest["classes"].reverse(),
        lambda manifest: manifest["config"].update(resize="pad"),
        lambda manifest: manifest.update(ordered=True),
        lambda manifest: manifest.pop("manifest_sha256"),
    ],
)
def test_an_altered_manifest_is_refused(bundle, change):
    manifest = json.loads((bundle / "manifest.json").read_text())
    change(manifest)
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="altered after it was written"):
        load_bundle(bundle)


@pytest.mark.parametrize("text", ["", "[]", "[" * 100_000, "{", "\0"])
def test_a_truncated_manifest_is_a_one_line_error(bundle, text):
    (bundle / "manifest.json").write_text(text)
    with pytest.raises(BundleError, match=r"manifest\.json: (cannot be read|not the manifest)") as caught:
        load_bundle(bundle)
    assert "\n" not in str(caught.value)


def test_a_manifest_without_columns_uses_all(bundle):
    edit(bundle, columns=None)
    assert load_bundle(bundle).manifest["columns"] == [0, 8]


def test_a_head_that_was_never_fitted_is_refused(bundle):
    file = bundle / "head.skops"
    skops.io.dump(head_state(make_head("logreg")), file)
    edit(bundle, head_sha256=sha256(file.read_bytes()))
    with pytest.raises(BundleError, match="it lacks the attribute 'classes_' of a fitted head"):
        load_bundle(bundle)


def without(key):
    return lambda state: state["attributes"].pop(key)


def attribute(**changes):
    return lambda state: state["attributes"].update(changes)


def param(**changes):
    return lambda state: state["params"].update(changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("params"), "does not contain parameters and attributes of a head"),
        (lambda state: state.update(attributes=[]), "does not contain parameters and attributes"),
        (lambda state: state.update(params=None), "its parameters are not the parameters of this head"),
        (lambda state: state["params"].pop("C"), "its parameters are not the parameters of this head"),
        (param(fit=1), "its parameters are not the parameters of this head"),
        (param(C="many"), "its parameter 'C' is 'many'"),
        (param(max_iter=1.5), "its parameter 'max_iter' is 1.5"),
        (param(class_weight=[1]), r"its parameter 'class_weight' is \[1\]"),
        (param(scaling=None), "its parameter 'scaling' is None"),
        (attribute(predict_proba=1), "it has the attribute 'predict_proba', which this head does not have"),
        (attribute(__class__="x"), "it has the attribute '__class__', which this head does not have"),
        (lambda state: state["attributes"].update({3: 4}), "it has the attribute 3, which this head"),
        (without("pipeline_"), "it lacks the attribute 'pipeline_'"),
        (attribute(classes_=[0, 1]), "its attribute 'classes_' has the wrong type: list"),
        (attribute(classes_=np.array([0, {}])), "its attribute 'classes_' has the wrong type: ndarray"),
        (attribute(classes_=np.array([0, 2])), r"its classes are not the labels \[0, 1\]"),
        (attribute(n_features_in_=True), "its attribute 'n_features_in_' has the wrong type: bool"),
        (attribute(n_features_in_=7), "not fitted on 8 features"),
        (attribute(notes_=(1,)), "its attribute 'notes_' has the wrong type: tuple"),
        (attribute(pipeline_=np.zeros(3)), "its attribute 'pipeline_' has the wrong type: ndarray"),
        (attribute(pipeline_=Pipeline([("scale", StandardScaler())])), "it cannot predict"),
        (
            lambda state: vars(state["attributes"]["pipeline_"]["classify"]).update(coef_=np.zeros((1, 3))),
            "it cannot predict",
        ),
        (
            lambda state: vars(state["attributes"]["pipeline_"]["classify"]).update(intercept_=[np.nan]),
            "it does not predict probabilities",
        ),
    ],
)
def test_an_invalid_state_is_a_one_line_error(bundle, store, change, message):
    state = head_state(load_bundle(bundle).estimator)
    change(state)
    file = bundle / "head.skops"
    skops.io.dump(state, file)
    edit(bundle, head_sha256=sha256(file.read_bytes()))
    with pytest.raises(BundleError, match=message) as caught:
        load_bundle(bundle)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda machines: machines.append(3), "does not contain parameters and attributes of a head"),
        (
            lambda machines: machines[0]["params"].pop("C"),
            "its parameters are not the parameters of this head",
        ),
        (lambda machines: machines[0]["attributes"].update(fit=1), "it has the attribute 'fit'"),
        (lambda machines: machines.clear(), "it cannot predict"),
        (lambda machines: machines.pop(), "it does not predict probabilities"),
    ],
)
def test_a_head_within_a_head_is_checked_as_well(change, message, tmp_path):
    X, y = np.random.default_rng(0).normal(size=(60, 4)), np.arange(60) % 3
    head = make_head("ordinal-svm").fit(X, y)
    state = head_state(head)
    change(state["attributes"]["machines_"])
    file = tmp_path / "head.skops"
    skops.io.dump(state, file)
    manifest = {"head": "ordinal-svm", "labels": [0, 1, 2], "head_sha256": sha256(file.read_bytes())}
    with pytest.raises(BundleError, match=message):
        load_head(file, manifest, n_features=4)


def test_a_missing_bundle_is_a_one_line_error(tmp_path):
    with pytest.raises(BundleError, match=r"not a bundle \(manifest.json is missing\)"):
        load_bundle(tmp_path)


def test_published_weights_are_not_included(store, tmp_path):
    weights, notes = prepare_weights(
        tmp_path / "w", store="s", config=load_samples(store).config, created_with={}
    )
    assert weights["kind"] == "imagenet"
    assert notes == ()
    assert not (tmp_path / "w").exists()


def test_other_weights_are_included(make_store, tmp_path):
    file = tmp_path / "mine.weights.h5"
    file.write_bytes(b"weights")
    digest = sha256(b"weights")
    config = {"weights": {"kind": "file", "sha256": digest, "seed": None}}
    store = make_store(counts={"train": 8}, config=config, weights_path=str(file))
    done = fit(store, head="logreg", params={"C": 1.0}, out=tmp_path / "bundle")
    assert load_bundle(done.bundle).parts[0].weights.read_bytes() == b"weights"
    assert done.notes == ()
    (done.bundle / "weights.h5").write_bytes(b"others!")
    with pytest.raises(BundleError, match=r"weights\.h5: damaged or replaced"):
        load_bundle(done.bundle)


def test_missing_weights_give_a_note(make_store, tmp_path):
    config = {"weights": {"kind": "file", "sha256": "1" * 64, "seed": None}}
    store = make_store(counts={"train": 8}, config=config, weights_path=str(tmp_path / "gone.h5"))
    done = fit(store, head="logreg", params={"C": 1.0}, out=tmp_path / "bundle")
    assert "could not be added to its bundles" in done.notes[0]
    assert load_bundle(done.bundle).parts[0].weights is None
