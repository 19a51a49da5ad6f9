"""How near extraction comes to what this machine allows, and how it grows with images and views."""

from __future__ import annotations

import itertools
import statistics
from typing import Any

from featurize.backbones.registry import get_backbone

from bench_arms import Arm, Timing, measurement, take_turns, whole_processes
from bench_data import multiplied, smaller
from bench_setting import Setting

SCALES = (1, 4, 16)
VIEWS = (0, 1, 2, 4, 8)
Rows = list[dict[str, Any]]


def roofline(setting: Setting) -> Rows:
    """Measure decoding alone, the network alone and both together, in turns.

    The roofline of cores that share both works is 1 / (1 / decode rate + 1 / network rate).
    """
    rows = []
    more = multiplied(setting.pictures, setting.work / "roofline", times=SCALES[1])
    label = f"{setting.views} views"
    for backbone in setting.backbones:
        made_with = {"backbone": backbone, "weights": setting.weights[backbone]}
        size = get_backbone(backbone).size
        arms = {"decode": Arm(make="bench_folio.decoding", options={"size": size}, only=("plain", label))}
        for precision in setting.precisions:
            options = {**made_with, "precision": precision}
            arms[f"network {precision}"] = Arm(
                make="bench_folio.network", options={**options, "engine": "auto"}, only=("plain", label)
            )
            arms[f"extraction {precision}"] = Arm(make="bench_folio.extraction", options=options)
        tasks = {
            "plain": setting.task(0, backbone=backbone),
            label: setting.task(setting.views, backbone=backbone),
            "plain, 4 times the images": setting.task(0, backbone=backbone, pictures=more),
        }
        timings = take_turns(
            arms,
            tasks,
            warm_up=setting.warm_up(backbone),
            repeats=setting.effort.repeats,
            budget=setting.effort.budget,
        )
        for task, views in (("plain", 0), (label, setting.views)):
            derived = {
                precision: shares(setting, timings[task], precision, views=views)
                for precision in setting.precisions
            }
            if task == "plain":
                for precision, found in derived.items():
                    found["share_at_the_margin"] = found["roofline"] / at_the_margin(
                        timings[task][f"extraction {precision}"],
                        timings["plain, 4 times the images"][f"extraction {precision}"],
                    )
            what = {"backbone": backbone, "weights": setting.weights[backbone], "task": task}
            rows.append(measurement(what, timings[task], unit="image", derived=derived))
    return rows


def shares(setting: Setting, timings: dict[str, Timing], precision: str, *, views: int) -> dict[str, float]:
    """Return the roofline in seconds an image with its views, and the share of it that extraction reaches."""
    renderings = setting.pictures.forward(views) / len(setting.pictures.files)
    decode, network, whole = (
        timings[name].to_json()["median"]
        for name in ("decode", f"network {precision}", f"extraction {precision}")
    )
    best = decode + network * renderings
    return {"renderings": renderings, "roofline": best, "share": best / whole}


def at_the_margin(few: Timing, many: Timing) -> float:
    """Return the seconds that one image more takes: what a run costs once is left out."""
    seconds = [statistics.median(timing.seconds) for timing in (few, many)]
    return (seconds[1] - seconds[0]) / (many.units[0] - few.units[0])


def scaling(setting: Setting) -> Rows:
    """Measure extraction as images grow, views and all, as views grow, and its memory in own processes."""
    backbone = setting.backbones[0]
    base = setting.pictures
    if setting.effort.scaling_pictures is not None:
        base = smaller(base, setting.work / "base", images=setting.effort.scaling_pictures)
    trees = {f"{n}×": multiplied(base, setting.work / f"times_{n}", times=n) for n in SCALES}
    tasks = {
        f"{label}, {setting.views} views": setting.task(setting.views, backbone=backbone, pictures=tree)
        for label, tree in trees.items()
    }
    growing = {
        f"{views} views": setting.task(views, backbone=backbone, pictures=trees["1×"]) for views in VIEWS
    }
    made_with = {"backbone": backbone, "weights": setting.weights[backbone]}
    arms = {"folio": Arm(make="bench_folio.extraction", options=made_with)}
    effort = setting.effort
    all_tasks = {**tasks, **growing}
    timings = take_turns(
        arms, all_tasks, warm_up=setting.warm_up(backbone), repeats=effort.repeats, budget=effort.budget
    )
    whole = whole_processes(arms, all_tasks, repeats=1, budget=effort.budget)
    labels = list(tasks)
    margins = [
        at_the_margin(timings[few]["folio"], timings[many]["folio"])
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
                "seconds_at_the_margin": margins,
                "largest_over_smallest": max(each) / min(each),
                "largest_over_smallest_at_the_margin": max(margins) / min(margins),
            }
            if label == labels[-1]
            else {"seconds_a_rendering": _a_rendering(timings[label]["folio"])},
        )
        for label in all_tasks
    ]


def _a_rendering(timing: Timing) -> float:
    return statistics.median(timing.seconds) / timing.facts["renderings"]
