"""Images left out of fitting or scoring to prevent leaks, and the sentences about them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from featurize.base.text import plural
from featurize.base.typing import BoolArray, IntArray
from featurize.images.duplicates import connected_components

Pairs = tuple[tuple[str, str], ...]

BIG_GROUP = 0.05  # fraction of the images; larger groups are reported because they make folds uneven
_MAX_PATHS = 3  # named in one sentence
_MAX_CONFLICTS = 20  # files with several grades that get a sentence each


@dataclass(frozen=True, kw_only=True)
class ExcludedImages:
    """Images that would bias the metrics. Pairs are (path, path of the identical or similar image)."""

    # Paths of each content with several grades: not fitted on and not scored.
    conflicts: tuple[tuple[str, ...], ...]
    train_like_test: Pairs  # not fitted on
    train_like_val: Pairs  # not fitted on
    val_like_test: Pairs  # not fitted on
    copies: Pairs  # second copies within a split: not fitted on
    test_copies: Pairs  # second copies within the test split: scored nevertheless, but reported


@dataclass(frozen=True, kw_only=True)
class SampleFacts:
    """Facts about the samples that the user should know. Paths are relative to the data folder."""

    counts: Mapping[str, Mapping[str, int]]  # split → class → number of graded images that could be read
    skipped: Pairs  # graded files that could not be read: (path, reason)
    left_out: ExcludedImages
    near_duplicates: Pairs  # different files that show the same image, in any split
    big_groups: tuple[tuple[int, float, str], ...]  # number of images, fraction of all, path of the first
    untested: tuple[str, ...]  # classes without a scored image, where there is a test split
    unvalidated: tuple[str, ...]  # classes without a val image, where there is a val split
    merged_val: bool  # val is used together with train, because there is no test split
    notes: tuple[str, ...] = ()  # how entries and stores were combined

    def lines(self) -> list[str]:
        """Return one sentence per fact. Paths are not made printable."""
        return list(_lines(self))


def exclude(
    path: Sequence[str], split: npt.NDArray[np.str_], y: IntArray, content: IntArray, near: IntArray
) -> tuple[BoolArray, BoolArray, ExcludedImages]:
    """Choose the images to fit on and the images to score.

    A content with several classes is used for neither. Not fitted on are train images that are identical or
    similar to a val or test image, val images that are so to a test image, and second copies within a split.

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
        Test images to score.
    left_out : ExcludedImages
        The other images, by reason.
    """
    grades = np.unique(np.column_stack([content, y]), axis=0)[:, 0]  # one row per content and class
    clear = ~np.isin(content, grades[1:][grades[1:] == grades[:-1]])
    n_contents = 1 + max(content.max(initial=-1), near.max(initial=-1))
    # Images that are identical or similar, directly or through others, have one number.
    alike = connected_components(int(n_contents), near)[content]
    train, val, test = (split == name for name in ("train", "val", "test"))
    like_test, like_val = np.isin(alike, alike[test]), np.isin(alike, alike[val])
    candidates = clear & ((train & ~like_test & ~like_val) | (val & ~like_test))
    first = _first_copy(split, content, candidates=candidates)
    first_test = _first_copy(split, content, candidates=test & clear)
    images = np.arange(len(path))

    def pairs(left_out: BoolArray, others: BoolArray) -> Pairs:
        return _similar_pairs(path, content, alike, np.flatnonzero(left_out), np.flatnonzero(others))

    return (
        candidates & (first == images),
        test & clear,
        ExcludedImages(
            conflicts=_paths_by_content(path, content, np.flatnonzero(~clear)),
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
    """Return the groups of several images that hold more than 5 % of all images, largest first."""
    if not len(group):
        return ()
    numbers, first, counts = np.unique(group, return_index=True, return_counts=True)
    big = [k for k in range(len(numbers)) if counts[k] > max(1, BIG_GROUP * len(group))]
    big.sort(key=lambda k: (-counts[k], first[k]))
    return tuple((int(counts[k]), float(counts[k] / len(group)), path[first[k]]) for k in big)


def _paths_by_content(
    path: Sequence[str], content: IntArray, images: IntArray
) -> tuple[tuple[str, ...], ...]:
    """Return the paths of these images, one tuple per content."""
    ordered = images[np.argsort(content[images], kind="stable")]
    ends = np.flatnonzero(np.diff(content[ordered])) + 1
    return tuple(tuple(path[i] for i in copies.tolist()) for copies in np.split(ordered, ends) if len(copies))


def _first_copy(split: npt.NDArray[np.str_], content: IntArray, *, candidates: BoolArray) -> IntArray:
    """Return, per image, the first candidate of its split with the same content, or the image itself."""
    first = np.arange(len(content))
    for name in np.unique(split):
        chosen = np.flatnonzero(candidates & (split == name))
        _, index, inverse = np.unique(content[chosen], return_index=True, return_inverse=True)
        first[chosen] = chosen[index][inverse]
    return first


def _similar_pairs(
    path: Sequence[str], content: IntArray, alike: IntArray, images: IntArray, others: IntArray
) -> Pairs:
    """Return, per image, its path and that of an identical image among the others, else of a similar one."""
    same = {int(content[i]): i for i in others[::-1]}
    near = {int(alike[i]): i for i in others[::-1]}
    return tuple((path[i], path[same.get(int(content[i]), near[int(alike[i])])]) for i in images)


def _lines(facts: SampleFacts) -> Iterator[str]:
    left_out = facts.left_out
    if facts.skipped:
        shown = [f"{path} ({reason})" for path, reason in facts.skipped]
        yield f"{_images(shown, 'graded')} could not be read and {_was(shown)} left out: {_listed(shown)}"
    for paths in left_out.conflicts[:_MAX_CONFLICTS]:
        yield f"one file has several grades and was left out of fitting and scoring: {', '.join(paths)}"
    if len(left_out.conflicts) > _MAX_CONFLICTS:
        more = len(left_out.conflicts) - _MAX_CONFLICTS
        yield f"{plural(more, 'more file')} with several grades {_was(range(more))} left out too"
    for pairs, kind, where in (
        (left_out.train_like_test, "training", "test"),
        (left_out.train_like_val, "training", "validation"),
        (left_out.val_like_test, "validation", "test"),
    ):
        if pairs:
            what = f"{_images(pairs, kind)} {_is(pairs)} identical or nearly identical to {where} images"
            yield f"{what} and {_was(pairs)} left out of fitting: {_similar(pairs)}"
    if pairs := left_out.copies:
        what = f"{_images(pairs)} {_is(pairs)} exact copies of other images of the same split"
        yield f"{what} and {_was(pairs)} left out of fitting: {_similar(pairs)}"
    if pairs := left_out.test_copies:
        what = f"{_images(pairs, 'test')} {_is(pairs)} exact copies of other test images"
        yield f"{what}, and all of them are scored: {_similar(pairs)}"
    if pairs := facts.near_duplicates:
        what = plural(len(pairs), "pair of different files shows", "pairs of different files show")
        yield f"{what} the same image; no fold separates the files of a pair: {_similar(pairs)}"
    for count, fraction, path in facts.big_groups:
        what = (
            f"{count} images ({fraction:.0%}) form one group (an entry or near duplicates), including {path}"
        )
        yield f"{what}: no fold may split a group, so the folds are uneven"
    for names, where in ((facts.untested, "test"), (facts.unvalidated, "validation")):
        if names:
            yield f"no {where} image of {', '.join(names)}: some metrics are undefined or less reliable"
    if facts.merged_val:
        yield "there is no test split, so train and val are used together in nested cross-validation"
    yield from facts.notes


def _images(things: Sequence[object], kind: str = "") -> str:
    return plural(len(things), f"{kind} image".strip())


def _is(things: Sequence[object]) -> str:
    return "is" if len(things) == 1 else "are"


def _was(things: Sequence[object]) -> str:
    return "was" if len(things) == 1 else "were"


def _similar(pairs: Pairs) -> str:
    return _listed([f"{left} (like {right})" for left, right in pairs])


def _listed(shown: Sequence[str]) -> str:
    more = f" and {len(shown) - _MAX_PATHS} more" if len(shown) > _MAX_PATHS else ""
    return ", ".join(shown[:_MAX_PATHS]) + more
