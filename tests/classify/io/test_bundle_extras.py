"""Examples in a bundle: what was fitted on, and only when asked for."""

import io
import json
import shutil

import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from classify.cli.main import cli
from classify.data.samples import load_samples
from classify.errors import BundleError
from classify.io.bundle import load_bundle
from classify.io.bundle_extras import SIDE, load_examples
from classify.io.manifest import EXAMPLES
from classify.jobs.compare import compare
from classify.jobs.fit import fit
from featurize import open_store

SIZE = (300, 200)


@pytest.fixture
def make_portfolio(make_store, tmp_path):
    """Make a store whose training files are there as pictures, each of a colour of its own."""

    def make(name="efficientnet_lite0", *, folder="data", write=True, **options):
        path = make_store(name, **{"counts": {"train": 8, "test": 3}, **options})
        data = tmp_path / folder
        with h5py.File(path, "r+") as file:
            names = file["images/path"].asstr()[:]
            content = file["images/content"][:]
            sha256 = file["content/sha256"].asstr()[:]
            for image, relative in enumerate(names if write else []):
                (data / relative).parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", SIZE, colour(image)).save(data / relative, "PNG")
                sha256[content[image]] = digest(data / relative)
            file["content/sha256"][:] = sha256
            file["images/sha256"][:] = [sha256[row] for row in content]
            made = json.loads(file.attrs["created_with"])
            file.attrs["created_with"] = json.dumps({**made, "data": str(data)})
            file.attrs.pop("text_crc32", None)
        return path

    return make


def colour(number: int) -> tuple[int, int, int]:
    return (40 * number % 251, 90 + number, 200 - 3 * number)


