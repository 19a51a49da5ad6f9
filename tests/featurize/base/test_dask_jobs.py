"""Jobs on Dask workers: each brought back once, what fails is named, what is not wanted is called back."""

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
    """A source of jobs that are known beforehand."""

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


def test_every_job_is_brought_back_once_by_workers_in_other_processes(cluster):
    brought = list(run_jobs(cluster, Jobs(range(40)), JobSpec(check=anyone, do=math.factorial)))
    assert sorted(one.job for one in brought) == list(range(40))
    assert all(one.value == math.prod(range(1, one.job + 1)) for one in brought)
    pids = run_jobs(cluster, Jobs(range(8)), JobSpec(check=anyone, do=os.getpid, arguments=lambda *_: ()))
    assert os.getpid() not in {one.value for one in pids}
    assert {one.worker for one in brought} <= cluster.workers().keys()


def test_a_worker_does_one_job_at_a_time(cluster):
    def arguments(job, workers):
        return (0.3,)

    start = time.monotonic()
    done = list(run_jobs(cluster, Jobs(range(6)), JobSpec(check=anyone, do=time.sleep, arguments=arguments)))
    assert time.monotonic() - start >= 3 * 0.3  # six on two workers, whatever their threads
    assert len(done) == 6


def test_what_fails_on_every_worker_is_named(cluster):
    spreading = JobSpec(
        check=anyone,
        do=operator.truediv,
        arguments=lambda job, _: (1, job),
        what=lambda job: f"one by {job}",
    )
    message = r"^one by 0 failed on each of 2 workers: ZeroDivisionError: division by zero\. What is finished"
    with pytest.raises(ClusterError, match=message):
        list(run_jobs(cluster, Jobs([0]), spreading))


@pytest.mark.skipif(os.name == "nt", reason="the check is a line of sh")
def test_a_job_that_failed_waits_for_a_worker_that_is_still_being_looked_at(cluster, tmp_path):
    first_is_quick = f"mkdir {shlex.quote(str(tmp_path / 'first'))} 2>&- || sleep 2"
    spreading = JobSpec(
        check=partial(subprocess.getoutput, first_is_quick),
        do=operator.truediv,
        arguments=lambda job, _: (1, job),
    )
    done = run_jobs(cluster, Jobs([0, *range(1, 6)]), spreading)
    with pytest.raises(ClusterError, match=r"^a task failed on each of 2 workers: ZeroDivisionError"):
        assert [next(done).value for _ in range(6)] == [1 / job for job in range(1, 6)]  # and then it raises


def test_a_worker_that_may_not_take_part_is_named(cluster):
    spreading = JobSpec(check=partial(str, "has other ideas"), do=abs)
    with pytest.raises(
        ClusterError, match=r"^worker tcp://127\.0\.0\.1:\d+ has other ideas\. No other worker"
    ):
        list(run_jobs(cluster, Jobs([1]), spreading))


def test_interrupted_it_calls_back_what_no_worker_has_begun(cluster, tmp_path):
    def slow(job, workers):
        return (f"touch {tmp_path}/{job}; sleep 3",)

    def interrupt():
        if len(list(tmp_path.iterdir())) == 2:  # the other two jobs wait at the workers
            raise KeyboardInterrupt

    spreading = JobSpec(check=anyone, do=os.system, arguments=slow, beat=interrupt)
    with pytest.raises(KeyboardInterrupt):
        list(run_jobs(cluster, Jobs(range(4)), spreading))
    time.sleep(3.0)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.slow
def test_a_job_that_no_worker_survives_is_named():
    notes = []
    with connect_cluster("local:1", note=notes.append) as cluster:
        spreading = JobSpec(check=anyone, do=os._exit, what=lambda job: "the deadly one")
        with pytest.raises(ClusterError, match=r"^the deadly one was lost [0-9] times, with its worker"):
            list(run_jobs(cluster, Jobs([1]), spreading))
    assert any("has gone; what it had not finished is done by others" in note for note in notes)
