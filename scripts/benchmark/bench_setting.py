"""Settings that all parts of the benchmark share: images, backbones, number of runs."""

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
from bench_data import BenchImages, evenly_spaced, make_sample, readable_images, reduced

N_NETWORK_IMAGES = 64  # for timing the network alone
PEERS = {"timm": ("torch", "torchvision", "timm"), "thingsvision": ("thingsvision",)}


@dataclass(frozen=True, kw_only=True)
class Effort:
    """Amount of work; it does not change what is compared."""

    max_images: int | None  # None: all
    repeats: int  # runs per arm
    whole_repeats: int  # whole processes per arm
    network_seconds: float  # per run of the network alone
    budget: float  # seconds after which an arm is not run again
    scaling_images: int | None  # replicated 1, 4 and 16 times; None: all
    seeds: int  # fits of the dense head; their accuracies are averaged
    dense: Mapping[str, Any]  # options of the dense head that differ from its defaults


FULL = Effort(
    max_images=None,
    repeats=3,
    whole_repeats=3,
    network_seconds=4.0,
    budget=200.0,
    scaling_images=None,
    seeds=10,
    dense={},
)
QUICK = Effort(
    max_images=160,
    repeats=2,
    whole_repeats=1,
    network_seconds=1.0,
    budget=30.0,
    scaling_images=32,
    seeds=2,
    dense={"epochs": 50, "patience": 10},
)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Inputs of the parts of one benchmark."""

    work: Path  # a temporary folder
    images: BenchImages
    warm_up_images: BenchImages  # a few of them
    backbones: tuple[str, ...]
    weights: dict[str, str]  # backbone → "imagenet" or "random"
    engines: tuple[str, ...]  # in addition to the automatic choice
    precisions: tuple[str, ...]  # "float32" and those that the processor supports natively
    views: int
    jobs: tuple[int | None, ...]  # n_jobs of the plain grid search
    effort: Effort
    peers: dict[str, str]  # installed peer → its Python interpreter

    def task(self, views: int, *, backbone: str, images: BenchImages | None = None) -> dict[str, Any]:
        """Return the keyword arguments of a run over the images."""
        pixels = self.pixels(get_backbone(backbone).size)
        return {"data": str((images or self.images).root), "views": views, **pixels}

    def warm_up(self, backbone: str) -> dict[str, Any]:
        """Return the keyword arguments of the warm-up run."""
        return {
            **self.task(min(self.views, 1), backbone=backbone, images=self.warm_up_images),
            "seconds": 0.1,
        }

    def pixels(self, size: int) -> dict[str, Any]:
        """Return the file with pixels of some images at a network's input size."""
        path = self.work / f"pixels_{size}.npy"
        if not path.exists():
            files = evenly_spaced([file for _, _, file in self.images.files], N_NETWORK_IMAGES)
            squares = [read_image(file, size=size).pixels for file in files]
            np.save(path, np.stack([squares[i % len(squares)] for i in range(N_NETWORK_IMAGES)]))
        return {"pixels": str(path), "seconds": self.effort.network_seconds}

    def store(self, backbone: str, *, views: int) -> Path:
        """Return a store of the images, extracted once."""
        out = self.work / f"store_{backbone}_{views}"
        stores = sorted(out.glob("*.h5"))
        if not stores:
            options = {"backbone": backbone, "weights": self.weights[backbone]}
            process = Process(Arm(factory="bench_folio.store_extraction", options=options))
            try:
                process.run({"data": str(self.images.root), "views": views, "out": str(out)})
            finally:
                process.close()
            stores = sorted(out.glob("*.h5"))
        return stores[0]


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
    """Prepare the images, and look for installed weights and peers."""
    if data is None:
        data = make_sample(work / "sample", images=80 if effort.max_images is None else 40)
    images = readable_images(data, work / "images", limit=effort.max_images)
    weights = {}
    for name in backbones:
        available = weights_status(get_backbone(name)).available
        weights[name] = "imagenet" if available else "random"
    return Setting(
        work=work,
        images=images,
        warm_up_images=reduced(images, work / "warm", limit=12),
        backbones=backbones,
        weights=weights,
        engines=engines,
        precisions=("float32", *fast_precisions("openvino", "cpu")),
        views=views,
        jobs=jobs,
        effort=effort,
        peers=find_peers(peers),
    )


def find_peers(python: str) -> dict[str, str]:
    """Return the peers that a Python interpreter can import, each with that interpreter."""
    found = {}
    for name, modules in PEERS.items():
        command = [python, "-c", "import " + ", ".join(modules)]
        try:
            if subprocess.run(command, capture_output=True, check=False).returncode == 0:
                found[name] = python
        except OSError as error:
            raise BenchError(f"--peers {python}: cannot be run: {error.strerror}") from error
    return found
