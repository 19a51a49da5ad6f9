"""Extraction on Dask workers of this machine, compared with extraction without Dask."""

from __future__ import annotations

from typing import Any

from bench_arms import Arm, measurement, run_interleaved
from bench_data import replicated
from bench_limits import marginal_seconds
from bench_setting import Setting

TIMES = 4  # size of the larger data set relative to the smaller one
WORKERS = (1, 2)
Rows = list[dict[str, Any]]


def dask(setting: Setting) -> Rows:
    """Measure whole extractions of the images, and of four times as many.

    Each run starts its own cluster and loads the engines on its workers. That cost is part of the rate per
    run but not of the rate per additional image. The workers share the cores of this machine, so two of them
    are at best as fast as one process.
    """
    backbone = setting.backbones[0]
    network_options = {"backbone": backbone, "weights": setting.weights[backbone], "precision": "float32"}
    arms = {"folio": Arm(factory="bench_folio.extraction", options=network_options)}
    for n_workers in WORKERS:
        arms[f"{n_workers} Dask worker{'s' if n_workers > 1 else ''}"] = Arm(
            factory="bench_folio.extraction", options={**network_options, "dask": f"local:{n_workers}"}
        )
    more = replicated(setting.images, setting.work / "dask", times=TIMES)
    label = f"{setting.views} views"
    tasks = {
        label: setting.task(setting.views, backbone=backbone),
        f"{label}, {TIMES} times the images": setting.task(setting.views, backbone=backbone, images=more),
    }
    timings = run_interleaved(
        arms,
        tasks,
        warm_up=setting.warm_up(backbone),
        repeats=setting.effort.repeats,
        budget=setting.effort.budget,
    )
    few, many = (timings[task] for task in tasks)
    margins = {name: marginal_seconds(few[name], many[name]) for name in arms}
    what = {"backbone": backbone, "weights": setting.weights[backbone]}
    return [
        measurement(
            {**what, "task": task},
            timings[task],
            unit="image",
            baseline="folio",
            derived={"marginal_seconds": margins} if timings[task] is many else {},
        )
        for task in tasks
    ]
