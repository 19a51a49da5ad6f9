"""Several stores as one data set: the same images in all, and one set of groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from classify.samples import Samples
from featurize import CompareError, ImageTable, join, open_store


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


def join_groups(stores: Sequence[Samples]) -> list[Samples]:
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
    group = join(n + len(stores) * width, np.concatenate(links))[:n]
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
