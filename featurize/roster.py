"""Which workers of a Dask cluster take part in a piece of work: each is asked before it gets any."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

from featurize.cluster import INSTALL, Cluster, WorkerInfo
from featurize.errors import ClusterError

SLOT = "folio"  # Dask's name for the right to do one job: every worker that takes part has one
GPU = "GPU"  # what `dask worker --resources "GPU=1"` offers
POLL = 1.0  # seconds between looks at who is there
FIRST_WORKER = 60.0  # seconds to wait for a first worker to appear
NO_WORKER = 300.0  # seconds to wait for one that answers, or for another one when all have gone


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a worker said when it was asked."""

    worker: WorkerInfo
    answer: Any  # "", why not, or an exception


Inbox = SimpleQueue["Answer | str"]  # answers, and keys of jobs that are done


class Roster:
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

    def hear(self, heard: Answer) -> None:
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
        self._inbox.put(Answer(worker=info, answer=answer))


async def take_part(check: Callable[[], str], is_child: bool, dask_worker: Any) -> str:
    """Look at the worker that this is called on; give it its slot, or return why not."""
    if is_child:  # Ctrl-C in the terminal is for the parent, which ends its workers in order
        with suppress(ValueError):
            signal.signal(signal.SIGINT, signal.SIG_IGN)
    reason = await asyncio.to_thread(check)
    if not reason:
        await dask_worker.set_resources(**{SLOT: 1})
    return reason
