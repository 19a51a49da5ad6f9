"""Tasks over threads and processes: failures kept apart, never too many at once, the same for all jobs."""

import os
import signal
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from classify.data.samples import load_samples
from classify.model_selection.grid_search import SearchSettings, run_candidates
from classify.model_selection.parallel import Failure, run_tasks
from classify.model_selection.predictions import entry_predictions
from classify.model_selection.protocol import make_protocol

DENSE = {"units": (16,), "epochs": 12, "patience": 5}
SETTINGS = SearchSettings(seed=0, class_weight=None, dense_options=DENSE, log_folder=None)


class AnyTask:
    n_points = 1


@dataclass(frozen=True)
class Fake(AnyTask):
    value: int
    head: str = "logreg"

    def run(self):
        if self.value < 0:
            raise ValueError("negative\nfor a reason")
        return self.value * 2


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_failing_task_does_not_stop_the_others(jobs):
    told = []
    outcomes = run_tasks([Fake(1), Fake(-1), Fake(3), Fake(4, "dense")], jobs=jobs, on_progress=told.append)
    assert outcomes == [2, Failure(reason="ValueError: negative for a reason"), 6, 8]
    assert told == [1, 1, 1, 1]


def test_an_interrupt_is_not_a_failure():
    class Interrupted(Fake):
        def run(self):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_tasks([Interrupted(1)], jobs=1)


@dataclass(frozen=True)
class Where(AnyTask):
    head: str

    def run(self):
        return os.getpid(), threading.current_thread() is threading.main_thread()


def test_networks_run_in_threads_here_the_baseline_too_and_others_in_processes():
    heads = ("dense", "logreg", "svm-rbf", "baseline", "dense")
    places = run_tasks([Where(head) for head in heads], jobs=2)
    assert [pid == os.getpid() for pid, _ in places] == [True, False, False, True, True]
    assert [alone for _, alone in places] == [False, True, True, True, False]


@dataclass(frozen=True)
class Timed:
    folder: Path
    n_points: int
    head: str

    def run(self):
        if self.head == "dense":  # keeps one of two jobs busy, so that the others come one by one
            while len(list(self.folder.iterdir())) < 4:
                time.sleep(0.02)
        else:
            (self.folder / f"{self.n_points} {self.head}").touch()
        return time.monotonic()


def test_the_longest_come_first(tmp_path):
    kinds = [(1, "dense"), (0, "logreg"), (3, "logreg"), (0, "svm-rbf"), (9, "logreg")]
    ended = run_tasks([Timed(tmp_path, *kind) for kind in kinds], jobs=2)
    assert np.argsort(ended[1:]).tolist() == [3, 1, 2, 0]


def test_one_job_does_all_of_it_here():
    assert set(run_tasks([Where("dense"), Where("logreg")], jobs=1)) == {(os.getpid(), True)}


@dataclass(frozen=True)
class Counts(AnyTask):
    """Brings the number of its like that are under way."""

    folder: Path
    name: str
    head: str

    def run(self):
        mine = self.folder / self.name
        mine.touch()
        time.sleep(0.1)
        others = len(list(self.folder.iterdir()))
        mine.unlink()
        return others


@pytest.mark.parametrize("jobs", [2, 3])
def test_at_most_jobs_tasks_run_at_once(tmp_path, jobs):
    heads = ["dense", "logreg", "svm-rbf"] * 5
    tasks = [Counts(tmp_path, str(i), head) for i, head in enumerate(heads)]
    assert 1 < max(run_tasks(tasks, jobs=jobs)) <= jobs


@dataclass(frozen=True)
class Dies(AnyTask):
    head: str = "logreg"

    def run(self):
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL")
def test_a_dead_worker_fails_only_the_running_tasks():
    outcomes = run_tasks([Dies(), *(Fake(n) for n in range(6))], jobs=2)
    assert "a worker process died" in outcomes[0].reason
    assert "try --jobs 1" in outcomes[0].reason
    assert sum(isinstance(outcome, Failure) for outcome in outcomes) <= 2
    assert outcomes[-1] == 10


def test_an_error_before_tensorflow_is_raised():
    def no_such_device():
        raise LookupError("gpu:7")

    for jobs in (1, 2):
        with pytest.raises(LookupError, match="gpu:7"):
            run_tasks([Fake(1, "dense"), Fake(2), Fake(3)], jobs=jobs, before_tensorflow=no_such_device)
    assert run_tasks([Fake(2), Fake(3)], jobs=2, before_tensorflow=no_such_device) == [4, 6]


@dataclass(frozen=True)
class Endless(AnyTask):
    """A fit that begins, and does not end."""

    begun: Path
    head: str = "dense"

    def run(self):
        from classify.heads.dense import DenseHead

        X = np.random.default_rng(0).random((60, 4))
        self.begun.touch()
        DenseHead(units=(4,), epochs=10**9, patience=10**9, learning_rate=1e-9).fit(X, np.arange(60) % 2)


@dataclass(frozen=True)
class Awaits(AnyTask):
    begun: Path
    head: str = "logreg"

    def run(self):
        while not self.begun.exists():
            time.sleep(0.02)


def test_an_interrupt_stops_fits_in_threads(tmp_path):
    def stop(_):
        raise KeyboardInterrupt

    begun = tmp_path / "begun"
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        run_tasks([Endless(begun), Awaits(begun), Fake(1)], jobs=2, on_progress=stop)
    assert threading.active_count() <= before
    assert run_tasks([Fake(1, "dense"), Fake(2)], jobs=2) == [2, 4]


@dataclass(frozen=True)
class Sums(AnyTask):
    large: np.ndarray
    small: np.ndarray
    head: str = "logreg"

    def run(self):
        return float(self.large.sum() + self.small.sum()), type(self.large), type(self.small)


def test_large_arrays_are_shared_as_one_file_that_is_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    large, small = np.arange(200_000.0), np.ones(10)
    seen = []
    outcomes = run_tasks(
        [Sums(large, small) for _ in range(4)],
        jobs=2,
        on_progress=lambda _: seen.append([path.name for path in tmp_path.glob("folio-*/*")]),
    )
    assert outcomes == [(200_000 * 199_999 / 2 + 10, np.memmap, np.ndarray)] * 4
    assert seen[0] == seen[-1] == ["1.npy"]
    assert list(tmp_path.iterdir()) == []


def test_results_do_not_depend_on_the_number_of_jobs(make_store, long):
    samples = load_samples(make_store(distance=1.0, n_features=40))
    protocol = make_protocol(samples, seed=0)
    heads = ["dense", "logreg", "svm-linear"]
    found = [
        run_candidates([samples], heads, protocol, settings=SETTINGS, jobs=jobs)
        for jobs in ((1, 2, 3) if long else (1, 2))
    ]
    for alone, *apart in zip(*found, strict=True):
        assert not alone.reason
        for other in apart:
            assert alone.searches[0].params == other.searches[0].params
            assert alone.searches[0].score == other.searches[0].score
            np.testing.assert_array_equal(
                entry_predictions(alone, protocol).probabilities,
                entry_predictions(other, protocol).probabilities,
            )
