"""Which heads a comparison is of: those asked for, or those that suit its classes."""

from __future__ import annotations

from collections.abc import Sequence

from classify.heads import HEADS, get_head
from featurize import CompareError

DEFAULT_HEADS = ("dense", "logreg", "svm-linear", "svm-rbf")
ALL = "all"
BASELINE = "baseline"
ENSEMBLE = "ensemble"  # of heads: none of the registry
LEAST_ORDERED = 3  # two classes have an order whatever they are


def known_heads(names: Sequence[str] | None) -> tuple[str, ...]:
    """Return the heads asked for, once each; none asked for is no name.

    Raises
    ------
    CompareError
        If one is unknown, or the names are an empty list.
    """
    if names is None:
        return ()
    if not names:
        raise CompareError("no head to compare: name some with --heads. See: classify heads")
    return tuple(
        name if name in (ALL, ENSEMBLE) else get_head(name).name
        for name in dict.fromkeys(names)
        if name != BASELINE
    ) or (BASELINE,)


def suitable_heads(asked: Sequence[str], *, classes: Sequence[str], ordered: bool) -> list[str]:
    """Return the heads to compare, the baseline last; the ensemble is not among them.

    Parameters
    ----------
    asked : sequence of str
        From `known_heads`. Without a name: the usual heads, and beside them those that know an order, where
        there is one.
    classes : sequence of str
    ordered : bool
        Whether they go from worst to best.

    Raises
    ------
    CompareError
        If a head that needs ordered classes is asked for, and there are none.
    """
    graded = ordered and len(classes) >= LEAST_ORDERED
    for name in asked:
        if name not in (ALL, ENSEMBLE) and get_head(name).ordered and not graded:
            why = "--order WORST,…,BEST says which" if not ordered else f"here are {len(classes)}"
            raise CompareError(f"{name}: for three or more classes that go from worst to best; {why}")
    if ALL in asked:
        names = [name for name, head in HEADS.items() if graded or not head.ordered]
    elif named := [name for name in asked if name != ENSEMBLE]:
        names = named
    else:
        siblings = [name for name, head in HEADS.items() if head.nominal in DEFAULT_HEADS]
        names = [*DEFAULT_HEADS, *(siblings if graded else ())]
    return [*(name for name in names if name != BASELINE), BASELINE]
