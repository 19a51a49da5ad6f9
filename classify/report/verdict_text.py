"""What a comparison comes to, in two or three sentences: plain data in, sentences out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import floor, log10
from typing import Any

from classify.heads.registry import HEADS
from classify.heads.select import BASELINE, ENSEMBLE
from classify.io.results import SIMPLEST_FIRST
from classify.report.names import NAMES, store_labels


def headline(record: Mapping[str, Any]) -> list[str]:
    """Return how good the recommended head is, how far off it is, and whether others are as good.

    Parameters
    ----------
    record : mapping
        What results.json holds.

    Returns
    -------
    list of str
        Sentences; the first says what a reader wants to know who reads one only.
    """
    chosen = record["recommended"]
    if chosen is None:
        return ["No head could be fitted, so none is recommended."]
    best = next(
        result
        for result in record["results"]
        if (result["store"], result["head"]) == (chosen["store"], chosen["head"])
    )
    return [_how_good(record, best), *_how_far_off(record, best), *_against_others(record, chosen)]


def _how_good(record: Mapping[str, Any], best: Mapping[str, Any]) -> str:
    matrix = best["confusion_matrix"]
    right, n = sum(row[k] for k, row in enumerate(matrix)), sum(map(sum, matrix))
    where = f" on {best['store']}" if len(record["stores"]) > 1 and best["head"] != ENSEMBLE else ""
    ends = best["intervals"].get("accuracy") or {"low": None}
    about = (
        "" if ends["low"] is None else f", 95 % interval {_percent(ends['low'])} to {_percent(ends['high'])}"
    )
    kind = "test " if record["protocol"]["kind"] == "test split" else ""
    said = (
        f"The recommended head, {best['head']}{where}, grades {right} of {n} {kind}{_unit(record)} rightly "
        f"({_percent(right / n)}{about})"
    )
    floor = next((r["metrics"] for r in record["results"] if r["head"] == BASELINE), None)
    if floor is None or floor["accuracy"] is None:
        return f"{said}."
    return f"{said}; always saying the most frequent grade would get {_percent(floor['accuracy'])}."


def _how_far_off(record: Mapping[str, Any], best: Mapping[str, Any]) -> list[str]:
    matrix = best["confusion_matrix"]
    if record["statistics"]["primary_metric"] != "quadratic_kappa":
        return []
    far = sum(
        count for true, row in enumerate(matrix) for graded, count in enumerate(row) if abs(true - graded) > 1
    )
    wrong = sum(map(sum, matrix)) - sum(row[k] for k, row in enumerate(matrix))
    if not wrong:
        return []
    if wrong == 1:
        return [f"Its one mistake is off by {'two grades or more' if far else 'one grade'}."]
    said = "none is" if not far else "1 is" if far == 1 else f"{far} are"
    return [f"Of its {wrong} mistakes, {said} off by two grades or more."]


def _against_others(record: Mapping[str, Any], chosen: Mapping[str, Any]) -> list[str]:
    me = (chosen["store"], chosen["head"])
    counts = {"better": 0, "worse": 0, "alike": 0}
    for verdict in record["verdicts"]:
        sides = [(verdict[side]["store"], verdict[side]["head"]) for side in ("a", "b")]
        if me not in sides or BASELINE in (sides[0][1], sides[1][1]):
            continue
        settled = verdict["verdict"] == "better"
        counts["alike" if not settled else "better" if sides[0] == me else "worse"] += 1
    n_others = sum(counts.values())
    if not n_others:
        return []
    if counts["alike"] == n_others:
        said = (
            "no detectable difference from any of the"
            if n_others > 1
            else "no detectable difference from the"
        )
        return [f"There is {said} {n_others} other {_heads(n_others)} compared."]
    parts = [
        f"{text} {counts[key]}"
        for key, text in (
            ("better", "detectably better than"),
            ("worse", "detectably worse than"),
            ("alike", "not detectably different from"),
        )
        if counts[key]
    ]
    return [f"It is {', '.join(parts)} of the {n_others} other {_heads(n_others)} compared."]


def _heads(n: int) -> str:
    return "head" if n == 1 else "heads"


def _headline_unit(record: Mapping[str, Any]) -> str:
    return "entries" if record.get("join") else "images"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


_BETTER = "better"
_OF_NO_STORE = ("baseline", "ensemble")  # the one says the same of every store, the other is of several
_MOST_NAMES = 60  # in one line; the rest is counted
_FEW_NAMES = 3
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
    labels = store_labels(record)
    verdicts = [
        {**verdict, "a": _labelled(verdict["a"], labels), "b": _labelled(verdict["b"], labels)}
        for verdict in record["verdicts"]
    ]
    chosen = _labelled(chosen, labels)
    me = _key(chosen)
    several = len(labels) > 1
    mine = [verdict for verdict in verdicts if me in (_key(verdict["a"]), _key(verdict["b"]))]
    if not mine:
        return []
    better = [verdict for verdict in mine if verdict["verdict"] == _BETTER and _key(verdict["a"]) == me]
    worse = [verdict for verdict in mine if verdict["verdict"] == _BETTER and _key(verdict["b"]) == me]
    alike = [verdict for verdict in mine if verdict["verdict"] != _BETTER]
    name = _named(chosen, several=several)
    what = NAMES[statistics["primary_metric"]].long
    said = (
        ("better than", better),
        ("worse than", worse),
        ("no detectable difference from", alike),
    )
    lines = [
        f"{name} against each other head ({what} on the same {_entries(record)}; {_how(statistics)}):",
        *(
            f"  {text}: {_names([_other(verdict, me) for verdict in part], several=several)}"
            for text, part in said
            if part
        ),
        *_more(record, alike, me, several=several),
        *_order(verdicts, chosen["store"]),
    ]
    simpler = [_other(verdict, me) for verdict in alike]
    simpler = sorted((one for one in simpler if _simplicity(one) < _simplicity(chosen)), key=_simplicity)
    if simpler:
        names = _names(simpler, several=several)
        if len(simpler) > _FEW_NAMES:
            names = f"{len(simpler)} of them, {_named(simpler[0], several=several)} the simplest"
        lines.append(f"Note: {name} is not detectably better than simpler heads: {names}.")
    return lines


def _order(verdicts: Sequence[Mapping[str, Any]], store: str) -> list[str]:
    """Return whether it helped to know the order of the grades: ordered heads against their siblings."""
    parts = []
    for head in HEADS.values():
        pair = {(store, head.name), (store, head.nominal)}
        for verdict in verdicts:
            if not head.ordered or {_key(verdict["a"]), _key(verdict["b"])} != pair:
                continue
            sign = 1 if verdict["a"]["head"] == head.name else -1
            said = verdict["verdict"]
            if said == _BETTER and sign < 0:
                said = "worse"
            parts.append(
                f"{head.name} against {head.nominal} {_signed(sign * verdict['difference'])}"
                f"{_ends(verdict, sign)}: {said}"
            )
    return [f"  did knowing the order help? {'; '.join(parts)}"] if parts else []


def _ends(verdict: Mapping[str, Any], sign: int) -> str:
    if verdict["low"] is None:
        return ""
    low, high = sorted((sign * verdict["low"], sign * verdict["high"]))
    return f" [{_signed(low)}, {_signed(high)}]"


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def _more(
    record: Mapping[str, Any], alike: Sequence[Mapping[str, Any]], me: tuple[str, str], *, several: bool
) -> list[str]:
    """Return how many more test entries would settle what is open, where that can be said."""
    known = [
        verdict for verdict in alike if verdict["more_images"] and verdict["more_images"][1] <= _MOST_IMAGES
    ]
    unit = _unit(record)
    if not known:
        why = "the intervals of the differences hold zero, or nearly"
        return [f"  how many more test {unit} would settle it: not estimable ({why})"] if alike else []
    known.sort(key=lambda verdict: verdict["more_images"][1])
    parts = [
        f"{_named(_other(verdict, me), several=several)} {_range(verdict['more_images'])}"
        for verdict in known[:_FEW_NAMES]
    ]
    if len(known) > _FEW_NAMES:
        parts.append(f"{len(known) - _FEW_NAMES} more (results.json)")
    rest = "" if len(known) == len(alike) else "; not estimable for the rest"
    return [f"  how many more test {unit} would settle it: {', '.join(parts)}{rest}"]


def _range(ends: Sequence[int]) -> str:
    low, high = (_rounded(end) for end in ends)
    return f"{low} to {high}"


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


def _names(names: Sequence[Mapping[str, Any]], *, several: bool) -> str:
    """Return names, those on one store together where there are several."""
    shown = names[:_MOST_NAMES]
    rest = f" and {len(names) - _MOST_NAMES} more (results.json)" if len(names) > _MOST_NAMES else ""
    by_store: dict[str, list[str]] = {}
    for name in shown:
        place = "" if not several or name["head"] in _OF_NO_STORE else f" on {name['store']}"
        by_store.setdefault(place, []).append(str(name["head"]))
    return "; ".join(f"{', '.join(heads)}{place}" for place, heads in by_store.items()) + rest


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


def _labelled(name: Mapping[str, Any], labels: Mapping[str, str]) -> dict[str, Any]:
    return {**name, "store": labels.get(name["store"], name["store"])}
