"""Connection to a Dask cluster, running or started on this machine, and the selection of its workers.

This module and `featurize.base.dask_jobs` contain everything that Folio uses of Dask.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
import re
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from featurize.base.cores import available_cores
from featurize.errors import ClusterError, ConfigError

if TYPE_CHECKING:
    from distributed import Client


CONNECT_SECONDS = 20.0  # timeout for the first connection to a scheduler
RECONNECT_SECONDS = 300.0  # time to wait for a scheduler to come back
FIRST_WORKER = 60.0  # seconds to wait for the first worker to appear
NO_WORKER = 300.0  # seconds to wait for a reply from a worker, or for a new worker when all are gone
POLL = 1.0  # seconds between two requests for the list of workers
SLOT = "folio"  # Dask resource that every usable worker gets one of, so that it runs one job at a time
GPU = "GPU"  # Dask resource of workers started with `dask worker --resources "GPU=1"`
INSTALL = 'pip install ".[dask]"'
RESUME = "Finished work is kept: run the same command again to continue"
_LOCAL = re.compile(r"local(?::([0-9]+))?")


@dataclass(frozen=True, kw_only=True)
class WorkerInfo:
    """One worker process, as listed by the scheduler."""

    address: str
    identity: str  # unique per process, also if a new process has the same address
    n_threads: int
    resources: dict[str, float]


def check_dask(dask: str) -> int | None:
    """Check the value of ``--dask``.

    Parameters
    ----------
    dask : str
        Address of a scheduler, or "local" or "local:N".

    Returns
    -------
    int or None
        Number of workers to start on this machine; None if `dask` is the address of a running scheduler.

    Raises
    ------
    ConfigError
        If the value is invalid or Dask is not installed.
    """
    if importlib.util.find_spec("distributed") is None:
        raise ConfigError(f"--dask {dask}: Dask is not installed. Install it with: {INSTALL}")
    local = _LOCAL.fullmatch(dask)
    if local is not None:
        n_workers = available_cores() if local[1] is None else int(local[1])
        if n_workers < 1:
            raise ConfigError(f"--dask {dask}: expected 1 worker or more, as in local:2")
        return n_workers
    if not re.fullmatch(r"(?:[a-z]+://)?[^\s/:]+(?::[^\s/:]+)*:[0-9]+|[a-z]+://\S+", dask):
        raise ConfigError(
            f"--dask {dask}: expected the address of a scheduler, such as tcp://10.0.0.5:8786, or local:N"
        )
    return None


@contextlib.contextmanager
def connect_cluster(dask: str, *, note: Callable[[str], None]) -> Iterator[Cluster]:
    """Connect to a cluster; a cluster started on this machine is closed at the end of the ``with`` block.

    Parameters
    ----------
    dask : str
        As in `check_dask`.
    note : callable
        Called with one-line messages for the user, for example about workers that are refused or gone.

    Raises
    ------
    ConfigError
        As `check_dask`.
    ClusterError
        If no scheduler answers at the address.
    """
    n_workers = check_dask(dask)
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # notes and errors inform the user instead
    import distributed  # configures its loggers, so their levels are set again below

    for name in ("distributed", "distributed.client", "distributed.scheduler", "distributed.worker"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with contextlib.ExitStack() as stack:
        address = dask
        if n_workers is not None:
            local = distributed.LocalCluster(
                n_workers=n_workers,
                # Workers share the cores; by default each would use all of them.
                threads_per_worker=max(1, available_cores() // n_workers),
                processes=True,
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",  # there is no dashboard, but Dask serves health checks
                worker_dashboard_address="127.0.0.1:0",
                scheduler_kwargs={"dashboard": False},
                memory_limit=None,  # as without Dask; a limit would pause or kill workers
                silence_logs=logging.CRITICAL,
            )
            stack.callback(_close_quietly, local.close, timeout=30)
            address = local.scheduler_address
        cluster = Cluster(address, is_local=n_workers is not None, note=note)
        stack.callback(cluster.close)
        yield cluster


class Cluster:
    """A connection to a scheduler that is restored when it is lost.

    Parameters
    ----------
    address : str
        Address of the scheduler.
    is_local : bool
        True if the workers are child processes of this process.
    note : callable
        Called with one-line messages for the user.

    Raises
    ------
    ClusterError
        If no scheduler answers at the address.
    """

    def __init__(self, address: str, *, is_local: bool, note: Callable[[str], None]) -> None:
        self.address, self.is_local = address, is_local
        self._note, self._noted = note, set[str]()
        self._lost_at: float | None = None
        self.client: Client = self._connect(CONNECT_SECONDS)

    def _connect(self, seconds: float) -> Client:
        import distributed

        try:
            with warnings.catch_warnings():
                # Package versions of workers are compared by `JobSpec.check`, as far as they matter.
                warnings.simplefilter("ignore", distributed.versions.VersionMismatchWarning)
                return distributed.Client(self.address, timeout=seconds, set_as_default=False)
        except (OSError, TimeoutError, ValueError) as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise ClusterError(
                f"--dask {self.address}: no scheduler answers at this address ({reason}). Start one with: "
                "dask scheduler, and workers with: dask worker ADDRESS; or use --dask local"
            ) from error

    def note(self, text: str) -> None:
        """Pass a message to the user, unless it was passed before."""
        if text not in self._noted:
            self._noted.add(text)
            self._note(text)

    def is_connected(self) -> bool:
        """Return whether the scheduler is connected; try to reconnect if the client has given up.

        Raises
        ------
        ClusterError
            If the scheduler has been unreachable for `RECONNECT_SECONDS`.
        """
        if self.client.status == "running":
            self._lost_at = None
            return True
        now = time.monotonic()
        if self._lost_at is None:
            self._lost_at = now
            self.note(f"lost the connection to the scheduler at {self.address}; waiting for it to come back")
        if now - self._lost_at > RECONNECT_SECONDS:
            raise ClusterError(
                f"--dask {self.address}: the scheduler has not answered for {RECONNECT_SECONDS:g} seconds. "
                f"{RESUME}"
            )
        if self.client.status == "closed":  # the client stopped trying after CONNECT_SECONDS
            with contextlib.suppress(ClusterError):
                self.client = self._connect(5.0)
        return False

    def workers(self) -> dict[str, WorkerInfo] | None:
        """Return the current workers by address, or None if the scheduler does not answer."""
        try:
            found = self.client.scheduler_info(n_workers=-1)["workers"]
        except (OSError, TimeoutError, RuntimeError):
            return None
        return {
            address: WorkerInfo(
                address=address,
                # The id may be the address; the local directory is unique per process.
                identity=f"{info['id']} {info.get('local_directory', '')}",
                n_threads=int(info["nthreads"]),
                resources=dict(info.get("resources") or {}),
            )
            for address, info in found.items()
        }

    def run(self, function: Callable[..., Any], *arguments: Any, worker: str) -> Any:
        """Run a function on one worker, independent of its tasks; return its result or an exception."""
        try:
            answers = self.client.run(function, *arguments, workers=[worker], on_error="return")
        except Exception as error:
            return error
        return answers.get(worker, OSError("no answer"))

    def close(self) -> None:
        """Close the connection; unfinished tasks of this client are cancelled."""
        _close_quietly(self.client.close, timeout=10)


def _close_quietly(close: Callable[..., Any], *, timeout: float) -> None:
    with contextlib.suppress(Exception):  # raised if the cluster is gone already
        close(timeout=timeout)


@dataclass(frozen=True, kw_only=True)
class WorkerReply:
    """Reply of a worker to its check."""

    worker: WorkerInfo
    answer: Any  # "" if the worker is usable, else the reason as text, or an exception


Inbox = SimpleQueue["WorkerReply | str"]  # replies, and keys of finished jobs


class DaskWorkers:
    """The workers of a cluster: which are present, which passed the check, which were refused.

    Parameters
    ----------
    cluster : Cluster
        The cluster.
    check : callable
        Called once on every worker; returns "" if the worker is usable, else the reason why not.
    gpu : {"yes", "no", "any"}
        Whether workers must offer a GPU; "any": only if at least one worker offers one.
    inbox : Inbox
        Receives the replies of workers.

    Attributes
    ----------
    accepted : dict
        Address of each worker that passed the check, mapped to the identity of its process.
    """

    def __init__(self, cluster: Cluster, *, check: Callable[[], str], gpu: str, inbox: Inbox) -> None:
        self.accepted: dict[str, str] = {}
        self._cluster, self._check, self._gpu, self._inbox = cluster, check, gpu, inbox
        self._present: dict[str, WorkerInfo] = {}
        self._checked: dict[str, str] = {}  # address → identity of the process whose check was started
        self._refused: dict[str, str] = {}  # address → reason
        self._updated_at = float("-inf")
        self._unusable_since = time.monotonic()  # since when there has been no usable worker
        self._any_accepted = False  # whether a worker was ever accepted

    def update(self) -> None:
        """Update the list of workers, at most once per `POLL` seconds: check new ones, drop lost ones."""
        if time.monotonic() - self._updated_at < POLL:
            return
        self._updated_at = time.monotonic()
        found = self._cluster.workers()
        if found is None:  # no answer: keep the last list
            return
        self._present = found
        for address, info in self._present.items():
            if self._checked.get(address) != info.identity:
                self._checked[address] = info.identity
                self._refused.pop(address, None)
                threading.Thread(target=self._check_worker, args=(info,), daemon=True).start()
        for address, identity in list(self.accepted.items()):
            if address not in self._present or self._present[address].identity != identity:
                del self.accepted[address]
                self._checked.pop(address, None)  # check it again if it comes back
                self._cluster.note(f"worker {address} is gone; other workers take over its unfinished work")

    def update_soon(self) -> None:
        """Let the next `update` run without delay, because a worker seems to be lost."""
        self._updated_at = float("-inf")

    def restart_timeout(self) -> None:
        """Restart the timeout of `raise_if_none`, because the scheduler is disconnected."""
        self._unusable_since = time.monotonic()

    def handle_reply(self, reply: WorkerReply) -> None:
        """Accept or refuse a worker after its check."""
        address, answer = reply.worker.address, reply.answer
        if isinstance(answer, OSError | TimeoutError):  # lost in the meantime; check it again
            self._checked.pop(address, None)
        elif isinstance(answer, BaseException) and "ModuleNotFoundError" in repr(answer):  # Dask may wrap it
            self.refuse(
                address, f"does not have this version of Folio ({answer}). Install it there with: {INSTALL}"
            )
        elif isinstance(answer, BaseException):
            self.refuse(address, f"cannot be used ({type(answer).__name__}: {answer})")
        elif answer:
            self.refuse(address, answer)
        else:
            self.accepted[address] = reply.worker.identity
            self._any_accepted = True

    def refuse(self, address: str, why: str) -> None:
        """Exclude a worker and pass the reason to the user."""
        self.accepted.pop(address, None)
        self._refused[address] = f"worker {address} {' '.join(why.split())}"
        self._cluster.note(self._refused[address])

    def usable(self) -> set[str]:
        """Return the addresses of workers that are present, accepted and offer a GPU if one is needed."""
        usable = self.accepted.keys() & (self._with_gpu() if self.needs_gpu() else self._present.keys())
        if usable:
            self._unusable_since = time.monotonic()
        return usable

    def unchecked(self) -> set[str]:
        """Return the addresses of present workers whose check has not finished."""
        return (self._present.keys() & self._checked.keys()) - self.accepted.keys() - self._refused.keys()

    def needs_gpu(self) -> bool:
        """Return whether only workers that offer a GPU are usable."""
        some = bool(self._with_gpu() - self._refused.keys())
        return self._gpu == "yes" or (self._gpu == "any" and some)

    def raise_if_none(self) -> None:
        """Raise if no worker is usable and none can still join.

        Raises
        ------
        ClusterError
            If all workers are refused, none offers a required GPU, or none has appeared within the timeout.
        """
        if self.usable():
            return
        address = self._cluster.address
        if self._present and self._present.keys() <= self.accepted.keys() | self._refused.keys():
            if self.accepted:
                raise ClusterError(
                    f"no worker of {address} offers a GPU, which --device requires. Start workers with: dask "
                    'worker ADDRESS --resources "GPU=1"'
                )
            refused = [why for worker, why in self._refused.items() if worker in self._present]
            raise ClusterError(f"{refused[0]}. No other worker is usable")
        waited = time.monotonic() - self._unusable_since
        if waited > (NO_WORKER if self._any_accepted or self._checked else FIRST_WORKER):
            raise ClusterError(
                f"no usable worker at {address} for {waited:.0f} seconds. Start workers with: dask worker "
                f"{address}. {RESUME}"
            )

    def _with_gpu(self) -> set[str]:
        return {address for address, info in self._present.items() if info.resources.get(GPU, 0) >= 1}

    def _check_worker(self, info: WorkerInfo) -> None:
        answer = self._cluster.run(prepare_worker, self._check, self._cluster.is_local, worker=info.address)
        self._inbox.put(WorkerReply(worker=info, answer=answer))


async def prepare_worker(check: Callable[[], str], is_child: bool, dask_worker: Any) -> str:
    """Check the worker that runs this; give it its slot, or return the reason why it is not usable."""
    if is_child:  # Ctrl-C in the terminal is for the parent, which then closes its workers
        with suppress(ValueError):
            signal.signal(signal.SIGINT, signal.SIG_IGN)
    reason = await asyncio.to_thread(check)
    if not reason:
        await dask_worker.set_resources(**{SLOT: 1})
    return reason
