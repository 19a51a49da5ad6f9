"""Roofline of extraction on this machine, and scaling with images and views."""

from __future__ import annotations

import itertools
import statistics
from typing import Any

from featurize.backbones.registry import get_backbone

from bench_arms import Arm, Timing, measurement, run_interleaved, run_whole_processes
from bench_data import reduced, replicated
from bench_setting import Setting

SCALES = (1, 4, 16)
VIEWS = (0, 1, 2, 4, 8)
Rows = list[dict[str, Any]]


def roofline(setting: Setting) -> Rows:
    """Measure decoding alone, the network alone and whole extraction, in turns.

    The roofline of cores that do both is 1 / (1 / decode rate + 1 / network rate).
    """
    rows = []
    more = replicated(setting.images, setting.work / "roofline", times=SCALES[1])
    label = f"{setting.views} views"
    for backbone in setting.backbones:
        network_options = {"backbone": backbone, "weights": setting.weights[backbone]}
        size = get_backbone(backbone).size
        arms = {"decode": Arm(factory="bench_folio.decoding", options={"size": size}, only=("plain", label))}
        for precision in setting.precisions:
            options = {**network_options, "precision": precision}
            arms[f"network {precision}"] = Arm(
                factory="bench_folio.network", options={**options, "engine": "auto"}, only=("plain", label)
            )
            arms[f"extraction {precision}"] = Arm(factory="bench_folio.extraction", options=options)
        tasks = {
            "plain": setting.task(0, backbone=backbone),
            label: setting.task(setting.views, backbone=backbone),
            "plain, 4 times the images": setting.task(0, backbone=backbone, images=more),
        }
        timings = run_interleaved(
            arms,
            tasks,
            warm_up=setting.warm_up(backbone),
            repeats=setting.effort.repeats,
            budget=setting.effort.budget,
        )
        for task, views in (("plain", 0), (label, setting.views)):
            derived = {
                precision: roofline_fraction(setting, timings[task], precision, views=views)
                for precision in setting.precisions
            }
            if task == "plain":
                for precision, found in derived.items():
                    found["marginal_share"] = found["roofline"] / marginal_seconds(
                        timings[task][f"extraction {precision}"],
                        timings["plain, 4 times the images"][f"extraction {precision}"],
                    )
            what = {"backbone": backbone, "weights": setting.weights[backbone], "task": task}
            rows.append(measurement(what, timings[task], unit="image", derived=derived))
    return rows


def roofline_fraction(
    setting: Setting, timings: dict[str, Timing], precision: str, *, views: int
) -> dict[str, float]:
    """Return the roofline in seconds per image with its views, and the fraction that extraction reaches."""
    renderings = setting.images.n_renderings(views) / len(setting.images.files)
    decode, network, whole = (
        timings[name].to_json()["median"]
        for name in ("decode", f"network {precision}", f"extraction {precision}")
    )
    best = decode + network * renderings
    return {"renderings": renderings, "roofline": best, "share": best / whole}


def marginal_seconds(few: Timing, many: Timing) -> float:
    """Return the seconds per additional image; the fixed cost of a run is excluded."""
    seconds = [statistics.median(timing.seconds) for timing in (few, many)]
    return (seconds[1] - seconds[0]) / (many.units[0] - few.units[0])


def scaling(setting: Setting) -> Rows:
    """Measure extraction for growing numbers of images and of views, and its memory use."""
    backbone = setting.backbones[0]
    base = setting.images
    if setting.effort.scaling_images is not None:
        base = reduced(base, setting.work / "base", limit=setting.effort.scaling_images)
    trees = {f"{n}×": replicated(base, setting.work / f"times_{n}", times=n) for n in SCALES}
    tasks = {
        f"{label}, {setting.views} views": setting.task(setting.views, backbone=backbone, images=tree)
        for label, tree in trees.items()
    }
    growing = {
        f"{views} views": setting.task(views, backbone=backbone, images=trees["1×"]) for views in VIEWS
    }
    network_options = {"backbone": backbone, "weights": setting.weights[backbone]}
    arms = {"folio": Arm(factory="bench_folio.extraction", options=network_options)}
    effort = setting.effort
    all_tasks = {**tasks, **growing}
    timings = run_interleaved(
        arms, all_tasks, warm_up=setting.warm_up(backbone), repeats=effort.repeats, budget=effort.budget
    )
    whole = run_whole_processes(arms, all_tasks, repeats=1, budget=effort.budget)
    labels = list(tasks)
    margins = [
        marginal_seconds(timings[few]["folio"], timings[many]["folio"])
        for few, many in itertools.pairwise(labels)
    ]
    each = [timings[label]["folio"].to_json()["median"] for label in labels]
    return [
        measurement(
            {"backbone": backbone, "weights": setting.weights[backbone], "task": label},
            timings[label],
            unit="image",
            whole=whole[label],
            derived={
                "marginal_seconds": margins,
                "largest_over_smallest": max(each) / min(each),
                "marginal_largest_over_smallest": max(margins) / min(margins),
            }
            if label == labels[-1]
            else {"seconds_per_rendering": _seconds_per_rendering(timings[label]["folio"])},
        )
        for label in all_tasks
    ]


def _seconds_per_rendering(timing: Timing) -> float:
    return statistics.median(timing.seconds) / timing.facts["renderings"]
