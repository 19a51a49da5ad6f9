"""A stand-in backbone whose features can be worked out by hand: the mean of each colour channel."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featurize import backbones, engines

SIZE = 32


class MeanEngine:
    """Features are the channel means, plus `offset` to tell one stand-in from another."""

    name = "stand-in"
    precision = "float32"
    device = "cpu"

    def __init__(self, *, size: int, batch_size: int = 4, offset: float = 0.0) -> None:
        self.size, self.n_features, self.batch_size, self.offset = size, 3, batch_size, offset
        self.n_seen = 0

    def __call__(self, images: np.ndarray) -> np.ndarray:
        assert images.shape[1:] == (self.size, self.size, 3)
        assert images.dtype == np.uint8
        assert 0 < len(images) <= self.batch_size
        self.n_seen += len(images)
        return (images.mean(axis=(1, 2)) + self.offset).astype(np.float32)


@dataclasses.dataclass
class StandIn:
    """The engines that were built, so that a test can count what went through them."""

    built: list[MeanEngine]

    @property
    def n_seen(self) -> int:
        return sum(engine.n_seen for engine in self.built)


@pytest.fixture
def stand_in(monkeypatch) -> StandIn:
    """Register backbones `mean` and `mean_too`; extraction then needs neither weights nor TensorFlow."""
    state = StandIn(built=[])
    offsets = {"mean": 0.0, "mean_too": 1000.0}
    vgg16 = backbones.BACKBONES["vgg16"]
    entries = {
        name: dataclasses.replace(vgg16, name=name, size=SIZE, n_features=3, any_size=True, min_size=1)
        for name in offsets
    }
    monkeypatch.setattr(backbones, "BACKBONES", {**backbones.BACKBONES, **entries})

    def create_engine(backbone, weights, *, input_size=None, **options):
        engine = MeanEngine(size=input_size or backbone.size, offset=offsets[backbone.name])
        state.built.append(engine)
        return engine

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
