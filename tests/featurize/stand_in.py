"""A stand-in backbone with features that are known by hand: the mean of each colour channel.

As a script, it runs an extraction in a separate process, for tests that kill it:
``python stand_in.py DATA OUT [--views K] [--delay SECONDS] [--part CONTENTS] [--log FILE] [--dask ADDRESS]``.

Preloaded by a Dask worker (``dask worker --preload stand_in.py``), it replaces the engines of the worker. The
environment variable STAND_IN has the options of `install` as JSON.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
from pathlib import Path

import numpy as np

import featurize
from featurize.backbones import registry as registry_module
from featurize.engines import base, factory, select
from featurize.extraction import dask_worker, fill

SIZE = 32
OFFSETS = {"mean": 0.0, "mean_too": 1000.0}


class MeanEngine:
    """Features are the channel means, plus `offset` to distinguish several stand-ins.

    With levels, the means of the left half of the image come first. With `in_flight` above 1, features are
    computed only when the result is taken, so that pixels overwritten too early give wrong features.
    """

    name = "stand-in"
    device = "cpu"
    notes: tuple[str, ...] = ()

    def __init__(
        self,
        *,
        size: int,
        batch_size: int = 4,
        offset: float = 0.0,
        delay: float = 0.0,
        in_flight: int = 1,
        precision: str = "float32",
        levels: bool = False,
    ) -> None:
        self.size, self.batch_size, self.in_flight = size, batch_size, in_flight
        self.offset, self.delay = offset, delay
        self.precision = precision
        self.level_names = ("1/2", "final") if levels else ("final",)
        self.level_ends = (3, 6) if levels else (3,)
        self.n_features = self.level_ends[-1]
        self.n_seen = 0
        self.n_on_their_way = self.most_on_their_way = 0  # unfinished batches
        self.log: Path | None = None

    def submit(self, images: np.ndarray) -> base.PendingFeatures:
        if self.in_flight == 1:
            return base.ReadyFeatures(self(images))
        self.n_on_their_way += 1
        self.most_on_their_way = max(self.most_on_their_way, self.n_on_their_way)
        assert self.n_on_their_way <= self.in_flight
        return Later(self, images)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        assert images.shape[1:] == (self.size, self.size, 3)
        assert images.dtype == np.uint8
        assert 0 < len(images) <= self.batch_size
        time.sleep(self.delay)
        self.n_seen += len(images)
        if self.log is not None:
            with open(self.log, "a") as file:
                file.write(f"{len(images)}\n")
        means = [images.mean(axis=(1, 2)) + self.offset]
        if len(self.level_ends) > 1:
            means.insert(0, images[:, :, : self.size // 2].mean(axis=(1, 2)))
        return np.concatenate(means, axis=1).astype(np.float32)


@dataclasses.dataclass
class Later:
    """A batch that is computed when its result is taken."""

    engine: MeanEngine
    images: np.ndarray

    def result(self) -> np.ndarray:
        self.engine.n_on_their_way -= 1
        return self.engine(self.images)


def registry() -> dict[str, registry_module.Backbone]:
    """Return the real backbones and the two stand-ins."""
    vgg16 = registry_module.BACKBONES["vgg16"]
    entries = {
        name: dataclasses.replace(vgg16, name=name, size=SIZE, n_features=3, any_size=True, min_size=1)
        for name in OFFSETS
    }
    return {**registry_module.BACKBONES, **entries}


def install(
    *,
    delay: float = 0.0,
    part: int = 4,
    in_flight: int = 1,
    log: str | None = None,
    wrong: bool = False,
    version: str | None = None,
) -> None:
    """Replace all engines of this process by the stand-in.

    Each forward pass appends its number of views to `log`; with `wrong`, features are NaN; `version` replaces
    Folio's version.
    """

    def create_engine(backbone, weights, *, input_size=None, levels=False, **_):
        engine = MeanEngine(
            levels=levels,
            size=input_size or backbone.size,
            offset=float("nan") if wrong else OFFSETS[backbone.name],
            delay=delay,
            in_flight=in_flight,
        )
        engine.log = Path(log) if log is not None else None
        return engine

    registry_module.BACKBONES = registry()  # type: ignore[misc]
    factory.create_engine = create_engine  # type: ignore[assignment]
    select.resolve_engine = lambda engine, **_: "stand-in"  # type: ignore[assignment]
    select.fast_precisions = lambda engine, device: ()  # type: ignore[assignment]
    fill.PART_CONTENTS = part
    if version is not None:
        dask_worker.__version__ = version


def dask_setup(worker: object) -> None:
    """Install the stand-in in a Dask worker; Dask calls this when the worker starts."""
    install(**json.loads(os.environ.get("STAND_IN", "{}")))


def main() -> None:
    """Extract with the stand-in, in a process that may be killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("out")
    parser.add_argument("--views", type=int, default=2)
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--part", type=int, default=4)
    parser.add_argument("--in-flight", type=int, default=1)
    parser.add_argument("--log", type=Path)
    parser.add_argument("--dask")
    options = parser.parse_args()

    install(
        delay=options.delay,
        part=options.part,
        in_flight=options.in_flight,
        log=str(options.log) if options.log is not None else None,
    )
    try:
        (result,) = featurize.extract(
            options.data,
            backbones=["mean"],
            weights="random",
            views=options.views,
            out=options.out,
            workers=1,
            dask=options.dask,
        )
    except featurize.FolioError as error:
        print(error)
        raise SystemExit(1) from error
    facts = {
        "state": result.state,
        "n_forward": result.n_forward,
        "n_resumed": result.n_resumed,
        "peak_mib": _own_peak_mib(),
        "children_peak_mib": _children_peak_mib(),  # the maximum over decode workers and assembly
    }
    print(json.dumps(facts))


def _own_peak_mib() -> float:
    """Return the peak memory of this process; on Linux without the memory of the parent before the fork."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return _peak_mib("RUSAGE_SELF")


def _children_peak_mib() -> float:
    return _peak_mib("RUSAGE_CHILDREN")


def _peak_mib(whose: str) -> float:
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    unit = 2**20 if sys.platform == "darwin" else 2**10  # bytes there, KiB on Linux
    return resource.getrusage(getattr(resource, whose)).ru_maxrss / unit


if __name__ == "__main__":
    main()
