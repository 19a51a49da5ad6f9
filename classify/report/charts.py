"""The report's charts as Vega-Lite specifications: what is drawn, from which columns, in which colours.

A specification names its data and does not hold them: the page and the figures fill in the columns of
`classify.report.panels`. Colours of marks are safe for the colour-blind (Okabe and Ito's) and stand out on
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
MAP_STATES = ("training image", "tested, right", "tested, wrong")
MOST_IN_PANEL = 6  # classes whose confusion matrix fits beside other charts
_LETTERS_IN_PANEL = 34  # of all classes' names side by side
_GREY = "#808080"
_SHARE = {"format": ".0%", "tickCount": 5}
_ZOOM = "wheel![event.ctrlKey || event.metaKey]"  # the wheel alone goes on through the page
_CONFIG = {
    "font": "Helvetica Neue, Helvetica, Arial, sans-serif",
    "background": None,
    "view": {"stroke": None},
    "axis": {
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "domainColor": _GREY,
        "tickColor": _GREY,
        "gridColor": _GREY,
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


def head_charts(classes: Sequence[str], *, unit: str = "images") -> dict[str, Spec]:
    """Return the charts of one head, by the names of their panels.

    Parameters
    ----------
    classes : sequence of str
        In label order.
    unit : str, default="images"
        What is graded.
    """
    colour, dash = _by_class(classes), _dashes(classes)
    return {
        "confusion": _confusion(classes, unit=unit),
        "roc": _curve("false positive rate", "true positive rate", colour, dash, diagonal=True),
        "precision_recall": _curve("recall", "precision", colour, dash, diagonal=False),
        "reliability": _reliability(unit=unit),
        "learning": _learning(unit=unit),
        "training_loss": _training("loss"),
        "training_accuracy": _training("accuracy"),
    }


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
    kinds = {"domain": ["recommended", "head", "baseline"], "range": [PALETTE[1], ACCENT, _GREY]}
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
    return _spec(
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
        "range": [PALETTE[0], PALETTE[1], _GREY, _GREY],
    }
    return _spec(
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
                "mark": {"type": "rect", "stroke": _GREY, "strokeOpacity": 0.35, "aria": False},
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
    return _spec(
        "A map of the images: those that the network sees as alike lie near each other",
        height=480,
        layer=layers,
        encoding={
            "x": {"field": "x", **place},
            "y": {"field": "y", **place},
            "color": _by_class(classes),
            "shape": {
                "field": "class",
                "type": "nominal",
                "scale": {"domain": list(classes), "range": _some(SHAPES, classes, turned=True)},
                "title": None,
            },
            "tooltip": {"field": "row", "type": "quantitative"},
        },
    )


def as_rows(columns: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Return columns as Vega-Lite wants them: one mapping a row."""
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _spec(description: str, *, height: Any, width: Any = "container", **parts: Any) -> Spec:
    return {
        "$schema": SCHEMA,
        "description": description,
        "width": width,
        "height": height,
        "data": {"name": "rows"},
        "config": _CONFIG,
        **parts,
    }


