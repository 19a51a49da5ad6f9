"""Values of --dask, and a cluster started on this machine."""

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
def test_an_address_means_a_running_scheduler(address):
    assert check_dask(address) is None


@pytest.mark.parametrize(("dask", "n_workers"), [("local:3", 3), ("local", available_cores())])
def test_the_number_of_local_workers(dask, n_workers):
    assert check_dask(dask) == n_workers


@pytest.mark.parametrize("dask", ["", "local:", "local:two", "somewhere", "10.0.0.5", "local 2", "local:-1"])
def test_other_values_are_refused(dask):
    with pytest.raises(ConfigError, match="expected the address of a scheduler, such as tcp://"):
        check_dask(dask)


def test_without_dask_the_error_names_the_install_command(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'not installed\. Install it with: pip install "\.\[dask\]"'):
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


def test_local_workers_share_the_cores_and_listen_on_localhost_only():
    before = listening()  # other tests' servers
    with connect_cluster("local:2", note=pytest.fail) as cluster:
        cluster.client.wait_for_workers(2, timeout=60)
        workers = cluster.workers()
        assert len(workers) == 2
        assert {info.n_threads for info in workers.values()} == {max(1, available_cores() // 2)}
        added = listening() - before
        assert len(added) >= 3
        assert {address for address, _ in added} == {"127.0.0.1"}
