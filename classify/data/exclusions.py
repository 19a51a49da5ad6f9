"""What is left out of fitting and scoring so that nothing leaks, and the words for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from featurize.base.typing import BoolArray, IntArray
from featurize.images.duplicates import connected_components

Pairs = tuple[tuple[str, str], ...]

BIG_GROUP = 0.05  # share of the images above which a group is reported: it makes folds uneven
_SHOWN = 3  # paths named in a line
_LISTED = 20  # images under several grades that get a line each


@dataclass(frozen=True, kw_only=True)
class ExcludedImages:
    """Images that stand in the way of honest figures. Pairs are (path, path of the image that it is like)."""

    conflicts: tuple[tuple[str, ...], ...]  # one file under several grades, its paths: nor fitted nor scored
    train_like_test: Pairs  # not fitted on
    train_like_val: Pairs  # not fitted on
    val_like_test: Pairs  # not fitted on
    copies: Pairs  # not fitted on: the other copy is
    test_copies: Pairs  # not left out, but worth knowing: both are scored


@dataclass(frozen=True, kw_only=True)
class SampleFacts:
    """What the user should know of the samples; all paths are relative to the data folder."""

    counts: Mapping[str, Mapping[str, int]]  # split → class → graded images that could be read
    skipped: Pairs  # graded files that could not be read: path, reason
    left_out: ExcludedImages
    near_duplicates: Pairs  # different files that show the same thing, wherever they stand
    big_groups: tuple[tuple[int, float, str], ...]  # images, their share of all, path of the first
    untested: tuple[str, ...]  # classes without an image that is scored, where there is a test split
    unvalidated: tuple[str, ...]  # classes without an image to choose on, where there is a val split
    merged_val: bool  # without a test split, val is one with train
    notes: tuple[str, ...] = ()  # how images and stores were joined

    def lines(self) -> list[str]:
        """Return one sentence a fact; undecodable bytes of paths are as they are."""
        return list(_lines(self))


def exclude(
    path: Sequence[str], split: npt.NDArray[np.str_], y: IntArray, content: IntArray, near: IntArray
) -> tuple[BoolArray, BoolArray, ExcludedImages]:
    """Decide what may be fitted on and what is scored.

    A content of two classes is neither. A train image like a val or test image, and a val image like a test
    image, is not fitted on; nor is a second copy within a split.

    Parameters
    ----------
    path : sequence of str, length n
        Path of each image.
    split : ndarray of shape (n,), str
        "train", "val" or "test".
    y : ndarray of shape (n,), int64
        Class of each image.
    content : ndarray of shape (n,), int64
        Content of each image.
    near : ndarray of shape (n_pairs, 2), int64
        Pairs of contents that are near duplicates.

    Returns
    -------
    fit : ndarray of shape (n,), bool
        Train and val images that may be fitted on.
    scored : ndarray of shape (n,), bool
        Test images that count.
    left_out : ExcludedImages
        The others, and why.
    """
    grades = np.unique(np.column_stack([content, y]), axis=0)[:, 0]  # one row a content and class
    clear = ~np.isin(content, grades[1:][grades[1:] == grades[:-1]])
    n_contents = 1 + max(content.max(initial=-1), near.max(initial=-1))
    alike = connected_components(int(n_contents), near)[
        content
    ]  # images that show the same thing share a number
    train, val, test = (split == name for name in ("train", "val", "test"))
    like_test, like_val = np.isin(alike, alike[test]), np.isin(alike, alike[val])
    candidates = clear & ((train & ~like_test & ~like_val) | (val & ~like_test))
    first = _first_copy(split, content, candidates=candidates)
    first_test = _first_copy(split, content, candidates=test & clear)
    images = np.arange(len(path))

    def pairs(left_out: BoolArray, others: BoolArray) -> Pairs:
        return _beside(path, content, alike, np.flatnonzero(left_out), np.flatnonzero(others))

    return (
        candidates & (first == images),
        test & clear,
        ExcludedImages(
            conflicts=_together(path, content, np.flatnonzero(~clear)),
            train_like_test=pairs(train & clear & like_test, test),
            train_like_val=pairs(train & clear & like_val & ~like_test, val),
            val_like_test=pairs(val & clear & like_test, test),
            copies=tuple((path[i], path[first[i]]) for i in np.flatnonzero(first != images).tolist()),
            test_copies=tuple(
                (path[i], path[first_test[i]]) for i in np.flatnonzero(first_test != images).tolist()
            ),
        ),
    )


def big_groups(path: Sequence[str], group: IntArray) -> tuple[tuple[int, float, str], ...]:
    """List groups of several images that hold more than 5 % of all, the biggest first."""
    if not len(group):
        return ()
    numbers, first, counts = np.unique(group, return_index=True, return_counts=True)
    big = [k for k in range(len(numbers)) if counts[k] > max(1, BIG_GROUP * len(group))]
    big.sort(key=lambda k: (-counts[k], first[k]))
    return tuple((int(counts[k]), float(counts[k] / len(group)), path[first[k]]) for k in big)


def _together(path: Sequence[str], content: IntArray, images: IntArray) -> tuple[tuple[str, ...], ...]:
    """Return the paths of these images, those of one content together."""
    ordered = images[np.argsort(content[images], kind="stable")]
    ends = np.flatnonzero(np.diff(content[ordered])) + 1
    return tuple(tuple(path[i] for i in some.tolist()) for some in np.split(ordered, ends) if len(some))


def _first_copy(split: npt.NDArray[np.str_], content: IntArray, *, candidates: BoolArray) -> IntArray:
    """Return for each image the first candidate of its split with its content; itself when it is none."""
    first = np.arange(len(content))
    for name in np.unique(split):
        chosen = np.flatnonzero(candidates & (split == name))
        _, index, inverse = np.unique(content[chosen], return_index=True, return_inverse=True)
        first[chosen] = chosen[index][inverse]
    return first


def _beside(
    path: Sequence[str], content: IntArray, alike: IntArray, images: IntArray, others: IntArray
) -> Pairs:
    """Name for each image one of the others that it is like, an identical one where there is any."""
    same = {int(content[i]): i for i in others[::-1]}
    near = {int(alike[i]): i for i in others[::-1]}
    return tuple((path[i], path[same.get(int(content[i]), near[int(alike[i])])]) for i in images)


def _lines(facts: SampleFacts) -> Iterator[str]:
    left_out = facts.left_out
    if facts.skipped:
        shown = [f"{path} ({reason})" for path, reason in facts.skipped]
        yield f"{_images(shown, 'graded')} could not be read and {_was(shown)} left out: {_some(shown)}"
    for paths in left_out.conflicts[:_LISTED]:
        yield f"one image stands under several grades and was left out everywhere: {', '.join(paths)}"
    if len(left_out.conflicts) > _LISTED:
        yield f"and {len(left_out.conflicts) - _LISTED} more images under several grades, left out likewise"
    for pairs, kind, where in (
        (left_out.train_like_test, "training", "test"),
        (left_out.train_like_val, "training", "validation"),
        (left_out.val_like_test, "validation", "test"),
    ):
        if pairs:
            what = f"{_images(pairs, kind)} {_is(pairs)} identical or nearly identical to {where} images"
            yield f"{what} and {_was(pairs)} left out of fitting: {_alike(pairs)}"
    if pairs := left_out.copies:
        what = f"{_images(pairs)} {_is(pairs)} exact copies of others in the same split"
        yield f"{what} and {_was(pairs)} left out of fitting: {_alike(pairs)}"
    if pairs := left_out.test_copies:
        what = f"{_images(pairs, 'test')} {_is(pairs)} exact copies of other test images"
        yield f"{what}, and each counts: {_alike(pairs)}"
    if pairs := facts.near_duplicates:
        what = (
            "1 pair of different files shows"
            if len(pairs) == 1
            else f"{len(pairs)} pairs of different files show"
        )
        yield f"{what} the same picture, and no fold splits such pairs: {_alike(pairs)}"
    for count, share, path in facts.big_groups:
        what = (
            f"{count} images ({share:.0%}) form one group (one entry, or near duplicates), among them {path}"
        )
        yield f"{what}: no fold may split it, so folds will be uneven"
    for names, where in ((facts.untested, "test"), (facts.unvalidated, "validation")):
        if names:
            yield f"no {where} image of {', '.join(names)}: some figures are undefined or say less"
    if facts.merged_val:
        yield "without a test split, train and val are used as one, in nested cross-validation"
    yield from facts.notes


def _images(things: Sequence[object], kind: str = "") -> str:
    return f"{len(things)} {kind + ' ' if kind else ''}{'image' if len(things) == 1 else 'images'}"


def _is(things: Sequence[object]) -> str:
    return "is" if len(things) == 1 else "are"


def _was(things: Sequence[object]) -> str:
    return "was" if len(things) == 1 else "were"


def _alike(pairs: Pairs) -> str:
    return _some([f"{left} (like {right})" for left, right in pairs])


def _some(shown: Sequence[str]) -> str:
    more = f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
    return ", ".join(shown[:_SHOWN]) + more
