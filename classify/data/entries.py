"""The choices there are for entries of several images: words that commands and files share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from classify.data import JOINS
from classify.data.samples import Samples
from classify.errors import CompareError
from featurize.base.typing import IntArray


def resolve_join(samples: Samples, join: str) -> Samples:
    """Return samples whose entries of several images are graded as a whole.

    Parameters
    ----------
    samples : Samples
        One row an image.
    join : {"probabilities", "features"}
        "probabilities": a head grades image by image, and an entry's probabilities are the mean of those.
        "features": the mean of its images' features is an entry's only row, and view v of the entry is the
        mean of view v of its images; what is called an image is then an entry.

    Returns
    -------
    Samples
        As they were where each entry has one image; else `facts` says how entries are graded.

    Raises
    ------
    CompareError
        If `join` is neither.
    """
    if join not in JOINS:
        raise CompareError(f"join is {join!r}: expected {' or '.join(JOINS)}")
    kept = np.flatnonzero(samples.fit | samples.scored)
    entry = entry_numbers(samples, kept)
    if not has_repeats(entry):
        return samples
    n_entries = entry.max() + 1
    said = portfolio_line(n_images=len(kept), n_entries=int(n_entries), join=join)
    facts = replace(samples.facts, notes=(*samples.facts.notes, said))
    joined = _join_features(samples, kept, entry) if join == "features" else samples
    return replace(joined, join=join, facts=facts)


def is_portfolio(samples: Samples) -> bool:
    """Tell whether some entry that is fitted on or scored has several images."""
    if samples.n_joined is not None:
        return bool(np.any(samples.n_joined > 1))
    return has_repeats(entry_numbers(samples, np.flatnonzero(samples.fit | samples.scored)))


def portfolio_line(*, n_images: int, n_entries: int, join: str) -> str:
    """Return the sentence that says how entries are graded."""
    entries = "1 entry" if n_entries == 1 else f"{n_entries} entries"
    return f"{n_images} images of {entries}: graded entry by entry, by the mean of their images' {join}"


def entry_numbers(samples: Samples, images: npt.ArrayLike) -> IntArray:
    """Return the entry of each of these images as a number, from 0 in the order in which they appear."""
    return number_names([samples.entry[image] for image in np.asarray(images, dtype=np.int64)])


def number_names(names: Sequence[str]) -> IntArray:
    """Return names as numbers, from 0 in the order in which they appear."""
    known: dict[str, int] = {}
    return np.array([known.setdefault(name, len(known)) for name in names], dtype=np.int64)


def has_repeats(entry: IntArray) -> bool:
    """Tell whether a number stands twice."""
    return len(entry) > int(entry.max(initial=-1)) + 1


def group_means(values: npt.NDArray[Any], number: IntArray, *, n: int) -> npt.NDArray[Any]:
    """Return the mean of the rows of each number.

    Parameters
    ----------
    values : ndarray of shape (n_rows, ...), float
    number : ndarray of shape (n_rows,), int
        From 0 to n - 1, each at least once.
    n : int

    Returns
    -------
    ndarray of shape (n, ...)
        Of the type of `values`, summed in float64 and in the order of the rows; a row that is alone comes
        back to the bit.
    """
    order = np.argsort(number, kind="stable")
    starts = np.cumsum(np.bincount(number, minlength=n))[:-1]
    found = np.empty((n, *values.shape[1:]), dtype=values.dtype)
    for k, rows in zip(range(n), np.split(order, starts), strict=False):
        found[k] = values[rows].mean(axis=0, dtype=np.float64)
    return found


def _join_features(samples: Samples, kept: IntArray, entry: IntArray) -> Samples:
    """Make each entry one image; an entry has views where all of its images have them."""
    n_images = np.bincount(entry)
    n, first = len(n_images), kept[np.unique(entry, return_index=True)[1]]
    view_row = samples.augmented_row[samples.content[kept]]
    seen = np.bincount(entry, weights=view_row >= 0) == n_images
    place = np.full(n, -1, dtype=np.int64)
    place[seen] = np.arange(int(seen.sum()))
    inside = seen[entry]
    return replace(
        samples,
        path=[
            samples.path[image] if one else samples.entry[image]
            for image, one in zip(first, n_images == 1, strict=True)
        ],
        entry=[samples.entry[image] for image in first],
        split=samples.split[first],
        y=samples.y[first],
        content=np.arange(n),
        group=number_names([str(group) for group in samples.group[first]]),
        plain=group_means(samples.plain[samples.content[kept]], entry, n=n),
        augmented=group_means(samples.augmented[view_row[inside]], place[entry[inside]], n=int(seen.sum())),
        augmented_row=place,
        fit=samples.fit[first],
        scored=samples.scored[first],
        n_joined=n_images,
    )
