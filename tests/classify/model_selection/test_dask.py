"""A comparison on Dask workers: the record of one without them, arrays sent once, nothing left running."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from classify.jobs.compare import compare
from classify.jobs.options import DenseOptions
from classify.model_selection import dask
from classify.model_selection.cache import versions_here

HEADS = ("logreg", "svm-linear", "knn")
SECONDS = ("seconds", "created", "out", "command", "predict_ms_per_image")


def without_times(value):
    """Return a record without what differs from run to run."""
    if isinstance(value, dict):
        kept = {key: each for key, each in value.items() if not any(word in key for word in SECONDS)}
        return {key: without_times(each) for key, each in kept.items()}
    return [without_times(each) for each in value] if isinstance(value, list) else value


def record(run):
    return without_times(json.loads((run.folder / "results.json").read_text()))


@pytest.fixture
def store(make_store):
    return make_store(n_features=40)


def test_dask_gives_the_record_of_a_local_run_even_if_a_worker_dies(store, machines, tmp_path, monkeypatch):
    here = compare([store], heads=HEADS, out=tmp_path / "here", jobs=1, fresh=True)
    workers = [machines.worker() for _ in range(2)]
    machines.wait_for_workers(2)
    told = []

    def one_dies(done, total):
        told.append((done, total))
        if done == 3:
            workers[0].kill()

    there = compare(
        [store], heads=HEADS, out=tmp_path / "there", jobs=1, fresh=True,
        dask=machines.address, on_progress=one_dies,
    )  # fmt: skip
    assert record(here) == record(there)
    assert [done for done, _ in told] == list(range(1, told[-1][1] + 1))
    files = [(run.folder / "predictions.csv").read_bytes() for run in (here, there)]
    assert files[0] == files[1]


def test_results_of_workers_are_cached_here(store, machines, tmp_path):
    machines.worker()
    compare([store], heads=("logreg",), out=tmp_path / "there", dask=machines.address)
    asked = []
    again = compare(
        [store],
        heads=("logreg",),
        out=tmp_path / "again",
        jobs=1,
        on_progress=lambda *told: asked.append(told),
    )
    assert asked[0][0] > 1  # told at once: nothing was to be done
    assert again.recommended is not None


def test_large_arrays_are_sent_once(store, machines, tmp_path, monkeypatch):
    machines.worker()
    sent, tasks = [], []
    original = dask._arguments

    def arguments(task, jobs, workers):
        found = original(task, jobs, workers)
        tasks.append(len(pickle.dumps(found[:-1])))
        sent.extend(jobs.scattered)
        return found

    monkeypatch.setattr(dask, "_arguments", arguments)
    compare([store], heads=("logreg", "svm-linear"), out=tmp_path / "run", fresh=True, dask=machines.address)
    assert len(tasks) > 10
    assert len(set(sent)) == 1  # the samples of the one store
    assert max(tasks) < 50_000


def test_a_task_without_its_arrays_and_with_them_is_the_same_task(monkeypatch):
    class Client:
        def scatter(self, value, **options):
            return f"what holds {id(value)}"

    class Cluster:
        client = Client()

    from classify.model_selection.tasks import ScoreTask

    class Samples:
        pass

    samples, large = Samples(), np.arange(dask._LARGE, dtype=np.int64)
    task = ScoreTask(
        samples=samples, head="logreg", points=({},), fit=large, score=np.arange(3), class_weight=None, seed=0
    )
    jobs = dask.DaskJobs(cluster=Cluster())
    bare, _, _, _, names, *held = dask._arguments(task, jobs, ["w"])
    assert (bare.samples, bare.fit) == (None, None)
    assert names == ("samples", "fit")
    assert held == [f"what holds {id(value)}" for value in (samples, large)]
    del task, bare, large
    assert len(jobs.scattered) == 1  # workers release what the client no longer uses


def test_a_worker_with_other_versions_is_named():
    assert dask.check_worker(versions_here()) == ""
    others = {**versions_here(), "numpy": "1.0"}
    assert dask.check_worker(others) == (
        f"has numpy {np.__version__} (this run: 1.0). Install the same versions there as here"
    )


@pytest.mark.slow
def test_networks_and_their_logs_are_the_same_on_local_workers(store, tmp_path, long):
    """With --long on two workers, each of which imports TensorFlow."""
    options = {"heads": ("dense", "logreg"), "dense": DenseOptions(units=(8,), epochs=5), "fresh": True}
    here = compare([store], out=tmp_path / "runs" / "here", jobs=1, **options)
    workers = "local:2" if long else "local:1"
    there = compare([store], out=tmp_path / "runs" / "there", jobs=1, dask=workers, **options)
    assert record(here) == record(there)
    logs = [sorted(p.parent.name for p in run.tensorboard.rglob("events*")) for run in (here, there)]
    assert logs[0] == logs[1] != []


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
@pytest.mark.parametrize("head", ["svm-rbf", pytest.param("dense", marks=pytest.mark.long)])
def test_ctrl_c_leaves_nothing_running(make_store, tmp_path, head):
    store = make_store(counts={"train": 500, "test": 20}, n_features=600, distance=1.0)
    code = "from classify.cli.main import main; main()"
    words = ["compare", str(store), "--heads", head, "--epochs", "3000", "--patience", "3000"]
    library = "_tensorflow" if head == "dense" else "_libsvm"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words, "--dask", "local:2", "--fresh", "--out", str(tmp_path / "run")],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )

    def members():
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == process.pid and fields[0] != "Z":
                found.append(int(stat.parent.name))
        return found

    deadline = time.monotonic() + 90
    while not any(library in maps(pid) for pid in members() if pid != process.pid):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    time.sleep(3 if head == "dense" else 0.3)  # now heads are being fitted
    assert len(members()) >= 3
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.startswith("classify: stopped.")
    assert "Traceback" not in err
    deadline = time.monotonic() + 15
    while members():
        assert time.monotonic() < deadline, members()
        time.sleep(0.1)
    assert not (tmp_path / "run").exists()


def maps(pid):
    try:
        return Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return ""
