"""Which columns of a store with several levels a head is fitted on: a hyper-parameter no estimator knows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from classify.errors import CompareError

LEVELS = ("final", "all")  # of equal scores the first is taken: fewer columns


def levels_of(params: Mapping[str, Any]) -> str:
    """Return which levels these hyper-parameters mean: the last one, unless they say otherwise."""
    return str(params.get("levels", LEVELS[0]))


def without_levels(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the hyper-parameters of the estimator alone."""
    return {key: value for key, value in params.items() if key != "levels"}


def at_each_level(points: Iterable[Mapping[str, Any]], *, n_levels: int) -> tuple[dict[str, Any], ...]:
    """Return grid points once for each choice of levels; as they are where there is nothing to choose."""
    known = [dict(point) for point in points]
    if n_levels < 2:
        return tuple(known)
    return tuple({**point, "levels": levels} for levels in LEVELS for point in known)


def resolve_levels(params: Mapping[str, Any], *, level_names: Sequence[str], store: str) -> dict[str, Any]:
    """Return hyper-parameters that say of a store with several levels which are used, and of others nothing.

    Parameters
    ----------
    params : mapping
        Hyper-parameters that were given or taken from an earlier run.
    level_names : sequence of str
        Of the store.
    store : str
        Its name, for the message.

    Raises
    ------
    CompareError
        If the levels are unknown, or the store does not have them.
    """
    levels = levels_of(params)
    if levels not in LEVELS:
        raise CompareError(f"Parameter 'levels' is {levels!r}: expected one of {', '.join(LEVELS)}")
    if len(level_names) > 1:
        return {**without_levels(params), "levels": levels}
    if levels != LEVELS[0]:
        raise CompareError(
            f"levels={levels}: store {store!r} holds the network's final features alone. Make one with all "
            "levels: featurize extract DATA --levels"
        )
    return without_levels(params)
