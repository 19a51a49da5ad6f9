"""A Dask cluster: one that is there, or one of this machine alone.

With `roster` and `spreading` this is all we know of Dask.
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


SLOT = "folio"  # Dask's name for the right to do one job: every worker that takes part has one
GPU = "GPU"  # what `dask worker --resources "GPU=1"` offers
POLL = 1.0  # seconds between looks at who is there
FIRST_WORKER = 60.0  # seconds to wait for a first worker to appear
NO_WORKER = 300.0  # seconds to wait for one that answers, or for another one when all have gone


@dataclass(frozen=True, kw_only=True)
class WorkerReply:
    """What a worker said when it was asked."""

    worker: WorkerInfo
    answer: Any  # "", why not, or an exception


Inbox = SimpleQueue["WorkerReply | str"]  # answers, and keys of jobs that are done


class DaskWorkers:
    """The workers that are there, asked, admitted and refused.

    Parameters
    ----------
    cluster : Cluster
        Whose.
    check : callable
        Called on every worker; returns why it is not to take part, "" if it is.
    gpu : {"yes", "no", "any"}
        Whether workers must offer a GPU; "any": if one does.
    inbox : Inbox
        Where answers are put.

    Attributes
    ----------
    admitted : dict
        From the address of each worker that may take part to its process.
    """

    def __init__(self, cluster: Cluster, *, check: Callable[[], str], gpu: str, inbox: Inbox) -> None:
        self.admitted: dict[str, str] = {}
        self._cluster, self._check, self._gpu, self._inbox = cluster, check, gpu, inbox
        self._there: dict[str, WorkerInfo] = {}
        self._asked: dict[str, str] = {}  # worker → the process that was asked
        self._refused: dict[str, str] = {}  # worker → why
        self._looked_at = float("-inf")
        self._alone_since = time.monotonic()  # since when there is no worker to give anything to
        self._any_so_far = False  # whether one was ever admitted

    def look(self) -> None:
        """See who is there: ask newcomers whether they may take part, and forget those that have gone."""
        if time.monotonic() - self._looked_at < POLL:
            return
        self._looked_at = time.monotonic()
        found = self._cluster.workers()
        if found is None:  # what was so is taken to be so still
            return
        self._there = found
        for address, info in self._there.items():
            if self._asked.get(address) != info.identity:
                self._asked[address] = info.identity
                self._refused.pop(address, None)
                threading.Thread(target=self._ask, args=(info,), daemon=True).start()
        for address, identity in list(self.admitted.items()):
            if address not in self._there or self._there[address].identity != identity:
                del self.admitted[address]
                self._asked.pop(address, None)  # it may come back
                self._cluster.note(f"worker {address} has gone; what it had not finished is done by others")

    def look_soon(self) -> None:
        """Have the next look be a look: someone seems to have gone."""
        self._looked_at = float("-inf")

    def wait(self) -> None:
        """Note that the scheduler is away, so that nobody can be there."""
        self._alone_since = time.monotonic()

    def hear(self, heard: WorkerReply) -> None:
        """Take note of what a worker said."""
        address, answer = heard.worker.address, heard.answer
        if isinstance(answer, OSError | TimeoutError):  # it has gone meanwhile; or it is asked anew
            self._asked.pop(address, None)
        elif isinstance(answer, BaseException) and "ModuleNotFoundError" in repr(answer):  # Dask may wrap it
            self.refuse(address, f"has no Folio, or another version ({answer}). There, type: {INSTALL}")
        elif isinstance(answer, BaseException):
            self.refuse(address, f"cannot take part ({type(answer).__name__}: {answer})")
        elif answer:
            self.refuse(address, answer)
        else:
            self.admitted[address] = heard.worker.identity
            self._any_so_far = True

    def refuse(self, address: str, why: str) -> None:
        """Leave a worker out, and say why."""
        self.admitted.pop(address, None)
        self._refused[address] = f"worker {address} {' '.join(why.split())}"
        self._cluster.note(self._refused[address])

    def able(self) -> set[str]:
        """Return the workers that are there, may take part and have what is demanded."""
        able = self.admitted.keys() & (self._offering() if self.needs_gpu() else self._there.keys())
        if able:
            self._alone_since = time.monotonic()
        return able

    def asked(self) -> set[str]:
        """Return the workers that have not said yet whether they may take part."""
        return (self._there.keys() & self._asked.keys()) - self.admitted.keys() - self._refused.keys()

    def needs_gpu(self) -> bool:
        """Tell whether only workers that offer a GPU are able."""
        some = bool(self._offering() - self._refused.keys())
        return self._gpu == "yes" or (self._gpu == "any" and some)

    def give_up_without_workers(self) -> None:
        """Raise if there is nobody to do anything, and no hope.

        Raises
        ------
        ClusterError
            If all are refused, none offers what is demanded, or none has come for too long.
        """
        if self.able():
            return
        address = self._cluster.address
        if self._there and self._there.keys() <= self.admitted.keys() | self._refused.keys():
            if self.admitted:
                raise ClusterError(
                    f"no worker of {address} offers a GPU, which --device asks for. Start workers with: dask "
                    'worker ADDRESS --resources "GPU=1"'
                )
            refused = [why for worker, why in self._refused.items() if worker in self._there]
            raise ClusterError(f"{refused[0]}. No other worker may take part")
        alone = time.monotonic() - self._alone_since
        if alone > (NO_WORKER if self._any_so_far or self._asked else FIRST_WORKER):
            raise ClusterError(
                f"no worker at {address} for {alone:.0f} seconds. Start some with: dask worker {address}. "
                "What is finished is kept: the same command goes on from there"
            )

    def _offering(self) -> set[str]:
        return {address for address, info in self._there.items() if info.resources.get(GPU, 0) >= 1}

    def _ask(self, info: WorkerInfo) -> None:
        answer = self._cluster.run(take_part, self._check, self._cluster.is_local, worker=info.address)
        self._inbox.put(WorkerReply(worker=info, answer=answer))


async def take_part(check: Callable[[], str], is_child: bool, dask_worker: Any) -> str:
    """Look at the worker that this is called on; give it its slot, or return why not."""
    if is_child:  # Ctrl-C in the terminal is for the parent, which ends its workers in order
        with suppress(ValueError):
            signal.signal(signal.SIGINT, signal.SIG_IGN)
    reason = await asyncio.to_thread(check)
    if not reason:
        await dask_worker.set_resources(**{SLOT: 1})
    return reason
