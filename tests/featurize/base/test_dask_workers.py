"""Which workers are usable as they come and go, with a stand-in for the cluster."""

import time
from queue import SimpleQueue

import pytest

from featurize import ClusterError
from featurize.base.dask_cluster import DaskWorkers, WorkerInfo, WorkerReply


class Cluster:
    """A stand-in with given workers and given replies."""

    address, is_local = "tcp://scheduler:1", False

    def __init__(self):
        self.present, self.replies, self.notes = {}, {}, []

    def workers(self):
        return self.present

    def run(self, function, *arguments, worker):
        return self.replies.get(worker, "")

    def note(self, text):
        self.notes.append(text)


def info(address, identity="first", **resources):
    return WorkerInfo(address=address, identity=identity, n_threads=1, resources=resources)


@pytest.fixture
def cluster():
    return Cluster()


def workers_of(cluster, gpu="no"):
    return DaskWorkers(cluster, check=str, gpu=gpu, inbox=SimpleQueue())


def update(workers, cluster, *present, n_replies=0):
    """Set the present workers, update, handle this many replies and return the usable workers."""
    cluster.present = {worker.address: worker for worker in present} if present != (None,) else None
    workers.update_soon()
    workers.update()
    for _ in range(n_replies):
        reply = workers._inbox.get(timeout=10)
        assert isinstance(reply, WorkerReply)
        workers.handle_reply(reply)
    return workers.usable()


def test_a_worker_that_comes_back_is_checked_again(cluster):
    workers = workers_of(cluster)
    assert update(workers, cluster, info("a"), info("b"), n_replies=2) == {"a", "b"}
    assert update(workers, cluster, info("a")) == {"a"}
    assert cluster.notes == ["worker b is gone; other workers take over its unfinished work"]
    assert update(workers, cluster, info("a"), info("b"), n_replies=1) == {"a", "b"}


def test_another_process_at_the_same_address_is_another_worker(cluster):
    workers = workers_of(cluster)
    update(workers, cluster, info("a"), n_replies=1)
    assert update(workers, cluster, info("a", identity="second")) == set()
    assert update(workers, cluster, info("a", identity="second"), n_replies=1) == {"a"}


def test_workers_are_kept_while_the_scheduler_does_not_answer(cluster):
    workers = workers_of(cluster)
    update(workers, cluster, info("a"), n_replies=1)
    assert update(workers, cluster, None) == {"a"}
    assert cluster.notes == []


def test_an_unreachable_worker_is_checked_again(cluster):
    workers = workers_of(cluster)
    cluster.replies["a"] = OSError("lost just now")
    assert update(workers, cluster, info("a"), n_replies=1) == set()
    del cluster.replies["a"]
    assert update(workers, cluster, info("a"), n_replies=1) == {"a"}


def test_when_all_are_refused_the_first_reason_is_the_error(cluster):
    workers = workers_of(cluster)
    cluster.replies |= {"a": "is odd", "b": ""}
    assert update(workers, cluster, info("a"), info("b"), n_replies=2) == {"b"}
    workers.raise_if_none()
    workers.refuse("b", "has become odd")
    assert workers.usable() == set()
    with pytest.raises(ClusterError, match=r"^worker a is odd\. No other worker is usable$"):
        workers.raise_if_none()


def test_waiting_for_workers_ends(cluster, monkeypatch):
    monkeypatch.setattr("featurize.base.dask_cluster.FIRST_WORKER", 0.05)
    workers = workers_of(cluster)
    update(workers, cluster)
    time.sleep(0.1)
    with pytest.raises(ClusterError, match=r"^no usable worker at tcp://scheduler:1 for "):
        workers.raise_if_none()


@pytest.mark.parametrize(("gpu", "expected"), [("no", {"a", "b"}), ("any", {"b"}), ("yes", {"b"})])
def test_only_workers_that_offer_a_required_gpu_are_usable(cluster, gpu, expected):
    workers = workers_of(cluster, gpu)
    assert update(workers, cluster, info("a"), info("b", GPU=1.0), n_replies=2) == expected
    assert update(workers, cluster, info("a")) == ({"a"} if gpu != "yes" else set())
