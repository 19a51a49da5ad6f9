"""Grades of training images to review: label errors, near duplicates and outliers, for ``doubtful.csv``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from classify.data.neighbors import unit_rows
from classify.data.samples import Samples
from classify.evaluation.studies.base import StudyContext, choose_on_folds, out_of_fold_predictions
from classify.io.results import DOUBTFUL, write_csv
from classify.model_selection.predictions import EntryPredictions
from featurize.base.typing import Float64Array, IntArray

SHOWN = 5  # entries printed below the leaderboard
_HEADER = ("rank", "entry", "path", "grade", "looks_like", "doubt", "p_grade", "p_looks_like", "reason")


@dataclass(frozen=True, kw_only=True)
class DoubtfulEntry:
    """An entry, or one of its images, whose grade should be reviewed."""

    entry: str
    path: str  # "" if the whole of an entry with several images is meant
    grade: str
    reasons: tuple[str, ...]
    looks_like: str = ""
    doubt: float | None = None  # None if the entry was found by its features only
    p_grade: float | None = None
    p_looks_like: float | None = None


def study_label_quality(context: StudyContext) -> dict[str, Any]:
    """List training entries with doubtful grades, near duplicates and outliers, and write ``doubtful.csv``.

    The list begins with grades that fit worse than another one, the most doubtful first. Near duplicates with
    different grades or in different splits follow, then outliers. Of test images only the features are used,
    never grades or predictions.

    Parameters
    ----------
    context : StudyContext

    Returns
    -------
    dict
        ``n_doubtful``, ``n_sure`` (doubtful entries that clearly look like another grade), ``n_alike`` (near
        duplicates), ``n_outliers``, ``top`` (the first entries of the list) and ``thresholds``.
    """
    samples = context.samples
    predictions = out_of_fold_predictions(context, choose_on_folds(context).params)
    doubtful, n_sure, thresholds = doubtful_grades(predictions, classes=samples.classes)
    duplicates, outlying = near_duplicates(samples), outlying_images(samples, context.images)
    rows = merge_reasons([*doubtful, *duplicates, *outlying])
    if context.folder is not None:
        write_doubtful(context.folder, rows)
    n_entries, counts = len(predictions.y), (n_sure, len(duplicates), len(outlying))
    return {
        "n_entries": n_entries,
        "n_doubtful": len(doubtful),
        "n_sure": n_sure,
        "n_alike": len(duplicates),
        "n_outliers": len(outlying),
        "thresholds": dict(zip(samples.classes, thresholds, strict=True)),
        "top": [_row_record(row) for row in rows[: 4 * SHOWN]],
        "shown": [f"{row.path or row.entry} ({row.grade}): {'; '.join(row.reasons)}" for row in rows[:SHOWN]],
        "text": _text(context, n_entries=n_entries, counts=counts, n_listed=len(rows)),
    }


def doubtful_grades(
    predictions: EntryPredictions, *, classes: Sequence[str]
) -> tuple[list[DoubtfulEntry], int, list[float | None]]:
    """Return entries whose grade fits worse than another one, the most doubtful first.

    Parameters
    ----------
    predictions : EntryPredictions
        Out-of-fold predictions.
    classes : sequence of str

    Returns
    -------
    list of DoubtfulEntry
    int
        Number of entries that clearly look like another grade (see `DoubtScores.sure`).
    list of float or None
        Threshold of each class: its mean probability over the entries with that grade; None if there are
        none.
    """
    scores = doubt_scores(predictions.y, predictions.probabilities)
    order = np.argsort(-scores.doubt, kind="stable")
    rows = []
    for i in order[scores.doubt[order] > 0]:
        label, other = int(predictions.y[i]), int(scores.other[i])
        p_grade, p_other = (float(predictions.probabilities[i, k]) for k in (label, other))
        rows.append(
            DoubtfulEntry(
                entry=predictions.entry[i],
                path=predictions.path[i] if predictions.n_images[i] == 1 else "",
                grade=classes[label],
                looks_like=classes[other],
                doubt=float(scores.doubt[i]),
                p_grade=p_grade,
                p_looks_like=p_other,
                reasons=(
                    f"{'looks like' if scores.sure[i] else 'may be'} {classes[other]} "
                    f"(probability {p_other:.2f}; {classes[label]}: {p_grade:.2f})",
                ),
            )
        )
    thresholds = [float(value) if np.isfinite(value) else None for value in scores.thresholds]
    return rows, int(scores.sure.sum()), thresholds


def near_duplicates(samples: Samples) -> list[DoubtfulEntry]:
    """Return training images that are near duplicates of an image with another grade or in another split."""
    images = np.flatnonzero(samples.fit | samples.scored)
    X = samples.plain[samples.content[images]][:, samples.columns("final")]
    distances = neighborhood(X, samples.group[images])
    rows = []
    for pair, distance in zip(images[distances.pairs], distances.distance, strict=True):
        for image, other in (pair, pair[::-1]):
            if not samples.fit[image]:
                continue
            if samples.split[image] != samples.split[other]:
                reason = f"near duplicate of {samples.path[other]} in the {samples.split[other]} split"
            elif samples.y[image] != samples.y[other]:
                grade = samples.classes[samples.y[other]]
                reason = f"near duplicate of {samples.path[other]}, which is graded {grade}"
            else:
                continue
            rows.append(_image_row(samples, image, f"{reason} (cosine similarity {1 - distance:.3f})"))
    return rows


def outlying_images(samples: Samples, images: IntArray) -> list[DoubtfulEntry]:
    """Return training images whose features are far from all others, the farthest first."""
    X = samples.plain[samples.content[images]][:, samples.columns("final")]
    distances = neighborhood(X, samples.group[images])
    median = float(np.median(distances.typical))
    return [
        _image_row(
            samples,
            images[i],
            f"outlier (mean cosine distance to its nearest neighbours {distances.typical[i]:.2f}, median of "
            f"all images {median:.2f})",
        )
        for i in outliers(distances.typical)
    ]


def merge_reasons(rows: Sequence[DoubtfulEntry]) -> list[DoubtfulEntry]:
    """Return one row per entry or image with all its reasons, at the position of the first reason."""
    merged: dict[tuple[str, str], DoubtfulEntry] = {}
    for row in rows:
        key = (row.entry, row.path)
        earlier = merged.get(key)
        reasons = row.reasons if earlier is None else (*earlier.reasons, *row.reasons)
        merged[key] = replace(earlier or row, reasons=tuple(dict.fromkeys(reasons)))
    return list(merged.values())


def write_doubtful(folder: Path, rows: Sequence[DoubtfulEntry]) -> None:
    """Write doubtful.csv: one line per entry or image, with the reasons as text."""
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


def _image_row(samples: Samples, image: int, reason: str) -> DoubtfulEntry:
    return DoubtfulEntry(
        entry=samples.entry[image],
        path=samples.path[image],
        grade=samples.classes[samples.y[image]],
        reasons=(reason,),
    )


def _row_record(row: DoubtfulEntry) -> dict[str, Any]:
    return {
        "entry": row.entry,
        "path": row.path or None,
        "grade": row.grade,
        "looks_like": row.looks_like or None,
        "doubt": row.doubt,
        "reasons": list(row.reasons),
    }


def _text(context: StudyContext, *, n_entries: int, counts: tuple[int, int, int], n_listed: int) -> str:
    where = f"Labels ({context.head} on {context.samples.store}, out of fold)"
    if not n_listed:
        return f"{where}: none of the grades of {n_entries} training entries is doubtful."
    return (
        f"{where}: training entries that clearly look like another grade: {counts[0]} of {n_entries}; near "
        f"duplicates with another grade or in another split: {counts[1]}; outliers: {counts[2]}. Listed in "
        f"{DOUBTFUL}: {n_listed}, the most doubtful first:"
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class DoubtScores:
    """For each row, how well other grades fit compared with its own grade."""

    doubt: Float64Array  # (n,): above 0 where another grade fits better than the row's own
    other: IntArray  # (n,): the best fitting other grade
    sure: npt.NDArray[np.bool_]  # (n,): `other` fits better, and its probability reaches its threshold
    thresholds: Float64Array  # (n_classes,): mean probability of each class over the rows with that grade


def doubt_scores(y: npt.ArrayLike, probabilities: npt.ArrayLike) -> DoubtScores:
    """Return for each row by how much another grade fits better than its own, from −2 to 2.

    Heads are more confident for some classes than for others. Each probability is therefore compared with the
    threshold of its class, the mean probability over the rows with that grade. The doubt is the largest
    margin (probability minus threshold) of any other class, minus the margin of the row's own grade.

    Parameters
    ----------
    y : array-like of shape (n,), int
        The grades. A class without rows is never the better fitting one.
    probabilities : array-like of shape (n, n_classes), float
        Out-of-fold probabilities.

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
    p_own = scores[np.arange(len(labels)), labels]
    sums = np.bincount(labels, weights=p_own, minlength=n_classes)
    thresholds = np.divide(sums, counts, out=np.full(n_classes, np.inf), where=counts > 0)
    margin = scores - thresholds  # (n, n_classes)
    own = margin[np.arange(len(labels)), labels].copy()
    margin[np.arange(len(labels)), labels] = -np.inf
    other = np.argmax(margin, axis=1)
    best = margin.max(axis=1)
    return DoubtScores(doubt=best - own, other=other, sure=(best >= 0) & (best > own), thresholds=thresholds)


