"""Extraction on Dask workers of this machine beside extraction without Dask, in turns."""

from __future__ import annotations

from typing import Any

from bench_arms import Arm, measurement, take_turns
from bench_data import multiplied
from bench_limits import at_the_margin
from bench_setting import Setting

TIMES = 4  # the larger of the two data sets, by the smaller
WORKERS = (1, 2)
Rows = list[dict[str, Any]]


def dask(setting: Setting) -> Rows:
    """Measure whole extractions of the pictures, and of as many again four times over.

    The cluster is started and ended within each run, and the engines are built there: what that costs shows
    in the rate of a run, and not in that of a picture more. Workers share the cores of this machine, so two
    of them can at best do what one process does.
    """
    backbone = setting.backbones[0]
    made_with = {"backbone": backbone, "weights": setting.weights[backbone], "precision": "float32"}
    arms = {"folio": Arm(make="bench_folio.extraction", options=made_with)}
    for n_workers in WORKERS:
        arms[f"{n_workers} Dask worker{'s' if n_workers > 1 else ''}"] = Arm(
            make="bench_folio.extraction", options={**made_with, "dask": f"local:{n_workers}"}
        )
    more = multiplied(setting.pictures, setting.work / "dask", times=TIMES)
    label = f"{setting.views} views"
    tasks = {
        label: setting.task(setting.views, backbone=backbone),
        f"{label}, {TIMES} times the images": setting.task(setting.views, backbone=backbone, pictures=more),
    }
    timings = take_turns(
        arms,
        tasks,
        warm_up=setting.warm_up(backbone),
        repeats=setting.effort.repeats,
        budget=setting.effort.budget,
    )
    few, many = (timings[task] for task in tasks)
    margins = {name: at_the_margin(few[name], many[name]) for name in arms}
    what = {"backbone": backbone, "weights": setting.weights[backbone]}
    return [
        measurement(
            {**what, "task": task},
            timings[task],
            unit="image",
            baseline="folio",
            derived={"seconds_at_the_margin": margins} if timings[task] is many else {},
        )
        for task in tasks
    ]
