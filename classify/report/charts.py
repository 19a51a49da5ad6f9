"""The charts of a whole run, as Vega-Lite specifications: leaderboard, verdicts, map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from classify.report.looks import ACCENT, GREY, PALETTE, SHAPES, Spec, by_class, make_spec, one_a_class

MAP_STATES = ("training image", "tested, right", "tested, wrong")
_ZOOM = "wheel![event.ctrlKey || event.metaKey]"  # the wheel alone goes on through the page


def leaderboard_chart(title: str, *, n_heads: int) -> Spec:
    """Return the chart of a figure of every head with its interval.

    Its columns are label, rank, value, low, high and kind.
    """
    y = {
        "field": "label",
        "type": "nominal",
        "sort": {"field": "rank"},
        "title": None,
        "axis": {"grid": True, "domain": False, "ticks": False, "labelLimit": 340},
    }
    x = {
        "type": "quantitative",
        "title": title,
        "scale": {"zero": False, "nice": True, "padding": 12},
        "axis": {"tickCount": 8},
    }
    kinds = {"domain": ["recommended", "head", "baseline"], "range": [PALETTE[1], ACCENT, GREY]}
    colour = {"field": "kind", "type": "nominal", "scale": kinds, "legend": None}
    shape = {
        "field": "kind",
        "type": "nominal",
        "scale": {"domain": kinds["domain"], "range": ["diamond", "circle", "square"]},
        "legend": None,
    }
    tip = [
        {"field": "label", "title": "head"},
        {"field": "value", "title": title, "format": ".3f"},
        {"field": "low", "title": "95 % interval from", "format": ".3f"},
        {"field": "high", "title": "to", "format": ".3f"},
    ]
    return make_spec(
        f"{title} of every head, a mark each, with its 95 % interval as a line",
        height=21 * max(n_heads, 2),
        layer=[
            {
                "mark": {"type": "rule", "strokeWidth": 2, "aria": False},
                "encoding": {"x": {"field": "low", **x}, "x2": {"field": "high"}, "color": colour},
            },
            {
                "mark": {"type": "point", "opacity": 1, "size": 90},
                "encoding": {"x": {"field": "value", **x}, "color": colour, "shape": shape, "tooltip": tip},
            },
        ],
        encoding={"y": y},
    )


def verdict_chart(metric: str) -> Spec:
    """Return the matrix of verdicts; columns row, column, sign, words, difference, low, high, p_holm."""
    names: dict[str, Any] = {"type": "nominal", "sort": {"field": "rank"}, "title": None}
    fills = {
        "domain": ["better", "worse", "no detectable difference", "same"],
        "range": [PALETTE[0], PALETTE[1], GREY, GREY],
    }
    return make_spec(
        f"Whether the head of a row differs detectably from the head of a column in {metric}",
        height={"step": 24},
        encoding={
            "x": {
                "field": "column",
                **names,
                "sort": {"field": "column_rank"},
                "axis": {"orient": "top", "labelAngle": -50, "domain": False, "ticks": False},
            },
            "y": {"field": "row", **names, "axis": {"domain": False, "ticks": False}},
        },
        layer=[
            {
                "mark": {"type": "rect", "stroke": GREY, "strokeOpacity": 0.35, "aria": False},
                "encoding": {
                    "fill": {"field": "words", "type": "nominal", "scale": fills, "legend": None},
                    "fillOpacity": {
                        "condition": {"test": "datum.sign == '▲' || datum.sign == '▼'", "value": 0.32},
                        "value": 0.05,
                    },
                    "tooltip": [
                        {"field": "row", "title": "this head"},
                        {"field": "words", "title": "is"},
                        {"field": "column", "title": "than / from"},
                        {"field": "difference", "title": f"difference in {metric}", "format": "+.3f"},
                        {"field": "low", "title": "95 % interval from", "format": "+.3f"},
                        {"field": "high", "title": "to", "format": "+.3f"},
                        {"field": "p_holm", "title": "p, Holm-corrected", "format": ".3f"},
                    ],
                },
            },
            {
                "name": "ink_sign",
                "mark": {"type": "text", "fontSize": 13},
                "encoding": {"text": {"field": "sign"}},
            },
        ],
    )


def map_chart(classes: Sequence[str]) -> Spec:
    """Return the map of the features; columns x, y, class, split, state, and what the pointer shows."""
    # Places are in the unit square; a fixed domain keeps the map where it is when marks are filtered.
    scale = {"domain": [-0.02, 1.02], "nice": False}
    place = {"type": "quantitative", "axis": None, "scale": scale}
    looks: tuple[Spec, ...] = (
        {"filled": True, "size": 28, "opacity": 0.35},
        {"filled": True, "size": 75, "opacity": 0.9},
        {"filled": False, "size": 110, "opacity": 1, "strokeWidth": 2},
    )
    layers: list[Spec] = [
        {
            "transform": [{"filter": {"field": "state", "equal": state}}],
            "mark": {"type": "point", "aria": False, **look},
        }
        for state, look in zip(MAP_STATES, looks, strict=True)
    ]
    layers[0]["params"] = [{"name": "zoom", "bind": "scales", "select": {"type": "interval", "zoom": _ZOOM}}]
    return make_spec(
        "A map of the images: those that the network sees as alike lie near each other",
        height=480,
        layer=layers,
        encoding={
            "x": {"field": "x", **place},
            "y": {"field": "y", **place},
            "color": by_class(classes),
            "shape": {
                "field": "class",
                "type": "nominal",
                "scale": {"domain": list(classes), "range": one_a_class(SHAPES, classes, turned=True)},
                "title": None,
            },
            "tooltip": {"field": "row", "type": "quantitative"},
        },
    )
