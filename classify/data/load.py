"""Stores of one data set, as the samples that a job works on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from classify.data.memory import search_rows
from classify.data.samples import Samples
from classify.errors import CompareError
from featurize.base.cores import available_cores
from featurize.base.typing import IntArray
from featurize.images.duplicates import connected_components
from featurize.store.reader import ImageTable, open_store

if TYPE_CHECKING:
    pass


LEAST_GROUPS = 30  # of a split and class, in a sample that hyper-parameters are searched on


def add_search_samples(stores: Sequence[Samples], *, memory: str, jobs: int, seed: int) -> list[Samples]:
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
    images = sample_images(stores[0], n_images=n_images, seed=seed)
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


def sample_images(samples: Samples, *, n_images: int, seed: int) -> IntArray:
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


def load_same_dataset(
    paths: Sequence[Path],
    *,
    order: Sequence[str] | None,
    join: str = "probabilities",
    fuse: bool = False,
    memory: str | None = None,
    networks: bool = True,
    jobs: int | None = None,
    seed: int = 0,
) -> list[Samples]:
    """Load stores of one data set; images grouped in any of them are grouped in all; a fused one comes last.

    Features that do not fit in `memory` stay on disk. Libraries count too: TensorFlow's with `networks`, and
    those of each of `jobs` processes.

    Raises
    ------
    CompareError
        If they are of different data sets, or two have one name, or one alone is to be fused.
    """
    from classify.data.entries import resolve_join
    from classify.data.fusion import fuse as fused
    from classify.data.memory import resolve_memory
    from classify.data.samples import load_samples

    if not paths:
        raise CompareError("no store to compare. Make one with: featurize extract DATA")
    for path in paths:
        if path.is_dir():
            inside = sorted(file.name for file in path.glob("*.h5"))
            shown = ", ".join(inside[:10]) + (f" and {len(inside) - 10} more" if len(inside) > 10 else "")
            what = f"stores in it: {shown}. Name one or more of them" if inside else "no .h5 file in it"
            raise CompareError(f"{path}: a folder, where a store is expected; {what}")
    working = resolve_memory(paths, memory=memory, networks=networks, jobs=jobs, join=join, fuse=fuse)
    check_same_images(paths)
    samples = [load_samples(path, order=order, working_bytes=working) for path in paths]
    for other, path in zip(samples[1:], paths[1:], strict=True):
        if other.classes != samples[0].classes:
            raise CompareError(
                f"{path}: its classes are {', '.join(other.classes)}, but those of {paths[0]} are "
                f"{', '.join(samples[0].classes)}. Give one order for "
                f"both: --order {','.join(samples[0].classes)}"
            )
    samples = merge_groups(samples)
    if working is not None and memory is not None:
        samples = add_search_samples(samples, memory=memory, jobs=jobs or available_cores(), seed=seed)
    if fuse:
        samples.append(fused(samples))
    return [resolve_join(one, join) for one in samples]


def require_in_memory(samples: Samples, memory: str | None, asked: Mapping[str, bool]) -> None:
    """Raise where features stay on disk and an option that is set needs them in memory.

    Raises
    ------
    CompareError
        For the first of them.
    """
    for option in (name for name, is_set in asked.items() if is_set and samples.stored is not None):
        raise CompareError(
            f"{option} needs features in memory, and these do not fit in --memory {memory}. Leave {option} "
            "out, or raise --memory"
        )


def check_same_images(paths: Sequence[Path]) -> None:
    """Raise unless the stores hold the same images, in the same splits, with the same grades.

    Raises
    ------
    CompareError
        Naming the first difference.
    """
    tables: list[ImageTable] = []
    grades: list[list[str]] = []
    for path in paths:
        with open_store(path) as store:
            table = store.images
            if any(store.name == other.name.removesuffix(".h5") for other in paths[: len(tables)]):
                raise CompareError(
                    f"{path}: a second store called {store.name!r}. Rename one: results go by that name"
                )
            tables.append(table)
            grades.append([store.classes[label] if label >= 0 else "" for label in table.label])
    for path, table, grade in zip(paths[1:], tables[1:], grades[1:], strict=True):
        difference = _difference(tables[0], grades[0], table, grade)
        if difference:
            raise CompareError(
                f"{path} and {paths[0]} are not of the same images: {difference}. Extract both from "
                "one folder: featurize extract DATA --backbone NAME,NAME"
            )


def merge_groups(stores: Sequence[Samples]) -> list[Samples]:
    """Give all stores the groups that hold in any, and leave out of each what any leaves out.

    Near duplicates are found on pictures of the network's input size, so that stores of different sizes can
    differ in a pair; equal groups make equal folds.

    Parameters
    ----------
    stores : sequence of Samples
        Of the same images.

    Returns
    -------
    list of Samples
    """
    if len(stores) == 1:
        return list(stores)
    n = len(stores[0].y)
    images = np.arange(n)
    width = n + 1  # group numbers of one store
    links = [np.column_stack([images, n + k * width + samples.group]) for k, samples in enumerate(stores)]
    group = connected_components(n + len(stores) * width, np.concatenate(links))[:n]
    fit = np.logical_and.reduce([samples.fit for samples in stores])
    scored = np.logical_and.reduce([samples.scored for samples in stores])
    return [replace(samples, group=group, fit=fit, scored=scored) for samples in stores]


def _difference(one: ImageTable, one_grade: list[str], two: ImageTable, two_grade: list[str]) -> str:
    if len(one) != len(two):
        return f"{len(two)} files there, {len(one)} here"
    columns = (
        ("path", one.path, two.path),
        ("content", one.sha256, two.sha256),
        ("split", one.split, two.split),
        ("grade", one_grade, two_grade),
        ("reason for being skipped", one.skipped, two.skipped),
    )
    for name, here, there in columns:
        for row, (mine, other) in enumerate(zip(here, there, strict=True)):
            if mine != other:
                shown = (
                    f": {other[:60]!r} there, {mine[:60]!r} here"
                    if name != "path"
                    else f", not {one.path[row]}"
                )
                return f"{name} of {two.path[row]}{shown}"
    return ""