N_NEIGHBOURS = 10
_CHUNK = 2**24  # cosine distances per chunk
_MIN_DISTANCE = 1e-6  # smaller distances are rounding errors
_FENCE, _OUTER_FENCE = 1.5, 3.0  # Tukey's fences, in interquartile ranges


@dataclass(frozen=True, kw_only=True, eq=False)
class Neighborhood:
    """Distances of each image to its neighbours; images of its own group do not count as neighbours."""

    nearest: Float64Array  # (n,): cosine distance to the nearest neighbour
    typical: Float64Array  # (n,): mean cosine distance to the 10 nearest neighbours
    pairs: IntArray  # (n_pairs, 2): near duplicates, the closest pair first
    distance: Float64Array  # (n_pairs,): cosine distance of each pair


def neighborhood(X: npt.NDArray[np.float32], group: IntArray) -> Neighborhood:
    """Return cosine distances between images, after centring the features.

    Near duplicates are pairs with a distance below the lower outer fence of all nearest-neighbour distances,
    on a logarithmic scale: first quartile − 3 × interquartile range.

    Parameters
    ----------
    X : ndarray of shape (n, n_features), float32
        Plain features.
    group : ndarray of shape (n,), int
        Group of each image; images of one group are not compared.

    Returns
    -------
    Neighborhood

    References
    ----------
    Fences: Tukey, "Exploratory Data Analysis" (1977), section 2C. Distance to the nearest neighbours as a
    measure of outliers: Kuan & Mueller, "Back to the basics: revisiting out-of-distribution detection
    baselines", arXiv:2207.03061.
    """
    centred = X.astype(np.float64) - X.mean(axis=0, dtype=np.float64)
    unit = unit_rows(centred, copy=False).astype(np.float32)
    nearest, typical = np.full(len(X), np.inf), np.full(len(X), np.inf)
    k = min(N_NEIGHBOURS, len(X) - 1)
    for rows, distance in _distances(unit, group):
        closest = np.sort(np.partition(distance, k - 1, axis=1)[:, :k], axis=1)
        finite = np.isfinite(closest)
        nearest[rows] = closest[:, 0]
        total, count = np.where(finite, closest, 0.0).sum(axis=1), finite.sum(axis=1)
        np.divide(total, count, out=typical[rows], where=count > 0)
    pairs: list[tuple[float, int, int]] = []
    finite_nearest = nearest[np.isfinite(nearest)]
    if len(finite_nearest):
        low, high = np.quantile(np.log(finite_nearest), (0.25, 0.75))
        if high > low:
            limit = float(np.exp(low - _OUTER_FENCE * (high - low)))
            pairs = sorted(_pairs_closer_than(limit, unit, group))
    return Neighborhood(
        nearest=nearest,
        typical=typical,
        pairs=np.array([pair[1:] for pair in pairs], dtype=np.int64).reshape(-1, 2),
        distance=np.array([pair[0] for pair in pairs], dtype=np.float64),
    )


