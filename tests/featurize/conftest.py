"""Fixtures for the rooms of featurize: a stand-in backbone and a small portfolio."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

from featurize import backbones, engines
from featurize.decode.decoding import Decoded, Decoder


def _stand_in_module() -> ModuleType:
    """Load stand_in.py, which is a script too, from beside this file."""
    name = "stand_in"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name("stand_in.py"))
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture(scope="session")
def mean_engine() -> type:
    """The engine whose features are channel means."""
    return _stand_in_module().MeanEngine


@dataclasses.dataclass
class StandIn:
    """The engines that were built, so that a test can count what went through them."""

    built: list = dataclasses.field(default_factory=list)
    fast: tuple[str, ...] = ()  # the formats that this hardware has beside float32
    errors: dict[str, object] = dataclasses.field(default_factory=dict)  # format → added to its features
    in_flight: int = 1

    @property
    def n_seen(self) -> int:
        return sum(engine.n_seen for engine in self.built)


@pytest.fixture
def stand_in(monkeypatch) -> StandIn:
    """Register backbones `mean` and `mean_too`; extraction then needs neither weights nor TensorFlow."""
    module = _stand_in_module()
    state = StandIn()

    def create_engine(backbone, weights, *, input_size=None, precision="float32", levels=False, **options):
        engine = module.MeanEngine(
            size=input_size or backbone.size,
            offset=module.OFFSETS[backbone.name] + state.errors.get(precision, 0),
            precision=precision,
            levels=levels,
            in_flight=state.in_flight,
        )
        engine.options = options
        state.built.append(engine)
        return engine

    monkeypatch.setattr(backbones, "BACKBONES", module.registry())
    monkeypatch.setattr(engines, "create_engine", create_engine)
    monkeypatch.setattr(engines, "engine_here", lambda engine, **_: "stand-in")
    monkeypatch.setattr(engines, "fast_precisions", lambda engine, device: state.fast)
    return state


def paint(path: Path, colour: tuple[int, int, int], *, size: tuple[int, int] = (40, 40)) -> Path:
    """Write a picture of one colour, so that every view of it has that colour as its mean."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path, format="PNG")
    return path


@pytest.fixture
def portfolio(tmp_path) -> Path:
    """Three classes, five training and two test pictures each, in the tutorial's layout."""
    root = tmp_path / "task"
    for label, name in enumerate(("award", "low", "middle")):
        for number in range(5):
            paint(root / "train" / f"{name}_train" / f"{number}.png", (label * 60, number * 10, 7))
        for number in range(2):
            paint(root / "test" / f"{name}_test" / f"{number}.png", (label * 60, number * 10, 99))
    return root


@pytest.fixture
def alter_decoded(monkeypatch) -> Callable[[Callable[[Decoded], Decoded]], None]:
    """Have every decoded file pass through a function on its way to whoever asked for it."""
    decode = Decoder.decode

    def alter(change: Callable[[Decoded], Decoded]) -> None:
        def altered(decoder, requests):
            for decoded in decode(decoder, requests):
                yield change(decoded)

        monkeypatch.setattr(Decoder, "decode", altered)

    return alter


@pytest.fixture
def time_out(alter_decoded) -> Callable[[str], None]:
    """Have the files whose path ends so be given up, as if they had not been decoded in time."""

    def give_up(ending: str) -> None:
        def change(decoded: Decoded) -> Decoded:
            if not str(decoded.request.path).endswith(ending):
                return decoded
            problem = "timed out: not decoded within 60 seconds"
            return Decoded(request=decoded.request, problem=problem, seconds=60.0)

        alter_decoded(change)

    return give_up


@dataclasses.dataclass
class DaskMachines:
    """A scheduler and workers, each a process of its own, as on several machines; on the loopback only."""

    folder: Path
    address: str = ""
    processes: list[subprocess.Popen] = dataclasses.field(default_factory=list)

    def scheduler(self, *, address: str = "") -> subprocess.Popen:
        """Start one, at an address or where there is room."""
        file = self.folder / "scheduler.json"
        file.unlink(missing_ok=True)
        port = address.rpartition(":")[2] or "0"
        process = self._start("scheduler", "--port", port, "--scheduler-file", file)
        self.address = address or json.loads(self._appears(file))["address"]
        if address:
            self._appears(file)
        return process

    def worker(self, *, cwd: Path | None = None, resources: str = "", **options: object) -> subprocess.Popen:
        """Start one, of one thread; `options` are those of `stand_in.install`, without any it is as usual."""
        words = ["--no-nanny", "--nthreads", 1, "--memory-limit", 0, "--local-directory", self.folder]
        words += ["--resources", resources] if resources else []
        words += ["--preload", Path(__file__).with_name("stand_in.py")] if options else []
        return self._start("worker", self.address, *words, cwd=cwd, STAND_IN=json.dumps(options))

    def wait_for_workers(self, n_workers: int) -> None:
        """Return when so many have come."""
        import distributed

        with distributed.Client(self.address, set_as_default=False) as client:
            client.wait_for_workers(n_workers, timeout=90)

    def _start(self, kind: str, *words: object, cwd: Path | None = None, **environment: str) -> Any:
        log = (self.folder / f"{kind}{len(self.processes)}.log").open("wb")
        with log:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", f"distributed.cli.dask_{kind}", *map(str, words)),
                    *("--host", "127.0.0.1", "--no-dashboard"),
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=cwd or self.folder,
                env={**os.environ, **environment},
            )
        self.processes.append(process)
        return process

    @staticmethod
    def _appears(file: Path) -> str:
        deadline = time.monotonic() + 60
        while not file.exists() or not file.read_text().endswith("}"):
            assert time.monotonic() < deadline, "the scheduler did not start"
            time.sleep(0.05)
        return file.read_text()

    def close(self) -> None:
        """End all of them."""
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait(timeout=30)


@pytest.fixture
def machines(tmp_path_factory) -> Iterator[DaskMachines]:
    """A Dask scheduler at `machines.address`; workers are started with `machines.worker(…)`."""
    found = DaskMachines(tmp_path_factory.mktemp("dask"))
    try:
        found.scheduler()
        yield found
    finally:
        found.close()
