"""What a comparison comes to, in two or three sentences: plain data in, sentences out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from classify.head_choice import BASELINE, ENSEMBLE


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


def _unit(record: Mapping[str, Any]) -> str:
    return "entries" if record.get("join") else "images"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
