"""Who takes part, as workers come, go and come back; a cluster stands in that says what a test has it say."""

import time
from queue import SimpleQueue

import pytest

from featurize import ClusterError
from featurize.base.dask_cluster import DaskWorkers, WorkerInfo, WorkerReply


class Cluster:
    """A scheduler whose workers are set, and say what they are told to."""

    address, is_local = "tcp://scheduler:1", False

    def __init__(self):
        self.there, self.says, self.notes = {}, {}, []

    def workers(self):
        return self.there

    def run(self, function, *arguments, worker):
        return self.says.get(worker, "")

    def note(self, text):
        self.notes.append(text)


def info(address, identity="first", **resources):
    return WorkerInfo(address=address, identity=identity, n_threads=1, resources=resources)


@pytest.fixture
def cluster():
    return Cluster()


def roster_of(cluster, gpu="no"):
    return DaskWorkers(cluster, check=str, gpu=gpu, inbox=SimpleQueue())


def look(roster, cluster, *workers, n_answers=0):
    """Have it look at these workers, and hear as many answers."""
    cluster.there = {worker.address: worker for worker in workers} if workers != (None,) else None
    roster.look_soon()
    roster.look()
    for _ in range(n_answers):
        answer = roster._inbox.get(timeout=10)
        assert isinstance(answer, WorkerReply)
        roster.hear(answer)
    return roster.able()


def test_a_worker_that_comes_back_is_asked_again(cluster):
    roster = roster_of(cluster)
    assert look(roster, cluster, info("a"), info("b"), n_answers=2) == {"a", "b"}
    assert look(roster, cluster, info("a")) == {"a"}
    assert cluster.notes == ["worker b has gone; what it had not finished is done by others"]
    assert look(roster, cluster, info("a"), info("b"), n_answers=1) == {"a", "b"}


def test_another_process_at_the_same_address_is_another_worker(cluster):
    roster = roster_of(cluster)
    look(roster, cluster, info("a"), n_answers=1)
    assert look(roster, cluster, info("a", identity="second")) == set()
    assert look(roster, cluster, info("a", identity="second"), n_answers=1) == {"a"}


def test_a_scheduler_that_does_not_answer_has_not_lost_its_workers(cluster):
    roster = roster_of(cluster)
    look(roster, cluster, info("a"), n_answers=1)
    assert look(roster, cluster, None) == {"a"}
    assert cluster.notes == []


def test_a_worker_that_could_not_be_reached_is_asked_anew(cluster):
    roster = roster_of(cluster)
    cluster.says["a"] = OSError("gone just now")
    assert look(roster, cluster, info("a"), n_answers=1) == set()
    del cluster.says["a"]
    assert look(roster, cluster, info("a"), n_answers=1) == {"a"}


def test_when_all_are_refused_the_first_reason_is_the_error(cluster):
    roster = roster_of(cluster)
    cluster.says |= {"a": "is odd", "b": ""}
    assert look(roster, cluster, info("a"), info("b"), n_answers=2) == {"b"}
    roster.give_up_without_workers()
    roster.refuse("b", "has become odd")
    assert roster.able() == set()
    with pytest.raises(ClusterError, match=r"^worker a is odd\. No other worker may take part$"):
        roster.give_up_without_workers()


def test_nobody_is_waited_for_in_vain(cluster, monkeypatch):
    monkeypatch.setattr("featurize.base.dask_cluster.FIRST_WORKER", 0.05)
    roster = roster_of(cluster)
    look(roster, cluster)
    time.sleep(0.1)
    with pytest.raises(ClusterError, match=r"^no worker at tcp://scheduler:1 for "):
        roster.give_up_without_workers()


@pytest.mark.parametrize(("gpu", "expected"), [("no", {"a", "b"}), ("any", {"b"}), ("yes", {"b"})])
def test_where_a_gpu_is_wanted_only_who_offers_one_is_able(cluster, gpu, expected):
    roster = roster_of(cluster, gpu)
    assert look(roster, cluster, info("a"), info("b", GPU=1.0), n_answers=2) == expected
    assert look(roster, cluster, info("a")) == ({"a"} if gpu != "yes" else set())
