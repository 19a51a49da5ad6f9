"""What the page's script draws from: heads, verdicts, tested entries and images, as plain JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from classify.head_choice import BASELINE, ENSEMBLE
from classify.report.charts import leaderboard_chart, map_chart, verdict_chart
from classify.report.head_charts import head_charts
from classify.report.looks import PALETTE
from classify.report.panels import Columns, head_panels
from classify.report.seen import Seen
from classify.report.tested import Tested
from classify.results import leaderboard
from classify.showing.metric_names import NAMES, with_interval
from classify.showing.store_labels import store_labels

PANELS = (
    "confusion",
    "roc",
    "precision_recall",
    "reliability",
    "learning",
    "training_loss",
    "training_accuracy",
)
_PARTS = 10_000  # of a probability that is one: four digits are all that is shown


def page_data(record: Mapping[str, Any], tested: Tested, seen: Seen) -> dict[str, Any]:
    """Return everything that the page's script needs but the pictures.

    Parameters
    ----------
    record : mapping
        What results.json holds.
    tested : Tested
        What its heads said.
    seen : Seen
        The images, as far as they can be shown.
    """
    heads = heads_of(record, tested)
    number = {(head["store"], head["head"]): head["id"] for head in heads}
    chosen = record["recommended"] or (heads[0] if heads else None)
    classes, unit = record["classes"], "entry" if record.get("join") else "image"
    shown = leaderboard_columns(record)
    units = "entries" if unit == "entry" else "images"
    study = record.get("studies", {}).get("labels", {})
    return {
        "classes": classes,
        "colours": PALETTE,
        "ordered": record["ordered"],
        "unit": unit,
        "units": units,
        "recommended": number[chosen["store"], chosen["head"]] if chosen else None,
        "heads": heads,
        "panels": PANELS,
        "charts": {
            **head_charts(classes, unit=units),
            "leaderboard": leaderboard_chart(NAMES[primary(record)].long, n_heads=len(shown["rank"])),
            "verdicts": verdict_chart(NAMES[primary(record)].long),
            "map": map_chart(classes),
        },
        "leaderboard": shown,
        "verdicts": _verdicts(record, number),
        "tested": {
            "entry": [tested.entry[unit] for unit in seen.units],
            "y": tested.y[list(seen.units)],
            "split": seen.split_of_tested,
            "images": seen.tested,
            "p": {
                str(number[key]): np.rint(said[list(seen.units)] * _PARTS).astype(int).ravel()
                for key, said in tested.probabilities.items()
                if key in number
            },
        },
        "splits": list(dict.fromkeys([*seen.split, *seen.split_of_tested])),
        "images": {"path": seen.path, "split": seen.split, "y": seen.y, "picture": seen.picture},
        "maps": seen.maps,
        "why_no_map": seen.why_no_map,
        "n_tested": len(tested.entry),
        "nearest": seen.nearest,
        "doubtful": seen.doubtful,
        "none_doubtful": "None is in doubt." if study.get("n_doubtful") == 0 else "",
    }


def primary(record: Mapping[str, Any]) -> str:
    """Return the metric that verdicts rest on, accuracy where there are none."""
    return str(record["statistics"]["primary_metric"] or "accuracy")


def heads_of(record: Mapping[str, Any], tested: Tested) -> list[dict[str, Any]]:
    """Return the heads that could be fitted, in the order of the leaderboard, numbered from 0.

    Each has `id`, `store`, `head`, `name`, `group` (of the list it stands in), `space` (the store whose
    features it saw), `facts` (a sentence), `per_class` and `panels` (what its charts draw).
    """
    results = {(result["store"], result["head"]): result for result in record["results"]}
    several, labels = len(record["stores"]) > 1, store_labels(record)
    learning = _learning(record)
    found: list[dict[str, Any]] = []
    for row in leaderboard(record):
        key = (row["store"], row["head"])
        if row["status"] != "ok" or key not in tested.probabilities:
            continue
        result, voted = results[key], row["head"] == ENSEMBLE
        label = labels.get(row["store"], row["store"])
        found.append(
            {
                "id": len(found),
                "store": row["store"],
                "head": row["head"],
                "name": f"{row['head']} on {label}" if several and not voted else row["head"],
                "group": "several stores" if voted and several else _full(label, row["store"]),
                "space": row["store"].split(", ")[0] if voted else row["store"],
                "facts": _facts(result, record),
                "per_class": _per_class(result, record["classes"]),
                "panels": head_panels(
                    result,
                    y=tested.y,
                    probabilities=tested.probabilities[key],
                    classes=record["classes"],
                    learning=learning.get(key, ()),
                ),
            }
        )
    return found


def leaderboard_columns(record: Mapping[str, Any]) -> Columns:
    """Return what the leaderboard's chart draws: the metric that verdicts rest on, one row a head."""
    metric, several, labels = primary(record), len(record["stores"]) > 1, store_labels(record)
    columns: Columns = {name: [] for name in ("label", "rank", "value", "low", "high", "kind")}
    baselines = 0
    for row in leaderboard(record):
        baselines += row["head"] == BASELINE
        if row["status"] != "ok" or row[metric] is None or (row["head"] == BASELINE and baselines > 1):
            continue  # the baseline says the same of every store: once
        apart = several and row["head"] not in (BASELINE, ENSEMBLE)
        ends = row["intervals"].get(metric) or {"low": None, "high": None}
        kind = "recommended" if row["recommended"] else "baseline" if row["head"] == BASELINE else "head"
        values = (
            f"{row['head']} · {labels.get(row['store'], row['store'])}" if apart else row["head"],
            len(columns["rank"]),
            row[metric],
            ends["low"],
            ends["high"],
            kind,
        )
        for name, value in zip(columns, values, strict=True):
            columns[name].append(value)
    return columns


