"""Several stores as one: rows by hand, the comparison, and bundles that grade with every backbone."""

import csv
import json
import os
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from classify.data.fusion import fuse, fuse_rows
from classify.data.load import load_same_dataset
from classify.data.samples import load_samples
from classify.deploy.predict import predict
from classify.errors import BundleError, CompareError
from classify.io.bundle import load_bundle
from classify.jobs.compare import compare
from featurize.extraction.inference import ImageFeatures

WIDTHS = {"efficientnet_lite0": 8, "vgg16": 3}


def make_stores(make_store, *, views=(2, 1), **options):
    """Write two stores of the same images: the files are the same, the features are not."""
    options = {"counts": {"train": 12, "test": 6}, **options}
    return [
        make_store(name, n_features=width, n_views=n, config={"backbone": name}, **options)
        for (name, width), n in zip(WIDTHS.items(), views, strict=True)
    ]


@pytest.fixture
def stores(make_store):
    """Write two stores; see `make_stores`."""
    return partial(make_stores, make_store)


def by_hand(*blocks):
    """Divide each row of each block by its length, times the root of its width."""
    parts = []
    for block in blocks:
        rows = np.asarray(block, dtype=np.float64)
        parts.append([row / (sum(value**2 for value in row) ** 0.5) * len(row) ** 0.5 for row in rows])
    return np.concatenate(parts, axis=1)


def test_all_backbones_have_the_same_scale():
    small, large = np.array([[3.0, 4.0]], dtype=np.float32), np.array([[0, 0, 500, 0]], dtype=np.float32)
    found = fuse_rows([small, large], [(2,), (4,)])
    np.testing.assert_allclose(found, [[0.6 * 2**0.5, 0.8 * 2**0.5, 0, 0, 2, 0]], rtol=1e-6)
    assert found.dtype == np.float32
    np.testing.assert_allclose((found[:, :2] ** 2).mean(), (found[:, 2:] ** 2).mean(), rtol=1e-6)
    assert not fuse_rows([np.zeros((1, 2), np.float32), large], [(2,), (4,)])[0, :2].any()
    views = np.stack([small, 10 * small])  # (2, 1, 2)
    assert fuse_rows([views, views], [(2,), (2,)]).shape == (2, 1, 4)


def test_final_columns_come_last():
    one, two = np.array([[1, 2, 3]], np.float32), np.array([[5, 7]], np.float32)
    found = fuse_rows([one, two], [(1, 3), (1, 2)])  # levels of width 1 and 2, and of width 1 and 1
    norm = (2**2 + 3**2) ** 0.5 / 2**0.5
    np.testing.assert_allclose(found, [[1, 1, 2 / norm, 3 / norm, 1]], rtol=1e-6)


def test_rows_are_concatenated_image_by_image(stores):
    one, two = (load_samples(path) for path in stores())
    both = fuse([one, two])
    assert (both.store, both.backbone) == ("efficientnet_lite0+vgg16",) * 2
    assert (both.n_features, both.n_views, both.level_names, both.level_ends) == (11, 1, ("final",), (11,))
    images = np.arange(len(both.y))
    found = both.rows(images, views=False)
    expected = by_hand(one.plain[one.content], two.plain[two.content])
    np.testing.assert_allclose(found.X, expected, rtol=1e-5, atol=1e-6)
    train = both.train_images
    rows = both.rows(train)
    first_views = [
        one.augmented[one.augmented_row[one.content[train]], 0],
        two.augmented[two.augmented_row[two.content[train]], 0],
    ]
    np.testing.assert_allclose(rows.X[~rows.is_plain], by_hand(*first_views), rtol=1e-5, atol=1e-6)
    assert both.config_digest not in (one.config_digest, two.config_digest)
    assert both.facts.lines() == []


def test_contents_in_another_order_are_matched(stores):
    one, two = (load_samples(path) for path in stores(views=(0, 0)))
    order = np.random.default_rng(0).permutation(len(two.plain))
    place = np.argsort(order)
    shuffled = replace(
        two, plain=two.plain[order], content=place[two.content], augmented_row=two.augmented_row[order]
    )
    np.testing.assert_array_equal(fuse([one, shuffled]).rows([3, 0, 5]).X, fuse([one, two]).rows([3, 0, 5]).X)


