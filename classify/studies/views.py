"""The worth of augmentation: plain only, plain and views, and predictions averaged over views."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from classify.predicted import Predicted, join_entries
from classify.studies.case import Case, fit_tasks, graded, run_all, searched
from classify.studies.paired import Difference
from classify.studies.rows import plain_alone, views_beside
from classify.studies.sides import metric_words, side_by_side
from featurize import CompareError

PLAIN, VIEWS, AVERAGED = "plain only", "plain and views", "predictions averaged over views"


def study(case: Case) -> dict[str, Any]:
    """Compare fitting without views, with them, and with them in grading too, on held-out training images.

    Parameters
    ----------
    case : Case

    Returns
    -------
    dict
        Figures, paired differences (each way against the one before), and whether the views paid.

    Raises
    ------
    CompareError
        If the store has no views.
    """
    samples = case.samples
    if samples.n_rows(case.images) == len(case.images):
        raise CompareError(
            f"store {samples.store!r} has no augmented views of the training images. Make some with: "
            "featurize extract DATA --views 4"
        )
    without = replace(case, samples=plain_alone(samples))
    plain = graded(without, searched(without).params)
    with_views, averaged = _with_views(case, searched(case).params)
    sides = side_by_side(case, {PLAIN: plain, VIEWS: with_views, AVERAGED: averaged})
    text = (
        f"Views ({case.head} on {samples.store}, out of fold, {metric_words(sides.metric)}): "
        f"{sides.words()}. {_paid(sides.differences[VIEWS])} {_averaging(sides.differences[AVERAGED])}"
    )
    return {**sides.record(), "n_views": samples.n_views, "text": text}


def _with_views(case: Case, params: Any) -> tuple[Predicted, Predicted]:
    """Return predictions of held-out images by their plain view, and by the mean over all of their views.

    One fit a fold serves both.
    """
    samples, images = case.samples, case.images
    more, view_of = views_beside(samples, images)
    n_before = len(samples.y)
    pairs = tuple(
        (fitted, np.concatenate([held_out, n_before + np.flatnonzero(np.isin(view_of, held_out))]))
        for fitted, held_out in case.pairs
    )
    probabilities = np.zeros((len(more.y), len(samples.classes)))
    outcomes = run_all(case, list(fit_tasks(replace(case, samples=more), params, pairs)))
    for (_, graded_rows), outcome in zip(pairs, outcomes, strict=True):
        probabilities[graded_rows] = outcome.probabilities
    total, count = probabilities[:n_before].copy(), np.ones(n_before)
    np.add.at(total, view_of, probabilities[n_before:])
    np.add.at(count, view_of, 1.0)
    mean = total / count[:, None]
    return join_entries(samples, images, probabilities[images]), join_entries(samples, images, mean[images])


def _paid(gained: Difference) -> str:
    if gained.verdict == "better":
        return "The views paid here."
    if gained.verdict == "worse":
        return "The views did harm here."
    return "Whether the views paid here is not settled: the interval holds zero."


def _averaging(gained: Difference) -> str:
    if gained.verdict == "better":
        return (
            "Averaging over views would pay too: it needs the views of every image that is graded "
            "(featurize extract --views-for all)."
        )
    if gained.verdict == "worse":
        return "Averaging over views does harm."
    return (
        "Averaging over views, which would need views of every image that is graded "
        "(featurize extract --views-for all), brings nothing that can be seen here."
    )
