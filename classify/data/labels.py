"""Labels and class counts of a store, and checks that they allow a comparison."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from classify.errors import CompareError
from featurize.base.typing import IntArray
from featurize.errors import ConfigError
from featurize.store.reader import Store

SPLITS = ("train", "val", "test")


def class_labels(store: Store, order: Sequence[str] | None) -> tuple[tuple[str, ...], IntArray]:
    """Return the classes, in the given order, and the label of each image; -1 for an ungraded image."""
    labels = store.images.label.astype(np.int64)
    if len(store.classes) < 2:
        found = f"only one class ({store.classes[0]})" if store.classes else "no class"
        raise CompareError(
            f"{store.path}: {found}; comparing heads needs two or more. Add images of another class."
        )
    if order is None:
        return store.classes, labels
    if sorted(order) != sorted(store.classes):
        raise ConfigError(
            f"--order {','.join(order)}: the classes of {store.path} are {', '.join(store.classes)}. "
            "Give each of them once, from worst to best."
        )
    new_label = np.array([*(list(order).index(name) for name in store.classes), -1], dtype=np.int64)
    return tuple(order), new_label[labels]  # label -1 selects the last element


def has_test_split(store: Store, split: npt.NDArray[np.str_], *, y: IntArray) -> bool:
    """Return whether there is a test split.

    Raises
    ------
    CompareError
        If there is one, but none of its images could be read.
    """
    images = store.images
    test = np.flatnonzero((split == "test") & (y >= 0))
    readable = np.any(images.content[test] >= 0)
    if len(test) and not readable:
        raise CompareError(
            f"{store.path}: none of the {len(test)} test images could be read "
            f"({images.path[test[0]]}: {images.skipped[test[0]]}). Repair them, or remove the test folder."
        )
    return bool(len(test))


def require_classes(store: Store, classes: tuple[str, ...], *, y: IntArray, fitted: IntArray) -> None:
    """Raise CompareError unless each class has an image to fit on."""
    images = store.images
    for k, name in enumerate(classes):
        if np.any(y[fitted] == k):
            continue
        files = np.flatnonzero(y == k)
        bad = [i for i in files if images.content[i] < 0]
        reason = f"{len(files)} found"
        if bad:
            reason += f", {len(bad)} could not be read ({images.path[bad[0]]}: {images.skipped[bad[0]]})"
        if left := len(files) - len(bad):
            reason += f", {left} are test or validation images, copies of these, or have several grades"
        raise CompareError(
            f"{store.path}: class {name!r} has no image to fit on: {reason}. Add images of this class."
        )


def count_images(
    split: npt.NDArray[np.str_], y: IntArray, classes: tuple[str, ...], *, mask: npt.ArrayLike = True
) -> dict[str, dict[str, int]]:
    """Return the number of images per split and class."""
    return {
        name: {
            class_name: int(np.sum((split == name) & (y == k) & mask)) for k, class_name in enumerate(classes)
        }
        for name in SPLITS
        if np.any(split == name)
    }


def classes_without(counts: dict[str, dict[str, int]], split: str) -> tuple[str, ...]:
    """Return the classes that have no image in a split."""
    return tuple(name for name, count in counts.get(split, {}).items() if not count)
