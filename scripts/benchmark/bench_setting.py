"""What all parts of the benchmark share: the pictures, what is measured on them, and how thoroughly."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from featurize.backbones.registry import get_backbone
from featurize.backbones.weights import weights_status
from featurize.engines.select import fast_precisions
from featurize.images.decode import read_image

from bench_arms import Arm, BenchError, Process
from bench_data import Pictures, evenly, make_sample, readable_pictures, smaller

PIXELS = 64  # pictures that a network is timed on
PEERS = {"timm": ("torch", "torchvision", "timm"), "thingsvision": ("thingsvision",)}


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much is run; none of it changes what is compared."""

    pictures: int | None  # most pictures; None: all
    repeats: int  # runs of an arm
    whole_repeats: int  # whole processes of an arm
    network_seconds: float  # a run of the network alone
    budget: float  # seconds after which an arm gets no further turn
    scaling_pictures: int | None  # of which 1, 4 and 16 times are made
    seeds: int  # fits of the dense head whose accuracies are averaged
    dense: Mapping[str, Any]  # options of the dense head, other than its defaults


FULL = Effort(
    pictures=None,
    repeats=3,
    whole_repeats=3,
    network_seconds=4.0,
    budget=200.0,
    scaling_pictures=None,
    seeds=10,
    dense={},
)
QUICK = Effort(
    pictures=160,
    repeats=2,
    whole_repeats=1,
    network_seconds=1.0,
    budget=30.0,
    scaling_pictures=32,
    seeds=2,
    dense={"epochs": 50, "patience": 10},
)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One benchmark: the parts read nothing else."""

    work: Path  # a temporary folder
    pictures: Pictures
    warm: Pictures  # a few of them
    backbones: tuple[str, ...]
    weights: dict[str, str]  # by backbone: "imagenet" or "random"
    engines: tuple[str, ...]  # besides the one that Folio chooses
    precisions: tuple[str, ...]  # "float32", and what the hardware computes natively
    views: int
    jobs: tuple[int | None, ...]  # of the plain grid search
    effort: Effort
    peers: dict[str, str]  # of PEERS, those that are installed, and the Python that has them

    def task(self, views: int, *, backbone: str, pictures: Pictures | None = None) -> dict[str, Any]:
        """Return what a run over the pictures is called with."""
        pixels = self.pixels(get_backbone(backbone).size)
        return {"data": str((pictures or self.pictures).root), "views": views, **pixels}

    def warm_up(self, backbone: str) -> dict[str, Any]:
        """Return what the run that is not counted is called with."""
        return {**self.task(min(self.views, 1), backbone=backbone, pictures=self.warm), "seconds": 0.1}

    def pixels(self, size: int) -> dict[str, Any]:
        """Return some of the pictures as pixels of a network's size, in a file."""
        path = self.work / f"pixels_{size}.npy"
        if not path.exists():
            files = evenly([file for _, _, file in self.pictures.files], PIXELS)
            squares = [read_image(file, size=size).pixels for file in files]
            np.save(path, np.stack([squares[i % len(squares)] for i in range(PIXELS)]))
        return {"pixels": str(path), "seconds": self.effort.network_seconds}

    def store(self, backbone: str, *, views: int) -> Path:
        """Return a store of the pictures, made once."""
        out = self.work / f"store_{backbone}_{views}"
        made = sorted(out.glob("*.h5"))
        if not made:
            options = {"backbone": backbone, "weights": self.weights[backbone]}
            process = Process(Arm(make="bench_folio.making_store", options=options))
            try:
                process.run({"data": str(self.pictures.root), "views": views, "out": str(out)})
            finally:
                process.close()
            made = sorted(out.glob("*.h5"))
        return made[0]


def make_setting(
    work: Path,
    *,
    data: Path | None,
    backbones: tuple[str, ...],
    engines: tuple[str, ...],
    views: int,
    jobs: tuple[int | None, ...],
    effort: Effort,
    peers: str,
) -> Setting:
    """Lay out the pictures, and see which weights and which peers are here."""
    if data is None:
        data = make_sample(work / "sample", images=80 if effort.pictures is None else 40)
    pictures = readable_pictures(data, work / "pictures", limit=effort.pictures)
    weights = {}
    for name in backbones:
        available = weights_status(get_backbone(name)).available
        weights[name] = "imagenet" if available else "random"
    return Setting(
        work=work,
        pictures=pictures,
        warm=smaller(pictures, work / "warm", images=12),
        backbones=backbones,
        weights=weights,
        engines=engines,
        precisions=("float32", *fast_precisions("openvino", "cpu")),
        views=views,
        jobs=jobs,
        effort=effort,
        peers=peers_of(peers),
    )


def peers_of(python: str) -> dict[str, str]:
    """Return which peers a Python can import, each with that Python."""
    found = {}
    for name, modules in PEERS.items():
        asked = [python, "-c", "import " + ", ".join(modules)]
        try:
            if subprocess.run(asked, capture_output=True, check=False).returncode == 0:
                found[name] = python
        except OSError as error:
            raise BenchError(f"--peers {python}: does not run: {error.strerror}") from error
    return found
