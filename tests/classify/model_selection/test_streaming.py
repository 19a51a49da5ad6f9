"""Comparing and fitting on features that stay on disk: equal results, said so, and within the limit."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from classify.data import load, memory as memory_module
from classify.data.load import load_same_dataset, sample_images
from classify.data.samples import load_samples
from classify.errors import CompareError
from classify.io.bundle import load_bundle
from classify.jobs.compare import compare
from classify.jobs.fit import fit
from classify.jobs.options import DenseOptions
from classify.model_selection.cache import task_key
from classify.model_selection.protocol import make_protocol
from classify.model_selection.tasks import FitTask

from bench_rows import make_rows_store

COUNTS = {"train": 60, "test": 20}
GIVEN = {
    "logreg": {"C": 0.1},
    "ordinal-logistic": {"C": 0.1},
    "nearest-mean": {"scaling": "l2"},
    "lda": {"shrinkage": 0.3},
    "baseline": {},
}


@pytest.fixture
def store(make_store):
    return make_store(counts=COUNTS, classes=("award", "low", "middle"), distance=1.5, per_entry=2)


@pytest.fixture
def from_disk(monkeypatch):
    """Have features stay on disk at this limit, however small they are."""
    monkeypatch.setattr(memory_module, "BYTES_PER_FITTED_VALUE", 10**9)
    monkeypatch.setattr("classify.data.load.search_rows", lambda *_, **__: 150)
    return "2GB"


@pytest.mark.parametrize("head", GIVEN)
def test_features_on_disk_give_the_same_bundle(store, tmp_path, from_disk, head):
    options = {"params": GIVEN[head], "order": ("low", "middle", "award"), "jobs": 1, "class_weight": None}
    inside = fit(store, head=head, out=tmp_path / "inside", **options)
    outside = fit(store, head=head, out=tmp_path / "outside", memory=from_disk, **options)
    assert outside.metrics == pytest.approx(inside.metrics, abs=1e-4)
    assert "are fitted on rows read from disk" in outside.facts[-2]
    assert not any("from disk" in line for line in inside.facts)
    X = load_samples(store).plain
    said = [load_bundle(one.bundle).estimator.predict_proba(X) for one in (inside, outside)]
    np.testing.assert_allclose(said[0], said[1], atol=1e-4)


def test_features_on_disk_keep_the_protocol_and_add_a_note(store, tmp_path, from_disk):
    done = compare(
        [store],
        heads=("logreg", "svm-linear", "dense", "knn", "ensemble"),
        out=tmp_path / "run",
        jobs=1,
        memory=from_disk,
        dense=DenseOptions(units=(8,), epochs=5),
        calibrate="temperature",
    )
    record = done.record
    (said,) = (line for line in record["facts"] if "from disk" in line)
    # Three classes of at least 15 entries each, of two images and their two views.
    assert "its features do not fit in --memory 2GB" in said
    assert "hyper-parameters are searched on 180 of 180 images" in said
    status = {result["head"]: result["status"] for result in record["results"]}
    assert status.pop("knn") == (
        "failed: this head stores all 540 training rows, which do not fit in memory. Raise --memory"
    )
    assert set(status.values()) == {"ok"}
    notes = {result["head"]: " ".join(result["notes"]) for result in record["results"]}
    assert all("rows were read from disk" in notes[head] for head in ("logreg", "svm-linear", "dense"))
    assert record["made"]["options"]["memory"] == from_disk
    assert "--memory 2GB" in record["made"]["command"]
    assert (done.folder / "predictions.csv").read_text().count("\n") == 1 + 5 * 30


def test_without_a_test_split_it_is_nested(make_store, tmp_path, from_disk):
    store = make_store(counts={"train": 30}, distance=2.0)
    done = compare([store], heads=("logreg",), out=tmp_path / "run", jobs=1, memory=from_disk)
    inside = compare([store], heads=("logreg",), out=tmp_path / "in", jobs=1)
    logreg, expected = (one.record["results"][0] for one in (done, inside))
    assert done.record["protocol"]["kind"] == "nested cross-validation"
    assert logreg["n_test"] == 60
    assert logreg["metrics"]["accuracy"] == pytest.approx(expected["metrics"]["accuracy"], abs=0.05)


def test_a_val_split_chooses_and_stops(make_store, tmp_path, from_disk):
    store = make_store(counts={"train": 20, "val": 10, "test": 10})
    options = {"dense": DenseOptions(units=(8,), epochs=4), "out": tmp_path / "run", "jobs": 1}
    done = compare([store], heads=("dense",), memory=from_disk, **options)
    assert done.record["protocol"]["tuning"] == "val split"
    assert done.record["results"][0]["status"] == "ok"


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"fuse": True}, "--fuse"),
        ({"join": "features"}, "--join features"),
        ({"study": ["leaks"]}, "--study"),
        ({"with_examples": True}, "--with-examples"),
        ({"dask": "local:1"}, "--dask"),
    ],
)
def test_options_that_need_features_in_memory_are_refused(store, tmp_path, from_disk, options, named):
    with pytest.raises(CompareError, match=named):
        compare([store], heads=("logreg",), out=tmp_path / "run", memory=from_disk, **options)


def test_a_head_that_stores_its_rows_is_refused_at_once(store, tmp_path, from_disk):
    with pytest.raises(CompareError, match="knn: this head stores all 540 training rows"):
        fit(store, head="knn", out=tmp_path / "bundle", memory=from_disk)


def test_below_the_limit_nothing_changes(store, tmp_path):
    plain, limited = (
        fit(store, head="logreg", out=tmp_path / str(memory), jobs=1, memory=memory, fresh=True)
        for memory in (None, "4GB")
    )
    assert plain.facts == limited.facts
    assert (plain.bundle / "head.skops").exists()
    X = load_samples(store).plain
    said = [load_bundle(one.bundle).estimator.predict_proba(X) for one in (plain, limited)]
    assert np.array_equal(said[0], said[1])


def test_a_sample_is_of_whole_groups_and_of_every_class(make_store, monkeypatch):
    monkeypatch.setattr(load, "MIN_GROUPS", 5)
    samples = load_samples(make_store(counts={"train": 200, "test": 5}, per_entry=4))
    images = sample_images(samples, n_images=100, seed=0)
    assert 80 <= len(images) <= 110
    assert np.array_equal(np.bincount(samples.y[images]), [len(images) // 2] * 2)
    assert not set(samples.group[images]) & set(np.delete(samples.group, images)[:0])
    whole = np.isin(samples.group[samples.fit_images], samples.group[images]).sum()
    assert whole == len(images)
    assert np.array_equal(sample_images(samples, n_images=100, seed=0), images)
    assert not np.array_equal(sample_images(samples, n_images=100, seed=1), images)
    few = sample_images(samples, n_images=1, seed=0)
    assert len(few) == 2 * 5 * 4  # five groups of four of each class all the same


def test_rows_of_a_stream_are_those_in_memory(store, from_disk):
    inside = load_samples(store)
    (outside,) = load_same_dataset([store], order=None, memory=from_disk, networks=False, jobs=1)
    images = inside.fit_images[::-1]
    rows, stream = inside.rows(images), outside.stream(images)
    assert np.array_equal(stream.take(np.arange(len(stream))), rows.X)
    for name in ("y", "groups", "image", "is_plain"):
        assert np.array_equal(getattr(stream, name), getattr(rows, name))
    assert make_protocol(outside, seed=0).description["kind"] == "test split"


def test_the_cache_key_depends_on_the_memory_limit_of_fits(store, from_disk):
    (samples,) = load_same_dataset([store], order=None, memory=from_disk, networks=False, jobs=1)
    task = FitTask(
        samples=samples, head="logreg", params={}, fit=samples.fit_images, test=samples.test_images, val=None,
        class_weight=None, seed=0, return_head=False,
    )  # fmt: skip
    less = replace(samples, on_disk=replace(samples.on_disk, working_bytes=1))
    assert task_key(task, device="cpu") != task_key(replace(task, samples=less), device="cpu")
    assert task_key(task, device="cpu") == task_key(replace(task), device="cpu")
    inside = replace(task, samples=load_samples(store))
    assert task_key(task, device="cpu") != task_key(inside, device="cpu")


_CHILD = """
import json, re, sys
from pathlib import Path

