"""Vega-Lite specifications of the report: common style, leaderboard, verdicts and map.

A specification refers to its data by name; the page and the figure files add the columns of `chart_data`. The
colours are distinguishable for colour-blind people (Okabe and Ito) and visible on light and dark backgrounds.
Classes also differ in shape and dash pattern.

References
----------
Okabe & Ito, "Color universal design", 2008; Satyanarayan et al., "Vega-Lite: a grammar of interactive
graphics", IEEE Transactions on Visualization and Computer Graphics 23, 2017.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Spec = dict[str, Any]

SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
ACCENT = "#0b6aa8"
# Blue, vermilion, green, orange, purple, sky blue: Okabe and Ito's colours, visible on white and black.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#c68800", "#b8578f", "#3a9ccf", "#8c7a3d", "#777777")
SHAPES = (
    "circle",
    "triangle-up",
    "square",
    "diamond",
    "cross",
    "triangle-down",
    "triangle-right",
    "triangle-left",
)
DASHES = ([1, 0], [7, 3], [2, 2], [9, 3, 2, 3], [4, 4], [12, 4], [1, 4], [6, 2, 2, 2])
GREY = "#808080"
SHARE = {"format": ".0%", "tickCount": 5}
_CONFIG = {
    "font": "Helvetica Neue, Helvetica, Arial, sans-serif",
    "background": None,
    "view": {"stroke": None},
    "axis": {
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "domainColor": GREY,
        "tickColor": GREY,
        "gridColor": GREY,
        "gridOpacity": 0.22,
        "labelLimit": 260,
        "labelFlush": False,
    },
    "legend": {
        "orient": "top",
        "columns": 2,  # the page sets it to the available width
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "symbolSize": 90,
        "labelLimit": 90,
        "symbolOpacity": 1,
    },
    "point": {"filled": True, "size": 70},
}


def as_rows(columns: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Return columns as Vega-Lite data: one mapping per row."""
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def make_spec(description: str, *, height: Any, width: Any = "container", **parts: Any) -> Spec:
    """Return a specification in the report's style, by default as wide as its container."""
    return {
        "$schema": SCHEMA,
        "description": description,
        "width": width,
        "height": height,
        "data": {"name": "rows"},
        "config": _CONFIG,
        **parts,
    }


def cycle_over_classes(values: Sequence[Any], classes: Sequence[str], *, shift: bool = False) -> list[Any]:
    """Return one value per class, repeating the values.

    With ``shift``, each repetition starts one value later, so that classes of equal colour differ in shape.
    """
    n = len(values)
    return [values[(k + (k // n if shift else 0)) % n] for k in range(len(classes))]


def class_colours(classes: Sequence[str]) -> dict[str, Any]:
    """Return an encoding of the class as colour."""
    scale = {"domain": list(classes), "range": cycle_over_classes(PALETTE, classes)}
    return {"field": "class", "type": "nominal", "scale": scale, "title": None}


def class_dashes(classes: Sequence[str]) -> dict[str, Any]:
    """Return an encoding of the class as dash pattern."""
    scale = {"domain": list(classes), "range": cycle_over_classes(DASHES, classes, shift=True)}
    return {"field": "class", "type": "nominal", "scale": scale, "title": None}


MAP_STATES = ("training image", "tested, correct", "tested, wrong")
_ZOOM = "wheel![event.ctrlKey || event.metaKey]"  # without a key, the wheel scrolls the page


def leaderboard_chart(metric: str, *, n_heads: int) -> Spec:
    """Return the chart of a metric of every head with its interval.

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
        "title": metric,
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
        {"field": "value", "title": metric, "format": ".3f"},
        {"field": "low", "title": "95 % interval from", "format": ".3f"},
        {"field": "high", "title": "to", "format": ".3f"},
    ]
    return make_spec(
        f"{metric} of every head as a mark, with its 95 % interval as a line",
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
        f"Verdicts on the {metric} of the head of each row compared with the head of each column",
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
                        {"field": "row", "title": "head"},
                        {"field": "column", "title": "compared with"},
                        {"field": "words", "title": "verdict"},
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
    """Return the map of the features.

    Its columns are x, y, class, split, state and row, which is the image whose details the tooltip shows.
    """
    # Positions are in the unit square; a fixed domain keeps them in place when marks are filtered.
    scale = {"domain": [-0.02, 1.02], "nice": False}
    position = {"type": "quantitative", "axis": None, "scale": scale}
    styles: tuple[Spec, ...] = (
        {"filled": True, "size": 28, "opacity": 0.35},
        {"filled": True, "size": 75, "opacity": 0.9},
        {"filled": False, "size": 110, "opacity": 1, "strokeWidth": 2},
    )
    layers: list[Spec] = [
        {
            "transform": [{"filter": {"field": "state", "equal": state}}],
            "mark": {"type": "point", "aria": False, **style},
        }
        for state, style in zip(MAP_STATES, styles, strict=True)
    ]
    layers[0]["params"] = [{"name": "zoom", "bind": "scales", "select": {"type": "interval", "zoom": _ZOOM}}]
    return make_spec(
        "Map of the images; images near each other have similar features",
        height=480,
        layer=layers,
        encoding={
            "x": {"field": "x", **position},
            "y": {"field": "y", **position},
            "color": class_colours(classes),
            "shape": {
                "field": "class",
                "type": "nominal",
                "scale": {"domain": list(classes), "range": cycle_over_classes(SHAPES, classes, shift=True)},
                "title": None,
            },
            "tooltip": {"field": "row", "type": "quantitative"},
        },
    )
