"""Archived files of each format are read as they were written: see golden/README.md."""

import csv
import hashlib
import importlib.util
import json
import os
import shutil
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

import featurize
from classify.cli.main import cli
from classify.data.samples import load_samples
from classify.heads.registry import HEADS
from classify.io.bundle import load_bundle
from classify.io.results import leaderboard, read_record
from featurize.images.pool import Decoder

import make_golden

GOLDEN = Path(__file__).with_name("golden")
STORE = GOLDEN / make_golden.STORE
EXPECTED = json.loads((GOLDEN / "bundles" / "expected.json").read_text())
PICTURES = {os.fsdecode(path): pixels for path, pixels in make_golden.images().items()}
SHA256 = {path: hashlib.sha256(make_golden.ppm(pixels)).hexdigest() for path, pixels in PICTURES.items()}
SKIPPED = {
    "train/award/broken.ppm": "truncated",
    "train/low/empty.ppm": "empty file",
    "train/low/text.jpg": "not an image",
}

# What another release of scikit-learn says of arrays that it did not write: they are all that is used.
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.InconsistentVersionWarning")


def means(pixels):
    """Return the stand-in's features of a picture: the means of its left half, then of all of it."""
    return np.concatenate([pixels[:, :16].mean(axis=(0, 1)), pixels.mean(axis=(0, 1))])


def datasets(path):
    """Return every dataset and attribute of a store, but what names the run, as h5py reads them."""
    found = {}
    with h5py.File(path) as file:

        def visit(name, item):
            if isinstance(item, h5py.Dataset):
                values = item[:]
                found[name] = list(values) if values.dtype == object else (values.dtype, values.tobytes())
                found.update({f"{name}@{key}": list(value) for key, value in item.attrs.items()})

        file.visititems(visit)
        return found | {key: str(value) for key, value in file.attrs.items() if key != "created_with"}


def test_all_is_small():
    assert sum(path.stat().st_size for path in GOLDEN.rglob("*") if path.is_file()) < 300_000


def test_the_store_lists_every_file():
    with featurize.open_store(STORE) as store:
        images = store.images
        sha256 = store.content.sha256
        assert list(images.path) == sorted([*PICTURES, *SKIPPED], key=os.fsencode)
        assert {path: why for path, why in zip(images.path, images.skipped, strict=True) if why} == SKIPPED
        for path, row, label, split, entry in zip(
            images.path, images.content, images.label, images.split, images.entry, strict=True
        ):
            folder, _, rest = path.partition("/")
            name = rest.partition("/")[0]
            assert (split, label) == (folder, -1 if folder == "new" else make_golden.CLASSES.index(name))
            assert entry == (path.rpartition("/")[0] if "portfolio" in path else path)
            assert (row >= 0) == (path in PICTURES)
        rows = dict(zip(images.path, images.content, strict=True))
        assert rows["train/low/line\nbreak.ppm"] == rows["test/low/copy of a training image.ppm"]
        assert len(sha256) == len(PICTURES) - 1
        config = store.config
        assert (config["backbone"], config["levels"], config["input_size"]) == ("mean", True, 32)
        assert (store.level_names, store.level_ends) == (("1/2", "final"), (3, 6))


def test_the_store_s_plain_features_are_those_by_hand():
    with h5py.File(STORE) as file:
        read_by_h5py = file["features/plain"][:]
    with featurize.open_store(STORE) as store:
        plain = store.plain()
        np.testing.assert_array_equal(plain, read_by_h5py)
        for path, row in zip(store.images.path, store.images.content, strict=True):
            if path in PICTURES:
                np.testing.assert_allclose(plain[row], means(PICTURES[path]), rtol=1e-6)


def test_the_store_s_views_are_those_that_were_written():
    expected = json.loads((GOLDEN / "views.json").read_text())
    with featurize.open_store(STORE) as store:
        sha256 = [store.content.sha256[row] for row in store.augmented_content]
        np.testing.assert_array_equal(store.augmented(), [expected[one] for one in sha256])
        rows = dict(zip(store.images.path, store.images.content, strict=True))
        for path, colour in make_golden.FLAT.items():  # every view of one colour has that mean
            views = store.augmented()[list(store.augmented_content).index(rows[path])]
            np.testing.assert_allclose(views, [colour * 2] * make_golden.VIEWS, rtol=1e-6)
        trained = {row for path, row in rows.items() if path.startswith("train/") and row >= 0}
        assert set(store.augmented_content) == trained


def test_the_store_s_images_are_split_and_grouped():
    samples = load_samples(STORE)
    assert samples.classes == make_golden.CLASSES
    assert samples.ordered
    assert sorted(samples.path) == sorted(path for path in PICTURES if not path.startswith("new/"))
    group = dict(zip(samples.path, samples.group, strict=True))
    copied, flat = "train/low/line\nbreak.ppm", list(make_golden.FLAT)
    together = {
        frozenset(path for path in group if group[path] == one) for one in set(group.values())
    }  # of what no fold may separate
    assert frozenset(("train/middle/portfolio/1.ppm", "train/middle/portfolio/2.ppm")) in together
    assert frozenset((copied, "test/low/copy of a training image.ppm")) in together
    assert copied not in {samples.path[i] for i in samples.train_images}  # a test image has its content
    assert set(flat) <= {samples.path[i] for i in samples.train_images}


