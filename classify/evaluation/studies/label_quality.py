"""Which grades to look at again, and why: ``doubtful.csv``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from classify.data.samples import Samples
from classify.evaluation.studies.base import StudyContext, choose_on_folds, out_of_fold_predictions
from classify.io.results import DOUBTFUL, write_csv
from classify.model_selection.predictions import EntryPredictions
from featurize.base.typing import Float64Array, IntArray

SHOWN = 5  # of the list, below the leaderboard
_HEADER = ("rank", "entry", "path", "grade", "looks_like", "doubt", "p_grade", "p_looks_like", "reason")


@dataclass(frozen=True, kw_only=True)
class DoubtfulEntry:
    """One entry, or one image of it, that somebody should look at again."""

    entry: str
    path: str  # "" where the entry has several images and all are meant
    grade: str
    reasons: tuple[str, ...]
    looks_like: str = ""
    doubt: float | None = None  # of the grade; None where only features say something
    p_grade: float | None = None
    p_looks_like: float | None = None


def study_label_quality(case: StudyContext) -> dict[str, Any]:
    """List training entries whose grade is doubtful, near duplicates and outliers, and write them as a table.

    First stand grades that another one fits better, the most doubtful first; then images that are far more
    alike than usual, but under two grades or in two splits; then those unlike all others. Of images of the
    test split only features are looked at, never grades or predictions.

    Parameters
    ----------
    case : StudyContext

    Returns
    -------
    dict
        ``n_doubtful``, ``n_sure`` (those of them that look as another grade usually does), ``n_alike``,
        ``n_outliers``, ``top`` (the first of the list) and ``thresholds``.
    """
    samples = case.samples
    found = out_of_fold_predictions(case, choose_on_folds(case).params)
    rows, n_sure, thresholds = doubtful_grades(found, classes=samples.classes)
    alike, far = near_duplicates(samples), far_from_all(samples, case.images)
    listed = join_reasons([*rows, *alike, *far])
    if case.folder is not None:
        write_doubtful(case.folder, listed)
    return {
        "n_entries": len(found.y),
        "n_doubtful": len(rows),
        "n_sure": n_sure,
        "n_alike": len(alike),
        "n_outliers": len(far),
        "thresholds": dict(zip(samples.classes, thresholds, strict=True)),
        "top": [_plain(one) for one in listed[: 4 * SHOWN]],
        "shown": [
            f"{one.path or one.entry} ({one.grade}): {'; '.join(one.reasons)}" for one in listed[:SHOWN]
        ],
        "text": _text(case, n_entries=len(found.y), counts=(n_sure, len(alike), len(far)), n=len(listed)),
    }


def doubtful_grades(
    found: EntryPredictions, *, classes: Sequence[str]
) -> tuple[list[DoubtfulEntry], int, list[float | None]]:
    """Return entries whose grade another one fits better, the most doubtful first.

    Parameters
    ----------
    found : EntryPredictions
        Out of fold.
    classes : sequence of str

    Returns
    -------
    list of DoubtfulEntry
    int
        How many of them look like another grade as much as is usual among those graded so.
    list of float or None
        Of each class the mean probability of the entries graded so; None where there are none.
    """
    about = doubt_scores(found.y, found.probabilities)
    order = np.argsort(-about.doubt, kind="stable")
    rows = []
    for i in order[about.doubt[order] > 0]:
        mine, other = int(found.y[i]), int(about.other[i])
        p_grade, p_other = float(found.probabilities[i, mine]), float(found.probabilities[i, other])
        rows.append(
            DoubtfulEntry(
                entry=found.entry[i],
                path=found.path[i] if found.n_images[i] == 1 else "",
                grade=classes[mine],
                looks_like=classes[other],
                doubt=float(about.doubt[i]),
                p_grade=p_grade,
                p_looks_like=p_other,
                reasons=(
                    f"{'looks like' if about.sure[i] else 'may rather be'} {classes[other]} "
                    f"(probability {p_other:.2f}, as {classes[mine]} {p_grade:.2f})",
                ),
            )
        )
    known = [float(value) if np.isfinite(value) else None for value in about.thresholds]
    return rows, int(about.sure.sum()), known


def near_duplicates(samples: Samples) -> list[DoubtfulEntry]:
    """Return training images far more alike than usual to one of another grade, or of another split."""
    images = np.flatnonzero(samples.fit | samples.scored)
    X = samples.plain[samples.content[images]][:, samples.columns("final")]
    around = neighborhood(X, samples.group[images])
    rows = []
    for pair, distance in zip(images[around.pairs], around.distance, strict=True):
        for image, other in (pair, pair[::-1]):
            if not samples.fit[image]:
                continue
            apart = samples.split[image] != samples.split[other]
            if apart:
                reason = (
                    f"nearly the same features as {samples.path[other]} of the {samples.split[other]} split"
                )
            elif samples.y[image] != samples.y[other]:
                grade = samples.classes[samples.y[other]]
                reason = f"nearly the same features as {samples.path[other]}, which is graded {grade}"
            else:
                continue
            rows.append(_of_image(samples, image, f"{reason} (cosine {1 - distance:.3f})"))
    return rows


def far_from_all(samples: Samples, images: Any) -> list[DoubtfulEntry]:
    """Return training images unlike all others, the farthest first."""
    X = samples.plain[samples.content[images]][:, samples.columns("final")]
    around = neighborhood(X, samples.group[images])
    usual = float(np.median(around.typical))
    return [
        _of_image(
            samples,
            images[i],
            f"unlike all others (mean cosine distance to its neighbours {around.typical[i]:.2f}, usually "
            f"{usual:.2f})",
        )
        for i in outliers(around.typical)
    ]


def join_reasons(rows: Sequence[DoubtfulEntry]) -> list[DoubtfulEntry]:
    """Return one row an entry or image, in the order of its first reason."""
    joined: dict[tuple[str, str], DoubtfulEntry] = {}
    for row in rows:
        key = (row.entry, row.path)
        before = joined.get(key)
        reasons = row.reasons if before is None else (*before.reasons, *row.reasons)
        joined[key] = replace(before or row, reasons=tuple(dict.fromkeys(reasons)))
    return list(joined.values())


def write_doubtful(folder: Path, rows: Sequence[DoubtfulEntry]) -> None:
    """Write doubtful.csv: one line an entry or image, with the reason in words."""
    write_csv(
        folder / DOUBTFUL,
        _HEADER,
        (
            [
                str(rank),
                row.entry,
                row.path,
                row.grade,
                row.looks_like,
                *(
                    "" if value is None else f"{value:.6f}"
                    for value in (row.doubt, row.p_grade, row.p_looks_like)
                ),
                "; ".join(row.reasons),
            ]
            for rank, row in enumerate(rows, start=1)
        ),
    )


def _of_image(samples: Samples, image: int, reason: str) -> DoubtfulEntry:
    return DoubtfulEntry(
        entry=samples.entry[image],
        path=samples.path[image],
        grade=samples.classes[samples.y[image]],
        reasons=(reason,),
    )


def _plain(row: DoubtfulEntry) -> dict[str, Any]:
    return {
        "entry": row.entry,
        "path": row.path or None,
        "grade": row.grade,
        "looks_like": row.looks_like or None,
        "doubt": row.doubt,
        "reasons": list(row.reasons),
    }


def _text(case: StudyContext, *, n_entries: int, counts: tuple[int, int, int], n: int) -> str:
    where = f"Labels ({case.head} on {case.samples.store}, out of fold)"
    if not n:
        return f"{where}: no grade of {n_entries} training entries is in doubt."
    return (
        f"{where}: of {n_entries} training entries {counts[0]} clearly look like another grade; images "
        f"nearly the same as one of another grade or split: {counts[1]}; unlike all others: {counts[2]}. "
        f"{n} are listed in {DOUBTFUL}, to be looked at again from the top:"
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class DoubtScores:
    """What each row looks like beside the grade it has."""

    doubt: Float64Array  # (n,) above 0: another grade fits better, each by the measure of its own class
    other: IntArray  # (n,) the grade that fits best of all others
    sure: npt.NDArray[np.bool_]  # (n,) it fits better, and as well as is usual among those graded so
    thresholds: Float64Array  # (n_classes,) mean probability of a class over the rows graded so


def doubt_scores(y: npt.ArrayLike, probabilities: npt.ArrayLike) -> DoubtScores:
    """Return for each row by how much another grade fits better than its own, from −2 to 2.

    Heads are surer of some classes than of others. So each probability is measured against what is usual in
    its class: the mean over the rows that are graded so. The doubt is the greatest such surplus of any other
    class, less that of the grade itself.

    Parameters
    ----------
    y : array-like of shape (n,), int
        The grades; every class that has none is never the better one.
    probabilities : array-like of shape (n, n_classes), float
        Out of fold.

    Returns
    -------
    DoubtScores

    References
    ----------
    Northcutt, Jiang & Chuang, "Confident learning: estimating uncertainty in dataset labels",
    arXiv:1911.00068, section 3: thresholds, and `sure` as the off-diagonal of the confident joint.
    """
    labels, scores = np.asarray(y, dtype=np.int64), np.asarray(probabilities, dtype=np.float64)
    n_classes = scores.shape[1]
    counts = np.bincount(labels, minlength=n_classes)
    given = scores[np.arange(len(labels)), labels]
    sums = np.bincount(labels, weights=given, minlength=n_classes)
    thresholds = np.divide(sums, counts, out=np.full(n_classes, np.inf), where=counts > 0)
    surplus = scores - thresholds  # (n, n_classes)
    own = surplus[np.arange(len(labels)), labels].copy()
    surplus[np.arange(len(labels)), labels] = -np.inf
    other = np.argmax(surplus, axis=1)
    best = surplus.max(axis=1)
    return DoubtScores(doubt=best - own, other=other, sure=(best >= 0) & (best > own), thresholds=thresholds)


N_NEIGHBOURS = 10
_CHUNK = 2**24  # cosines at once
_LEAST = 1e-6  # distance below which rounding decides
_FENCE, _OUTER_FENCE = 1.5, 3.0  # Tukey's, in distances between the quartiles


@dataclass(frozen=True, kw_only=True, eq=False)
class Neighborhood:
    """What lies around each image; those of its own group do not count."""

    nearest: Float64Array  # (n,) cosine distance to the nearest of them
    typical: Float64Array  # (n,) mean cosine distance to the nearest 10
    usual: Float64Array  # (2,) first and third quartile of log `nearest`
    pairs: IntArray  # (n_pairs, 2) images that lie far closer than usual, the closest first
    distance: Float64Array  # (n_pairs,) of each pair


def neighborhood(X: npt.NDArray[np.float32], group: IntArray) -> Neighborhood:
    """Return how close images are in direction from the mean of all.

    Near duplicates are pairs whose distance is below the outer fence of the distances to the nearest
    neighbour, on a logarithmic scale: first quartile less three times the distance between the quartiles.

    Parameters
    ----------
    X : ndarray of shape (n, n_features), float32
        Plain features.
    group : ndarray of shape (n,), int
        Images that are known to belong together, and are no pair.

    Returns
    -------
    Neighborhood

    References
    ----------
    Fences: Tukey, "Exploratory Data Analysis" (1977), section 2C. Distance to the nearest neighbours as a
    measure of outliers: Kuan & Mueller, "Back to the basics: revisiting out-of-distribution detection
    baselines", arXiv:2207.03061.
    """
    unit = _directions(X)
    nearest, typical = np.full(len(X), np.inf), np.full(len(X), np.inf)
    k = min(N_NEIGHBOURS, len(X) - 1)
    for rows, distance in _distances(unit, group):
        closest = np.sort(np.partition(distance, k - 1, axis=1)[:, :k], axis=1)
        there = np.isfinite(closest)
        nearest[rows] = closest[:, 0]
        total, count = np.where(there, closest, 0.0).sum(axis=1), there.sum(axis=1)
        np.divide(total, count, out=typical[rows], where=count > 0)
    known = nearest[np.isfinite(nearest)]
    if not len(known):
        nothing = np.empty((0, 2), dtype=np.int64)
        return Neighborhood(
            nearest=nearest, typical=typical, usual=np.zeros(2), pairs=nothing, distance=np.empty(0)
        )
    low, high = np.quantile(np.log(known), (0.25, 0.75))
    limit = np.exp(low - _OUTER_FENCE * (high - low))
    pairs = _closer_than(unit, group, limit) if high > low else []
    pairs.sort()
    return Neighborhood(
        nearest=nearest,
        typical=typical,
        usual=np.array([low, high]),
        pairs=np.array([pair[1:] for pair in pairs], dtype=np.int64).reshape(-1, 2),
        distance=np.array([pair[0] for pair in pairs], dtype=np.float64),
    )


def outliers(typical: Float64Array) -> IntArray:
    """Return images far from all others, the farthest first: beyond the fence of these distances.

    The inner fence, as cosine distances end soon after 1 and so have no long tail.
    """
    known = np.isfinite(typical)
    if not known.any():
        return np.empty(0, dtype=np.int64)
    low, high = np.quantile(typical[known], (0.25, 0.75))
    found = np.flatnonzero(known & (typical > high + _FENCE * (high - low)))
    return found[np.argsort(-typical[found], kind="stable")]


def _directions(X: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    centred = X.astype(np.float64) - X.mean(axis=0, dtype=np.float64)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    unit = np.divide(centred, length, out=np.zeros_like(centred), where=length > 0)
    return unit.astype(np.float32)


def _distances(
    unit: npt.NDArray[np.float32], group: IntArray
) -> Iterator[tuple[slice, npt.NDArray[np.float64]]]:
    """Yield the cosine distances of some images to all; infinite within a group."""
    at_once = max(1, _CHUNK // len(unit))
    for start in range(0, len(unit), at_once):
        rows = slice(start, min(start + at_once, len(unit)))
        distance = np.maximum(1.0 - unit[rows] @ unit.T, _LEAST).astype(np.float64)
        distance[group[rows, None] == group] = np.inf
        yield rows, distance


def _closer_than(
    unit: npt.NDArray[np.float32], group: IntArray, limit: float
) -> list[tuple[float, int, int]]:
    found = []
    for rows, distance in _distances(unit, group):
        for here, there in zip(*np.nonzero(distance < limit), strict=True):
            one, other = rows.start + int(here), int(there)
            if one < other:
                found.append((float(distance[here, other]), one, other))
    return found
