"""A Dask cluster: one that is there, or one of this machine alone.

With `roster` and `spreading` this is all we know of Dask.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import re
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from featurize.decode.cores import available_cores
from featurize.errors import ClusterError, ConfigError

if TYPE_CHECKING:
    from distributed import Client

CONNECT_SECONDS = 20.0  # until a scheduler that does not answer is given up
PATIENCE = 300.0  # seconds that a run waits for a scheduler, or for any worker, to come back
INSTALL = 'pip install ".[dask]"'
_LOCAL = re.compile(r"local(?::([0-9]+))?")
_GOES_ON = "What is finished is kept: the same command goes on from there"


@dataclass(frozen=True, kw_only=True)
class WorkerInfo:
    """One worker process, as the scheduler knows it."""

    address: str
    identity: str  # another one for every process, whatever its address
    n_threads: int
    resources: dict[str, float]


def check_dask(dask: str) -> int | None:
    """Check what ``--dask`` says, before anything else is done.

    Parameters
    ----------
    dask : str
        A scheduler's address, or "local" or "local:N".

    Returns
    -------
    int or None
        How many workers to start here; None for a scheduler that runs already.

    Raises
    ------
    ConfigError
        If it is neither, or Dask is not installed.
    """
    if importlib.util.find_spec("distributed") is None:
        raise ConfigError(f"--dask {dask}: Dask is not installed. Type: {INSTALL}")
    local = _LOCAL.fullmatch(dask)
    if local is not None:
        n_workers = available_cores() if local[1] is None else int(local[1])
        if n_workers < 1:
            raise ConfigError(f"--dask {dask}: expected 1 worker or more, as in local:2")
        return n_workers
    if not re.fullmatch(r"(?:[a-z]+://)?[^\s/:]+(?::[^\s/:]+)*:[0-9]+|[a-z]+://\S+", dask):
        raise ConfigError(
            f"--dask {dask}: expected a scheduler's address, such as tcp://10.0.0.5:8786, or local:N"
        )
    return None


@contextlib.contextmanager
def connect_cluster(dask: str, *, note: Callable[[str], None]) -> Iterator[Cluster]:
    """Give access to a cluster; one that was started for this ends with it.

    Parameters
    ----------
    dask : str
        As in `check_dask`.
    note : callable
        Called with a line for what the user should know: workers that were refused, or have gone.

    Raises
    ------
    ConfigError
        As `check_dask`.
    ClusterError
        If no scheduler answers there.
    """
    n_workers = check_dask(dask)
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what matters is said by notes and errors
    import distributed  # configures its loggers

    for name in ("distributed", "distributed.client", "distributed.scheduler", "distributed.worker"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with contextlib.ExitStack() as stack:
        address = dask
        if n_workers is not None:
            local = distributed.LocalCluster(
                n_workers=n_workers,
                # The cores that each may take: the workers share them, or all would fight for all.
                threads_per_worker=max(1, available_cores() // n_workers),
                processes=True,
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",  # no dashboard, but Dask serves its health by HTTP
                worker_dashboard_address="127.0.0.1:0",
                scheduler_kwargs={"dashboard": False},
                memory_limit=None,  # as without Dask: a worker near a limit would be halted, or killed
                silence_logs=logging.CRITICAL,
            )
            stack.callback(_quietly, local.close, timeout=30)
            address = local.scheduler_address
        cluster = Cluster(address, is_local=n_workers is not None, note=note)
        stack.callback(cluster.close)
        yield cluster


class Cluster:
    """A connection to a scheduler, made again when it is lost.

    Parameters
    ----------
    address : str
        Of the scheduler.
    is_local : bool
        Whether its workers are children of this process.
    note : callable
        Called with a line for what the user should know.

    Raises
    ------
    ClusterError
        If no scheduler answers there.
    """

    def __init__(self, address: str, *, is_local: bool, note: Callable[[str], None]) -> None:
        self.address, self.is_local = address, is_local
        self._note, self._noted = note, set[str]()
        self._lost_at: float | None = None
        self.client: Client = self._connected(CONNECT_SECONDS)

    def _connected(self, seconds: float) -> Client:
        import distributed

        try:
            with warnings.catch_warnings():
                # Other packages of a worker are compared by what matters to features and heads.
                warnings.simplefilter("ignore", distributed.versions.VersionMismatchWarning)
                return distributed.Client(self.address, timeout=seconds, set_as_default=False)
        except (OSError, TimeoutError, ValueError) as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise ClusterError(
                f"--dask {self.address}: no scheduler answers there ({reason}). Start one with: dask "
                "scheduler, and workers with: dask worker ADDRESS; or type --dask local"
            ) from error

    def note(self, text: str) -> None:
        """Say something to the user, once."""
        if text not in self._noted:
            self._noted.add(text)
            self._note(text)

    def is_connected(self) -> bool:
        """Tell whether the scheduler is there; try once more where the connection has been given up.

        Raises
        ------
        ClusterError
            If it has been away for too long.
        """
        if self.client.status == "running":
            self._lost_at = None
            return True
        now = time.monotonic()
        if self._lost_at is None:
            self._lost_at = now
            self.note(f"the connection to the scheduler at {self.address} is lost; waiting for it")
        if now - self._lost_at > PATIENCE:
            raise ClusterError(
                f"--dask {self.address}: the scheduler has not answered for {PATIENCE:g} seconds. {_GOES_ON}"
            )
        if self.client.status == "closed":  # it has tried for CONNECT_SECONDS
            with contextlib.suppress(ClusterError):
                self.client = self._connected(5.0)
        return False

    def workers(self) -> dict[str, WorkerInfo] | None:
        """Return the workers that the scheduler has now, by address; None where it does not answer."""
        try:
            found = self.client.scheduler_info(n_workers=-1)["workers"]
        except (OSError, TimeoutError, RuntimeError):
            return None
        return {
            address: WorkerInfo(
                address=address,
                # Its id may be its address; its folder is its own.
                identity=f"{info['id']} {info.get('local_directory', '')}",
                n_threads=int(info["nthreads"]),
                resources=dict(info.get("resources") or {}),
            )
            for address, info in found.items()
        }

    def run(self, function: Callable[..., Any], *arguments: Any, worker: str) -> Any:
        """Run a function on one worker beside its tasks; return what it brings, an exception included."""
        try:
            answers = self.client.run(function, *arguments, workers=[worker], on_error="return")
        except Exception as error:
            return error
        return answers.get(worker, OSError("no answer"))

    def close(self) -> None:
        """End the connection; what this client has asked for and is not done is dropped."""
        _quietly(self.client.close, timeout=10)


def _quietly(close: Callable[..., Any], *, timeout: float) -> None:
    with contextlib.suppress(Exception):  # a cluster that is gone already is closed
        close(timeout=timeout)