from classify.jobs.fit import fit

done = fit(**json.loads(sys.argv[1]), jobs=1, overwrite=True, fresh=True, order=["low", "middle", "award"])
status = Path("/proc/self/status").read_text()  # getrusage remembers whom this process was made by
peak = 1024 * int(re.search(r"VmHWM:\\s*(\\d+)", status).group(1))
print(json.dumps({"peak": peak, "facts": list(done.facts), "accuracy": done.metrics["accuracy"]}))
"""


def fitted_alone(**options):
    """Fit in a process of its own; return its largest resident size, facts and accuracy."""
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, json.dumps(options)], check=True, capture_output=True, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="resident sizes are in other units elsewhere")
def test_the_memory_limit_is_observed(tmp_path, long):
    store, limit = tmp_path / "rows.h5", 550e6
    make_rows_store(store, n_rows=25_000 if long else 13_000, n_features=2560)
    options = {"store": str(store), "head": "logreg", "out": str(tmp_path / "bundle"), "params": {"C": 1e-4}}
    inside = fitted_alone(**options)
    outside = fitted_alone(**options, memory="550MB")
    assert inside["peak"] > 2 * limit
    assert outside["peak"] < limit
    assert any("from disk" in line for line in outside["facts"])
    assert outside["accuracy"] == pytest.approx(inside["accuracy"], abs=0.002)
    if long:
        options = {**options, "head": "svm-rbf", "params": {"C": 0.01, "gamma_factor": 0.1}}
        assert fitted_alone(**options, memory="550MB")["peak"] < limit


@pytest.mark.report
def test_features_on_disk_make_no_report_and_the_run_says_how_to_get_one(store, tmp_path, from_disk):
    done = compare([store], heads=("logreg",), out=tmp_path / "run", jobs=1, memory=from_disk)
    assert done.report is None
    assert done.notes == (
        "no report, because its map and its galleries need the features in memory. On a machine with enough "
        f"memory: classify report {tmp_path / 'run'}",
    )
    assert (tmp_path / "run" / "results.json").is_file()
    assert not (tmp_path / "run" / "report.html").exists()