def outliers(typical: Float64Array) -> IntArray:
    """Return images whose mean distance is above the upper inner fence, the farthest first.

    The inner fence is used, because cosine distances hardly exceed 1 and so have no long tail.
    """
    finite = np.isfinite(typical)
    if not finite.any():
        return np.empty(0, dtype=np.int64)
    low, high = np.quantile(typical[finite], (0.25, 0.75))
    found = np.flatnonzero(finite & (typical > high + _FENCE * (high - low)))
    return found[np.argsort(-typical[found], kind="stable")]


def _distances(
    unit: npt.NDArray[np.float32], group: IntArray
) -> Iterator[tuple[slice, npt.NDArray[np.float64]]]:
    """Yield chunks of rows and their cosine distances to all images; infinite within a group."""
    chunk_size = max(1, _CHUNK // len(unit))
    for start in range(0, len(unit), chunk_size):
        rows = slice(start, min(start + chunk_size, len(unit)))
        distance = np.maximum(1.0 - unit[rows] @ unit.T, _MIN_DISTANCE).astype(np.float64)
        distance[group[rows, None] == group] = np.inf
        yield rows, distance


def _pairs_closer_than(
    limit: float, unit: npt.NDArray[np.float32], group: IntArray
) -> list[tuple[float, int, int]]:
    """Return the distance and both images of each pair of images closer than ``limit``."""
    pairs = []
    for rows, distance in _distances(unit, group):
        for i, j in zip(*np.nonzero(distance < limit), strict=True):
            first, second = rows.start + int(i), int(j)
            if first < second:
                pairs.append((float(distance[i, second]), first, second))
    return pairs
