"""From features of files to the grades of what they show: an image, or an entry of several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from classify.grades import Grade

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from classify.bundles.bundle import Bundle
    from classify.bundles.features import BundleFeatures


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A file to grade, or a path where there is none."""

    file: Path
    path: str  # to show
    entry: str
    folder: str = ""  # the given one that it is in
    problem: str = ""


def grade_rows(
    bundle: Bundle, listed: Sequence[Listed], found: BundleFeatures, *, together: Sequence[str]
) -> tuple[Grade, ...]:
    """Grade files; those that are one entry, as one.

    Parameters
    ----------
    bundle : Bundle
    listed : sequence of Listed
    found : BundleFeatures
        Of those listed without a problem, in their order.
    together : sequence of str
        One a file: equal ones are graded as one.

    Returns
    -------
    tuple of Grade
        In the order in which each first occurs.
    """
    import numpy as np

    from classify.portfolios import number_names

    problems = [one.problem for one in listed]
    given = np.flatnonzero([not one.problem for one in listed])
    for position, reason in found.problems.items():
        problems[given[position]] = reason
    row = number_names(together)
    probabilities: dict[int, npt.NDArray[np.float64]] = {}
    if len(found.index):
        order = np.argsort(found.index)  # so that sums do not depend on which file was read first
        graded, place = np.unique(row[given[found.index[order]]], return_inverse=True)
        said = [
            _entry_probabilities(member, features[order], place, n=len(graded))
            for member, features in zip(bundle.members or (bundle,), found.features, strict=True)
        ]
        probabilities = dict(zip(graded.tolist(), np.mean(said, axis=0), strict=True))
    images: dict[int, list[int]] = {}
    for k, number in enumerate(row.tolist()):
        images.setdefault(number, []).append(k)
    return tuple(
        _grade(bundle, [(listed[k], problems[k]) for k in members], probabilities.get(number))
        for number, members in images.items()
    )


def _entry_probabilities(
    bundle: Bundle, features: npt.NDArray[np.float32], entry: npt.NDArray[np.int64], *, n: int
) -> npt.NDArray[np.float64]:
    """Return the probabilities of n entries from the features of their images (n_images, n_features)."""
    from classify.portfolios import mean_by

    digest = bundle.manifest["config_digest"]
    if bundle.join == "features":
        return bundle.predict_proba(mean_by(features, entry, n=n), digest)
    return mean_by(bundle.predict_proba(features, digest), entry, n=n)


def _grade(
    bundle: Bundle,
    images: Sequence[tuple[Listed, str]],
    probabilities: npt.NDArray[np.float64] | None,
) -> Grade:
    """Return the row of images that are graded as one, each with its problem or ""."""
    several = len(images) > 1
    bad = [f"{one.path}: {problem}" if several else problem for one, problem in images if problem]
    row = () if probabilities is None else tuple(probabilities.tolist())
    return Grade(
        path="" if several else images[0][0].path,
        entry=images[0][0].entry,
        n_images=len(images) - len(bad),
        grade=bundle.classes[row.index(max(row))] if row else "",  # the first of equal ones
        confidence=max(row) if row else None,
        probabilities=row,
        problem="; ".join(bad),
    )
