"""Verdicts in words: the recommended head against each other one. Plain data in, lines out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import floor, log10
from typing import Any

from classify.results import SIMPLEST_FIRST

METRIC_NAMES = {"accuracy": "accuracy", "quadratic_kappa": "quadratic-weighted kappa"}
_BETTER = "better"
_OF_NO_STORE = ("baseline", "ensemble")  # the one says the same of every store, the other is of several
_MOST_NAMES = 8  # in one line; the rest is counted
_MOST_IMAGES = 100_000  # more than these nobody grades


def verdict_lines(record: Mapping[str, Any]) -> list[str]:
    """Return what is said of the recommended head and the others; nothing where there is no pair.

    Parameters
    ----------
    record : mapping
        What results.json holds.
    """
    chosen, statistics = record["recommended"], record["statistics"]
    if chosen is None:
        return []
    me = (chosen["store"], chosen["head"])
    several = len({result["store"] for result in record["results"]}) > 1
    mine = [verdict for verdict in record["verdicts"] if me in (_key(verdict["a"]), _key(verdict["b"]))]
    if not mine:
        return []
    better = [verdict for verdict in mine if verdict["verdict"] == _BETTER and _key(verdict["a"]) == me]
    worse = [verdict for verdict in mine if verdict["verdict"] == _BETTER and _key(verdict["b"]) == me]
    alike = [verdict for verdict in mine if verdict["verdict"] != _BETTER]
    name = _named(chosen, several=several)
    what = METRIC_NAMES[statistics["primary_metric"]]
    lines = [
        f"{name} against each other head ({what} on the same {_entries(record)}; {_how(statistics)}):",
        *_line("  better than", (_other(verdict, me) for verdict in better), several=several),
        *_line("  worse than", (_other(verdict, me) for verdict in worse), several=several),
        *_line(
            "  no detectable difference from",
            (_other(verdict, me) for verdict in alike),
            several=several,
        ),
        *_more(record, alike, me, several=several),
    ]
    simpler = [verdict for verdict in alike if _simplicity(_other(verdict, me)) < _simplicity(chosen)]
    if simpler:
        names = _names([_other(verdict, me) for verdict in simpler], several=several)
        lines.append(f"Note: {name} is not detectably better than simpler heads: {names}.")
    return lines


def _more(
    record: Mapping[str, Any], alike: Sequence[Mapping[str, Any]], me: tuple[str, str], *, several: bool
) -> list[str]:
    """Return how many more test entries would settle what is open."""
    known = [verdict for verdict in alike if verdict["more_images"] is not None]
    unit = _unit(record)
    if not known:
        why = "the intervals of the differences hold zero"
        return [f"  how many more test {unit} would settle it: not estimable ({why})"] if alike else []
    parts = [
        f"{_named(_other(verdict, me), several=several)} {_range(verdict['more_images'])}"
        for verdict in known[:_MOST_NAMES]
    ]
    rest = "" if len(known) == len(alike) else "; not estimable for the others"
    return [f"  how many more test {unit} would settle it: {', '.join(parts)}{rest}"]


def _range(ends: Sequence[int]) -> str:
    low, high = (_rounded(end) for end in ends)
    return f"{low} to more than {_MOST_IMAGES:,}" if ends[1] > _MOST_IMAGES else f"{low} to {high}"


def _rounded(number: int) -> str:
    """Return a number to two digits: it is known no better."""
    scale = 10 ** max(0, floor(log10(number)) - 1)
    return f"{round(number / scale) * scale:,}"


def _how(statistics: Mapping[str, Any]) -> str:
    about = f"; approximate: {statistics['why']}" if statistics["approximate"] else ""
    return f"paired tests, {statistics['correction']}{about}"


def _entries(record: Mapping[str, Any]) -> str:
    return f"{record['statistics']['n_entries']} test {_unit(record)}"


def _unit(record: Mapping[str, Any]) -> str:
    return "entries" if record["join"] else "images"


def _line(text: str, names: Iterable[Mapping[str, Any]], *, several: bool) -> list[str]:
    found = list(names)
    return [f"{text}: {_names(found, several=several)}"] if found else []


def _names(names: Sequence[Mapping[str, Any]], *, several: bool) -> str:
    shown = [_named(name, several=several) for name in names[:_MOST_NAMES]]
    rest = f" and {len(names) - _MOST_NAMES} more (results.json)" if len(names) > _MOST_NAMES else ""
    return f"{', '.join(shown)}{rest}"


def _named(name: Mapping[str, Any], *, several: bool) -> str:
    alone = not several or name["head"] in _OF_NO_STORE
    return str(name["head"]) if alone else f"{name['head']} on {name['store']}"


def _other(verdict: Mapping[str, Any], me: tuple[str, str]) -> Mapping[str, Any]:
    other: Mapping[str, Any] = verdict["b"] if _key(verdict["a"]) == me else verdict["a"]
    return other


def _key(name: Mapping[str, Any]) -> tuple[str, str]:
    return name["store"], name["head"]


def _simplicity(name: Mapping[str, Any]) -> int:
    head = name["head"]
    return -1 if head == "baseline" else (*SIMPLEST_FIRST, head).index(head)
