"""Whether XLA compiles a graph for the GPUs: where that was seen to help. What was seen is remembered."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featurize.cache import Kept, cache_folder, keep, load_kept
from featurize.engines.lanes import Lanes
from featurize.errors import EngineError

GAIN = 0.9  # XLA is taken from this share of the plain graph's time down: rounding is not to hang on noise,
PAYS_WITHIN = 10_000  # and if what it saves on so many pictures is more than each start compiles
_ROUNDS = 3


def memory_of(facts: Mapping[str, Any]) -> Path:
    """Return the file that remembers for one graph on one kind of GPU; it need not exist.

    Parameters
    ----------
    facts : mapping
        All that the speed hangs on, as JSON takes it.
    """
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return cache_folder("xla") / f"{digest[:32]}.json"


def faster_lanes(
    start: Callable[[bool], Lanes],
    images: npt.NDArray[np.uint8],
    *,
    asked: bool | None,
    memory: Path,
    facts: Mapping[str, Any],
) -> tuple[Lanes, bool]:
    """Return running lanes, and whether XLA compiled what they run.

    A graph that was never tried is started both ways and timed (`xla_helps`). What came out is remembered,
    also that XLA failed, and also that the process ended in the attempt: each later run does the same at
    once, so that a run that goes on where another stopped rounds as that one did.

    Parameters
    ----------
    start : callable
        Starts and warms up lanes, with XLA or without; raises EngineError where that fails.
    images : ndarray of shape (batch, size, size, 3), uint8
        What to time with.
    asked : bool, optional
        With XLA, without; by default whichever is over sooner.
    memory : Path
        From `memory_of`.
    facts : mapping
        Written into it for the reader.
    """
    verdict = _recall(memory) if asked is None else ("xla" if asked else "plain")
    if verdict == "xla":
        try:
            return start(True), True
        except EngineError:
            if asked:
                raise
            return start(False), False  # less memory than last time, say
    plain = start(False)
    if verdict is not None:
        return plain, False
    keep(memory, Kept(about={"verdict": "trying", **facts}))  # what stays if XLA takes the process down
    try:
        compiled, seen = _tried(start, plain, images)
    except BaseException:
        with contextlib.suppress(OSError):
            memory.unlink(missing_ok=True)
        plain.close()
        raise
    keep(memory, Kept(about={**seen, **facts}))
    return (plain, False) if compiled is None else (compiled, True)


def _tried(
    start: Callable[[bool], Lanes], plain: Lanes, images: npt.NDArray[np.uint8]
) -> tuple[Lanes | None, dict[str, Any]]:
    """Return the lanes with XLA if they are the faster ones, and what was seen; close the others."""
    begun = time.perf_counter()
    try:
        compiled = start(True)
    except EngineError as error:
        return None, {"verdict": "failed", "reason": str(error)}
    starting = time.perf_counter() - begun
    n_images = plain.in_flight * len(images)
    plain_seconds, xla_seconds = (total / n_images for total in seconds_each(plain, compiled, images=images))
    helps = xla_helps(plain_seconds, xla_seconds, starting=starting)
    (plain if helps else compiled).close()
    seen = {
        "verdict": "xla" if helps else "plain",
        "plain_seconds_an_image": plain_seconds,
        "xla_seconds_an_image": xla_seconds,
        "xla_seconds_to_start": starting,
    }
    return (compiled if helps else None), seen


def xla_helps(plain: float, compiled: float, *, starting: float) -> bool:
    """Return whether a run of some length is over sooner with XLA.

    Parameters
    ----------
    plain, compiled : float
        Seconds an image without XLA and with it.
    starting : float
        Seconds that each start with XLA takes to compile.
    """
    return compiled <= GAIN * plain and starting <= PAYS_WITHIN * (plain - compiled)


def _recall(memory: Path) -> str | None:
    """Return "xla", "plain", "failed" or "trying"; None where nothing is remembered."""
    kept = load_kept(memory)
    return None if kept is None else kept.about.get("verdict")


def seconds_each(*arms: Lanes, images: npt.NDArray[np.uint8]) -> tuple[float, ...]:
    """Return how long each takes over as many batches as it has in flight; the best of a few rounds."""
    best = [float("inf")] * len(arms)
    for _ in range(_ROUNDS):
        for number, lanes in enumerate(arms):
            begun = time.perf_counter()
            for pending in [lanes.submit(images) for _ in range(lanes.in_flight)]:
                pending.result()
            best[number] = min(best[number], time.perf_counter() - begun)
    return tuple(best)