def _some(values: Sequence[Any], classes: Sequence[str], *, turned: bool = False) -> list[Any]:
    """Return a value a class, over and over; turned, so that colour and shape part."""
    n = len(values)
    return [values[(k + (k // n if turned else 0)) % n] for k in range(len(classes))]


def _by_class(classes: Sequence[str]) -> dict[str, Any]:
    scale = {"domain": list(classes), "range": _some(PALETTE, classes)}
    return {"field": "class", "type": "nominal", "scale": scale, "title": None}


def _dashes(classes: Sequence[str]) -> dict[str, Any]:
    scale = {"domain": list(classes), "range": _some(DASHES, classes, turned=True)}
    return {"field": "class", "type": "nominal", "scale": scale, "title": None}


def _confusion(classes: Sequence[str], *, unit: str) -> Spec:
    def side(name: str, title: str | None, **axis: Any) -> dict[str, Any]:
        return {
            "field": name,
            "type": "nominal",
            "sort": list(classes),
            "title": title,
            "axis": {"domain": False, "ticks": False, "labelAngle": 0, **axis},
        }

    dark = "datum.share > 0.55"
    many = len(classes) > MOST_IN_PANEL
    level = not many and max(map(len, classes)) * len(classes) < _LETTERS_IN_PANEL
    return _spec(
        "How many of each class were graded as which",
        height={"step": 30} if many else len(classes) * 52,
        **({"width": {"step": 34}} if many else {}),
        encoding={
            "x": side("graded", "graded as", orient="top", labelAngle=0 if level else -50, labelLimit=110),
            "y": side("true", None, labelLimit=170 if many else 90),
        },
        layer=[
            {
                "mark": {
                    "type": "rect",
                    "fill": ACCENT,
                    "stroke": _GREY,
                    "strokeOpacity": 0.3,
                    "aria": False,
                },
                "encoding": {
                    "fillOpacity": {
                        "field": "share",
                        "type": "quantitative",
                        "scale": {"domain": [0, 1], "range": [0.02, 1]},
                        "legend": None,
                    },
                    "tooltip": [
                        {"field": "true", "title": "is"},
                        {"field": "graded", "title": "graded as"},
                        {"field": "count", "title": unit},
                        {"field": "share", "title": "of its class", "format": ".0%"},
                    ],
                },
            },
            {
                "name": "ink_count",
                "transform": [{"filter": f"!({dark})"}],
                "mark": {"type": "text", "fontSize": 14},
                "encoding": {"text": {"field": "count"}},
            },
            {
                "transform": [{"filter": dark}],
                "mark": {"type": "text", "fontSize": 14, "fontWeight": "bold", "fill": "white"},
                "encoding": {"text": {"field": "count"}},
            },
        ],
    )


def _curve(x: str, y: str, colour: Any, dash: Any, *, diagonal: bool) -> Spec:
    scale = {"domain": [0, 1]}
    layers: list[Spec] = [
        {
            "mark": {"type": "line", "strokeWidth": 2, "interpolate": "linear", "aria": False},
            "encoding": {
                "x": {"field": "x", "type": "quantitative", "title": x, "scale": scale, "axis": _SHARE},
                "y": {"field": "y", "type": "quantitative", "title": y, "scale": scale, "axis": _SHARE},
                "order": {"field": "index", "type": "quantitative"},
                "color": colour,
                "strokeDash": dash,
                "tooltip": [
                    {"field": "class"},
                    {"field": "x", "title": x, "format": ".1%"},
                    {"field": "y", "title": y, "format": ".1%"},
                    {"field": "threshold", "title": "at a probability from", "format": ".2f"},
                ],
            },
            "transform": [{"window": [{"op": "row_number", "as": "index"}]}],
        }
    ]
    if diagonal:
        layers.insert(0, _diagonal())
    return _spec(f"{y}, against: {x}; one curve a class", height=260, layer=layers)


def _diagonal() -> Spec:
    return {
        "data": {"values": [{"x": 0, "y": 0}, {"x": 1, "y": 1}]},
        "mark": {"type": "line", "stroke": _GREY, "strokeDash": [3, 3], "strokeWidth": 1, "aria": False},
        "encoding": {
            "x": {"field": "x", "type": "quantitative"},
            "y": {"field": "y", "type": "quantitative"},
        },
    }


def _reliability(*, unit: str) -> Spec:
    scale = {"domain": [0, 1]}
    x = {
        "field": "confidence",
        "type": "quantitative",
        "title": "How sure the head was",
        "scale": scale,
        "axis": _SHARE,
    }
    y = {"type": "quantitative", "title": "How often it was right", "scale": scale, "axis": _SHARE}
    return _spec(
        "How often the head was right, against how sure it was",
        height=260,
        layer=[
            _diagonal(),
            {
                "mark": {"type": "rule", "strokeWidth": 1.5, "stroke": ACCENT, "opacity": 1, "aria": False},
                "encoding": {"x": x, "y": {"field": "low", **y}, "y2": {"field": "high"}},
            },
            {
                "mark": {"type": "point", "color": ACCENT, "opacity": 1},
                "encoding": {
                    "x": x,
                    "y": {"field": "accuracy", **y},
                    "size": {
                        "field": "count",
                        "type": "quantitative",
                        "title": unit,
                        "scale": {"zero": False, "range": [30, 300]},
                        "legend": {"tickCount": 3},
                    },
                    "tooltip": [
                        {"field": "count", "title": unit},
                        {"field": "confidence", "title": "mean probability", "format": ".1%"},
                        {"field": "accuracy", "title": "right", "format": ".1%"},
                        {"field": "low", "title": "95 % interval from", "format": ".1%"},
                        {"field": "high", "title": "to", "format": ".1%"},
                    ],
                },
            },
        ],
    )


def _learning(*, unit: str) -> Spec:
    x = {
        "field": "n_images",
        "type": "quantitative",
        "title": f"training {unit}",
        "scale": {"zero": False, "nice": True},
    }
    y = {"type": "quantitative", "title": "accuracy, out of fold", "scale": {"zero": False}, "axis": _SHARE}
    return _spec(
        "Accuracy against the number of images fitted on, with 95 % intervals",
        height=260,
        layer=[
            {
                "mark": {"type": "area", "color": ACCENT, "opacity": 0.18, "aria": False},
                "encoding": {"x": x, "y": {"field": "low", **y}, "y2": {"field": "high"}},
            },
            {
                "mark": {"type": "line", "color": ACCENT, "point": {"size": 60}},
                "encoding": {
                    "x": x,
                    "y": {"field": "accuracy", **y},
                    "tooltip": [
                        {"field": "n_images", "title": f"training {unit}", "format": ".0f"},
                        {"field": "accuracy", "format": ".1%"},
                        {"field": "low", "title": "95 % interval from", "format": ".1%"},
                        {"field": "high", "title": "to", "format": ".1%"},
                    ],
                },
            },
        ],
    )


def _training(figure: str) -> Spec:
    sides = ["fitted on", "held out"]
    return _spec(
        f"{figure.capitalize()} of every epoch, on the images fitted on and on those held out",
        height=260,
        transform=[{"filter": f"datum.figure == '{figure}'"}],
        mark={"type": "line", "strokeWidth": 2, "aria": False},
        encoding={
            "x": {"field": "epoch", "type": "quantitative", "axis": {"tickMinStep": 1}},
            "y": {
                "field": "value",
                "type": "quantitative",
                "title": figure,
                "scale": {"zero": False},
                **({"axis": _SHARE} if figure == "accuracy" else {}),
            },
            "color": {
                "field": "of",
                "type": "nominal",
                "title": None,
                "scale": {"domain": sides, "range": [PALETTE[0], PALETTE[1]]},
                "legend": {"orient": "top"},
            },
            "strokeDash": {
                "field": "of",
                "type": "nominal",
                "title": None,
                "scale": {"domain": sides, "range": [[1, 0], [6, 3]]},
                "legend": {"orient": "top"},
            },
            "tooltip": [
                {"field": "of", "title": "images"},
                {"field": "epoch"},
                {"field": "value", "title": figure, "format": ".3f"},
            ],
        },
    )
