"""What shares that workers filled add up to."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from featurize.errors import StoreError
from featurize.making.cutting import Slice
from featurize.making.execution import Execution
from featurize.making.finishing import Computed
from featurize.making.planning import Target
from featurize.making.station import Filled
from featurize.spreading import Brought

_APPEARING = 90.0  # seconds that a network file system may take to show what another machine has written


class Progress:
    """How many files are decoded: of shares that are back, and of those under way as workers say."""

    def __init__(self, total: int, execution: Execution) -> None:
        self._total, self._execution = total, execution
        self._done = 0
        self._back: set[int] = set()
        self._under_way: dict[int, int] = {}

    def heard(self, event: tuple[Any, Mapping[str, int]]) -> None:
        """Note what a worker says; called in another thread."""
        if event[1]["share"] not in self._back:
            self._under_way[event[1]["share"]] = event[1]["done"]

    def returned(self, job: Slice) -> None:
        """Note that a share is back."""
        self._back.add(job.number)
        self._under_way.pop(job.number, None)
        self._done += len(job.items)
        self.tell()

    def tell(self) -> None:
        """Report it."""
        done = min(self._total, self._done + sum(list(self._under_way.values())))
        self._execution.report("extracting", done, self._total)


class Tally:
    """What shares brought, store by store."""

    def __init__(self, targets: Sequence[Target]) -> None:
        self.targets = targets
        self.computed = [Computed() for _ in targets]
        self.decoding = 0.0
        self.instructions: set[tuple[str, ...]] = set()
        self.paths: list[Path] = []  # of the parts

    def add(self, brought: Brought) -> None:
        """Add one share."""
        filled: Filled = brought.value
        self.decoding += filled.decoding
        self.instructions.add(filled.instructions)
        for target, computed, store in zip(self.targets, self.computed, filled.stores, strict=True):
            for keys in store.parts:
                target.parts.add_keys(keys)
                self.paths.append(target.parts.folder / keys.name)
            computed.failed |= store.failed
            computed.engine, computed.device = (
                store.engine or computed.engine,
                store.device or computed.device,
            )
            computed.columns = store.columns or computed.columns
            computed.n_decoded += filled.n_decoded
            computed.n_forward += store.n_forward
            for step, seconds in store.seconds.items():
                computed.seconds[step] += seconds
            rates = computed.workers.setdefault(brought.worker, {"pictures": 0, "seconds": 0.0})
            rates["pictures"] += filled.n_decoded
            rates["seconds"] += brought.seconds

    def await_parts(self) -> None:
        """Return when this machine sees all parts.

        Raises
        ------
        StoreError
            If it does not see one of them.
        """
        deadline = time.monotonic() + _APPEARING
        for path in self.paths:
            while not path.exists():
                if time.monotonic() > deadline:
                    raise StoreError(
                        f"{path}: a worker has put it in place, and it is not to be seen from here. Is the "
                        "folder shared? Run the same command again: it computes what is missing"
                    )
                time.sleep(0.2)
