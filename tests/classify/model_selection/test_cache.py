"""What an earlier run has done is not done again, and is what would be done."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from classify.cli.main import cli
from classify.data.samples import load_samples
from classify.jobs.compare import compare
from classify.jobs.options import DenseOptions
from classify.model_selection import cache as cache_module
from classify.model_selection.cache import TaskCache, cached, task_key
from classify.model_selection.tasks import FitTask
from classify.report.console import _from_cache
from featurize.base.cache import CacheEntry, write_cache_entry

ROOT = Path(__file__).resolve().parents[3]
HEADS = ("logreg", "svm-linear")
CURVES = {"epochs": 2, "best_epoch": 1}
CURVES |= {key: [0.5, None] for key in ("loss", "accuracy", "val_loss", "val_accuracy")}


@pytest.fixture
def run(make_store, tmp_path):
    def run(out, *, heads=HEADS, store=None, **options):
        path = make_store(**{"counts": {"train": 10, "test": 6}, "distance": 1.5, **(store or {})})
        return compare([path], heads=heads, out=tmp_path / out, jobs=1, **options)

    return run


@pytest.fixture
def ran(monkeypatch):
    """The tasks that are run, not recalled."""
    tasks, run_tasks = [], cache_module.run_tasks

    def watched(work, **options):
        tasks.extend(work)
        return run_tasks(work, **options)

    monkeypatch.setattr(cache_module, "run_tasks", watched)
    return tasks


def comparable(record, *, seconds=True):
    """A record without what says when and how it was made."""
    left_out = {"created", "made", "n_remembered"}
    left_out |= set() if seconds else {"tune_seconds", "fit_seconds", "predict_ms_per_image"}
    if isinstance(record, dict):
        return {k: comparable(v, seconds=seconds) for k, v in record.items() if k not in left_out}
    return [comparable(item, seconds=seconds) for item in record] if isinstance(record, list) else record


def bytes_of(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "results.json"
    }


@pytest.mark.parametrize(
    "counts", [{"train": 10, "test": 6}, {"train": 9}, {"train": 8, "val": 4, "test": 5}]
)
def test_a_second_run_computes_nothing_and_writes_equal_bytes(run, ran, counts):
    first = run("one", store={"counts": counts})
    assert {result["n_remembered"] for result in first.record["results"]} == {0}
    assert {task.head for task in ran} == {*HEADS, "baseline"}
    ran.clear()
    second = run("two", store={"counts": counts})
    assert ran == []
    assert comparable(second.record) == comparable(first.record)  # the seconds too: those measured
    assert bytes_of(second.folder) == bytes_of(first.folder)
    for result in second.record["results"]:
        assert result["n_remembered"] == result["n_tasks"] > 0


def test_cached_results_equal_computed_ones(run, ran):
    run("one")
    from_cache = run("two")
    ran.clear()
    fresh = run("three", fresh=True)
    assert {task.head for task in ran} == {*HEADS, "baseline"}
    assert comparable(fresh.record, seconds=False) == comparable(from_cache.record, seconds=False)
    here, there = (bytes_of(one.folder)["predictions.csv"] for one in (fresh, from_cache))
    assert here == there


def test_an_added_head_is_the_only_one_fitted(run, ran):
    run("one", heads=("logreg",))
    ran.clear()
    both = run("two", heads=("logreg", "svm-linear"))
    assert {task.head for task in ran} == {"svm-linear"}
    assert len(ran) == 5 + 1  # folds and the fit
    assert _from_cache(both.record) == (
        "1 head from the cache of earlier runs on equal data, with the seconds measured then; 1 fitted. "
        "Compute all again with --fresh."
    )


def test_no_line_without_cached_results(run):
    assert _from_cache(run("one").record) == ""


def test_another_seed_is_another_comparison(run, ran):
    run("one")
    n_tasks = len(ran)
    run("two", seed=1)
    assert len(ran) == 2 * n_tasks


def test_damaged_cache_entries_are_computed_again(run, ran, cache):
    first = run("one")
    for path in (cache / "tuning").iterdir():
        *whole, last = path.read_bytes()
        path.write_bytes(bytes([*whole, last ^ 1]))
    ran.clear()
    second = run("two")
    assert len(ran) == sum(result["n_tasks"] for result in first.record["results"])
    assert comparable(second.record, seconds=False) == comparable(first.record, seconds=False)
    ran.clear()
    run("three")
    assert ran == []  # and mended


def test_a_cache_that_cannot_be_written_only_costs_time(run, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("mine")
    monkeypatch.setenv("FOLIO_CACHE", str(tmp_path / "file"))
    assert run("one").recommended
    assert {result["n_remembered"] for result in run("two").record["results"]} == {0}
    assert (tmp_path / "file").read_text() == "mine"


def test_a_run_that_was_stopped_loses_no_finished_fold(run, ran, monkeypatch):
    def interrupted(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(FitTask, "run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run("one")
    ran.clear()
    done = run("one")
    assert [type(task.task) for task in ran] == [FitTask] * 3
    assert {result["n_remembered"] for result in done.record["results"]} == {5}
    assert "0 heads from the cache" in _from_cache(done.record)
    assert "2 fitted (2 of them partly from the cache)" in _from_cache(done.record)


def test_a_failure_is_not_cached(run, monkeypatch):
    from classify.heads.svm import SVMHead

    def broken(self, *arguments, **options):
        raise RuntimeError("no such luck")

    with monkeypatch.context() as patch:
        patch.setattr(SVMHead, "fit", broken)
        assert run("one").record["results"][1]["status"] == "failed: RuntimeError: no such luck"
    assert run("two").record["results"][1]["status"] == "ok"


@pytest.fixture
def task(make_store):
    def task(**changes):
        samples = load_samples(make_store(counts={"train": 6, "test": 3}))
        fields = {"head": "logreg", "params": {"C": 1.0}, "return_head": True, "val": None, "seed": 0}
        images = {"fit": samples.train_images, "test": samples.test_images, "class_weight": None}
        return FitTask(samples=samples, **{**fields, **images, **changes})

    return task


def test_a_cached_result_without_the_head_is_computed_again(task, tmp_path):
    cache = TaskCache(folder=tmp_path / "memo", device="auto")
    (first,) = cached([task(return_head=False)], cache=cache, jobs=1)
    (again,) = cached([task(return_head=False)], cache=cache, jobs=1)
    assert (first.from_cache, again.from_cache, again.saved) == (False, True, None)
    np.testing.assert_array_equal(first.probabilities, again.probabilities)
    (wanted,) = cached([task()], cache=cache, jobs=1)
    assert not wanted.from_cache
    (now,) = cached([task()], cache=cache, jobs=1)
    assert now.from_cache
    assert now.saved.data == wanted.saved.data
    assert cached([task(return_head=False)], cache=cache, jobs=1)[0].saved is None


@pytest.mark.parametrize(
    "changes",
    [
        {"probabilities": [[0.5, 0.5]]},
        {"probabilities": "many"},
        {"probabilities": None},
        {"fit_seconds": "long"},
        {"labels": 3},
        {"notes": 3},
        {"training": {"epochs": 2, "best_epoch": 1}},
        {"training": {**CURVES, "loss": [0.5]}},
        {"training": "steep"},
    ],
    ids=str,
)
def test_an_invalid_cache_entry_is_computed_again(task, tmp_path, changes):
    cache, one = TaskCache(folder=tmp_path / "memo", device="auto"), task()
    sound = {"probabilities": [[0.5, 0.5]] * 6, "labels": [0, 1], "notes": []}
    sound |= {"fit_seconds": 1.0, "predict_seconds": 1.0}
    for outcome, is_read in ((sound, True), ({**sound, **changes}, False)):
        path = cache.folder / f"{task_key(one, device='auto')}.outcome"
        assert write_cache_entry(path, CacheEntry(about=outcome, parts={"head": b"head"}))
        assert cached([one], cache=cache, jobs=1)[0].from_cache is is_read


@pytest.mark.parametrize("about", [{}, {"training": None}, {"training": CURVES}], ids=str)
def test_training_curves_are_cached(task, tmp_path, about):
    cache, one = TaskCache(folder=tmp_path / "memo", device="auto"), task()
    sound = {"probabilities": [[0.5, 0.5]] * 6, "labels": [0, 1], "notes": []}
    sound |= {"fit_seconds": 1.0, "predict_seconds": 1.0, **about}
    path = cache.folder / f"{task_key(one, device='auto')}.outcome"
    assert write_cache_entry(path, CacheEntry(about=sound, parts={"head": b"head"}))
    (found,) = cached([one], cache=cache, jobs=1)
    assert found.from_cache
    assert found.training == about.get("training")


@pytest.mark.parametrize("name", ["logs/../../outside", "logs//outside"])
def test_cached_logs_are_not_written_outside_their_folder(task, tmp_path, monkeypatch, name):
    monkeypatch.setattr(cache_module, "run_tasks", lambda work, **options: ["run"] * len(work))
    one = task(head="dense", params={}, log_dir=tmp_path / "a" / "b")
    outcome = {"probabilities": [[0.5, 0.5]] * 6, "labels": [0, 1], "notes": []}
    outcome |= {"fit_seconds": 1.0, "predict_seconds": 1.0}
    folder = tmp_path / "memo"
    path = folder / f"{task_key(one, device='auto')}.outcome"
    write_cache_entry(path, CacheEntry(about=outcome, parts={"head": b"head", name: b"x"}))
    assert cached([one], cache=TaskCache(folder=folder, device="auto"), jobs=1) == ["run"]
    assert not (tmp_path / "outside").exists()
    write_cache_entry(path, CacheEntry(about=outcome, parts={"head": b"head", "logs/train/x": b"x"}))
    (found,) = cached([one], cache=TaskCache(folder=folder, device="auto"), jobs=1)
    assert found.from_cache
    assert (tmp_path / "a" / "b" / "train" / "x").read_bytes() == b"x"


def test_a_cached_dense_head_needs_no_tensorflow(make_store, tmp_path):
    store = make_store(counts={"train": 8, "test": 4})
    one, two = tmp_path / "one", tmp_path / "two"
    words = ["compare", str(store), "--heads", "dense,logreg", "--units", "4", "--epochs", "3", "--no-report"]
    first = CliRunner().invoke(cli, [*words, "--out", str(one)], catch_exceptions=False)
    assert first.exit_code == 0, first.output
    code = (
        "import sys; from classify.cli.main import cli\n"
        "cli(sys.argv[1:], prog_name='classify', standalone_mode=False)\n"
        "print('tensorflow' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words, "--out", str(two)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
    )
    said = done.stdout.splitlines()
    assert said[-1] == "False"
    assert any(line.startswith("2 heads from the cache of earlier runs") for line in said)
    assert bytes_of(two) == bytes_of(one)
    assert any(name.startswith("tensorboard/") for name in bytes_of(two))  # the curves too
    records = [json.loads((folder / "results.json").read_text()) for folder in (one, two)]
    assert comparable(records[0]) == comparable(records[1])
    assert records[1]["results"][0]["training"]["epochs"] == 3


@pytest.mark.slow
def test_other_options_of_the_dense_head_are_another_head(run, ran):
    run("one", heads=("dense",), dense=DenseOptions(units=(4,), epochs=2))
    ran.clear()
    run("two", heads=("dense",), dense=DenseOptions(units=(4,), epochs=3))
    assert {task.head for task in ran} == {"dense"}
