"""Vega-Lite specifications of one head: confusion matrix, curves, reliability, training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from classify.report.charts import ACCENT, GREY, PALETTE, SHARE, Spec, class_colours, class_dashes, make_spec

MAX_CLASSES_IN_PANEL = 6  # with more classes, the confusion matrix has the full page width
_MAX_LETTERS = 34  # total length of class names on one line; longer names are rotated
TRAINING_SERIES = ("training", "validation")  # images that a training curve was computed on


def head_charts(classes: Sequence[str], *, unit: str = "images") -> dict[str, Spec]:
    """Return the charts of one head: panel name → specification.

    Parameters
    ----------
    classes : sequence of str
        In label order.
    unit : str, default="images"
        Plural name of the tested units.
    """
    colour, dash = class_colours(classes), class_dashes(classes)
    return {
        "confusion": _confusion(classes, unit=unit),
        "roc": _curve("false positive rate", "true positive rate", colour, dash, diagonal=True),
        "precision_recall": _curve("recall", "precision", colour, dash, diagonal=False),
        "reliability": _reliability(unit=unit),
        "learning": _learning(unit=unit),
        "training_loss": _training("loss"),
        "training_accuracy": _training("accuracy"),
    }


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
    many = len(classes) > MAX_CLASSES_IN_PANEL
    horizontal = not many and max(map(len, classes)) * len(classes) < _MAX_LETTERS
    return make_spec(
        f"Confusion matrix: number of {unit} by true and predicted class",
        height={"step": 30} if many else len(classes) * 52,
        **({"width": {"step": 34}} if many else {}),
        encoding={
            "x": side(
                "graded", "predicted class", orient="top", labelAngle=0 if horizontal else -50, labelLimit=110
            ),
            "y": side("true", None, labelLimit=170 if many else 90),
        },
        layer=[
            {
                "mark": {
                    "type": "rect",
                    "fill": ACCENT,
                    "stroke": GREY,
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
                        {"field": "true", "title": "true class"},
                        {"field": "graded", "title": "predicted class"},
                        {"field": "count", "title": unit},
                        {"field": "share", "title": "of the true class", "format": ".0%"},
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
                "x": {"field": "x", "type": "quantitative", "title": x, "scale": scale, "axis": SHARE},
                "y": {"field": "y", "type": "quantitative", "title": y, "scale": scale, "axis": SHARE},
                "order": {"field": "index", "type": "quantitative"},
                "color": colour,
                "strokeDash": dash,
                "tooltip": [
                    {"field": "class"},
                    {"field": "x", "title": x, "format": ".1%"},
                    {"field": "y", "title": y, "format": ".1%"},
                    {"field": "threshold", "title": "probability threshold", "format": ".2f"},
                ],
            },
            "transform": [{"window": [{"op": "row_number", "as": "index"}]}],
        }
    ]
    if diagonal:
        layers.insert(0, _diagonal())
    return make_spec(f"{y} against {x}, one curve per class", height=260, layer=layers)


def _diagonal() -> Spec:
    return {
        "data": {"values": [{"x": 0, "y": 0}, {"x": 1, "y": 1}]},
        "mark": {"type": "line", "stroke": GREY, "strokeDash": [3, 3], "strokeWidth": 1, "aria": False},
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
        "title": "confidence",
        "scale": scale,
        "axis": SHARE,
    }
    y = {"type": "quantitative", "title": "accuracy", "scale": scale, "axis": SHARE}
    return make_spec(
        "Accuracy against confidence, with 95 % intervals",
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
                        {"field": "confidence", "title": "mean confidence", "format": ".1%"},
                        {"field": "accuracy", "title": "accuracy", "format": ".1%"},
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
    y = {"type": "quantitative", "title": "accuracy, out of fold", "scale": {"zero": False}, "axis": SHARE}
    return make_spec(
        f"Accuracy against the number of training {unit}, with 95 % intervals",
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
    series = list(TRAINING_SERIES)
    return make_spec(
        f"{figure.capitalize()} per epoch on training and validation images",
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
                **({"axis": SHARE} if figure == "accuracy" else {}),
            },
            "color": {
                "field": "of",
                "type": "nominal",
                "title": None,
                "scale": {"domain": series, "range": [PALETTE[0], PALETTE[1]]},
                "legend": {"orient": "top"},
            },
            "strokeDash": {
                "field": "of",
                "type": "nominal",
                "title": None,
                "scale": {"domain": series, "range": [[1, 0], [6, 3]]},
                "legend": {"orient": "top"},
            },
            "tooltip": [
                {"field": "of", "title": "images"},
                {"field": "epoch"},
                {"field": "value", "title": figure, "format": ".3f"},
            ],
        },
    )
