"""What more training images would bring: a learning curve over grouped subsets, and its prolongation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from classify.heads import get_head
from classify.studies.case import Case, FloatArray, searched
from classify.studies.curve import N_RESAMPLES, Curve, Parts, draw_parts, fit_curve, resampled
from classify.studies.law import at, fit_law
from featurize import CompareError

_OTHERS = (0.125, 0.25, 0.5, 1.0)  # fractions of the heads that are drawn beside it, one draw each
_NETWORKS = (0.25, 0.5, 1.0)  # those that are trained longest
_NICE = (1, 2, 4, 5)  # leading digits of the numbers of images that are spoken of


def study(case: Case) -> dict[str, Any]:
    """Fit the head on parts of each fold's training images and grade the held-out ones.

    Hyper-parameters are those chosen on all. Accuracy is extrapolated by a power law of the error,
    ``error = scale * n_images ** -slope``, up to about twice the images there are.

    Parameters
    ----------
    case : Case

    Returns
    -------
    dict
        ``points`` for a plot, ``law``, and ``gains``: what so many more images would bring, with 95 %
        percentile intervals of a bootstrap over held-out groups and draws. They take the images of each
        draw as given, so they are approximate. ``heads`` has the points of every head that was compared on
        the store, this one first; or the ``reason`` why one has none.

    Raises
    ------
    CompareError
        If there are too few images for three different sizes.

    References
    ----------
    Viering & Loog, "The shape of learning curves: a review", arXiv:2103.10948, section 4.1 (power laws).
    """
    parts = draw_parts(case)
    curve = fit_curve(case, searched(case).params, parts)
    if len(curve.fractions) < 3:
        raise CompareError("there are too few training images for a learning curve: add some first")
    now = len(case.images)
    more = [round_number(now / part) for part in (4, 2, 1)]
    spread = resampled(curve, seed=case.seed)  # (n_resamples, n_fractions)
    n_entries = float(curve.sizes.sum())
    means = np.array([draws.mean() for draws in curve.accuracy])
    law = fit_law(curve.n_images, means[None], n_scored=n_entries)
    laws = fit_law(curve.n_images, spread, n_scored=n_entries)
    gains = []
    for extra in dict.fromkeys(more):
        found = at(law, now + extra) - at(law, now)
        gained = at(laws, now + extra) - at(laws, now)
        low, high = np.quantile(gained, (0.025, 0.975))
        gains.append({"more_images": extra, "gain": float(found[0]), "low": float(low), "high": float(high)})
    points = _points(curve, spread)
    return {
        "metric": "accuracy",
        "n_images": now,
        "points": [
            {**point, "draws": draws.tolist()} for point, draws in zip(points, curve.accuracy, strict=True)
        ],
        "heads": [
            {"store": case.samples.store, "head": case.head, "points": points},
            *_others(case, parts),
        ],
        "law": {
            "formula": "error = scale * n_images ** -slope",
            "scale": float(law.scale[0]),
            "slope": float(law.slope[0]),
        },
        "gains": gains,
        "method": f"percentile bootstrap over held-out groups and draws, {N_RESAMPLES} resamples",
        "approximate": True,
        "method_of_other_heads": (
            f"one draw a size; percentile bootstrap over held-out groups, {N_RESAMPLES} resamples"
        ),
        "text": _text(case, curve, means, gains[-1]),
    }


def round_number(wanted: float) -> int:
    """Return the greatest of 1, 2, 4, 5, 10, 20, 40 … that is not above a number, at least 1."""
    power = 10 ** int(np.floor(np.log10(max(wanted, 1.0))))
    return max(digit * power for digit in _NICE if digit * power <= max(wanted, 1.0))


def _points(curve: Curve, spread: FloatArray) -> list[dict[str, Any]]:
    """Return what a plot shows of a curve; `spread` is `resampled` of it."""
    low, high = np.quantile(spread, (0.025, 0.975), axis=0)
    return [
        {
            "fraction": fraction,
            "n_images": float(curve.n_images[i]),
            "accuracy": float(curve.accuracy[i].mean()),
            "low": float(low[i]),
            "high": float(high[i]),
        }
        for i, fraction in enumerate(curve.fractions)
    ]


def _others(case: Case, parts: Parts) -> list[dict[str, Any]]:
    """Return a curve of each other head of the store, from fewer fits: of one draw of some fractions."""
    found = []
    for head in case.heads:
        if head == case.head:
            continue
        other = replace(case, head=head)
        wanted = _NETWORKS if get_head(head).tensorflow else _OTHERS
        mine = {(f, draw): part for (f, draw), part in parts.items() if f in wanted and draw == 0}
        about: dict[str, Any] = {"store": case.samples.store, "head": head, "points": []}
        try:
            curve = fit_curve(other, case.chosen.get(head) or searched(other).params, mine)
            about["points"] = _points(curve, resampled(curve, seed=case.seed))
        except CompareError as error:  # one head must not take the others with it
            about["reason"] = str(error)
        found.append(about)
    return found


def _text(case: Case, curve: Curve, means: FloatArray, gain: Mapping[str, Any]) -> str:
    points = ", ".join(
        f"{accuracy:.3f} from {n:.0f}" for accuracy, n in zip(means, curve.n_images, strict=True)
    )
    low, high = (f"{100 * gain[key]:+.1f}".replace("-", "−") for key in ("low", "high"))
    brought = f"{100 * gain['gain']:+.1f}".replace("-", "−")
    things = "images" if case.samples.n_joined is None else "entries"
    end = (
        f"{gain['more_images']} more {things} would bring about {brought} points "
        f"(approximate 95 % interval {low} to {high})"
    )
    if gain["low"] <= 0:
        end = f"{end}: that they would help is not sure"
    where = f"{case.head} on {case.samples.store}, out of fold, accuracy"
    return f"Learning curve ({where}): {points} {things}. {end}."