def _full(label: str, store: str) -> str:
    return store if label == store else f"{label}: {store}"


def _facts(result: Mapping[str, Any], record: Mapping[str, Any]) -> str:
    names = dict.fromkeys((primary(record), "accuracy", "log_loss", "calibration_error"))
    parts = [f"{NAMES[name].long} {with_interval(result, name)}" for name in names]
    said = "; ".join(parts)
    params = result["bundle_params"] or {}
    if result["head"] == ENSEMBLE:
        return f"{said[:1].upper()}{said[1:]}. The vote of: {'; '.join(params['members'])}."
    shown = ", ".join(f"{key} {_shown(value)}" for key, value in params.items() if value not in (None, []))
    return f"{said[:1].upper()}{said[1:]}. Hyper-parameters: {shown or 'none'}."


def _shown(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "-".join(map(_shown, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _per_class(result: Mapping[str, Any], classes: Sequence[str]) -> list[dict[str, Any]]:
    found = []
    for name in classes:
        figures = result["per_class"][name]
        ends = {
            metric: result["intervals"].get(f"{metric} of {name}") for metric in ("precision", "recall", "f1")
        }
        found.append(
            {
                "name": name,
                **{key: figures[key] for key in ("precision", "recall", "f1", "support")},
                "intervals": {
                    metric: None if not end or end["low"] is None else [end["low"], end["high"]]
                    for metric, end in ends.items()
                },
            }
        )
    return found


def _learning(record: Mapping[str, Any]) -> dict[tuple[str, str], Sequence[Mapping[str, Any]]]:
    study = record.get("studies", {}).get("learning", {})
    curves = {(one["store"], one["head"]): one.get("points") or () for one in study.get("heads", ())}
    if "points" in study:
        curves[study["store"], study["head"]] = study["points"]
    return curves


def _verdicts(
    record: Mapping[str, Any], number: Mapping[tuple[str, str], int]
) -> list[dict[str, Any]] | None:
    found = []
    for verdict in record["verdicts"]:
        a, b = (number.get((verdict[side]["store"], verdict[side]["head"])) for side in ("a", "b"))
        if a is None or b is None:
            continue
        found.append(
            {
                "a": a,
                "b": b,
                "better": verdict["verdict"] == "better",
                **{
                    name: None if verdict[name] is None else round(verdict[name], 4)
                    for name in ("difference", "low", "high", "p_holm")
                },
            }
        )
    return found or None
