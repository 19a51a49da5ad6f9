"""Arms of the benchmark: each in a process of its own, run in turns, so that all meet the same machine."""

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
POLL_SECONDS = 0.1  # between two looks at the memory of an arm


class BenchError(Exception):
    """An arm failed; the text ends with what it last said."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """What is measured: a function of a bench module, and what it is made with."""

    make: str  # "<module>.<function>"
    options: Mapping[str, Any] = field(default_factory=dict)
    python: str = sys.executable
    only: tuple[str, ...] | None = None  # the tasks it takes part in; None: all


@dataclass(kw_only=True)
class Timing:
    """Runs of one arm. A unit is what the work is counted in: an image, a rendering, a whole search."""

    units: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)  # wall time
    cpu_seconds: list[float] = field(default_factory=list)  # of the process and its children that have ended
    peak_bytes: list[int] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)  # of the last run

    def add(self, answer: Mapping[str, Any], *, seconds: float | None = None) -> None:
        """Count one run; `seconds` stand in for what the arm itself measured."""
        self.facts = dict(answer["facts"])
        self.units.append(self.facts.pop("units", 1))
        self.seconds.append(answer["seconds"] if seconds is None else seconds)
        self.cpu_seconds.append(answer["cpu_seconds"])
        self.peak_bytes.append(answer["peak_bytes"])

    def to_json(self) -> dict[str, Any]:
        """Return every run and the medians of seconds a unit."""
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
    """An arm's process, ready to run. Between runs it waits for its next line and takes no processor."""

    def __init__(self, arm: Arm) -> None:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            [arm.python, str(CHILD), arm.make, json.dumps(arm.options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        )
        self._name = arm.make

    def run(self, task: Mapping[str, Any]) -> dict[str, Any]:
        """Run once, wait, and return the answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with peak_memory(self._process.pid) as peak, contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(task) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        if not line:
            raise BenchError(f"{self._name} failed:\n{self._last_words()}")
        return {**json.loads(line), "peak_bytes": peak[0]}

    def close(self) -> None:
        """Let the process end, and wait for that."""
        with contextlib.suppress(BrokenPipeError):
            self._process.communicate()
        self._said.close()

    def _last_words(self) -> str:
        self._process.wait()
        self._said.seek(0)
        return self._said.read().decode(errors="replace")[-2000:]


Tasks = Mapping[str, Mapping[str, Any]]  # by name: what a run is called with
Timings = dict[str, dict[str, Timing]]  # by task, by arm


def take_turns(
    arms: Mapping[str, Arm], tasks: Tasks, *, warm_up: Mapping[str, Any], repeats: int, budget: float
) -> Timings:
    """Run arms in turns, each in a process that stays: its start, imports and building are outside.

    Parameters
    ----------
    arms : mapping of str to Arm
    tasks : mapping
        Each arm does them one after the other in every round.
    warm_up : mapping
        What the one run before the first round, which is not counted, is called with.
    repeats : int
        Rounds.
    budget : float
        Seconds after which an arm gets no further turn at a task.
    """
    timings: Timings = {label: {} for label in tasks}
    with contextlib.ExitStack() as stack:
        processes = {}
        for name, arm in arms.items():
            processes[name] = Process(arm)
            stack.callback(processes[name].close)
            say(f"  {name}: warming up")
            processes[name].run(warm_up)  # also waits until the arm is ready
        for turn, (label, task), (name, arm) in itertools.product(
            range(repeats), tasks.items(), arms.items()
        ):
            if arm.only is not None and label not in arm.only:
                continue
            timing = timings[label].setdefault(name, Timing())
            if sum(timing.seconds) < budget:
                timing.add(processes[name].run(task))
                say(f"  {label}, {name}, run {turn + 1}: {timing.seconds[-1]:.2f} s")
    return timings


def whole_processes(arms: Mapping[str, Arm], tasks: Tasks, *, repeats: int, budget: float) -> Timings:
    """Run arms in turns, each time in a new process, from start to end: imports and building are inside."""
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
        say(f"  {label}, {name}, whole process {turn + 1}: {timing.seconds[-1]:.2f} s")
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
    """Return one row of the record: every run, the medians, and how many times faster than the baseline."""
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


def say(text: str) -> None:
    """Tell on stderr how far it is."""
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def peak_memory(pid: int) -> Iterator[list[int]]:
    """Watch a process and its descendants; the one number is the most memory that they held together.

    Each one's own pages, and shared memory once: what the kernel counts anyway, so that looking costs next to
    nothing. Mapped files are left out. Without /proc the number stays 0.
    """
    peak, over = [0], threading.Event()

    def watch() -> None:
        while not over.wait(POLL_SECONDS):
            held = [_held_bytes(member) for member in _family(pid)]
            peak[0] = max(peak[0], sum(own for own, _ in held) + max(shared for _, shared in held))

    watcher = threading.Thread(target=watch, daemon=True)
    if Path(f"/proc/{pid}/task").exists():
        watcher.start()
    try:
        yield peak
    finally:
        over.set()
        if watcher.ident is not None:
            watcher.join()


def _family(pid: int) -> list[int]:
    members = [pid]
    for member in members:  # grows as it goes
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{member}/task").iterdir():
                members += map(int, (task / "children").read_text().split())
    return members


def _held_bytes(pid: int) -> tuple[int, int]:
    """Return the pages that are the process's own, and those of shared memory."""
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        if "RssAnon" in fields:  # not in a process that has just ended
            return tuple(int(fields[key].split()[0]) * 1024 for key in ("RssAnon", "RssShmem"))  # type: ignore[return-value]
    return 0, 0
