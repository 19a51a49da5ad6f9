"""Estimators made from a head's name, and hyper-parameters made sound. Importing this is cheap."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

from classify.heads.registry import get_head, resolve
from featurize import CompareError

_SETTLED_ELSEWHERE = {
    "seed": "choose it with --seed",
    "log_dir": "a comparison writes training curves, a single fit none",
}


def make_head(
    name: str, *, params: Mapping[str, Any] | None = None, seed: int = 0, class_weight: str | None = None
) -> Any:
    """Return a new, unfitted estimator.

    Parameters
    ----------
    name : str
        A key of `HEADS`.
    params : mapping, optional
        Estimator parameters, e.g. one of `grid_points`; they win over `seed` and `class_weight`.
    seed : int, default=0
        For heads that draw anything (the dense network, the folds of a calibration).
    class_weight : {None, "balanced"}
        For heads that weigh classes; the baseline does not.

    Raises
    ------
    CompareError
        If the name, or one of the parameters, is unknown.
    """
    head = get_head(name)
    factory = resolve(head.factory)
    known = factory().get_params()
    chosen = {"seed": seed, "class_weight": class_weight}
    chosen = {key: value for key, value in chosen.items() if key in known}
    unknown = sorted(set(params or {}) - set(known))
    if unknown:
        raise CompareError(
            f"Head {name!r} has no parameter {unknown[0]!r}: expected some of {', '.join(sorted(known))}. "
            "See: classify heads"
        )
    return factory(**{**chosen, **head.params, **(params or {})})


def size_params(name: str, n_rows: int) -> dict[str, Any]:
    """Return the parameters that a number of training rows calls for, for the search and the fit alike.

    Left to themselves, the fit on all rows and those on the rows of a fold could be solved in different ways.

    Parameters
    ----------
    name : str
        A key of `HEADS`.
    n_rows : int
        All rows that the head is fitted on in the end, views included.
    """
    most = get_head(name).exact_rows
    return {} if most is None or n_rows <= most else {"solver": "approximate"}


def settle_params(name: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return hyper-parameters that a user gave, each of its default's type.

    Parameters
    ----------
    name : str
        A key of `HEADS`.
    params : mapping
        Numbers, words, and for layers also text with commas.

    Raises
    ------
    CompareError
        If one is unknown, of another type, or not for the user to choose; the message names it.
    """
    head = get_head(name)
    defaults = resolve(head.factory)().get_params()
    settled = {}
    for key, value in params.items():
        if key in head.params:
            raise CompareError(f"{key!r} is what makes the head {name!r}: choose another head instead")
        if key in _SETTLED_ELSEWHERE:
            raise CompareError(f"{key!r} is no hyper-parameter: {_SETTLED_ELSEWHERE[key]}")
        if key not in defaults:
            make_head(name, params={key: value})  # says which there are
        settled[key] = _typed(key, value, defaults[key])
    return settled


def all_params(name: str, params: Mapping[str, Any], *, class_weight: str | None) -> dict[str, Any]:
    """Return every hyper-parameter a head is fitted with, the defaults of those not given among them."""
    head = get_head(name)
    full = make_head(name, params=params, class_weight=class_weight).get_params()
    return {
        key: value for key, value in full.items() if key not in head.params and key not in _SETTLED_ELSEWHERE
    }


def _typed(key: str, value: Any, default: Any) -> Any:
    if isinstance(default, tuple):
        expected = "whole numbers with commas, such as 64,32"
        words = value.split(",") if isinstance(value, str) else value
        words = [words] if isinstance(words, int) else words
        try:
            return tuple(int(word) for word in words)
        except (TypeError, ValueError):
            raise CompareError(f"Parameter {key!r} is {value!r}: expected {expected}") from None
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(default, int):
        sound, expected = number and isfinite(value) and value == int(value), "a whole number"
    elif isinstance(default, float):
        sound, expected = number and isfinite(value), "a number"
    elif key == "shrinkage":
        sound, expected = value == "auto" or (number and 0 < value <= 1), "auto, or a share above 0 up to 1"
    elif isinstance(default, str):
        sound, expected = isinstance(value, str), "a word"
    else:  # class_weight
        sound, expected = value is None or value == "balanced" or isinstance(value, Mapping), "balanced"
    if not sound:
        raise CompareError(f"Parameter {key!r} is {value!r}: expected {expected}")
    return int(value) if isinstance(default, int) else value
