"""A fitted head as plain data and back: its parameters, and scikit-learn's objects, arrays and numbers.

Neither names a class or a module of ours, so that what is kept outlives every move of our code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args, get_origin

import numpy as np

from classify.heads.base import BaseHead

OPTIONAL = frozenset({"notes_"})  # attributes that not every fit sets


def head_state(head: BaseHead) -> dict[str, Any]:
    """Return a fitted head as ``{"params": …, "attributes": …}``; heads within it in the same form.

    Parameters
    ----------
    head : fitted head
        Of a class whose `FITTED` lists its attributes.
    """
    fitted = vars(head)
    return {
        "params": head.get_params(deep=False),
        "attributes": {
            name: _plain(fitted[name], kind) for name, kind in head.FITTED.items() if name in fitted
        },
    }


def restore_head(head: BaseHead, state: Any) -> None:
    """Make an unfitted head the one whose state this is. Nothing is set before all of it has been checked.

    Parameters
    ----------
    head : unfitted head
        Of the same class.
    state : object
        From an untrusted file: expected to be what `head_state` returned.

    Raises
    ------
    ValueError
        If it is not the state of such a head; the message says why.
    """
    if type(state) is not dict or set(state) != {"params", "attributes"}:
        raise ValueError("holds something else than a head's parameters and attributes")
    params = _checked_params(head, state["params"])
    attributes = _checked_attributes(head, state["attributes"])
    head.set_params(**params)
    for name, value in attributes.items():  # names of `FITTED`, nothing else
        setattr(head, name, value)


def _plain(value: Any, kind: Any) -> Any:
    """Return an attribute as Python's own number, or as it is where it is scikit-learn's or an array."""
    if get_origin(kind) is list:
        return [head_state(one) for one in value]
    return kind(value) if kind in (bool, int, float, tuple) else value


def _checked_params(head: BaseHead, params: Any) -> dict[str, Any]:
    defaults = head.get_params(deep=False)
    if type(params) is not dict or set(params) != set(defaults):
        raise ValueError(
            f"its parameters are not those of this head, which are {', '.join(sorted(defaults))}"
        )
    for name, value in params.items():
        if not _is_like(value, defaults[name]):
            raise ValueError(f"its parameter {name!r} is {_short(value)}")
    return dict(params)


def _is_like(value: Any, default: Any) -> bool:
    """Return whether a parameter may have this value, given its default."""
    if type(default) is int:
        return type(value) is int
    if type(default) is float:
        return type(value) in (int, float)
    if default is None:  # class_weight
        return (
            value is None
            or type(value) is str
            or (type(value) is dict and all(map(_is_label, value.items())))
        )
    return type(value) is str or (default == "auto" and type(value) in (int, float))  # shrinkage


def _is_label(item: tuple[Any, Any]) -> bool:
    label, weight = item
    return type(label) in (int, str) and type(weight) in (int, float)


def _checked_attributes(head: BaseHead, attributes: Any) -> dict[str, Any]:
    known: Mapping[str, Any] = head.FITTED
    if type(attributes) is not dict:
        raise ValueError("holds something else than a head's parameters and attributes")
    if strangers := set(attributes) - set(known):
        raise ValueError(f"it has the attribute {_short(min(strangers, key=str))}, which this head has not")
    if lacking := sorted(set(known) - set(attributes) - OPTIONAL):
        raise ValueError(f"it lacks {lacking[0]!r}, which every fitted one has")
    return {name: _checked(name, value, known[name]) for name, value in attributes.items()}


def _checked(name: str, value: Any, kind: Any) -> Any:
    """Return an attribute of the right type, heads within it restored."""
    if get_origin(kind) is list:
        (of,) = get_args(kind)
        if type(value) is not list:
            raise ValueError(f"its attribute {name!r} is {_short(value)}; expected a list")
        found = [of() for _ in value]
        for one, state in zip(found, value, strict=True):
            restore_head(one, state)
        return found
    sound = type(value) in (kind if isinstance(kind, tuple) else (kind,))
    if sound and kind is np.ndarray:
        sound = value.dtype.kind in "biufU"
    if sound and kind is tuple:
        sound = all(type(one) is str for one in value)
    if not sound:
        raise ValueError(f"its attribute {name!r} is of another type: {type(value).__name__}")
    return value


def _short(value: Any) -> str:
    return repr(value)[:60]
