"""The tutorial's own regime: every epoch sends newly augmented pictures through the backbone."""

from __future__ import annotations

import statistics
from typing import Any

from bench_arms import Arm, Timing, measurement, whole_processes
from bench_extraction import extract_in_turns, extraction_arms
from bench_setting import Setting

TUTORIAL_EPOCHS = 300
Rows = list[dict[str, Any]]


def tutorial(setting: Setting, extracted: Rows | None = None) -> Rows:
    """Set online augmentation through the backbone against extracting once, from measured rates.

    Parameters
    ----------
    setting : Setting
    extracted : list, optional
        Rows of `extraction` in the same run; measured here where there are none.
    """
    rows = []
    views = f"{setting.views} views"
    for backbone in setting.backbones:
        here = [row for row in extracted or [] if row["what"]["backbone"] == backbone]
        if not here:
            arms = extraction_arms(setting, backbone)
            here = extract_in_turns(setting, backbone, arms={name: arms[name] for name in ("keras", "folio")})
        by_task = {row["what"]["task"]: row for row in here}
        options = {"store": str(setting.store(backbone, views=setting.views)), "epochs": TUTORIAL_EPOCHS}
        arms = {"dense": Arm(make="bench_folio.dense_epochs", options=options)}
        fitted = whole_processes(arms, {"fit": {}}, repeats=setting.effort.whole_repeats, budget=60.0)["fit"]
        rows.append(
            measurement(
                {"backbone": backbone, "weights": setting.weights[backbone], "epochs": TUTORIAL_EPOCHS},
                {},
                unit="whole",
                whole=fitted,
                derived=online_and_once(
                    by_task["plain"], by_task[views], fitted["dense"], views=setting.views
                ),
            )
        )
    return rows


def online_and_once(plain: dict, augmented: dict, fitted: Timing, *, views: int) -> dict[str, float]:
    """Return hours of all epochs online, seconds of extraction and fit, and how many times that is."""
    images = plain["derived"]["images"]
    slow = [row["arms"]["keras"]["median"] * images for row in (plain, augmented)]
    epoch = (slow[1] - slow[0]) / views  # one augmented pass over the training pictures
    once = augmented["whole"]["arms"]["folio"]["median"] * images
    fit = statistics.median(fitted.seconds)
    return {
        "seconds_an_epoch_online": epoch,
        "hours_online": TUTORIAL_EPOCHS * epoch / 3600,
        "seconds_extraction": once,
        "seconds_fit": fit,
        "times": TUTORIAL_EPOCHS * epoch / (once + fit),
    }
