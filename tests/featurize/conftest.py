"""Fixtures for the tests of featurize: a stand-in backbone and a small portfolio."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import io
import json
import os
import signal
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from PIL import Image

from featurize.backbones import registry
from featurize.engines import factory, select
from featurize.extraction import assemble
from featurize.images import render, worker
from featurize.images.pool import Decoder, DecodeResult
from featurize.store import check


def _stand_in_module() -> ModuleType:
    """Load the script stand_in.py as a module."""
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
    """The engines that were built, so that a test can count the images they computed."""

    built: list = dataclasses.field(default_factory=list)
    fast: tuple[str, ...] = ()  # formats of this hardware in addition to float32
    errors: dict[str, object] = dataclasses.field(default_factory=dict)  # format → added to its features
    in_flight: int = 1

    @property
    def n_seen(self) -> int:
        return sum(engine.n_seen for engine in self.built)


class WorkerHere(worker.Worker):
    """Replaces a decode process: requests are answered in this process, as soon as they are sent."""

    def __init__(self, settings, memory, inbox):
        self.pending, self.ready = deque(), False
        self.expired, self.deadline = None, worker.NEVER
        self._settings, self._inbox, self._region = settings, inbox, memoryview(memory.region)
        inbox.put((self, {"ready": True}))

    def send_request(self, number, request):
        self.pending.append(number)
        work, request = self._settings.work, json.loads(json.dumps(request))
        if isinstance(work, render.ThumbnailSettings):
            reply = render.make_thumbnails(request, work)
        else:
            reply = render.render(request, work, self._region[request["offset"] :])
        self._inbox.put((self, json.loads(json.dumps(reply))))

    def kill(self):
        pass

    def close(self):
        return "exit code 0"


class AssemblyHere:
    """Replaces the process that writes a store."""

    def run(self, job_file):
        ignored = SimpleNamespace(signal=lambda *_: None, SIGINT=signal.SIGINT, SIG_IGN=signal.SIG_IGN)
        with contextlib.redirect_stdout(io.StringIO()) as output, pytest.MonkeyPatch.context() as patch:
            patch.setattr(assemble, "exit_with_parent", lambda parent: None)
            patch.setattr(assemble, "signal", ignored)
            patch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(os.fsencode(job_file))))
            code = assemble.main(os.getpid())
        lines = output.getvalue().strip().splitlines()
        return code, lines[-1] if lines else ""

    def close(self):
        pass


class CheckHere:
    """Replaces the process that checks a store."""

    def __init__(self, module, path, **options):
        with contextlib.redirect_stdout(io.StringIO()) as output:
            check.main(path)
        self.stdout = io.BytesIO(output.getvalue().encode())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def kill(self):
        pass


@pytest.fixture
def own_process() -> None:
    """Decode, write and check in child processes, as outside of these tests."""


@pytest.fixture
def no_child_processes(request, monkeypatch, long) -> None:
    """Decode, write and check in this process, which takes a fifth of the time.

    Not with ``--long``, and not in tests that request `own_process`.
    """
    if not long and "own_process" not in request.fixturenames:
        monkeypatch.setattr("featurize.images.pool.Worker", WorkerHere)
        monkeypatch.setattr("featurize.extraction.assemble.AssemblyProcess", AssemblyHere)
        monkeypatch.setattr("featurize.extraction.verify.start_module", CheckHere)


@pytest.fixture
def stand_in(monkeypatch, no_child_processes) -> StandIn:
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

    monkeypatch.setattr(registry, "BACKBONES", module.registry())
    monkeypatch.setattr(factory, "create_engine", create_engine)
    monkeypatch.setattr(select, "resolve_engine", lambda engine, **_: "stand-in")
    monkeypatch.setattr(select, "fast_precisions", lambda engine, device: state.fast)
    return state


def paint(path: Path, colour: tuple[int, int, int], *, size: tuple[int, int] = (40, 40)) -> Path:
    """Write an image of one colour, so that the mean of every view is that colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path, format="PNG")
    return path


@pytest.fixture
def portfolio(tmp_path) -> Path:
    """Three classes with five training and two test images each, in the layout of the tutorial."""
    root = tmp_path / "task"
    for label, name in enumerate(("award", "low", "middle")):
        for number in range(5):
            paint(root / "train" / f"{name}_train" / f"{number}.png", (label * 60, number * 10, 7))
        for number in range(2):
            paint(root / "test" / f"{name}_test" / f"{number}.png", (label * 60, number * 10, 99))
    return root


@pytest.fixture
def alter_decoded(monkeypatch) -> Callable[[Callable[[DecodeResult], DecodeResult]], None]:
    """Return a function that makes the decoder apply a change to every result."""
    decode = Decoder.decode

    def alter(change: Callable[[DecodeResult], DecodeResult]) -> None:
        def altered(decoder, requests):
            for decoded in decode(decoder, requests):
                yield change(decoded)

        monkeypatch.setattr(Decoder, "decode", altered)

    return alter


@pytest.fixture
def time_out(alter_decoded) -> Callable[[str], None]:
    """Return a function that makes files with this path ending time out."""

    def give_up(ending: str) -> None:
        def change(decoded: DecodeResult) -> DecodeResult:
            if not str(decoded.request.path).endswith(ending):
                return decoded
            problem = "timed out: not decoded within 60 seconds"
            return DecodeResult(request=decoded.request, problem=problem, seconds=60.0)

        alter_decoded(change)

    return give_up
