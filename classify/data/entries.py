"""Entries of several images: numbering, averages over the images of an entry, and the option `--join`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from classify.data import JOINS
from classify.data.samples import Samples
from classify.errors import CompareError
from featurize.base.text import plural
from featurize.base.typing import IntArray


def resolve_join(samples: Samples, join: str) -> Samples:
    """Return samples in which an entry of several images gets one prediction.

    Parameters
    ----------
    samples : Samples
        One row per image.
    join : {"probabilities", "features"}
        "probabilities": a head predicts each image, and the probabilities of an entry are their mean.
        "features": the features of an entry are the mean over its images, view by view. Each entry is then
        one "image" of the returned samples.

    Returns
    -------
    Samples
        Unchanged if every entry has one image; otherwise `facts` describes how entries are predicted.

    Raises
    ------
    CompareError
        If `join` is unknown.
    """
    if join not in JOINS:
        raise CompareError(f"join is {join!r}: expected {' or '.join(JOINS)}")
    images = np.flatnonzero(samples.fit | samples.scored)
    entry = entry_numbers(samples, images)
    if not has_repeats(entry):
        return samples
    n_entries = entry.max() + 1
    note = portfolio_line(n_images=len(images), n_entries=int(n_entries), join=join)
    facts = replace(samples.facts, notes=(*samples.facts.notes, note))
    averaged = _average_features(samples, images, entry) if join == "features" else samples
    return replace(averaged, join=join, facts=facts)


def is_portfolio(samples: Samples) -> bool:
    """Return whether an entry that is fitted on or scored has several images."""
    if samples.n_joined is not None:
        return bool(np.any(samples.n_joined > 1))
    return has_repeats(entry_numbers(samples, np.flatnonzero(samples.fit | samples.scored)))


def portfolio_line(*, n_images: int, n_entries: int, join: str) -> str:
    """Return the sentence about how entries are predicted."""
    entries = plural(n_entries, "entry", "entries")
    return f"{n_images:,} images of {entries}: one prediction per entry, from the mean {join} of its images"


def entry_numbers(samples: Samples, images: npt.ArrayLike) -> IntArray:
    """Return the number of each image's entry, counted from 0 in order of first appearance."""
    return number_names([samples.entry[image] for image in np.asarray(images, dtype=np.int64)])


def number_names(names: Sequence[str]) -> IntArray:
    """Return names as numbers, counted from 0 in order of first appearance."""
    number: dict[str, int] = {}
    return np.array([number.setdefault(name, len(number)) for name in names], dtype=np.int64)


def has_repeats(entry: IntArray) -> bool:
    """Return whether a number occurs more than once, given numbers from 0 without gaps."""
    return len(entry) > int(entry.max(initial=-1)) + 1


def group_means(values: npt.NDArray[Any], number: IntArray, *, n: int) -> npt.NDArray[Any]:
    """Return the mean of the rows of each group.

    Parameters
    ----------
    values : ndarray of shape (n_rows, ...), float
    number : ndarray of shape (n_rows,), int
        Group of each row: 0 to n - 1, each at least once.
    n : int
        Number of groups.

    Returns
    -------
    ndarray of shape (n, ...)
        Of the dtype of `values`, summed in float64 in the order of the rows. The mean of a single row is
        exactly that row.
    """
    order = np.argsort(number, kind="stable")
    starts = np.cumsum(np.bincount(number, minlength=n))[:-1]
    means = np.empty((n, *values.shape[1:]), dtype=values.dtype)
    for k, rows in zip(range(n), np.split(order, starts), strict=False):
        means[k] = values[rows].mean(axis=0, dtype=np.float64)
    return means


def _average_features(samples: Samples, images: IntArray, entry: IntArray) -> Samples:
    """Return samples of one row per entry; an entry has views if all of its images have them."""
    n_images = np.bincount(entry)
    n, first = len(n_images), images[np.unique(entry, return_index=True)[1]]
    view_row = samples.augmented_row[samples.content[images]]
    has_views = np.bincount(entry, weights=view_row >= 0) == n_images
    augmented_row = np.full(n, -1, dtype=np.int64)
    augmented_row[has_views] = np.arange(int(has_views.sum()))
    with_views = has_views[entry]  # images of entries that have views
    return replace(
        samples,
        path=[
            samples.path[image] if n_of_entry == 1 else samples.entry[image]
            for image, n_of_entry in zip(first, n_images, strict=True)
        ],
        entry=[samples.entry[image] for image in first],
        split=samples.split[first],
        y=samples.y[first],
        content=np.arange(n),
        group=number_names([str(group) for group in samples.group[first]]),
        plain=group_means(samples.plain[samples.content[images]], entry, n=n),
        augmented=group_means(
            samples.augmented[view_row[with_views]],
            augmented_row[entry[with_views]],
            n=int(has_views.sum()),
        ),
        augmented_row=augmented_row,
        fit=samples.fit[first],
        scored=samples.scored[first],
        n_joined=n_images,
    )
