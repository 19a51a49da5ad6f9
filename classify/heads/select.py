"""Which heads a comparison is of: those asked for, or those that suit its classes."""

from __future__ import annotations

from collections.abc import Sequence

from classify.errors import CompareError
from classify.heads.registry import HEADS, get_head

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
    for name in names:
        if name not in (*HEADS, ALL, ENSEMBLE):
            known = ", ".join((*HEADS, ENSEMBLE, ALL))
            raise CompareError(f"Unknown head {name!r}: expected some of {known}. See: classify heads")
    return tuple(name for name in dict.fromkeys(names) if name != BASELINE) or (BASELINE,)


def needs_tensorflow(heads: Sequence[str] | None) -> bool:
    """Return whether any of these heads trains a network; without names, the usual heads are meant."""
    named = [name for name in heads or () if name != ENSEMBLE]
    return not named or any(name == ALL or (name in HEADS and get_head(name).tensorflow) for name in named)


def suitable_heads(
    asked: Sequence[str], *, classes: Sequence[str], ordered: bool, n_stores: int = 1
) -> list[str]:
    """Return the heads to compare, the baseline last; the ensemble is not among them.

    Parameters
    ----------
    asked : sequence of str
        From `known_heads`. Without a name: the usual heads, and beside them those that know an order, where
        there is one.
    classes : sequence of str
    ordered : bool
        Whether they go from worst to best.
    n_stores : int, default=1

    Raises
    ------
    CompareError
        If a head that needs ordered classes is asked for, and there are none; or the vote of a single head.
    """
    graded = is_ordinal(classes, ordered=ordered)
    for name in asked:
        if name not in (ALL, ENSEMBLE):
            require_order(name, classes, ordered=ordered)
    if ALL in asked:
        names = [name for name, head in HEADS.items() if graded or not head.ordered]
    elif named := [name for name in asked if name != ENSEMBLE]:
        names = named
    else:
        siblings = [name for name, head in HEADS.items() if head.nominal in DEFAULT_HEADS]
        names = [*DEFAULT_HEADS, *(siblings if graded else ())]
    chosen = [name for name in names if name != BASELINE]
    if ENSEMBLE in asked and len(chosen) * n_stores < 2:
        there = f"{chosen[0]} alone is" if chosen else "none is"
        raise CompareError(f"{ENSEMBLE}: the vote of several heads, but {there} compared. Name two or more")
    return [*chosen, BASELINE]


def is_ordinal(classes: Sequence[str], *, ordered: bool) -> bool:
    """Tell whether the order of the classes says anything: three or more, from worst to best."""
    return ordered and len(classes) >= LEAST_ORDERED


def require_order(head: str, classes: Sequence[str], *, ordered: bool) -> None:
    """Raise CompareError if the head is for ordered classes, three or more, and these are not."""
    if get_head(head).ordered and not is_ordinal(classes, ordered=ordered):
        why = "--order WORST,…,BEST says which" if not ordered else f"here are {len(classes)}"
        raise CompareError(f"{head}: for three or more classes that go from worst to best; {why}")
