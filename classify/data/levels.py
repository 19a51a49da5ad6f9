"""Hyper-parameter "levels" of stores with several levels: fit on the columns of the final level or of all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from classify.errors import CompareError

LEVELS = ("final", "all")  # of equal scores the first is chosen, which has fewer columns


def levels_of(params: Mapping[str, Any]) -> str:
    """Return the value of "levels" in hyper-parameters; the final level by default."""
    return str(params.get("levels", LEVELS[0]))


def without_levels(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return hyper-parameters without "levels", which is not a parameter of the estimator."""
    return {key: value for key, value in params.items() if key != "levels"}


def with_levels(points: Iterable[Mapping[str, Any]], *, n_levels: int) -> tuple[dict[str, Any], ...]:
    """Return each grid point once per value of "levels"; unchanged if the store has a single level."""
    grid = [dict(point) for point in points]
    if n_levels < 2:
        return tuple(grid)
    return tuple({**point, "levels": levels} for levels in LEVELS for point in grid)


def resolve_levels(params: Mapping[str, Any], *, level_names: Sequence[str], store: str) -> dict[str, Any]:
    """Return hyper-parameters with "levels" for a store with several levels, and without it for other stores.

    Parameters
    ----------
    params : mapping
        Hyper-parameters, given or from an earlier run.
    level_names : sequence of str
        Levels of the store.
    store : str
        Name of the store, for the message.

    Raises
    ------
    CompareError
        If the value of "levels" is unknown, or the store does not have these levels.
    """
    levels = levels_of(params)
    if levels not in LEVELS:
        raise CompareError(f"parameter 'levels' is {levels!r}: expected one of {', '.join(LEVELS)}")
    if len(level_names) > 1:
        return {**without_levels(params), "levels": levels}
    if levels != LEVELS[0]:
        raise CompareError(
            f"levels={levels}: store {store!r} has only the network's final level. Make one with all levels: "
            "featurize extract DATA --levels"
        )
    return without_levels(params)
