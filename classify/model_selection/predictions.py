"""What a head said of the entries it was tested on: one row an entry, whatever its images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from classify.data.entries import entry_numbers, group_means
from classify.data.samples import Samples
from classify.model_selection.grid_search import CandidateResult
from classify.model_selection.protocol import EvaluationProtocol
from featurize.base.typing import Float64Array, IntArray


@dataclass(frozen=True, kw_only=True, eq=False)
class EntryPredictions:
    """Predictions of tested entries, in the order of their first images."""

    entry: tuple[str, ...]
    path: tuple[str, ...]  # of each entry's first image
    n_images: IntArray  # (n_entries,)
    y: IntArray  # (n_entries,) index into classes
    group: IntArray  # (n_entries,) what intervals and tests resample as a whole
    fold: IntArray  # (n_entries,) from 0; all 0 with a test split
    probabilities: Float64Array  # (n_entries, n_classes)


def entry_predictions(
    trial: CandidateResult, plan: EvaluationProtocol, *, by_image: bool = False
) -> EntryPredictions:
    """Return what a head predicted of the test split, or of every fold without one.

    Parameters
    ----------
    trial : CandidateResult
        With fits.
    plan : EvaluationProtocol
        That they were made by.
    by_image : bool, default=False
        Whether each row is an image, whatever its entry.

    Returns
    -------
    EntryPredictions
        Probabilities of an entry are the mean over its images.
    """
    images, fold, probabilities = image_predictions(trial, plan)
    return join_entries(trial.samples, images, probabilities, fold=fold, by_image=by_image)


def image_predictions(
    trial: CandidateResult, plan: EvaluationProtocol
) -> tuple[IntArray, IntArray, Float64Array]:
    """Return tested images, the fold of each (from 0) and its probabilities, in the order of the images."""
    images = np.concatenate([one.test for one in plan.rounds])
    fold = np.concatenate([np.full(len(one.test), k) for k, one in enumerate(plan.rounds)])
    probabilities = np.concatenate([one.probabilities for one in trial.fits])
    order = np.argsort(images, kind="stable")
    return images[order], fold[order], probabilities[order]


def join_entries(
    samples: Samples,
    images: IntArray,
    probabilities: Float64Array,
    *,
    fold: IntArray | None = None,
    by_image: bool = False,
) -> EntryPredictions:
    """Join images to their entries: the mean of their probabilities.

    Parameters
    ----------
    samples : Samples
    images : ndarray of shape (n_chosen,), int
        Different images of `samples`.
    probabilities : ndarray of shape (n_chosen, n_classes)
        Of each of them.
    fold : ndarray of shape (n_chosen,), int, optional
        0 for all by default. Images of an entry are never in different ones.
    by_image : bool, default=False
        Join nothing: one row an image.

    Returns
    -------
    EntryPredictions
    """
    entry = np.arange(len(images)) if by_image else entry_numbers(samples, images)
    first = np.unique(entry, return_index=True)[1]
    sizes = None if samples.n_joined is None else samples.n_joined[images]
    return EntryPredictions(
        entry=tuple(samples.entry[images[i]] for i in first),
        path=tuple(samples.path[images[i]] for i in first),
        n_images=np.bincount(entry, weights=sizes).astype(np.int64),
        y=samples.y[images[first]],
        group=samples.group[images[first]],
        fold=np.zeros(len(first), dtype=np.int64) if fold is None else fold[first],
        probabilities=group_means(probabilities, entry, n=len(first)),
    )