def digest(path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


def mean_colour(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=float).mean(axis=(0, 1))


def test_a_bundle_includes_its_fitted_images(make_portfolio, tmp_path):
    store = make_portfolio()
    done = fit(store, head="logreg", params={"C": 1.0}, out=tmp_path / "b", with_examples=True)
    assert {path.name for path in done.bundle.iterdir()} == {"manifest.json", "head.skops", EXAMPLES}
    found = load_examples(load_bundle(done.bundle))
    with h5py.File(store) as file:
        split = file["images/split"].asstr()[:]
        kept = np.flatnonzero(split == "train")
        rows = file["features/plain"][:][file["images/content"][:]][kept]
        labels, paths = file["images/label"][:][kept], file["images/path"].asstr()[:][kept]
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    np.testing.assert_allclose(found.features, unit, atol=1e-3)
    np.testing.assert_array_equal(found.y, labels)
    assert found.names == tuple(
        path.rpartition("/")[2] for path in paths
    )  # no folder, which may name a person
    for image, data in zip(kept, found.pictures, strict=True):
        assert Image.open(io.BytesIO(data)).size == (SIDE, SIDE * SIZE[1] // SIZE[0])
        np.testing.assert_allclose(mean_colour(data), colour(image), atol=6)
    assert done.notes == ()


def test_examples_are_not_included_by_default(make_portfolio, tmp_path):
    store = make_portfolio()
    bundle = fit(store, head="logreg", params={"C": 1.0}, out=tmp_path / "b").bundle
    assert {path.name for path in bundle.iterdir()} == {"manifest.json", "head.skops"}
    assert load_examples(load_bundle(bundle)) is None
    run = compare([store], heads=("logreg",), out=tmp_path / "run", jobs=1)
    assert list(run.folder.rglob(EXAMPLES)) == []


def test_thumbnails_of_the_store_replace_missing_or_changed_files(make_portfolio, tmp_path):
    store = make_portfolio()
    train = sorted((tmp_path / "data" / "train").rglob("*.jpg"))
    train[0].unlink()
    Image.new("RGB", SIZE, "white").save(train[1], "PNG")
    train[2].write_text("no picture any more")
    done = fit(store, head="logreg", params={"C": 1.0}, out=tmp_path / "b", with_examples=True)
    assert done.notes == (
        "efficientnet_lite0: 3 of 16 examples have the store's small thumbnails, because their files in "
        f"{tmp_path / 'data'} are missing or have changed",
    )
    found = load_examples(load_bundle(done.bundle))
    assert [Image.open(io.BytesIO(data)).size for data in found.pictures[:4]] == [(32, 32)] * 3 + [(SIDE, 64)]
    with open_store(store) as opened:
        own = opened.content.thumbnail[opened.images.content[opened.images.split.index("train")]]
    np.testing.assert_allclose(mean_colour(found.pictures[0]), own.mean(axis=(0, 1)), atol=10)


def test_a_run_links_examples_into_every_bundle(make_portfolio, tmp_path):
    run = compare(
        [make_portfolio()],
        heads=("logreg", "nearest-mean", "ensemble"),
        out=tmp_path / "run",
        jobs=1,
        with_examples=True,
    )
    kept = list(run.folder.rglob(EXAMPLES))
    assert len(kept) == 3 + 2  # each head's, and those of the ensemble's members
    assert len({(path.stat().st_dev, path.stat().st_ino) for path in kept}) == 1
    assert not (run.folder / "examples").exists()
    assert "--with-examples" in run.record["made"]["command"]
    ensemble = load_bundle(run.folder / "bundles" / "ensemble")
    found, alone = (
        load_examples(ensemble),
        load_examples(load_bundle(run.folder / "bundles" / "efficientnet_lite0__logreg")),
    )
    assert found.names == alone.names
    np.testing.assert_array_equal(found.features, alone.features)


def test_examples_of_fused_stores_are_those_of_the_first(make_portfolio, tmp_path):
    stores = [
        make_portfolio("one"),
        make_portfolio("two", config={"backbone": "vgg16"}, n_features=5, write=False),
    ]
    with h5py.File(stores[0]) as one, h5py.File(stores[1], "r+") as two:
        for name in ("content/sha256", "images/sha256"):
            two[name][:] = one[name][:]
    run = compare(stores, heads=("logreg",), fuse=True, out=tmp_path / "run", jobs=1, with_examples=True)
    fused = load_bundle(run.folder / "bundles" / "one+two__logreg")
    found = load_examples(fused)
    alone = load_examples(load_bundle(run.folder / "bundles" / "one__logreg"))
    np.testing.assert_array_equal(found.features, alone.features)
    assert found.config_digest == fused.parts[0].config_digest
    assert found.columns == (0, 8)


def test_examples_have_the_final_level(make_portfolio, tmp_path):
    store = make_portfolio(level_names=("1/2", "final"), level_ends=(3, 8))
    found = load_examples(
        load_bundle(
            fit(store, head="logreg", params={"C": 1.0}, out=tmp_path / "b", with_examples=True).bundle
        )
    )
    samples = load_samples(store)
    rows = samples.plain[samples.content[samples.fit_images], 3:]
    assert found.columns == (3, 8)
    np.testing.assert_allclose(found.features, rows / np.linalg.norm(rows, axis=1, keepdims=True), atol=1e-3)


def test_an_entry_with_averaged_features_is_one_example(make_portfolio, tmp_path):
    store = make_portfolio(counts={"train": 12, "test": 6}, per_entry=3)
    out = tmp_path / "b"
    found = load_examples(
        load_bundle(
            fit(store, head="logreg", params={"C": 1.0}, join="features", out=out, with_examples=True).bundle
        )
    )
    with h5py.File(store) as file:
        first = [path for path in file["images/path"].asstr()[:] if path.startswith("train/")][::3]
        rows = file["features/plain"][:][file["images/content"][:]][
            file["images/split"].asstr()[:] == "train"
        ]
    assert found.names == tuple(path.rpartition("/")[2] for path in first)
    means = rows.reshape(-1, 3, 8).mean(axis=1)
    np.testing.assert_allclose(
        found.features, means / np.linalg.norm(means, axis=1, keepdims=True), atol=1e-3
    )
    assert all(found.pictures)


def sealed(bundle, **changes):
    """Change the field "examples" of the manifest and write a matching digest, as a forger would."""
    import hashlib

    manifest = json.loads((bundle / "manifest.json").read_text())
    del manifest["manifest_sha256"]
    manifest["examples"] |= changes
    canonical = json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()
    manifest["manifest_sha256"] = hashlib.sha256(canonical).hexdigest()
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def rewritten(bundle, **changes):
    with np.load(bundle / EXAMPLES) as arrays:
        kept = dict(arrays)
    (bundle / EXAMPLES).unlink()  # it may have other names
    np.savez(bundle / EXAMPLES, **{**kept, **changes})
    sealed(bundle, sha256=digest(bundle / EXAMPLES))


@pytest.mark.parametrize(
    "damage",
    [
        lambda bundle: (bundle / EXAMPLES).unlink(),
        lambda bundle: (bundle / EXAMPLES).write_bytes(b"x"),
        lambda bundle: rewritten(bundle, y=np.array([99] * 16, dtype=np.int16)),
        lambda bundle: rewritten(bundle, y=np.array([-1] * 16, dtype=np.int16)),
        lambda bundle: rewritten(bundle, features=np.zeros((16, 3), np.float16)),
        lambda bundle: rewritten(bundle, features=np.zeros((2, 8), np.float16)),
        lambda bundle: rewritten(bundle, names=np.frombuffer(b"one", dtype=np.uint8)),
        lambda bundle: rewritten(bundle, features=np.array([{"pickled": 1}], dtype=object)),
        lambda bundle: sealed(bundle, columns=[0, 9]),
        lambda bundle: sealed(bundle, columns=[5, 2]),
        lambda bundle: sealed(bundle, config_digest="0" * 64),
    ],
)
def test_damaged_examples_are_refused(make_portfolio, tmp_path, damage):
    bundle = fit(
        make_portfolio(), head="logreg", params={"C": 1.0}, out=tmp_path / "b", with_examples=True
    ).bundle
    damage(bundle)
    with pytest.raises(
        BundleError,
        match=r"examples\.npz: missing, damaged or replaced.*Make the bundle again with: classify ",
    ):
        load_examples(load_bundle(bundle))


def test_a_moved_bundle_keeps_its_examples(make_portfolio, tmp_path):
    bundle = fit(
        make_portfolio(), head="logreg", params={"C": 1.0}, out=tmp_path / "b", with_examples=True
    ).bundle
    shutil.move(bundle, tmp_path / "elsewhere")
    shutil.rmtree(tmp_path / "data")
    shutil.rmtree(tmp_path / "features")
    assert len(load_examples(load_bundle(tmp_path / "elsewhere")).names) == 16


@pytest.mark.parametrize("command", ["compare", "fit"])
def test_the_help_says_that_bundles_show_the_images(command):
    said = " ".join(CliRunner().invoke(cli, [command, "--help"]).stdout.split())
    assert "--with-examples Add thumbnail, file name and features of every fitted image" in said
    assert "Anyone who has the bundle can see the images." in said
