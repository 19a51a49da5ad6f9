"""The network alone and whole extraction, compared with Keras, timm and thingsvision."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np

from bench_arms import Arm, Timing, measurement, run_interleaved, run_whole_processes
from bench_setting import Setting

Rows = list[dict[str, Any]]


def network(setting: Setting) -> Rows:
    """Measure the network alone, and the smallest cosine between each arm's features and Keras'."""
    rows = []
    for backbone in setting.backbones:
        arms = network_arms(setting, backbone)
        task = setting.task(0, backbone=backbone)
        timings = run_interleaved(
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
    """Return the arms of Keras, of every engine in every supported precision, and of timm."""
    network_options = {"backbone": backbone, "weights": setting.weights[backbone]}
    factories = {f"keras {call}": ("bench_keras.network", {"call": call}) for call in ("predict", "model(x)")}
    for engine, precision in itertools.product(("tensorflow", "openvino"), setting.precisions):
        if precision == "float32" or engine == "openvino":
            options = {"engine": engine, "precision": precision}
            factories[f"{engine} {precision}"] = ("bench_folio.network", options)
    arms = {
        name: Arm(
            factory=factory,
            options={
                **network_options,
                **options,
                "features": str(setting.work / f"{backbone}_{number}.npy"),
            },
        )
        for number, (name, (factory, options)) in enumerate(factories.items())
    }
    if "timm" in setting.peers:
        for precision in setting.precisions:
            options = {"backbone": backbone, "precision": precision}
            python = setting.peers["timm"]
            arms[f"timm {precision}"] = Arm(
                factory="bench_torch.timm_network", options=options, python=python
            )
    return arms


def cosines(features: dict[str, Path]) -> dict[str, float]:
    """Return the smallest cosine over the images between each arm's features and the first arm's."""
    first, *others = [(name, np.load(path).astype(float)) for name, path in features.items()]
    expected = first[1] / np.linalg.norm(first[1], axis=1, keepdims=True)
    return {
        name: float(np.min(np.sum(rows / np.linalg.norm(rows, axis=1, keepdims=True) * expected, axis=1)))
        for name, rows in others
    }


def extraction_arms(setting: Setting, backbone: str) -> dict[str, Arm]:
    """Return the Keras loop, Folio with defaults and with fixed precision or engine, and the peers."""
    network_options = {"backbone": backbone, "weights": setting.weights[backbone]}
    folio: dict[str, dict[str, str]] = {"folio": {}}
    folio |= {f"folio {precision}": {"precision": precision} for precision in setting.precisions}
    folio |= {f"folio {name}": {"engine": name, "precision": "float32"} for name in setting.engines}
    arms = {"keras": Arm(factory="bench_keras.standard_loop", options=network_options)}
    for name, options in folio.items():
        arms[name] = Arm(factory="bench_folio.extraction", options={**network_options, **options})
    for name, python in setting.peers.items():
        only = ("plain",) if name == "thingsvision" else None  # it has no augmentation
        arms[name] = Arm(
            factory=f"bench_torch.{name}_loop", options={"backbone": backbone}, python=python, only=only
        )
    return arms


def extraction(setting: Setting) -> Rows:
    """Measure whole extraction against the Keras loop: plain, and with augmented views."""
    return [row for name in setting.backbones for row in extraction_rows(setting, name)]


def extraction_rows(setting: Setting, backbone: str, *, arms: dict[str, Arm] | None = None) -> Rows:
    """Return the rows of one backbone, with all arms by default."""
    arms = arms or extraction_arms(setting, backbone)
    effort = setting.effort
    tasks = {
        "plain": setting.task(0, backbone=backbone),
        f"{setting.views} views": setting.task(setting.views, backbone=backbone),
    }
    steady = run_interleaved(
        arms,
        tasks,
        warm_up=setting.warm_up(backbone),
        repeats=effort.repeats,
        budget=effort.budget,
    )
    whole = run_whole_processes(arms, tasks, repeats=effort.whole_repeats, budget=effort.budget)
    return [
        measurement(
            {"backbone": backbone, "weights": setting.weights[backbone], "task": label},
            steady[label],
            unit="image",
            baseline="keras",
            whole=whole[label],
            derived={
                "images": len(setting.images.files),
                "renderings": setting.images.n_renderings(task["views"]),
                "ratios_with_setup": ratios_with_setup(steady[label]),
            },
        )
        for label, task in tasks.items()
    ]


def ratios_with_setup(timings: dict[str, Timing]) -> dict[str, float]:
    """Return the ratios with the time to build the model counted for Keras too.

    In a steady run `extract` creates its engine and starts its processes, while the Keras loop has its model
    built and traced already, so that the plain ratios favour Keras.
    """
    medians = {name: timing.to_json()["median"] for name, timing in timings.items()}
    setup = timings["keras"].facts["setup_seconds"] / timings["keras"].units[0]
    return {
        name: (medians["keras"] + setup) / median
        for name, median in medians.items()
        if name.startswith("folio")
    }