@pytest.fixture
def stand_in(monkeypatch, tmp_path):
    """The stand-in backbone in the place of all engines; the file is the log of its forward passes."""
    if "stand_in" not in sys.modules:
        place = GOLDEN.parent / "featurize" / "stand_in.py"
        spec = importlib.util.spec_from_file_location("stand_in", place)
        sys.modules["stand_in"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["stand_in"])
    module = sys.modules["stand_in"]
    for owner, names in (
        (module.registry_module, ("BACKBONES",)),
        (module.factory, ("create_engine",)),
        (module.select, ("resolve_engine", "fast_precisions")),
        (module.fill, ("PART_CONTENTS",)),
    ):
        for name in names:  # put back after the test
            monkeypatch.setattr(owner, name, getattr(owner, name))
    log = tmp_path / "forward.log"
    module.install(log=str(log))
    return log


@pytest.fixture
def portfolio(tmp_path):
    try:
        return make_golden.write_portfolio(tmp_path / "portfolio")
    except OSError:
        pytest.skip("this file system takes no undecodable names")


def test_finished_parts_are_taken_up_and_not_computed_again(stand_in, portfolio, tmp_path, monkeypatch):
    (part,) = (GOLDEN / "killed.h5.parts").glob("*.part")
    with h5py.File(part) as file:
        finished = {sha256.decode() for sha256 in file["sha256"][:]}
        failed = json.loads(file["failed"][()])
    decoded = []
    decode = Decoder.decode

    def counted(decoder, requests):
        decoded.extend(os.path.relpath(request.path, portfolio) for request in requests)
        return decode(decoder, requests)

    monkeypatch.setattr(Decoder, "decode", counted)
    shutil.copytree(GOLDEN / "killed.h5.parts", tmp_path / f"{make_golden.STORE}.parts")
    done = make_golden.extract_means(portfolio, tmp_path)
    left = {SHA256[path]: path for path in PICTURES if SHA256[path] not in finished}
    assert 0 < len(finished) == len(PICTURES) - 1 - len(left)  # two files are one content
    assert {SHA256[path] for path in decoded if path in PICTURES} == set(left)
    assert not {path for path in decoded if path in SKIPPED and SKIPPED[path] in failed.values()}
    assert (done.state, done.n_resumed) == ("created", len(finished))
    n_views = sum(1 + make_golden.VIEWS * path.startswith("train/") for path in left.values())
    assert sum(map(int, stand_in.read_text().split())) == done.n_forward == n_views
    found, expected = datasets(done.path), datasets(STORE)
    for name in ("features/augmented", "content/crc32"):  # another processor may warp to another grey
        del found[name], expected[name]
    assert found == expected
    with h5py.File(done.path) as one, h5py.File(STORE) as other:
        np.testing.assert_allclose(one["features/augmented"][:], other["features/augmented"][:], atol=0.2)
    assert not (tmp_path / f"{make_golden.STORE}.parts").exists()


def test_there_is_a_bundle_of_every_head():
    assert set(EXPECTED) == {*HEADS, "fused", "ensemble"}
    assert {path.name for path in (GOLDEN / "bundles").iterdir() if path.is_dir()} == set(EXPECTED)


@pytest.mark.parametrize("name", list(EXPECTED))
def test_a_bundle_says_what_its_head_said(name):
    bundle = load_bundle(GOLDEN / "bundles" / name)
    assert bundle.classes == make_golden.CLASSES
    X = np.array(EXPECTED[name]["X"], dtype=np.float32)
    members = bundle.members or (bundle,)
    said = np.mean([one.predict_proba(X, one.manifest["config_digest"]) for one in members], axis=0)
    atol = 1e-5 if "dense" in name else 1e-6
    np.testing.assert_allclose(said, EXPECTED[name]["probabilities"], rtol=0, atol=atol)
    assert len(bundle.members) == (2 if name == "ensemble" else 0)
    assert len(members[0].parts) == (2 if name == "fused" else 1)


def test_a_run_s_record_is_read():
    record = read_record(GOLDEN / "run")
    rows = leaderboard(record)
    assert [(row["head"], row["status"]) for row in rows] == [("logreg", "ok"), ("baseline", "ok")]
    with (GOLDEN / "run" / "predictions.csv").open(encoding="utf-8", newline="") as stream:
        predicted = list(csv.DictReader(stream))
    for row in rows:  # three test images, of which each head gets as many as the table says
        mine = [one for one in predicted if one["head"] == row["head"]]
        assert len(mine) == 3
        right = sum(one["true_class"] == one["predicted_class"] for one in mine)
        assert row["accuracy"] == pytest.approx(right / 3)


def test_a_run_s_report_is_made_again(tmp_path):
    run = shutil.copytree(GOLDEN / "run", tmp_path / "run")
    words = ["report", str(run), "--store", str(STORE), "--no-pictures", "--figures", "none"]
    cli.main(words, standalone_mode=False)
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "logreg" in page
    assert "mean+random+levels" in page
    assert (run / "leaderboard.md").read_text(encoding="utf-8").count("\n|") >= 3