def test_fused_levels_separate_inner_and_final_columns(make_store):
    one = load_samples(make_store("a", n_features=6, level_names=("1/2", "final"), level_ends=(2, 6)))
    two = load_samples(make_store("b", n_features=5))
    both = fuse([one, two])
    assert (both.level_names, both.level_ends) == (("a 1/2", "final"), (2, 11))
    assert both.columns("final") == slice(2, 11)
    expected = by_hand(one.plain[one.content, 2:], two.plain[two.content])
    np.testing.assert_allclose(both.rows([0, 1], views=False, levels="final").X, expected[:2], rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"views": (2, 0)}, "are missing in one store"),
        ({"seed": 1}, "have different ranges or seeds"),
    ],
    ids=str,
)
def test_different_views_are_left_out_with_a_note(stores, options, reason):
    one, two = (load_samples(path) for path in stores(views=options.get("views", (2, 2))))
    if "seed" in options:
        two = replace(two, config={**two.config, "views": {**two.config["views"], "seed": 1}})
    both = fuse([one, two])
    assert both.n_views == 0
    assert both.rows(both.train_images).is_plain.all()
    assert both.facts.lines() == [
        f"efficientnet_lite0+vgg16: fitted on plain views only, because the augmented views {reason}"
    ]


def test_one_store_or_other_images_are_refused(stores, make_store):
    one, two = (load_samples(path) for path in stores())
    with pytest.raises(
        CompareError, match=r"--fuse concatenates the features of several stores, but only one"
    ):
        fuse([one])
    with pytest.raises(CompareError, match="efficientnet_lite0, vgg16: not of the same images"):
        fuse([one, replace(two, path=two.path[::-1])])


def test_portfolios_are_fused_image_by_image_and_then_averaged(stores):
    paths = stores(per_entry=3)
    one, two, both = load_same_dataset(paths, order=None, join="features", fuse=True)
    images = [load_samples(path) for path in paths]
    rows = by_hand(*(samples.plain[samples.content] for samples in images))
    members = [i for i, name in enumerate(images[0].entry) if name == both.entry[4]]
    np.testing.assert_allclose(
        both.rows([4], views=False).X[0], rows[members].mean(axis=0), rtol=1e-5, atol=1e-6
    )
    assert one.entry == two.entry == both.entry


@pytest.fixture(scope="module")
def run(store_maker, tmp_path_factory):
    """A comparison in a folder with its stores; read only."""
    folder = tmp_path_factory.mktemp("fused")
    stores = make_stores(store_maker(folder))
    return compare(stores, heads=("logreg",), fuse=True, out=folder / "run", jobs=1, report=False)


@pytest.fixture
def images(run, tmp_path):
    """A folder of the test images; each file holds its own path in the data."""
    samples = load_samples(run.folder.parent / "features" / "vgg16.h5")
    for image in samples.test_images:
        path = tmp_path / "data" / samples.path[image]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(samples.path[image])
    return tmp_path / "data" / "test"


@pytest.fixture
def networks(run, monkeypatch):
    """Stand in for both networks; files that say "bad" cannot be read by VGG16."""
    known = {name: load_samples(run.folder.parent / "features" / f"{name}.h5") for name in WIDTHS}
    calls = []

    def image_features(paths, config, *, on_progress=None, **options):
        calls.append((config["backbone"], options["weights"]))
        samples = known[config["backbone"]]
        texts = [path.read_text() for path in paths]
        bad = {k: "too large" for k, text in enumerate(texts) if text == "bad" and samples.store == "vgg16"}
        index = [k for k in range(len(texts)) if k not in bad]
        rows = [samples.content[samples.path.index(texts[k])] if texts[k] != "bad" else 0 for k in index]
        for k in range(len(paths)):
            on_progress(k + 1, len(paths))
        return ImageFeatures(
            features=samples.plain[rows], index=np.array(index, dtype=np.int64), problems=bad
        )

    monkeypatch.setattr("featurize.extraction.inference.image_features", image_features)
    return calls


def test_a_fused_store_is_one_more_store_of_the_run(run):
    assert [one["store"] for one in run.record["stores"]] == [
        "efficientnet_lite0",
        "vgg16",
        "efficientnet_lite0+vgg16",
    ]
    described = run.record["stores"][2]
    assert (described["path"], described["parts"]) == (None, ["efficientnet_lite0", "vgg16"])
    done = {(one["store"], one["head"]): one["status"] for one in run.record["results"]}
    assert done[("efficientnet_lite0+vgg16", "logreg")] == "ok"


