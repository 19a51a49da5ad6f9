"""The leak meter: what the same search shows when folds part the views of an image, or a group."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from sklearn.model_selection import StratifiedKFold

from classify.heads import get_head
from classify.samples import IntArray, Samples
from classify.studies.case import Case, Pairs, searched
from classify.studies.rows import images_alone, rows_as_images


def study(case: Case) -> dict[str, Any]:
    """Search every head that costs little, and the recommended one, on grouped and on naive folds.

    Naive folds are made over rows, plain and augmented alike, and every row is scored; they are what a
    table of features invites to. Between the two stand folds over images that take no account of groups.

    Parameters
    ----------
    case : Case

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
                "grouped": searched(mine).score,
                "by_row": None if by_row is None else _naive(mine, by_row, by_row.fit_images),
                "by_image": None if by_image is None else _naive(mine, by_image, case.images),
            }
        )
    text, shown = _said(found, n_views=samples.n_views)
    return {"heads": found, "text": text, "shown": shown}


def _naive(case: Case, samples: Samples, images: IntArray) -> float | None:
    pairs = _stratified(samples.y, images, n_folds=len(case.pairs), seed=case.seed)
    return searched(replace(case, samples=samples, pairs=pairs)).score


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
