"""Arms of the benchmark: each in its own process, run in turns under the same machine conditions."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CHILD = Path(__file__).with_name("bench_child.py")
POLL_SECONDS = 0.1  # between two measurements of an arm's memory


class BenchError(Exception):
    """An arm failed; the message ends with its last output."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One measured implementation: a factory function of a bench module and its arguments."""

    factory: str  # "<module>.<function>"
    options: Mapping[str, Any] = field(default_factory=dict)
    python: str = sys.executable
    only: tuple[str, ...] | None = None  # names of its tasks; None: all


@dataclass(kw_only=True)
class Timing:
    """Runs of one arm. A unit of work is an image, a rendering or a whole search."""

    units: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)  # wall time
    cpu_seconds: list[float] = field(default_factory=list)  # of the process and its finished children
    peak_bytes: list[int] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)  # from the last run

    def add(self, answer: Mapping[str, Any], *, seconds: float | None = None) -> None:
        """Add one run; `seconds` overrides the time that the arm itself measured."""
        self.facts = dict(answer["facts"])
        self.units.append(self.facts.pop("units", 1))
        self.seconds.append(answer["seconds"] if seconds is None else seconds)
        self.cpu_seconds.append(answer["cpu_seconds"])
        self.peak_bytes.append(answer["peak_bytes"])

    def to_json(self) -> dict[str, Any]:
        """Return all runs and the medians of seconds per unit."""
        seconds = [round(value, 5) for value in self.seconds]
        return {
            "seconds": seconds,
            "units": self.units,
            "median": statistics.median(s / n for s, n in zip(seconds, self.units, strict=True)),
            "cpu_median": statistics.median(s / n for s, n in zip(self.cpu_seconds, self.units, strict=True)),
            "peak_mib": round(max(self.peak_bytes) / 2**20) or None,
            "facts": self.facts,
        }


class Process:
    """The process of an arm, ready to run. Between runs it waits for input and uses no processor time."""

    def __init__(self, arm: Arm) -> None:
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            [arm.python, str(CHILD), arm.factory, json.dumps(arm.options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        )
        self._name = arm.factory

    def run(self, task: Mapping[str, Any]) -> dict[str, Any]:
        """Run once and return the result."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with peak_memory(self._process.pid) as peak, contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(task) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        if not line:
            raise BenchError(f"{self._name} failed:\n{self._error_output()}")
        return {**json.loads(line), "peak_bytes": peak[0]}

    def close(self) -> None:
        """End the process and wait for it."""
        with contextlib.suppress(BrokenPipeError):
            self._process.communicate()
        self._stderr.close()

    def _error_output(self) -> str:
        self._process.wait()
        self._stderr.seek(0)
        return self._stderr.read().decode(errors="replace")[-2000:]


Tasks = Mapping[str, Mapping[str, Any]]  # by name: keyword arguments of a run
Timings = dict[str, dict[str, Timing]]  # by task, then by arm


def run_interleaved(
    arms: Mapping[str, Arm], tasks: Tasks, *, warm_up: Mapping[str, Any], repeats: int, budget: float
) -> Timings:
    """Run arms in turns, each in one process for all runs; its start and its imports are not measured.

    Parameters
    ----------
    arms : mapping of str to Arm
    tasks : mapping
        In every round, each arm runs all of them.
    warm_up : mapping
        Keyword arguments of one run before the first round, which is not counted.
    repeats : int
        Number of rounds.
    budget : float
        Seconds after which an arm is not run again on a task.
    """
    timings: Timings = {label: {} for label in tasks}
    with contextlib.ExitStack() as stack:
        processes = {}
        for name, arm in arms.items():
            processes[name] = Process(arm)
            stack.callback(processes[name].close)
            log(f"  {name}: warming up")
            processes[name].run(warm_up)  # returns when the arm is ready
        for turn, (label, task), (name, arm) in itertools.product(
            range(repeats), tasks.items(), arms.items()
        ):
            if arm.only is not None and label not in arm.only:
                continue
            timing = timings[label].setdefault(name, Timing())
            if sum(timing.seconds) < budget:
                timing.add(processes[name].run(task))
                log(f"  {label}, {name}, run {turn + 1}: {timing.seconds[-1]:.2f} s")
    return timings


def run_whole_processes(arms: Mapping[str, Arm], tasks: Tasks, *, repeats: int, budget: float) -> Timings:
    """Run arms in turns, each time in a new process; its start and its imports are measured too."""
    timings: Timings = {label: {} for label in tasks}
    for turn, (label, task), (name, arm) in itertools.product(range(repeats), tasks.items(), arms.items()):
        timing = timings[label].setdefault(name, Timing())
        if (arm.only is not None and label not in arm.only) or sum(timing.seconds) >= budget:
            continue
        start = time.perf_counter()
        process = Process(arm)
        try:
            answer = process.run(task)
        finally:
            process.close()
        timing.add(answer, seconds=time.perf_counter() - start)
        log(f"  {label}, {name}, whole process {turn + 1}: {timing.seconds[-1]:.2f} s")
    return timings


def measurement(
    what: Mapping[str, Any],
    timings: Mapping[str, Timing],
    *,
    unit: str,
    baseline: str | None = None,
    whole: Mapping[str, Timing] | None = None,
    derived: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return one row of the record: all runs, medians, and speed-ups over the baseline."""
    arms = {name: timing.to_json() for name, timing in timings.items() if timing.seconds}
    row: dict[str, Any] = {"what": dict(what), "unit": unit, "baseline": baseline, "arms": arms}
    row["ratios"] = _ratios(arms, baseline)
    if whole is not None:
        started = {name: timing.to_json() for name, timing in whole.items() if timing.seconds}
        row["whole"] = {"arms": started, "ratios": _ratios(started, baseline)}
    row["derived"] = dict(derived or {})
    return row


def _ratios(arms: Mapping[str, Mapping[str, Any]], baseline: str | None) -> dict[str, float]:
    if baseline not in arms:
        return {}
    return {name: arms[baseline]["median"] / arm["median"] for name, arm in arms.items() if name != baseline}


def log(text: str) -> None:
    """Print a progress line to stderr."""
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def peak_memory(pid: int) -> Iterator[list[int]]:
    """Yield a list with one number: the most memory that a process and its descendants use together.

    It is the sum of each process's own pages, plus shared memory counted once, from counters that the kernel
    keeps anyway. Mapped files are not included. Without /proc the number stays 0.
    """
    peak, stop = [0], threading.Event()

    def watch() -> None:
        while not stop.wait(POLL_SECONDS):
            used = [_memory_bytes(member) for member in _process_tree(pid)]
            peak[0] = max(peak[0], sum(own for own, _ in used) + max(shared for _, shared in used))

    watcher = threading.Thread(target=watch, daemon=True)
    if Path(f"/proc/{pid}/task").exists():
        watcher.start()
    try:
        yield peak
    finally:
        stop.set()
        if watcher.ident is not None:
            watcher.join()


def _process_tree(pid: int) -> list[int]:
    members = [pid]
    for member in members:  # the list grows during the loop
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{member}/task").iterdir():
                members += map(int, (task / "children").read_text().split())
    return members


def _memory_bytes(pid: int) -> tuple[int, int]:
    """Return the bytes of a process's own pages and of shared memory."""
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        if "RssAnon" in fields:  # missing for a process that has just ended
            return tuple(int(fields[key].split()[0]) * 1024 for key in ("RssAnon", "RssShmem"))  # type: ignore[return-value]
    return 0, 0
