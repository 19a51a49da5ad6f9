"""Online augmentation, as in the tutorial: in every epoch the backbone sees newly augmented images."""

from __future__ import annotations

import statistics
from typing import Any

from bench_arms import Arm, Timing, measurement, run_whole_processes
from bench_extraction import extraction_arms, extraction_rows
from bench_setting import Setting

TUTORIAL_EPOCHS = 300
Rows = list[dict[str, Any]]


def tutorial(setting: Setting, extracted: Rows | None = None) -> Rows:
    """Compare online augmentation with extracting the features once, from measured rates.

    Parameters
    ----------
    setting : Setting
    extracted : list, optional
        Rows of `extraction` from the same run; measured here if missing.
    """
    rows = []
    views = f"{setting.views} views"
    for backbone in setting.backbones:
        here = [row for row in extracted or [] if row["what"]["backbone"] == backbone]
        if not here:
            arms = extraction_arms(setting, backbone)
            here = extraction_rows(setting, backbone, arms={name: arms[name] for name in ("keras", "folio")})
        by_task = {row["what"]["task"]: row for row in here}
        options = {"store": str(setting.store(backbone, views=setting.views)), "epochs": TUTORIAL_EPOCHS}
        arms = {"dense": Arm(factory="bench_folio.dense_epochs", options=options)}
        fitted = run_whole_processes(arms, {"fit": {}}, repeats=setting.effort.whole_repeats, budget=60.0)[
            "fit"
        ]
        rows.append(
            measurement(
                {"backbone": backbone, "weights": setting.weights[backbone], "epochs": TUTORIAL_EPOCHS},
                {},
                unit="whole",
                whole=fitted,
                derived=online_versus_stored(
                    by_task["plain"], by_task[views], fitted["dense"], views=setting.views
                ),
            )
        )
    return rows


def online_versus_stored(plain: dict, augmented: dict, fitted: Timing, *, views: int) -> dict[str, float]:
    """Return the time of all epochs online, the time of extraction and fit, and their ratio."""
    images = plain["derived"]["images"]
    slow = [row["arms"]["keras"]["median"] * images for row in (plain, augmented)]
    epoch = (slow[1] - slow[0]) / views  # one augmented pass over the training images
    once = augmented["whole"]["arms"]["folio"]["median"] * images
    fit = statistics.median(fitted.seconds)
    return {
        "seconds_per_epoch_online": epoch,
        "hours_online": TUTORIAL_EPOCHS * epoch / 3600,
        "seconds_extraction": once,
        "seconds_fit": fit,
        "times": TUTORIAL_EPOCHS * epoch / (once + fit),
    }
