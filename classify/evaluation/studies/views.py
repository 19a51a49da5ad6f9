"""Studies of the augmented views: leakage without grouped folds, and the effect of views on a head."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from sklearn.model_selection import StratifiedKFold

from classify.data.samples import Samples
from classify.errors import CompareError
from classify.evaluation.studies.base import (
    Folds,
    StudyContext,
    choose_on_folds,
    fit_tasks,
    out_of_fold_predictions,
    run_all,
)
from classify.evaluation.studies.compare import Difference, compare_predictions, effect_text, metric_name
from classify.heads.registry import get_head
from classify.model_selection.predictions import EntryPredictions, average_entries
from featurize.base.typing import IntArray


def views_as_images(samples: Samples) -> Samples:
    """Return samples in which every view of a training image is an image, entry and group of its own.

    Returns
    -------
    Samples
        In the order of ``samples.rows(samples.fit_images)``; no image has augmented views.
    """
    rows = samples.rows(samples.fit_images)
    n_rows = len(rows.y)
    return replace(
        samples,
        path=[samples.path[image] for image in rows.image],
        y=samples.y[rows.image],
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


def ungrouped(samples: Samples) -> Samples:
    """Return samples in which every image is an entry and a group of its own."""
    return replace(samples, entry=list(samples.path), group=np.arange(len(samples.y)))


def without_views(samples: Samples) -> Samples:
    """Return samples without their augmented views."""
    return replace(
        samples, augmented=samples.augmented[:, :0], augmented_row=np.full_like(samples.augmented_row, -1)
    )


def append_views(samples: Samples, images: IntArray) -> tuple[Samples, IntArray]:
    """Return samples with each augmented view of some images appended as an image that can be predicted.

    Parameters
    ----------
    samples : Samples
    images : ndarray of shape (n_chosen,), int
        Images whose views are appended.

    Returns
    -------
    Samples
        The unchanged images, followed by the views. Appended views are not fitted on.
    ndarray of shape (n_appended,), int64
        The image of each appended view.
    """
    with_views = images[samples.augmented_row[samples.content[images]] >= 0]
    rows = samples.augmented_row[samples.content[with_views]]
    views = samples.augmented[rows]  # (n_with_views, n_views, n_features)
    image = np.repeat(with_views, samples.n_views)
    n_added, n_content = len(image), len(samples.plain)
    return replace(
        samples,
        path=[*samples.path, *(samples.path[index] for index in image)],
        entry=[*samples.entry, *(samples.entry[index] for index in image)],
        split=np.concatenate([samples.split, samples.split[image]]),
        y=np.concatenate([samples.y, samples.y[image]]),
        content=np.concatenate([samples.content, n_content + np.arange(n_added)]),
        group=np.concatenate([samples.group, samples.group[image]]),
        plain=np.concatenate([samples.plain, views.reshape(n_added, samples.n_features)]),
        augmented_row=np.concatenate([samples.augmented_row, np.full(n_added, -1)]),
        fit=np.concatenate([samples.fit, np.zeros(n_added, dtype=bool)]),
        scored=np.concatenate([samples.scored, np.zeros(n_added, dtype=bool)]),
        n_joined=None,
    ), image


def study_leakage(context: StudyContext) -> dict[str, Any]:
    """Compare the scores of the same search on grouped folds and on naive folds.

    Naive folds treat every view as an image of its own, so that views of one image are in training and test
    folds at once. A third kind of folds keeps the views of an image together but ignores groups. The
    recommended head and all heads without TensorFlow are searched.

    Parameters
    ----------
    context : StudyContext

    Returns
    -------
    dict
        ``heads``: one mapping per head with its balanced accuracy (best grid point, as CV in the
        leaderboard): ``grouped``, ``by_row`` (None if the store has no views) and ``by_image`` (None if no
        group has several images).

    References
    ----------
    Kapoor & Narayanan, "Leakage and the reproducibility crisis in machine-learning-based science",
    Patterns 4 (2023), 100804: non-independence between training and test data.
    """
    samples = context.samples
    by_row = views_as_images(samples) if samples.n_rows(context.images) > len(context.images) else None
    groups = samples.group[context.images]
    by_image = ungrouped(samples) if len(np.unique(groups)) < len(groups) else None
    if by_row is None and by_image is None:
        text = "Leakage: not measured, because no image has augmented views or shares a group with another."
        return {"heads": [], "text": text}
    heads = [head for head in context.heads if head == context.head or not get_head(head).tensorflow]
    scores = []
    for head in sorted(heads, key=lambda head: head != context.head):
        head_context = replace(context, head=head)
        scores.append(
            {
                "head": head,
                "grouped": choose_on_folds(head_context).score,
                "by_row": None if by_row is None else _naive_score(head_context, by_row, by_row.fit_images),
                "by_image": None
                if by_image is None
                else _naive_score(head_context, by_image, context.images),
            }
        )
    text, lines = _leakage_text(scores, n_views=samples.n_views)
    return {"heads": scores, "text": text, "shown": lines}


def _naive_score(context: StudyContext, samples: Samples, images: IntArray) -> float | None:
    folds = _stratified(samples.y, images, n_folds=len(context.folds), seed=context.seed)
    return choose_on_folds(replace(context, samples=samples, folds=folds)).score


def _stratified(y: IntArray, images: IntArray, *, n_folds: int, seed: int) -> Folds:
    folds = StratifiedKFold(n_splits=n_folds, shuffle=True, random_state=seed).split(images, y[images])
    return tuple((images[fitted], images[held_out]) for fitted, held_out in folds)


def _leakage_text(heads: list[dict[str, Any]], *, n_views: int) -> tuple[str, list[str]]:
    """Return a sentence on the largest difference, and one line per head."""
    by_row = f"folds over single views ({n_views} per image)" if n_views > 1 else "folds over single views"
    names = {"by_row": by_row, "by_image": "folds over images that ignore groups"}
    lines, largest = [], 0.0
    for head in heads:
        grouped = head["grouped"]
        naive = {key: head[key] for key in names if head[key] is not None and grouped is not None}
        if not naive:
            continue
        largest = max(largest, *(score - grouped for score in naive.values()))
        parts = [
            f"{names[key]} {score:.3f} ({100 * (score - grouped):+.1f} points)"
            for key, score in naive.items()
        ]
        lines.append(f"{head['head']}: grouped folds {grouped:.3f}, {', '.join(parts)}")
    if not lines:
        return "Leakage: no head could be searched on the grouped folds.", []
    result = (
        f"without grouped folds, scores are up to {100 * largest:.1f} points too high"
        if largest > 0
        else "without grouped folds, no score is higher"
    )
    return f"Leakage (balanced accuracy of the same search): {result}.", lines


PLAIN, VIEWS, AVERAGED = "plain only", "plain and views", "predictions averaged over views"


def study_augmentation(context: StudyContext) -> dict[str, Any]:
    """Compare three variants of the head on held-out training images.

    The variants are: fitted on plain views; fitted on plain and augmented views; the same, with predictions
    averaged over all views of an image.

    Parameters
    ----------
    context : StudyContext

    Returns
    -------
    dict
        Figures and the paired difference of each variant to the previous one.

    Raises
    ------
    CompareError
        If the store has no views.
    """
    samples = context.samples
    if samples.n_rows(context.images) == len(context.images):
        raise CompareError(
            f"store {samples.store!r} has no augmented views of the training images. Extract them with: "
            "featurize extract DATA --views 4"
        )
    plain_context = replace(context, samples=without_views(samples))
    plain = out_of_fold_predictions(plain_context, choose_on_folds(plain_context).params)
    with_views, averaged = _predict_with_views(context, choose_on_folds(context).params)
    comparison = compare_predictions(context, {PLAIN: plain, VIEWS: with_views, AVERAGED: averaged})
    text = (
        f"Views ({context.head} on {samples.store}, out of fold, {metric_name(comparison.metric)}): "
        f"{comparison.text()}. {effect_text('Augmented views', comparison.differences[VIEWS])} "
        f"{_averaging_text(comparison.differences[AVERAGED])}"
    )
    return {**comparison.record(), "n_views": samples.n_views, "text": text}


def _predict_with_views(context: StudyContext, params: Any) -> tuple[EntryPredictions, EntryPredictions]:
    """Return predictions of held-out images from their plain view, and from the mean over all their views.

    Both come from the same fit of each fold.
    """
    samples, images = context.samples, context.images
    extended, view_of = append_views(samples, images)
    n_images = len(samples.y)
    folds = tuple(
        (fitted, np.concatenate([held_out, n_images + np.flatnonzero(np.isin(view_of, held_out))]))
        for fitted, held_out in context.folds
    )
    probabilities = np.zeros((len(extended.y), len(samples.classes)))
    results = run_all(context, list(fit_tasks(replace(context, samples=extended), params, folds)))
    for (_, held_out), result in zip(folds, results, strict=True):
        probabilities[held_out] = result.probabilities
    total, count = probabilities[:n_images].copy(), np.ones(n_images)
    np.add.at(total, view_of, probabilities[n_images:])
    np.add.at(count, view_of, 1.0)
    mean = total / count[:, None]
    return average_entries(samples, images, probabilities[images]), average_entries(
        samples, images, mean[images]
    )


def _averaging_text(difference: Difference) -> str:
    text = effect_text("Averaging predictions over views", difference)
    if difference.verdict == "worse":
        return text
    return f"{text} Averaging needs the views of every predicted image (featurize extract --views-for all)."
