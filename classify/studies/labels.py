"""Which grades to look at again, and why: ``doubtful.csv``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from classify.predicted import Predicted
from classify.results import DOUBTFUL, write_csv
from classify.samples import Samples
from classify.studies.alike import neighbours, outliers
from classify.studies.case import Case, graded, searched
from classify.studies.doubts import doubts

SHOWN = 5  # of the list, below the leaderboard
_HEADER = ("rank", "entry", "path", "grade", "looks_like", "doubt", "p_grade", "p_looks_like", "reason")


@dataclass(frozen=True, kw_only=True)
class Doubtful:
    """One entry, or one image of it, that somebody should look at again."""

    entry: str
    path: str  # "" where the entry has several images and all are meant
    grade: str
    reasons: tuple[str, ...]
    looks_like: str = ""
    doubt: float | None = None  # of the grade; None where only features say something
    p_grade: float | None = None
    p_looks_like: float | None = None


def study(case: Case) -> dict[str, Any]:
    """List training entries whose grade is doubtful, near duplicates and outliers, and write them as a table.

    First stand grades that another one fits better, the most doubtful first; then images that are far more
    alike than usual, but under two grades or in two splits; then those unlike all others. Of images of the
    test split only features are looked at, never grades or predictions.

    Parameters
    ----------
    case : Case

    Returns
    -------
    dict
        ``n_doubtful``, ``n_sure`` (those of them that look as another grade usually does), ``n_alike``,
        ``n_outliers``, ``top`` (the first of the list) and ``thresholds``.
    """
    samples = case.samples
    found = graded(case, searched(case).params)
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
    found: Predicted, *, classes: Sequence[str]
) -> tuple[list[Doubtful], int, list[float | None]]:
    """Return entries whose grade another one fits better, the most doubtful first.

    Parameters
    ----------
    found : Predicted
        Out of fold.
    classes : sequence of str

    Returns
    -------
    list of Doubtful
    int
        How many of them look like another grade as much as is usual among those graded so.
    list of float or None
        Of each class the mean probability of the entries graded so; None where there are none.
    """
    about = doubts(found.y, found.probabilities)
    order = np.argsort(-about.doubt, kind="stable")
    rows = []
    for i in order[about.doubt[order] > 0]:
        mine, other = int(found.y[i]), int(about.other[i])
        p_grade, p_other = float(found.probabilities[i, mine]), float(found.probabilities[i, other])
        rows.append(
            Doubtful(
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


def near_duplicates(samples: Samples) -> list[Doubtful]:
    """Return training images far more alike than usual to one of another grade, or of another split."""
    images = np.flatnonzero(samples.fit | samples.scored)
    X = samples.plain[samples.content[images]][:, samples.columns("final")]
    around = neighbours(X, samples.group[images])
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


def far_from_all(samples: Samples, images: Any) -> list[Doubtful]:
    """Return training images unlike all others, the farthest first."""
    X = samples.plain[samples.content[images]][:, samples.columns("final")]
    around = neighbours(X, samples.group[images])
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


def join_reasons(rows: Sequence[Doubtful]) -> list[Doubtful]:
    """Return one row an entry or image, in the order of its first reason."""
    joined: dict[tuple[str, str], Doubtful] = {}
    for row in rows:
        key = (row.entry, row.path)
        before = joined.get(key)
        reasons = row.reasons if before is None else (*before.reasons, *row.reasons)
        joined[key] = replace(before or row, reasons=tuple(dict.fromkeys(reasons)))
    return list(joined.values())


def write_doubtful(folder: Path, rows: Sequence[Doubtful]) -> None:
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


def _of_image(samples: Samples, image: int, reason: str) -> Doubtful:
    return Doubtful(
        entry=samples.entry[image],
        path=samples.path[image],
        grade=samples.classes[samples.y[image]],
        reasons=(reason,),
    )


def _plain(row: Doubtful) -> dict[str, Any]:
    return {
        "entry": row.entry,
        "path": row.path or None,
        "grade": row.grade,
        "looks_like": row.looks_like or None,
        "doubt": row.doubt,
        "reasons": list(row.reasons),
    }


def _text(case: Case, *, n_entries: int, counts: tuple[int, int, int], n: int) -> str:
    where = f"Labels ({case.head} on {case.samples.store}, out of fold)"
    if not n:
        return f"{where}: no grade of {n_entries} training entries is in doubt."
    return (
        f"{where}: of {n_entries} training entries {counts[0]} clearly look like another grade; images "
        f"nearly the same as one of another grade or split: {counts[1]}; unlike all others: {counts[2]}. "
        f"{n} are listed in {DOUBTFUL}, to be looked at again from the top:"
    )
