"""Which images of a data set show the same picture, and how many groups that leaves to fit on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from featurize.dataset import ImageFile
from featurize.decode.decoding import Decoded

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where an image stands."""

    path: str
    split: str
    class_name: str  # "" when ungraded


@dataclass(frozen=True, kw_only=True)
class Alike:
    """Images that show the same picture, by path."""

    places: tuple[Place, ...]

    @property
    def paths(self) -> tuple[str, ...]:
        """Their paths."""
        return tuple(place.path for place in self.places)

    @property
    def classes(self) -> frozenset[str]:
        """The grades they stand under; ungraded ones have none."""
        return frozenset(place.class_name for place in self.places if place.class_name)

    @property
    def splits(self) -> frozenset[str]:
        """The splits they stand in, "new" (ungraded) among them."""
        return frozenset(place.split for place in self.places)


@dataclass(frozen=True, kw_only=True)
class Likeness:
    """What shows the same picture as what."""

    copies: tuple[Alike, ...]  # one file in several places
    near: tuple[Alike, ...]  # different files, near duplicates directly or through others; with their copies
    groups: Mapping[str, int]  # class → groups of images that can be fitted on


def compare_pictures(images: Sequence[ImageFile], pictures: Mapping[str, Decoded]) -> Likeness:
    """Find copies and near duplicates among the images of a data set.

    Parameters
    ----------
    images : sequence of ImageFile
        Those that could be decoded, sorted by path.
    pictures : mapping of str to Decoded
        What was seen of each content.

    Returns
    -------
    Likeness
        Sets in the order of their first paths.
    """
    from featurize.intake.duplicates import join, near_duplicates  # SciPy

    number = {sha256: k for k, sha256 in enumerate(dict.fromkeys(image.sha256 for image in images))}
    content = np.array([number[image.sha256] for image in images], dtype=np.int64)
    seen = [pictures[sha256] for sha256 in number]
    near = near_duplicates(
        np.array([picture.phash for picture in seen], dtype=np.uint64),
        np.array([picture.thumbnail for picture in seen], dtype=np.uint8).reshape(-1, 32, 32, 3),
    )
    alike = join(len(number), near)[content]
    return Likeness(
        copies=tuple(_alike(images, rows) for rows in _sets(content)),
        near=tuple(_alike(images, rows) for rows in _sets(alike) if len(np.unique(content[rows])) > 1),
        groups=_groups(images, content, alike),
    )


def _sets(label: IntArray) -> list[IntArray]:
    """Return the rows of each label that several rows have, by first row."""
    order = np.argsort(label, kind="stable")
    starts = np.flatnonzero(np.diff(label[order])) + 1
    sets = [rows for rows in np.split(order, starts) if len(rows) > 1]
    return sorted(sets, key=lambda rows: int(rows[0]))


def _alike(images: Sequence[ImageFile], rows: IntArray) -> Alike:
    return Alike(
        places=tuple(
            Place(path=images[k].path, split=images[k].split, class_name=images[k].class_name)
            for k in rows.tolist()
        )
    )


def _groups(images: Sequence[ImageFile], content: IntArray, alike: IntArray) -> dict[str, int]:
    """Count per class the groups that a comparison can fit on.

    A group is what no fold may split: an entry, copies, near duplicates. Not fitted on: a file under two
    grades, a training image like a val or test image. Without a test split, val is fitted on as train is.
    """
    from featurize.intake.duplicates import join

    names = np.array([image.class_name for image in images], dtype=np.str_)
    split = np.array([image.split for image in images], dtype=np.str_)
    graded = names != ""
    grades = {(c, name) for c, name in zip(content.tolist(), names.tolist(), strict=True) if name}
    n_grades = np.bincount([c for c, _ in grades], minlength=int(content.max(initial=-1)) + 1)
    held_out = graded & (split != "train") & np.any(graded & (split == "test"))
    fit = graded & ~held_out & (n_grades[content] < 2) & ~np.isin(alike, alike[held_out])

    number: dict[str, int] = {}
    entry = np.array([number.setdefault(image.entry, len(number)) for image in images], dtype=np.int64)
    links = np.column_stack([entry, len(number) + alike])[graded]  # entries and pictures as one graph
    group = join(len(number) + int(alike.max(initial=-1)) + 1, links)[entry]
    return {str(name): len(np.unique(group[fit & (names == name)])) for name in np.unique(names[fit])}
