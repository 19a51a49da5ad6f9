"""Predictions of the tested entries: one row per entry, averaged over its images."""

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
    """Predictions of the tested entries, ordered by the first image of each."""

    entry: tuple[str, ...]
    path: tuple[str, ...]  # of each entry's first image
    n_images: IntArray  # (n_entries,)
    y: IntArray  # (n_entries,) index into classes
    group: IntArray  # (n_entries,) group; intervals and tests resample whole groups
    fold: IntArray  # (n_entries,) outer fold, from 0; all 0 with a test split
    probabilities: Float64Array  # (n_entries, n_classes)


def entry_predictions(
    candidate: CandidateResult, protocol: EvaluationProtocol, *, by_image: bool = False
) -> EntryPredictions:
    """Return a head's predictions of the test split, or of every outer fold where there is none.

    Parameters
    ----------
    candidate : CandidateResult
        A head that could be fitted.
    protocol : EvaluationProtocol
        The protocol it was tested by.
    by_image : bool, default=False
        Return one row per image instead of one per entry.

    Returns
    -------
    EntryPredictions
        The probabilities of an entry are the mean over its images.
    """
    images, fold, probabilities = image_predictions(candidate, protocol)
    return average_entries(candidate.samples, images, probabilities, fold=fold, by_image=by_image)


def image_predictions(
    candidate: CandidateResult, protocol: EvaluationProtocol
) -> tuple[IntArray, IntArray, Float64Array]:
    """Return the tested images in ascending order, the outer fold of each (from 0) and its probabilities."""
    images = np.concatenate([fold.test for fold in protocol.outer_folds])
    fold = np.concatenate([np.full(len(fold.test), k) for k, fold in enumerate(protocol.outer_folds)])
    probabilities = np.concatenate([fitted.probabilities for fitted in candidate.fits])
    order = np.argsort(images, kind="stable")
    return images[order], fold[order], probabilities[order]


def average_entries(
    samples: Samples,
    images: IntArray,
    probabilities: Float64Array,
    *,
    fold: IntArray | None = None,
    by_image: bool = False,
) -> EntryPredictions:
    """Average the probabilities of the images of each entry.

    Parameters
    ----------
    samples : Samples
    images : ndarray of shape (n_chosen,), int
        Different images of `samples`.
    probabilities : ndarray of shape (n_chosen, n_classes)
    fold : ndarray of shape (n_chosen,), int, optional
        Outer fold of each image; 0 by default. All images of an entry are in one fold.
    by_image : bool, default=False
        Average nothing: return one row per image.

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
