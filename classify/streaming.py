"""Fitting on features that stay on disk: what is searched on, and a task's fit and predictions by blocks."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from classify.heads import get_head
from classify.heads.registry import resolve
from classify.memory_limit import search_rows
from classify.samples import IntArray, Samples

if TYPE_CHECKING:
    from classify.tuning import FitTask

LEAST_GROUPS = 30  # of a split and class, in a sample that hyper-parameters are searched on


def lacking_stream(samples: Samples, head: str) -> str:
    """Return why a head cannot be fitted on rows that stay on disk, "" when it can."""
    if samples.stored is None or hasattr(resolve(get_head(head).factory), "fit_stream"):
        return ""
    n_rows = samples.n_rows(samples.fit_images)
    return f"it keeps all {n_rows:,} training rows, which do not fit in memory. Raise --memory"


def release_workers() -> None:
    """End idle worker processes: their memory is for what comes next."""
    from joblib.externals.loky import get_reusable_executor

    get_reusable_executor(max_workers=1).shutdown(wait=True, kill_workers=True)


def with_samples(stores: Sequence[Samples], *, memory: str, jobs: int, seed: int) -> list[Samples]:
    """Give stores whose features stay on disk a sample in memory that hyper-parameters are searched on.

    It holds whole groups, drawn at random, each class of each split by its share: C, which weighs the sum of
    the losses against the coefficients, means the same for few rows as for many.

    Parameters
    ----------
    stores : sequence of Samples
        Of the same images, with equal groups.
    memory : str
        The limit, as it was typed.
    jobs : int
        Processes that will search.
    seed : int
        Of the sample.

    Returns
    -------
    list of Samples
        With a fact that says so.
    """
    assert all(one.stored is not None for one in stores)
    n_images = min(
        search_rows(one.stored.working_bytes, n_features=one.n_features, jobs=jobs) // (1 + one.n_views)
        for one in stores
        if one.stored is not None
    )
    images = draw_images(stores[0], n_images=n_images, seed=seed)
    found = []
    for one in stores:
        assert one.stored is not None
        said = (
            f"{one.store}: its features do not fit in --memory {memory}, so heads are fitted on rows read "
            f"from disk; hyper-parameters are searched on {len(images):,} of {len(one.fit_images):,} images "
            f"(whole groups, drawn with seed {seed})"
        )
        facts = replace(one.facts, notes=(*one.facts.notes, said))
        stored = replace(one.stored, sampled=_in_memory(one, images), origin=images)
        found.append(replace(one, stored=stored, facts=facts))
    return found


def draw_images(samples: Samples, *, n_images: int, seed: int) -> IntArray:
    """Return about so many of the images that may be fitted on, ascending, in whole groups."""
    images = samples.fit_images
    groups, first, size = np.unique(samples.group[images], return_index=True, return_counts=True)
    stratum = np.unique(
        np.column_stack([np.unique(samples.split[images], return_inverse=True)[1], samples.y[images]])[first],
        axis=0,
        return_inverse=True,
    )[1].ravel()
    generator = np.random.default_rng(seed)
    taken = np.zeros(len(groups), dtype=bool)
    for one in range(int(stratum.max()) + 1):
        members = generator.permutation(np.flatnonzero(stratum == one))
        share = n_images * size[members].sum() / len(images)
        n = int(np.searchsorted(np.cumsum(size[members]), share, side="right"))
        taken[members[: max(n, LEAST_GROUPS)]] = True
    return images[taken[np.searchsorted(groups, samples.group[images])]]


def _in_memory(samples: Samples, images: IntArray) -> Samples:
    """Return some images as samples of their own, their features in memory."""
    assert samples.stored is not None
    content, place = np.unique(samples.content[images], return_inverse=True)
    view_row = samples.augmented_row[content]
    seen = np.flatnonzero(view_row >= 0)
    augmented_row = np.full(len(content), -1, dtype=np.int64)
    augmented_row[seen] = np.arange(len(seen))
    return replace(
        samples,
        path=[samples.path[image] for image in images],
        entry=[samples.entry[image] for image in images],
        split=samples.split[images],
        y=samples.y[images],
        content=place,
        group=samples.group[images],
        plain=samples.stored.plain[content].astype(np.float32),
        augmented=samples.stored.augmented[view_row[seen]].astype(np.float32),
        augmented_row=augmented_row,
        fit=np.ones(len(images), dtype=bool),
        scored=np.zeros(len(images), dtype=bool),
        stored=None,
    )


def fit_stream(estimator: Any, task: FitTask, *, levels: str) -> None:
    """Fit a task's head on its rows, which stay on disk."""
    rows = task.samples.stream(task.fit, levels=levels)
    stopping: dict[str, Any] = {}
    if task.val is not None and "X_val" in inspect.signature(estimator.fit_stream).parameters:
        from classify.heads.dense_stretches import MOST_VALIDATION

        drawn = np.random.default_rng(task.seed).permutation(len(task.val))[:MOST_VALIDATION]
        images = task.val[np.sort(drawn)]
        held = task.samples.stream(images, views=False, levels=levels)
        stopping = {"X_val": held.take(np.arange(len(images))), "y_val": held.y}
    estimator.fit_stream(rows, **stopping)


def predict_stream(estimator: Any, task: FitTask, *, levels: str) -> npt.NDArray[np.float64]:
    """Return the probabilities of a task's tested images, (n_tested, n_classes of the head)."""
    found = np.zeros((len(task.test), len(estimator.classes_)))
    if not len(task.test):
        return found
    rows = task.samples.stream(task.test, views=False, levels=levels)
    alone = get_head(task.head).tensorflow  # it has threads of its own

    def predict(where: IntArray, X: npt.NDArray[np.float32]) -> tuple[IntArray, npt.NDArray[Any]]:
        return where, X if alone else estimator.predict_proba(X)

    for where, said in rows.each(predict):
        found[where] = estimator.predict_proba(said) if alone else said
    return found
