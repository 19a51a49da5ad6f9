"""Tuning and fitting of heads: Folio's comparison against plain scikit-learn and Keras."""

from __future__ import annotations

from typing import Any

import numpy as np

from bench_arms import Arm, Timing, measurement, run_interleaved, run_whole_processes
from bench_setting import Setting

HEADS = ("logreg", "svm-linear", "svm-rbf", "dense")
ALL = "all heads"
WARM_UP = {"heads": ["baseline"]}  # nothing to search
Rows = list[dict[str, Any]]


def heads(setting: Setting) -> Rows:
    """Measure each head and all heads together, and compare the results of both arms."""
    dense = dict(setting.effort.dense)
    backbone = setting.backbones[0]
    store = str(setting.store(backbone, views=setting.views))
    plain = {
        f"plain, n_jobs={jobs}": Arm(
            factory="bench_plain_heads.search",
            options={"store": store, "jobs": jobs, "dense": dense},
            only=HEADS,
        )
        for jobs in setting.jobs
    }
    folio = {"folio": Arm(factory="bench_folio.comparison", options={"store": store, "dense": dense})}
    tasks = {name: {"heads": [name]} for name in HEADS} | {ALL: {"heads": list(HEADS)}}
    budget = setting.effort.budget / 4  # the plain searches take minutes and may run only once
    timings = run_interleaved(
        {**plain, **folio}, tasks, warm_up=WARM_UP, repeats=setting.effort.repeats, budget=budget
    )
    whole = run_whole_processes(folio, {ALL: tasks[ALL]}, repeats=setting.effort.whole_repeats, budget=budget)
    what = {"backbone": backbone, "views": setting.views}
    baseline = next(iter(plain))
    rows = [
        measurement(
            {**what, "head": head},
            timings[head],
            unit="search",
            baseline=baseline,
            derived=result_agreement(timings[head], head, baseline=baseline),
        )
        for head in HEADS
    ]
    together = {name: summed([timings[head][name] for head in HEADS]) for name in plain}
    rows.append(
        measurement(
            {**what, "head": ALL},
            {**together, **timings[ALL]},
            unit="search",
            baseline=baseline,
            whole={**together, **whole[ALL]},
            derived={"dense": dense_accuracies(setting, store, timings["dense"], baseline=baseline)},
        )
    )
    return rows


def summed(timings: list[Timing]) -> Timing:
    """Return the sum of the searches of all heads; the start of the plain arms' processes is not included."""
    parts = [timing.to_json() for timing in timings]
    return Timing(
        units=[1],
        seconds=[sum(part["median"] for part in parts)],
        cpu_seconds=[sum(part["cpu_median"] for part in parts)],
        peak_bytes=[max(max(timing.peak_bytes) for timing in timings)],
        facts={"summed": True},
    )


def result_agreement(timings: dict[str, Timing], head: str, *, baseline: str) -> dict[str, Any]:
    """Return the chosen parameters of each arm and the number of equal predictions on test images."""
    ours, plain = (timings[name].facts["heads"][head] for name in ("folio", baseline))
    same = [a == b for a, b in zip(ours["predicted"], plain["predicted"], strict=True)]
    return {
        "chosen": {"folio": ours["params"], baseline: plain["params"]},
        "same_params": _searched(ours["params"], plain["params"]) == plain["params"],
        "cv_balanced_accuracy": {
            name: result["cv_balanced_accuracy"] for name, result in (("folio", ours), (baseline, plain))
        },
        "accuracy": {"folio": ours["accuracy"], baseline: plain["accuracy"]},
        "same_test_classes": sum(same),
        "test_images": len(same),
    }


def _searched(params: dict[str, Any], like: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in params.items() if key in like}


def dense_accuracies(
    setting: Setting, store: str, timings: dict[str, Timing], *, baseline: str
) -> dict[str, Any]:
    """Return the test accuracies of the dense head over seeds, with the parameters that each arm chose."""
    found = {}
    for name, module in (("folio", "bench_folio"), (baseline, "bench_plain_heads")):
        scaling = timings[name].facts["heads"]["dense"]["params"]["scaling"]
        arm = Arm(
            factory=f"{module}.dense_fits", options={"store": store, "options": dict(setting.effort.dense)}
        )
        task = {"seeds": list(range(setting.effort.seeds)), "params": {"scaling": scaling}}
        run = run_whole_processes({name: arm}, {"seeds": task}, repeats=1, budget=setting.effort.budget)
        accuracies = run["seeds"][name].facts["accuracies"]
        found[name] = {"accuracies": accuracies, "mean": float(np.mean(accuracies)), "scaling": scaling}
    return found