def test_a_fused_bundle_predicts_with_all_backbones(run, images, networks):
    bundle = run.folder / "bundles" / "efficientnet_lite0+vgg16__logreg"
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["format_version"] == 3
    assert [part["store"] for part in manifest["parts"]] == ["efficientnet_lite0", "vgg16"]
    told = []
    graded = predict(bundle, [images], on_progress=lambda *numbers: told.append(numbers))
    assert [name for name, _ in networks] == ["efficientnet_lite0", "vgg16"]
    assert told == [(k, 24) for k in range(1, 25)]
    with (run.folder / "predictions.csv").open(encoding="utf-8", newline="") as stream:
        said = {
            row["path"]: row
            for row in csv.DictReader(stream)
            if (row["store"], row["head"]) == ("efficientnet_lite0+vgg16", "logreg")
        }
    assert len(graded.grades) == len(said) == 12
    for grade in graded.grades:
        row = said[os.path.relpath(grade.path, images.parent).replace(os.sep, "/")]
        assert [f"{value:.6f}" for value in grade.probabilities] == [row["p_award"], row["p_low"]]


def test_a_file_that_one_backbone_cannot_read_has_no_grade(run, images, networks):
    (images / "a.jpg").write_text("bad")
    graded = predict(run.folder / "bundles" / "efficientnet_lite0+vgg16__logreg", [images])
    assert [(grade.path, grade.problem) for grade in graded.grades if grade.problem] == [
        (str(images / "a.jpg"), "too large")
    ]
    assert graded.n_failed == 1


def test_features_of_other_configs_name_a_command_for_each_store(run):
    bundle = load_bundle(run.folder / "bundles" / "efficientnet_lite0+vgg16__logreg")
    with pytest.raises(BundleError) as error:
        bundle.predict_proba(np.zeros((1, 11), np.float32), "0" * 64)
    assert "fitted on 'efficientnet_lite0' and 'vgg16' features" in str(error.value)
    assert "featurize extract IMAGES --backbone vgg16 --precision float32 (for vgg16)" in str(error.value)
    assert "--backbone efficientnet_lite0 --precision float32 (for efficientnet_lite0)" in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda parts: parts.pop(), r"'parts' is .*; expected a list of two or more objects"),
        (lambda parts: parts.reverse(), "'config_digest' does not match 'parts'"),
        (
            lambda parts: parts[0]["config"].update(resize="pad"),
            r"'parts\[0\].config_digest' does not match 'parts\[0\].config'",
        ),
        (
            lambda parts: parts[1].update(level_ends=[4]),
            "'n_features' is 11; expected 12, the sum over all parts",
        ),
        (lambda parts: parts[1].update(level_ends=[2, 1]), r"'parts\[1\].level_ends' is \[2, 1\]"),
        (lambda parts: parts[1].pop("weights"), r"lacks 'parts\[1\].weights'"),
    ],
)
def test_an_inconsistent_fused_manifest_is_refused(run, change, message, tmp_path):
    import hashlib

    bundle = run.folder / "bundles" / "efficientnet_lite0+vgg16__logreg"
    path = Path(shutil.copytree(bundle, tmp_path / "bundle")) / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["manifest_sha256"]
    change(manifest["parts"])
    canonical = json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()
    path.write_text(json.dumps({**manifest, "manifest_sha256": hashlib.sha256(canonical).hexdigest()}))
    with pytest.raises(BundleError, match=message):
        load_bundle(path.parent)


def test_a_fused_bundle_includes_the_weights_of_every_part(make_store, tmp_path):
    """What is no backbone's published weights is in the bundle, each under its store's name."""
    import hashlib

    files = []
    for name in ("a", "b"):
        file = tmp_path / f"{name}.weights.h5"
        file.write_bytes(name.encode())
        weights = {"kind": "file", "sha256": hashlib.sha256(name.encode()).hexdigest(), "seed": None}
        files.append(
            make_store(
                name, counts={"train": 8, "test": 4}, config={"weights": weights}, weights_path=str(file)
            )
        )
    done = compare(files, heads=("logreg",), fuse=True, out=tmp_path / "run", jobs=1)
    bundle = load_bundle(done.folder / "bundles" / "a+b__logreg")
    assert [part.weights.read_bytes() for part in bundle.parts] == [b"a", b"b"]
    bundle.parts[1].weights.write_bytes(b"c")
    with pytest.raises(BundleError, match=r"b\.weights\.h5: damaged or replaced"):
        load_bundle(bundle.path)
