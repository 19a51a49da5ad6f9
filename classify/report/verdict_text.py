"""Headline of a comparison and verdicts on pairs of heads, as sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import floor, log10
from typing import Any

from classify.heads.registry import HEADS
from classify.heads.select import BASELINE, ENSEMBLE
from classify.io.results import SIMPLEST_FIRST
from classify.report.names import NAMES, has_ordinal_metrics, has_test_split, store_labels, units


def headline(record: Mapping[str, Any]) -> list[str]:
    """Return the accuracy of the recommended head, the size of its errors, and a summary of the verdicts.

    Parameters
    ----------
    record : mapping
        Content of results.json.

    Returns
    -------
    list of str
        Sentences, the most important one first.
    """
    chosen = record["recommended"]
    if chosen is None:
        return ["No head could be fitted, so none is recommended."]
    best = next(
        result
        for result in record["results"]
        if (result["store"], result["head"]) == (chosen["store"], chosen["head"])
    )
    return [_accuracy_text(record, best), *_distance_text(record, best), *_verdict_summary(record, chosen)]


def _accuracy_text(record: Mapping[str, Any], best: Mapping[str, Any]) -> str:
    matrix = best["confusion_matrix"]
    correct, n = sum(row[k] for k, row in enumerate(matrix)), sum(map(sum, matrix))
    where = f" on {best['store']}" if len(record["stores"]) > 1 and best["head"] != ENSEMBLE else ""
    ends = best["intervals"].get("accuracy") or {"low": None}
    interval = (
        "" if ends["low"] is None else f", 95 % interval {_percent(ends['low'])} to {_percent(ends['high'])}"
    )
    text = (
        f"The recommended head, {best['head']}{where}, predicts {correct} of {n} {_tested_units(record)} "
        f"correctly ({_percent(correct / n)}{interval})"
    )
    baseline = next((r["metrics"]["accuracy"] for r in record["results"] if r["head"] == BASELINE), None)
    if baseline is None:
        return f"{text}."
    return f"{text}; always predicting the most frequent grade reaches {_percent(baseline)}."


def _distance_text(record: Mapping[str, Any], best: Mapping[str, Any]) -> list[str]:
    """Return how many mistakes are two or more grades off, for ordered classes."""
    matrix = best["confusion_matrix"]
    if not has_ordinal_metrics(record):
        return []
    far = sum(
        count
        for true, row in enumerate(matrix)
        for predicted, count in enumerate(row)
        if abs(true - predicted) > 1
    )
    wrong = sum(map(sum, matrix)) - sum(row[k] for k, row in enumerate(matrix))
    if not wrong:
        return []
    if wrong == 1:
        return [f"Its only mistake is {'two or more grades' if far else 'one grade'} off."]
    subject = "none is" if not far else "1 is" if far == 1 else f"{far} are"
    return [f"Of its {wrong} mistakes, {subject} two or more grades off."]


def _verdict_summary(record: Mapping[str, Any], chosen: Mapping[str, Any]) -> list[str]:
    """Return how many other heads are better, worse or not different; the baseline is not counted."""
    key = _key(chosen)
    counts = {"better": 0, "worse": 0, "equal": 0}
    for verdict in record["verdicts"]:
        a, b = _key(verdict["a"]), _key(verdict["b"])
        if key not in (a, b) or BASELINE in (a[1], b[1]):
            continue
        detected = verdict["verdict"] == _BETTER
        counts["equal" if not detected else "better" if a == key else "worse"] += 1
    n_others = sum(counts.values())
    if not n_others:
        return []
    heads = "head" if n_others == 1 else "heads"
    if counts["equal"] == n_others:
        others = f"any of the {n_others} other heads" if n_others > 1 else "the 1 other head"
        return [f"The recommended head is not detectably different from {others}."]
    parts = [
        f"{text} {counts[name]}"
        for name, text in (
            ("better", "detectably better than"),
            ("worse", "detectably worse than"),
            ("equal", "not detectably different from"),
        )
        if counts[name]
    ]
    return [f"The recommended head is {', '.join(parts)} of the {n_others} other {heads}."]


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.0f} %"


_BETTER = "better"
_WITHOUT_STORE = (BASELINE, ENSEMBLE)  # the baseline is the same on every store; an ensemble may use several
_MAX_NAMES = 60  # names in one line; the rest is counted
_FEW_NAMES = 3
_MAX_MORE_IMAGES = 100_000  # larger numbers of additional test images are not reported


def verdict_lines(record: Mapping[str, Any]) -> list[str]:
    """Return the verdicts on the recommended head and each other head; no lines if there is no pair.

    Parameters
    ----------
    record : mapping
        Content of results.json.
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
    key = _key(chosen)
    several = len(labels) > 1
    own = [verdict for verdict in verdicts if key in (_key(verdict["a"]), _key(verdict["b"]))]
    if not own:
        return []
    better = [verdict for verdict in own if verdict["verdict"] == _BETTER and _key(verdict["a"]) == key]
    worse = [verdict for verdict in own if verdict["verdict"] == _BETTER and _key(verdict["b"]) == key]
    equal = [verdict for verdict in own if verdict["verdict"] != _BETTER]
    name = _head_name(chosen, several=several)
    metric = NAMES[statistics["primary_metric"]].long
    entries = f"{statistics['n_entries']} {_tested_units(record)}"
    lines = [
        f"{name} compared with the other heads ({metric} on the same {entries}; {_tests_text(statistics)}):",
        *(
            f"  {text}: {_head_names([_other(verdict, key) for verdict in part], several=several)}"
            for text, part in (
                ("better than", better),
                ("worse than", worse),
                ("no detectable difference from", equal),
            )
            if part
        ),
        *_more_images_line(record, equal, key, several=several),
        *_ordered_heads_line(verdicts, chosen["store"]),
    ]
    simpler = [_other(verdict, key) for verdict in equal]
    simpler = sorted((head for head in simpler if _simplicity(head) < _simplicity(chosen)), key=_simplicity)
    if simpler:
        names = _head_names(simpler, several=several)
        if len(simpler) > _FEW_NAMES:
            names = f"{len(simpler)} heads, the simplest is {_head_name(simpler[0], several=several)}"
        lines.append(f"Note: {name} is not detectably better than simpler heads: {names}.")
    return lines


