"""Samples whose images are rows of views: what a comparison that knows of no images would see."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from sklearn.model_selection import StratifiedKFold

from classify.data.samples import Samples
from classify.errors import CompareError
from classify.evaluation.studies.base import (
    Pairs,
    StudyContext,
    choose_on_folds,
    fit_tasks,
    out_of_fold_predictions,
    run_all,
)
from classify.evaluation.studies.compare import Difference, metric_words, side_by_side
from classify.heads.registry import get_head
from classify.model_selection.predictions import EntryPredictions, average_entries
from featurize.base.typing import IntArray


def rows_as_images(samples: Samples) -> Samples:
    """Return every row of the training images, augmented views too, as an image, entry and group of its own.

    Returns
    -------
    Samples
        In the order of ``samples.rows(samples.fit_images)``; no image has further views.
    """
    rows = samples.rows(samples.fit_images)
    n_rows = len(rows.y)
    return replace(
        samples,
        **_of_images(samples, rows.image),
        entry=[f"row {row}" for row in range(n_rows)],
        split=np.full(n_rows, "train"),
        content=np.arange(n_rows),
        group=np.arange(n_rows),
        plain=rows.X,
        augmented=samples.augmented[:0],
        augmented_row=np.full(n_rows, -1, dtype=np.int64),
        fit=np.ones(n_rows, dtype=bool),
        scored=np.zeros(n_rows, dtype=bool),
        n_joined=None,
    )


def images_alone(samples: Samples) -> Samples:
    """Return samples in which every image is an entry and a group of its own, whatever it has in common."""
    return replace(samples, entry=list(samples.path), group=np.arange(len(samples.y)))


def plain_alone(samples: Samples) -> Samples:
    """Return samples without their augmented views."""
    return replace(
        samples, augmented=samples.augmented[:, :0], augmented_row=np.full_like(samples.augmented_row, -1)
    )


def views_beside(samples: Samples, images: IntArray) -> tuple[Samples, IntArray]:
    """Return samples in which each augmented view of some images stands behind all as an image to grade.

    Parameters
    ----------
    samples : Samples
    images : ndarray of shape (n_chosen,), int

    Returns
    -------
    Samples
        The images as they were, then the views, which are not fitted on in their new places.
    ndarray of shape (n_added,), int64
        The image that each of the added ones is a view of.
    """
    seen = images[samples.augmented_row[samples.content[images]] >= 0]
    views = samples.augmented[samples.augmented_row[samples.content[seen]]]  # (n_seen, n_views, n_features)
    image = np.repeat(seen, samples.n_views)
    n_added, n_content = len(image), len(samples.plain)
    added = _of_images(samples, image)
    return replace(
        samples,
        path=[*samples.path, *added["path"]],
        entry=[*samples.entry, *(samples.entry[one] for one in image)],
        split=np.concatenate([samples.split, samples.split[image]]),
        y=np.concatenate([samples.y, added["y"]]),
        content=np.concatenate([samples.content, n_content + np.arange(n_added)]),
        group=np.concatenate([samples.group, samples.group[image]]),
        plain=np.concatenate([samples.plain, views.reshape(n_added, samples.n_features)]),
        augmented_row=np.concatenate([samples.augmented_row, np.full(n_added, -1)]),
        fit=np.concatenate([samples.fit, np.zeros(n_added, dtype=bool)]),
        scored=np.concatenate([samples.scored, np.zeros(n_added, dtype=bool)]),
        n_joined=None,
    ), image


def _of_images(samples: Samples, image: IntArray) -> dict[str, Any]:
    return {"path": [samples.path[one] for one in image], "y": samples.y[image]}


def study_leakage(case: StudyContext) -> dict[str, Any]:
    """Search every head that costs little, and the recommended one, on grouped and on naive folds.

    Naive folds are made over rows, plain and augmented alike, and every row is scored; they are what a
    table of features invites to. Between the two stand folds over images that take no account of groups.

    Parameters
    ----------
    case : StudyContext

    Returns
    -------
    dict
        ``heads``: one mapping a head with the balanced accuracy (the best of the grid, as CV in the
        leaderboard) as ``grouped``, ``by_row`` and ``by_image``; None where the store has no views,
        or no group of several images.

    References
    ----------
    Kapoor & Narayanan, "Leakage and the reproducibility crisis in machine-learning-based science",
    Patterns 4 (2023), 100804: what parts of the data that are not independent do to a figure.
    """
    samples = case.samples
    by_row = rows_as_images(samples) if samples.n_rows(case.images) > len(case.images) else None
    groups = samples.group[case.images]
    by_image = images_alone(samples) if len(np.unique(groups)) < len(groups) else None
    if by_row is None and by_image is None:
        text = (
            "Leak meter: no image has augmented views or shares a group, so naive folds are the grouped ones."
        )
        return {"heads": [], "text": text}
    heads = [head for head in case.heads if head == case.head or not get_head(head).tensorflow]
    found = []
    for head in sorted(heads, key=lambda head: head != case.head):
        mine = replace(case, head=head)
        found.append(
            {
                "head": head,
                "grouped": choose_on_folds(mine).score,
                "by_row": None if by_row is None else _naive(mine, by_row, by_row.fit_images),
                "by_image": None if by_image is None else _naive(mine, by_image, case.images),
            }
        )
    text, shown = _said(found, n_views=samples.n_views)
    return {"heads": found, "text": text, "shown": shown}


def _naive(case: StudyContext, samples: Samples, images: IntArray) -> float | None:
    pairs = _stratified(samples.y, images, n_folds=len(case.pairs), seed=case.seed)
    return choose_on_folds(replace(case, samples=samples, pairs=pairs)).score


def _stratified(y: IntArray, images: IntArray, *, n_folds: int, seed: int) -> Pairs:
    folds = StratifiedKFold(n_splits=n_folds, shuffle=True, random_state=seed).split(images, y[images])
    return tuple((images[fitted], images[held_out]) for fitted, held_out in folds)


def _said(found: list[dict[str, Any]], *, n_views: int) -> tuple[str, list[str]]:
    """Return what the meter comes to, and a line for each head."""
    rows = f"folds over rows of {n_views} views" if n_views > 1 else "folds over rows of views"
    what = {"by_row": rows, "by_image": "folds over images that ignore groups"}
    lines, most = [], 0.0
    for one in found:
        grouped = one["grouped"]
        shown = {key: one[key] for key in what if one[key] is not None and grouped is not None}
        if not shown:
            continue
        most = max(most, *(score - grouped for score in shown.values()))
        parts = [
            f"{what[key]} {score:.3f} ({100 * (score - grouped):+.1f} points)" for key, score in shown.items()
        ]
        lines.append(f"{one['head']}: grouped folds {grouped:.3f}, {', '.join(parts)}")
    if not lines:
        return "Leak meter: no head could be searched on the grouped folds.", []
    end = (
        f"what is above the grouped figure is leak, not skill: up to {100 * most:.1f} points here"
        if most > 0
        else "nothing leaked into view here"
    )
    return f"Leak meter (balanced accuracy of the same search): {end}.", lines


PLAIN, VIEWS, AVERAGED = "plain only", "plain and views", "predictions averaged over views"


def study_augmentation(case: StudyContext) -> dict[str, Any]:
    """Compare fitting without views, with them, and with them in grading too, on held-out training images.

    Parameters
    ----------
    case : StudyContext

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
    plain = out_of_fold_predictions(without, choose_on_folds(without).params)
    with_views, averaged = _with_views(case, choose_on_folds(case).params)
    sides = side_by_side(case, {PLAIN: plain, VIEWS: with_views, AVERAGED: averaged})
    text = (
        f"Views ({case.head} on {samples.store}, out of fold, {metric_words(sides.metric)}): "
        f"{sides.words()}. {_paid(sides.differences[VIEWS])} {_averaging(sides.differences[AVERAGED])}"
    )
    return {**sides.record(), "n_views": samples.n_views, "text": text}


def _with_views(case: StudyContext, params: Any) -> tuple[EntryPredictions, EntryPredictions]:
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
    return average_entries(samples, images, probabilities[images]), average_entries(samples, images, mean[images])


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
