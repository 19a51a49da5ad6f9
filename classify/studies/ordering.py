"""Whether it helps to tell a head the order of the classes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from classify.heads import HEADS, get_head
from classify.studies.case import Case, graded, searched
from classify.studies.paired import ERROR, Difference
from classify.studies.sides import change, metric_words, side_by_side
from featurize import CompareError


def study(case: Case) -> dict[str, Any]:
    """Compare an ordered head with its nominal sibling, both with their own hyper-parameters.

    Parameters
    ----------
    case : Case

    Returns
    -------
    dict
        Figures and the paired difference in weighted kappa, and in grades off on average as ``error``.

    Raises
    ------
    CompareError
        If the classes have no order, or are two only.
    """
    samples = case.samples
    if not samples.ordered or len(samples.classes) < 3:
        raise CompareError(
            "it needs three ordered classes or more. Say their order, lowest first, with "
            f"--order {','.join(samples.classes)}"
        )
    ordered = _ordered_head(case)
    heads = (get_head(ordered).nominal, ordered)
    ways = {}
    for head in heads:
        mine = replace(case, head=head)
        ways[head] = graded(mine, searched(mine).params)
    sides = side_by_side(case, ways)
    errors = side_by_side(case, ways, metric=ERROR)
    off = ", ".join(f"{head} {value:.3f}" for head, value in errors.figures.items() if value is not None)
    text = (
        f"Ordering ({samples.store}, out of fold, {metric_words(sides.metric)}): {sides.words()}; grades off "
        f"on average: {off} ({change(errors.differences[ordered], errors.metric)}). "
        f"{_helped(sides.differences[ordered])}"
    )
    return {"head": ordered, **sides.record(), "error": errors.record(), "text": text}


def _ordered_head(case: Case) -> str:
    """Return the recommended head if it is ordered, else its ordered sibling, else the best of the others.

    Which is best, the search of those that were compared says.
    """
    siblings = {head.nominal: head.name for head in HEADS.values() if head.ordered and head.nominal}
    if not siblings:
        raise CompareError("no head takes the order of the classes into account")
    mine = siblings.get(case.head, case.head)
    if mine in siblings.values():
        return mine
    compared = dict.fromkeys(siblings.get(head, head) for head in case.heads)
    able = [head for head in compared if head in siblings.values()]
    if not able:
        return siblings.get("logreg", next(iter(siblings.values())))
    return max(able, key=lambda head: round(searched(replace(case, head=head)).score or 0.0, 10))


def _helped(gained: Difference) -> str:
    if gained.verdict == "better":
        return "Knowing the order helped here."
    if gained.verdict == "worse":
        return "Knowing the order did harm here."
    return "Whether knowing the order helped here is not settled: the interval holds zero."
