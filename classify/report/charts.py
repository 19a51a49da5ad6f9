"""What the report's charts share: colours, shapes, the look, and the frame of a Vega-Lite specification.

A specification names its data and does not hold them: the page and the figures fill in the columns of
`chart_data`. Colours of marks are safe for the colour-blind (Okabe and Ito's) and stand out on
light and on dark paper; classes differ in shape and dash as well.

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
# Blue, vermilion, green, orange, purple, sky: of Okabe and Ito's those that show on white and on black.
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
        "columns": 2,  # the page sets as many as there is room for
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
    """Return columns as Vega-Lite wants them: one mapping a row."""
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def make_spec(description: str, *, height: Any, width: Any = "container", **parts: Any) -> Spec:
    """Return a specification in the report's look: as wide as its place, unless a width is given."""
    return {
        "$schema": SCHEMA,
        "description": description,
        "width": width,
        "height": height,
        "data": {"name": "rows"},
        "config": _CONFIG,
        **parts,
    }


def one_a_class(values: Sequence[Any], classes: Sequence[str], *, turned: bool = False) -> list[Any]:
    """Return a value a class, over and over; turned, so that colour and shape part."""
    n = len(values)
    return [values[(k + (k // n if turned else 0)) % n] for k in range(len(classes))]


def by_class(classes: Sequence[str]) -> dict[str, Any]:
    """Return the channel of a colour a class."""
    scale = {"domain": list(classes), "range": one_a_class(PALETTE, classes)}
    return {"field": "class", "type": "nominal", "scale": scale, "title": None}


def dashes(classes: Sequence[str]) -> dict[str, Any]:
    """Return the channel of a dash a class."""
    scale = {"domain": list(classes), "range": one_a_class(DASHES, classes, turned=True)}
    return {"field": "class", "type": "nominal", "scale": scale, "title": None}


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