def _ordered_heads_line(verdicts: Sequence[Mapping[str, Any]], store: str) -> list[str]:
    """Return the differences between ordered heads and their nominal counterparts on one store."""
    parts = []
    for head in HEADS.values():
        pair = {(store, head.name), (store, head.nominal)}
        for verdict in verdicts:
            if not head.ordered or {_key(verdict["a"]), _key(verdict["b"])} != pair:
                continue
            sign = 1 if verdict["a"]["head"] == head.name else -1
            text = "worse" if verdict["verdict"] == _BETTER and sign < 0 else verdict["verdict"]
            parts.append(
                f"{head.name} against {head.nominal} {_signed(sign * verdict['difference'])}"
                f"{_signed_interval(verdict, sign)}: {text}"
            )
    return [f"  effect of the class order: {'; '.join(parts)}"] if parts else []


def _signed_interval(verdict: Mapping[str, Any], sign: int) -> str:
    if verdict["low"] is None:
        return ""
    low, high = sorted((sign * verdict["low"], sign * verdict["high"]))
    return f" [{_signed(low)}, {_signed(high)}]"


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def _more_images_line(
    record: Mapping[str, Any], equal: Sequence[Mapping[str, Any]], key: tuple[str, str], *, several: bool
) -> list[str]:
    """Return how many more test entries would make the differences detectable, where it can be estimated."""
    estimated = [
        verdict
        for verdict in equal
        if verdict["more_images"] and verdict["more_images"][1] <= _MAX_MORE_IMAGES
    ]
    if not equal:
        return []
    start = f"  additional {_tested_units(record)} needed to detect a difference"
    if not estimated:
        return [f"{start}: not estimable (the intervals of the differences contain zero, or almost)"]
    estimated.sort(key=lambda verdict: verdict["more_images"][1])
    parts = [
        f"{_head_name(_other(verdict, key), several=several)} {_range(verdict['more_images'])}"
        for verdict in estimated[:_FEW_NAMES]
    ]
    if len(estimated) > _FEW_NAMES:
        parts.append(f"{len(estimated) - _FEW_NAMES} more (results.json)")
    rest = "" if len(estimated) == len(equal) else "; not estimable for the others"
    return [f"{start}: {', '.join(parts)}{rest}"]


def _range(ends: Sequence[int]) -> str:
    low, high = (_two_digits(end) for end in ends)
    return f"{low} to {high}"


def _two_digits(number: int) -> str:
    """Return a number rounded to two significant digits."""
    scale = 10 ** max(0, floor(log10(number)) - 1)
    return f"{round(number / scale) * scale:,}"


def _tests_text(statistics: Mapping[str, Any]) -> str:
    approximate = f"; approximate: {statistics['why']}" if statistics["approximate"] else ""
    return f"paired tests, {statistics['correction']}{approximate}"


def _tested_units(record: Mapping[str, Any]) -> str:
    return f"test {units(record)}" if has_test_split(record) else units(record)


def _head_names(heads: Sequence[Mapping[str, Any]], *, several: bool) -> str:
    """Return names of heads, grouped by store if there are several stores."""
    rest = f" and {len(heads) - _MAX_NAMES} more (results.json)" if len(heads) > _MAX_NAMES else ""
    by_store: dict[str, list[str]] = {}
    for head in heads[:_MAX_NAMES]:
        store = "" if not several or head["head"] in _WITHOUT_STORE else f" on {head['store']}"
        by_store.setdefault(store, []).append(str(head["head"]))
    return "; ".join(f"{', '.join(names)}{store}" for store, names in by_store.items()) + rest


def _head_name(head: Mapping[str, Any], *, several: bool) -> str:
    without_store = not several or head["head"] in _WITHOUT_STORE
    return str(head["head"]) if without_store else f"{head['head']} on {head['store']}"


def _other(verdict: Mapping[str, Any], key: tuple[str, str]) -> Mapping[str, Any]:
    other: Mapping[str, Any] = verdict["b"] if _key(verdict["a"]) == key else verdict["a"]
    return other


def _key(head: Mapping[str, Any]) -> tuple[str, str]:
    return head["store"], head["head"]


def _simplicity(head: Mapping[str, Any]) -> int:
    name = head["head"]
    return -1 if name == BASELINE else (*SIMPLEST_FIRST, name).index(name)


def _labelled(head: Mapping[str, Any], labels: Mapping[str, str]) -> dict[str, Any]:
    return {**head, "store": labels.get(head["store"], head["store"])}
