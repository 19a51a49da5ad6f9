"""Loading stores of one data set as samples; samples for the hyper-parameter search of large stores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from classify.data.memory import search_rows
from classify.data.samples import Samples
from classify.errors import CompareError
from featurize.base.cores import available_cores
from featurize.base.text import plural
from featurize.base.typing import IntArray
from featurize.images.duplicates import connected_components
from featurize.store.reader import ImageTable, open_store

MIN_GROUPS = 30  # per split and class, in the sample that hyper-parameters are searched on


def add_search_samples(stores: Sequence[Samples], *, memory: str, jobs: int, seed: int) -> list[Samples]:
    """Add a sample in memory, for the hyper-parameter search, to stores whose features stay on disk.

    The sample contains whole groups, drawn at random in proportion to each class of each split.

    Parameters
    ----------
    stores : sequence of Samples
        Stores of the same images, with equal groups.
    memory : str
        The memory limit as typed, for the message.
    jobs : int
        Number of processes of the search.
    seed : int
        Seed of the sample.

    Returns
    -------
    list of Samples
        With a note about the sample in `facts`.
    """
    n_images = min(
        search_rows(disk.working_bytes, n_features=samples.n_features, jobs=jobs) // (1 + samples.n_views)
        for samples in stores
        if (disk := samples.on_disk) is not None
    )
    images = sample_images(stores[0], n_images=n_images, seed=seed)
    with_sample = []
    for samples in stores:
        assert samples.on_disk is not None
        note = (
            f"{samples.store}: its features do not fit in --memory {memory}, so heads are fitted on rows "
            f"read from disk, and hyper-parameters are searched on {len(images):,} of "
            f"{len(samples.fit_images):,} images (whole groups, drawn with seed {seed})"
        )
        facts = replace(samples.facts, notes=(*samples.facts.notes, note))
        on_disk = replace(samples.on_disk, sample=_in_memory(samples, images), sample_images=images)
        with_sample.append(replace(samples, on_disk=on_disk, facts=facts))
    return with_sample


def sample_images(samples: Samples, *, n_images: int, seed: int) -> IntArray:
    """Return about `n_images` of the images to fit on, ascending, in whole groups.

    Each class of each split keeps its fraction of the images, but at least `MIN_GROUPS` groups.
    """
    images = samples.fit_images
    groups, first, size = np.unique(samples.group[images], return_index=True, return_counts=True)
    stratum = np.unique(
        np.column_stack([np.unique(samples.split[images], return_inverse=True)[1], samples.y[images]])[first],
        axis=0,
        return_inverse=True,
    )[1].ravel()
    generator = np.random.default_rng(seed)
    drawn = np.zeros(len(groups), dtype=bool)
    for number in range(int(stratum.max()) + 1):
        members = generator.permutation(np.flatnonzero(stratum == number))
        target = n_images * size[members].sum() / len(images)
        n_groups = int(np.searchsorted(np.cumsum(size[members]), target, side="right"))
        drawn[members[: max(n_groups, MIN_GROUPS)]] = True
    return images[drawn[np.searchsorted(groups, samples.group[images])]]


def _in_memory(samples: Samples, images: IntArray) -> Samples:
    """Return samples of some of the images, with features in memory."""
    assert samples.on_disk is not None
    content, row = np.unique(samples.content[images], return_inverse=True)
    view_row = samples.augmented_row[content]
    with_views = np.flatnonzero(view_row >= 0)
    augmented_row = np.full(len(content), -1, dtype=np.int64)
    augmented_row[with_views] = np.arange(len(with_views))
    return replace(
        samples,
        path=[samples.path[image] for image in images],
        entry=[samples.entry[image] for image in images],
        split=samples.split[images],
        y=samples.y[images],
        content=row,
        group=samples.group[images],
        plain=samples.on_disk.plain[content].astype(np.float32),
        augmented=samples.on_disk.augmented[view_row[with_views]].astype(np.float32),
        augmented_row=augmented_row,
        fit=np.ones(len(images), dtype=bool),
        scored=np.zeros(len(images), dtype=bool),
        on_disk=None,
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
    """Load stores of one data set; images grouped in one of them are grouped in all.

    Parameters
    ----------
    paths : sequence of Path
    order : sequence of str or None
        All classes from worst to best.
    join : {"probabilities", "features"}
        What is averaged over the images of an entry.
    fuse : bool
        Append the fused samples of all stores.
    memory : str, optional
        Limit such as "4GB". Features that do not fit stay on disk.
    networks : bool
        Reserve memory for TensorFlow.
    jobs : int, optional
        Number of processes that memory is reserved for; one per core by default.
    seed : int
        Seed of the sample that hyper-parameters are searched on, where features stay on disk.

    Raises
    ------
    CompareError
        If the stores are of different data sets, two have the same name, or a single one is to be fused.
    """
    from classify.data.entries import resolve_join
    from classify.data.fusion import fuse as fused
    from classify.data.memory import resolve_memory
    from classify.data.samples import load_samples

    if not paths:
        raise CompareError("no store was given. Make one with: featurize extract DATA")
    for path in paths:
        if path.is_dir():
            inside = sorted(file.name for file in path.glob("*.h5"))
            shown = ", ".join(inside[:10]) + (f" and {len(inside) - 10} more" if len(inside) > 10 else "")
            what = (
                f"It contains these stores: {shown}. Give one or more of them"
                if inside
                else "It has no .h5 file"
            )
            raise CompareError(f"{path}: is a folder, expected a store. {what}")
    working = resolve_memory(paths, memory=memory, networks=networks, jobs=jobs, join=join, fuse=fuse)
    check_same_images(paths)
    samples = [load_samples(path, order=order, working_bytes=working) for path in paths]
    for other, path in zip(samples[1:], paths[1:], strict=True):
        if other.classes != samples[0].classes:
            raise CompareError(
                f"{path}: its classes are {', '.join(other.classes)}, but the classes of {paths[0]} are "
                f"{', '.join(samples[0].classes)}. Give the order for both: "
                f"--order {','.join(samples[0].classes)}"
            )
    samples = merge_groups(samples)
    if working is not None and memory is not None:
        samples = add_search_samples(samples, memory=memory, jobs=jobs or available_cores(), seed=seed)
    if fuse:
        samples.append(fused(samples))
    return [resolve_join(loaded, join) for loaded in samples]


def require_in_memory(samples: Samples, memory: str | None, options: Mapping[str, bool]) -> None:
    """Check that no option needs features in memory if they stay on disk.

    Parameters
    ----------
    samples : Samples
    memory : str or None
        The memory limit as typed.
    options : mapping
        Option → whether it is set.

    Raises
    ------
    CompareError
        For the first option that is set, if features stay on disk.
    """
    for option, is_set in options.items():
        if is_set and samples.on_disk is not None:
            raise CompareError(
                f"{option} needs features in memory, but they do not fit in --memory {memory}. Remove "
                f"{option} or increase --memory"
            )


def check_same_images(paths: Sequence[Path]) -> None:
    """Check that the stores have the same images, in the same splits, with the same grades.

    Raises
    ------
    CompareError
        If they differ; the message has the first difference.
    """
    tables: list[ImageTable] = []
    grades: list[list[str]] = []
    for path in paths:
        with open_store(path) as store:
            table = store.images
            if any(store.name == other.name.removesuffix(".h5") for other in paths[: len(tables)]):
                raise CompareError(
                    f"{path}: a second store with the name {store.name!r}. Rename one: results use this name"
                )
            tables.append(table)
            grades.append([store.classes[label] if label >= 0 else "" for label in table.label])
    for path, table, grade in zip(paths[1:], tables[1:], grades[1:], strict=True):
        difference = _difference(tables[0], grades[0], table, grade)
        if difference:
            raise CompareError(
                f"{path} and {paths[0]} do not have the same images: {difference}. Extract both from one "
                "folder: featurize extract DATA --backbone NAME,NAME"
            )


def merge_groups(stores: Sequence[Samples]) -> list[Samples]:
    """Return the stores with equal groups and equal images to fit on and to score.

    Images grouped in one store are grouped in all; images left out of one store are left out of all. Near
    duplicates can differ between stores, because they are found on images of the network's input size. Equal
    groups give equal folds.

    Parameters
    ----------
    stores : sequence of Samples
        Stores of the same images.

    Returns
    -------
    list of Samples
    """
    if len(stores) == 1:
        return list(stores)
    n = len(stores[0].y)
    images = np.arange(n)
    width = n + 1  # number of nodes for the groups of one store
    links = [np.column_stack([images, n + k * width + samples.group]) for k, samples in enumerate(stores)]
    group = connected_components(n + len(stores) * width, np.concatenate(links))[:n]
    fit = np.logical_and.reduce([samples.fit for samples in stores])
    scored = np.logical_and.reduce([samples.scored for samples in stores])
    return [replace(samples, group=group, fit=fit, scored=scored) for samples in stores]


def _difference(first: ImageTable, first_grade: list[str], other: ImageTable, other_grade: list[str]) -> str:
    """Return the first difference between the image tables of two stores; "" if they are equal."""
    if len(first) != len(other):
        return f"{plural(len(other), 'file')} and {plural(len(first), 'file')}"
    columns = (
        ("path", first.path, other.path),
        ("content", first.sha256, other.sha256),
        ("split", first.split, other.split),
        ("grade", first_grade, other_grade),
        ("reason for skipping", first.skipped, other.skipped),
    )
    for name, first_values, other_values in columns:
        for path, value, other_value in zip(other.path, first_values, other_values, strict=True):
            if value != other_value and name == "path":
                return f"the former has {path} where the latter has {value}"
            if value != other_value:
                return f"the {name} of {path} is {other_value[:60]!r} and {value[:60]!r}"
    return ""
