"""The network alone, and whole extraction, against the usual ways."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np

from bench_arms import Arm, Timing, measurement, take_turns, whole_processes
from bench_setting import Setting

Rows = list[dict[str, Any]]


def network(setting: Setting) -> Rows:
    """Measure the network alone, and how far the features of each arm are from Keras'."""
    rows = []
    for backbone in setting.backbones:
        arms = network_arms(setting, backbone)
        task = setting.task(0, backbone=backbone)
        timings = take_turns(
            arms,
            {"network": task},
            warm_up={**task, "seconds": 0.1},
            repeats=setting.effort.repeats + 2,
            budget=setting.effort.budget,
        )["network"]
        features = {
            name: Path(arm.options["features"]) for name, arm in arms.items() if "features" in arm.options
        }
        rows.append(
            measurement(
                {"backbone": backbone, "weights": setting.weights[backbone]},
                timings,
                unit="image",
                baseline="keras predict",
                derived={"cosine": cosines(features)},
            )
        )
    return rows


def network_arms(setting: Setting, backbone: str) -> dict[str, Arm]:
    """Return Keras, every engine in every precision that the hardware has, and timm."""
    made_with = {"backbone": backbone, "weights": setting.weights[backbone]}
    ways = {f"keras {call}": ("bench_keras.network", {"call": call}) for call in ("predict", "model(x)")}
    for engine, precision in itertools.product(("tensorflow", "openvino"), setting.precisions):
        if precision == "float32" or engine == "openvino":
            way = {"engine": engine, "precision": precision}
            ways[f"{engine} {precision}"] = ("bench_folio.network", way)
    arms = {
        name: Arm(
            make=make,
            options={**made_with, **way, "features": str(setting.work / f"{backbone}_{number}.npy")},
        )
        for number, (name, (make, way)) in enumerate(ways.items())
    }
    if "timm" in setting.peers:
        for precision in setting.precisions:
            options = {"backbone": backbone, "precision": precision}
            python = setting.peers["timm"]
            arms[f"timm {precision}"] = Arm(make="bench_torch.timm_network", options=options, python=python)
    return arms


def cosines(features: dict[str, Path]) -> dict[str, float]:
    """Return the smallest cosine over the pictures between each arm's features and the first arm's."""
    first, *others = [(name, np.load(path).astype(float)) for name, path in features.items()]
    expected = first[1] / np.linalg.norm(first[1], axis=1, keepdims=True)
    return {
        name: float(np.min(np.sum(rows / np.linalg.norm(rows, axis=1, keepdims=True) * expected, axis=1)))
        for name, rows in others
    }


def extraction_arms(setting: Setting, backbone: str) -> dict[str, Arm]:
    """Return the usual loop, Folio as a user gets it and with a precision or an engine forced, and peers."""
    made_with = {"backbone": backbone, "weights": setting.weights[backbone]}
    ways: dict[str, dict[str, str]] = {"folio": {}}
    ways |= {f"folio {precision}": {"precision": precision} for precision in setting.precisions}
    ways |= {f"folio {name}": {"engine": name, "precision": "float32"} for name in setting.engines}
    arms = {"keras": Arm(make="bench_keras.usual_loop", options=made_with)}
    for name, options in ways.items():
        arms[name] = Arm(make="bench_folio.extraction", options={**made_with, **options})
    for name, python in setting.peers.items():
        only = ("plain",) if name == "thingsvision" else None  # it has no augmentation
        arms[name] = Arm(
            make=f"bench_torch.{name}_loop", options={"backbone": backbone}, python=python, only=only
        )
    return arms


def extraction(setting: Setting) -> Rows:
    """Measure whole extraction against the usual loop: plain, and with augmented views."""
    return [row for name in setting.backbones for row in extract_in_turns(setting, name)]


def extract_in_turns(setting: Setting, backbone: str, *, arms: dict[str, Arm] | None = None) -> Rows:
    """Return the rows of one backbone, by default of every arm."""
    arms = arms or extraction_arms(setting, backbone)
    effort = setting.effort
    tasks = {
        "plain": setting.task(0, backbone=backbone),
        f"{setting.views} views": setting.task(setting.views, backbone=backbone),
    }
    steady = take_turns(
        arms,
        tasks,
        warm_up=setting.warm_up(backbone),
        repeats=effort.repeats,
        budget=effort.budget,
    )
    whole = whole_processes(arms, tasks, repeats=effort.whole_repeats, budget=effort.budget)
    return [
        measurement(
            {"backbone": backbone, "weights": setting.weights[backbone], "task": label},
            steady[label],
            unit="image",
            baseline="keras",
            whole=whole[label],
            derived={
                "images": len(setting.pictures.files),
                "renderings": setting.pictures.forward(task["views"]),
                "ratios_with_making": with_making(steady[label]),
            },
        )
        for label, task in tasks.items()
    ]


def with_making(timings: dict[str, Timing]) -> dict[str, float]:
    """Return the ratios where making the model counts for Keras, as making the engine does for Folio.

    In a steady run `extract` makes its engine and starts its processes, while the usual loop finds its model
    made and traced: the plain ratios favour Keras by that.
    """
    medians = {name: timing.to_json()["median"] for name, timing in timings.items()}
    making = timings["keras"].facts["making_seconds"] / timings["keras"].units[0]
    return {
        name: (medians["keras"] + making) / median
        for name, median in medians.items()
        if name.startswith("folio")
    }
