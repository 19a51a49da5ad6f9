"""What the report's charts share: colours, shapes, the look, and the frame of a Vega-Lite specification.

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
