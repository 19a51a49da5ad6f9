"""Fixtures for the rooms of featurize: a stand-in backbone and a small portfolio."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from featurize import backbones, engines


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


@dataclasses.dataclass
class StandIn:
    """The engines that were built, so that a test can count what went through them."""

    built: list

    @property
    def n_seen(self) -> int:
        return sum(engine.n_seen for engine in self.built)


@pytest.fixture
def stand_in(monkeypatch) -> StandIn:
    """Register backbones `mean` and `mean_too`; extraction then needs neither weights nor TensorFlow."""
    module = _stand_in_module()
    state = StandIn(built=[])

    def create_engine(backbone, weights, *, input_size=None, **options):
        size = input_size or backbone.size
        engine = module.MeanEngine(size=size, offset=module.OFFSETS[backbone.name])
        state.built.append(engine)
        return engine

    monkeypatch.setattr(backbones, "BACKBONES", module.registry())
    monkeypatch.setattr(engines, "create_engine", create_engine)
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
