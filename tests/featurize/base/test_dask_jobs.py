"""Jobs on Dask workers: one result each, errors that name the job, cancellation."""

import math
import operator
import os
import shlex
import subprocess
import time
from collections import deque
from functools import partial

import pytest

from featurize import ClusterError
from featurize.base.dask_cluster import connect_cluster
from featurize.base.dask_jobs import JobSpec, run_jobs


class Jobs:
    """A source of a fixed list of jobs."""

    def __init__(self, jobs):
        self.left = deque(jobs)

    def take(self, n_workers):
        return self.left.popleft() if self.left else None


@pytest.fixture(scope="module")
def cluster():
    notes = []
    with connect_cluster("local:2", note=notes.append) as connected:
        connected.client.wait_for_workers(2, timeout=60)
        yield connected


anyone = partial(str, "")  # a check that every worker passes


def test_every_job_returns_one_result_from_another_process(cluster):
    results = list(run_jobs(cluster, Jobs(range(40)), JobSpec(check=anyone, function=math.factorial)))
    assert sorted(result.job for result in results) == list(range(40))
    assert all(result.value == math.prod(range(1, result.job + 1)) for result in results)
    pids = run_jobs(
        cluster, Jobs(range(8)), JobSpec(check=anyone, function=os.getpid, arguments=lambda *_: ())
    )
    assert os.getpid() not in {result.value for result in pids}
    assert {result.worker for result in results} <= cluster.workers().keys()


def test_a_worker_does_one_job_at_a_time(cluster):
    def arguments(job, workers):
        return (0.3,)

    start = time.monotonic()
    done = list(
        run_jobs(cluster, Jobs(range(6)), JobSpec(check=anyone, function=time.sleep, arguments=arguments))
    )
    assert time.monotonic() - start >= 3 * 0.3  # six on two workers, whatever their threads
    assert len(done) == 6


def test_a_job_that_fails_on_every_worker_is_named(cluster):
    spec = JobSpec(
        check=anyone,
        function=operator.truediv,
        arguments=lambda job, _: (1, job),
        describe=lambda job: f"one by {job}",
    )
    message = r"^one by 0 failed on each of 2 workers: ZeroDivisionError: division by zero\. Finished work"
    with pytest.raises(ClusterError, match=message):
        list(run_jobs(cluster, Jobs([0]), spec))


@pytest.mark.skipif(os.name == "nt", reason="the check is a line of sh")
def test_a_failed_job_waits_for_a_worker_that_is_still_being_checked(cluster, tmp_path):
    first_is_quick = f"mkdir {shlex.quote(str(tmp_path / 'first'))} 2>&- || sleep 2"
    spec = JobSpec(
        check=partial(subprocess.getoutput, first_is_quick),
        function=operator.truediv,
        arguments=lambda job, _: (1, job),
    )
    done = run_jobs(cluster, Jobs([0, *range(1, 6)]), spec)
    with pytest.raises(ClusterError, match=r"^a task failed on each of 2 workers: ZeroDivisionError"):
        assert [next(done).value for _ in range(6)] == [1 / job for job in range(1, 6)]  # and then it raises


def test_a_refused_worker_is_named(cluster):
    spec = JobSpec(check=partial(str, "is unsuitable"), function=abs)
    with pytest.raises(ClusterError, match=r"^worker tcp://127\.0\.0\.1:\d+ is unsuitable\. No other worker"):
        list(run_jobs(cluster, Jobs([1]), spec))


def test_an_interrupt_cancels_jobs_that_have_not_started(cluster, tmp_path):
    def slow(job, workers):
        return (f"touch {tmp_path}/{job}; sleep 3",)

    def interrupt():
        if len(list(tmp_path.iterdir())) == 2:  # the other two jobs wait at the workers
            raise KeyboardInterrupt

    spec = JobSpec(check=anyone, function=os.system, arguments=slow, on_poll=interrupt)
    with pytest.raises(KeyboardInterrupt):
        list(run_jobs(cluster, Jobs(range(4)), spec))
    time.sleep(3.0)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.slow
def test_a_job_that_kills_every_worker_is_named():
    notes = []
    with connect_cluster("local:1", note=notes.append) as cluster:
        spec = JobSpec(check=anyone, function=os._exit, describe=lambda job: "the deadly one")
        with pytest.raises(ClusterError, match=r"^the deadly one was lost [0-9] times, with its worker"):
            list(run_jobs(cluster, Jobs([1]), spec))
    assert any("is gone; other workers take over its unfinished work" in note for note in notes)
