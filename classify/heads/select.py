"""Selection of the heads to compare, and their checks against the classes."""

from __future__ import annotations

from collections.abc import Sequence

from classify.errors import CompareError
from classify.heads.registry import HEADS, get_head

DEFAULT_HEADS = ("dense", "logreg", "svm-linear", "svm-rbf")
ALL = "all"
BASELINE = "baseline"
ENSEMBLE = "ensemble"  # averages the predictions of heads; not in the registry


def is_ordinal(n_classes: int, *, ordered: bool) -> bool:
    """Return whether classes are ordinal: ordered from worst to best, and three or more.

    The order of two classes adds no information: a prediction is either right or wrong.
    """
    return ordered and n_classes >= 3


def validate_heads(names: Sequence[str] | None) -> tuple[str, ...]:
    """Return each requested head once; an empty tuple if none is requested (None).

    Raises
    ------
    CompareError
        If a name is unknown, or the sequence of names is empty.
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
    """Return whether any of these heads is a network; without names, the default heads are meant."""
    named = [name for name in heads or () if name != ENSEMBLE]
    return not named or any(name == ALL or (name in HEADS and get_head(name).tensorflow) for name in named)


def select_heads(
    requested: Sequence[str], *, classes: Sequence[str], ordered: bool, n_stores: int = 1
) -> list[str]:
    """Return the heads to compare, the baseline last; the ensemble is not included.

    Parameters
    ----------
    requested : sequence of str
        From `validate_heads`. If it is empty: the default heads, plus their ordinal counterparts if the
        classes are ordinal.
    classes : sequence of str
    ordered : bool
        Whether the classes are ordered from worst to best.
    n_stores : int, default=1

    Raises
    ------
    CompareError
        If a requested head needs ordinal classes and these are not, or an ensemble would have one member.
    """
    ordinal = is_ordinal(len(classes), ordered=ordered)
    for name in requested:
        if name not in (ALL, ENSEMBLE):
            require_order(name, classes, ordered=ordered)
    if ALL in requested:
        names = [name for name, head in HEADS.items() if ordinal or not head.ordered]
    elif named := [name for name in requested if name != ENSEMBLE]:
        names = named
    else:
        counterparts = [name for name, head in HEADS.items() if head.nominal in DEFAULT_HEADS]
        names = [*DEFAULT_HEADS, *(counterparts if ordinal else ())]
    selected = [name for name in names if name != BASELINE]
    if ENSEMBLE in requested and len(selected) * n_stores < 2:
        found = f"only {selected[0]} is" if selected else "none is"
        raise CompareError(f"{ENSEMBLE}: needs two or more heads, but {found} compared. Name two or more")
    return [*selected, BASELINE]


def require_order(head: str, classes: Sequence[str], *, ordered: bool) -> None:
    """Raise CompareError if the head needs ordinal classes and these are not."""
    if get_head(head).ordered and not is_ordinal(len(classes), ordered=ordered):
        hint = "give the order with --order WORST,…,BEST" if not ordered else f"there are {len(classes)}"
        raise CompareError(f"{head}: needs three or more classes that are ordered from worst to best; {hint}")
