"""Samples whose images are rows of views: what a comparison that knows of no images would see."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from classify.samples import IntArray, Samples


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
