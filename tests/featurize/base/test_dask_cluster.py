"""Which cluster is meant, and a cluster of this machine's own."""

import importlib.util

import psutil
import pytest

from featurize import ConfigError
from featurize.base.cores import available_cores
from featurize.base.dask_cluster import check_dask, connect_cluster


@pytest.mark.parametrize(
    "address",
    ["tcp://10.0.0.5:8786", "10.0.0.5:8786", "node-7.cluster:80", "tls://a.b:1", "tcp://[::1]:8786"],
)
def test_an_address_is_a_scheduler_that_runs_already(address):
    assert check_dask(address) is None


@pytest.mark.parametrize(("dask", "n_workers"), [("local:3", 3), ("local", available_cores())])
def test_local_workers_are_counted(dask, n_workers):
    assert check_dask(dask) == n_workers


@pytest.mark.parametrize("dask", ["", "local:", "local:two", "somewhere", "10.0.0.5", "local 2", "local:-1"])
def test_anything_else_is_refused(dask):
    with pytest.raises(ConfigError, match="expected a scheduler's address, such as tcp://"):
        check_dask(dask)


def test_without_dask_the_error_says_what_to_type(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'Dask is not installed\. Type: pip install "\.\[dask\]"'):
        check_dask("local")


def listening():
    """Return the addresses and ports that this process and its children listen to."""
    here = psutil.Process()
    return {
        tuple(connection.laddr)
        for process in (here, *here.children(recursive=True))
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    }


def test_local_workers_share_the_cores_and_listen_to_this_machine_only():
    before = listening()  # other tests' servers
    with connect_cluster("local:2", note=pytest.fail) as cluster:
        cluster.client.wait_for_workers(2, timeout=60)
        workers = cluster.workers()
        assert len(workers) == 2
        assert {info.n_threads for info in workers.values()} == {max(1, available_cores() // 2)}
        added = listening() - before
        assert len(added) >= 3
        assert {address for address, _ in added} == {"127.0.0.1"}
