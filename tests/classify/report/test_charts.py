"""Charts: Vega-Lite renders each specification without a warning."""

import itertools
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import vl_convert

from classify.report import charts, charts as charts_module
from classify.report.head_charts import head_charts

CLASSES = ("low", "middle", "award")
ODD = ("a.b[0]", 'it\'s "quoted" <b>', "'; datum.x || alert(1)", "null", "true", "7", "", "é\\n", "award")


def rows_of(name: str, classes) -> list[dict]:
    """Write down rows such as panels have."""
    first, last = classes[0], classes[-1]
    curve = [
        {"class": name, "x": x, "y": y, "threshold": 0.5}
        for name in classes
        for x, y in ((0, 0), (0.2, 0.9), (1, 1))
    ]
    of_epochs = [
        {"epoch": epoch, "figure": figure, "of": of, "value": 1 / epoch}
        for epoch in (1, 2, 3)
        for figure in ("loss", "accuracy")
        for of in ("training", "validation")
    ]
    head = {"label": "knn · A", "rank": 0, "value": 0.7, "low": 0.6, "high": 0.8, "kind": "recommended"}
    verdict = {"difference": 0.1, "low": None, "high": None, "p_holm": 0.02, "rank": 0, "column_rank": 1}
    return {
        "confusion": [
            {"true": a, "graded": b, "count": 3, "share": 0.9 if a == b else 0.1}
            for a in classes
            for b in classes
        ],
        "roc": curve,
        "precision_recall": curve,
        "reliability": [{"confidence": 0.8, "accuracy": 0.7, "low": 0.5, "high": 0.85, "count": 12}],
        "learning": [{"n_images": n, "accuracy": 0.8, "low": 0.7, "high": 0.9} for n in (6, 13.8, 29)],
        "training_loss": of_epochs,
        "training_accuracy": of_epochs,
        "leaderboard": [
            head,
            {**head, "label": "svm", "rank": 1, "kind": "head", "low": None, "high": None},
            {**head, "label": "baseline", "rank": 2, "kind": "baseline"},
        ],
        "verdicts": [
            {"row": "a", "column": "b", "sign": "▲", "words": "better", **verdict},
            {"row": "b", "column": "a", "sign": "▼", "words": "worse", **verdict},
        ],
        "map": [
            {"x": 0.5, "y": 0.25 * k, "class": name, "state": state, "row": k}
            for k, (name, state) in enumerate(zip((first, last, first), charts.MAP_STATES, strict=True))
        ],
    }[name]


def spec_of(name: str, classes) -> charts_module.Spec:
    if name == "leaderboard":
        return charts.leaderboard_chart("accuracy", n_heads=3)
    if name == "verdicts":
        return charts.verdict_chart("accuracy")
    return charts.map_chart(classes) if name == "map" else head_charts(classes)[name]


NAMES = (*head_charts(CLASSES), "leaderboard", "verdicts", "map")


@pytest.fixture
def drawn(capfd):
    """Return a chart as Vega-Lite draws it, as parsed SVG; a warning fails the test."""

    def drawn(spec: charts_module.Spec, rows: list[dict]) -> ET.Element:
        filled = {**spec, "width": 300, "data": {"name": "rows", "values": rows}}
        svg = vl_convert.vegalite_to_svg(filled, show_warnings=True, allowed_base_urls=[])
        said = capfd.readouterr()
        assert said.out + said.err == ""
        return ET.fromstring(svg)

    return drawn


def texts(svg: ET.Element) -> list[str]:
    return [one.text or "" for one in svg.iter() if one.tag.endswith("text")]


def test_an_invalid_chart_causes_a_warning(drawn):
    wrong = {"x": {"field": "epoch", "type": "nominal", "scale": {"type": "log"}}}
    broken = {**spec_of("training_loss", CLASSES), "encoding": wrong}
    with pytest.raises(AssertionError, match="WARN"):
        drawn(broken, rows_of("training_loss", CLASSES))


@pytest.mark.parametrize("classes", [CLASSES, ("no", "yes"), ODD], ids=["three", "two", "odd"])
@pytest.mark.parametrize("name", NAMES)
def test_vega_lite_renders_every_chart_without_a_warning(drawn, name, classes):
    spec = spec_of(name, classes)
    assert spec["$schema"] == "https://vega.github.io/schema/vega-lite/v6.json"
    assert spec["data"] == {"name": "rows"}
    assert spec["description"]
    svg = drawn(spec, rows_of(name, classes))
    assert len(list(svg.iter())) > 10
    said = texts(svg)
    if name == "confusion":
        assert said.count("3") == len(classes) ** 2  # a count in each cell, dark or light
        for one in set(classes) - {"", "é\\n"}:
            assert said.count(one) == 2  # of its row and its column
    if name in ("roc", "precision_recall", "map"):
        for one in set(classes) - {"", "é\\n"}:  # long ones are cut
            assert any(one == text or (text[-1:] == "…" and one.startswith(text[:-1])) for text in said)


@pytest.mark.parametrize("name", NAMES)
def test_a_chart_without_rows_is_drawn_too(drawn, name):
    drawn(spec_of(name, CLASSES), [])


def test_the_map_draws_each_image_once_and_by_its_state(drawn):
    svg = drawn(spec_of("map", CLASSES), rows_of("map", CLASSES))
    layers = [
        one for one in svg.iter() if "mark-symbol" in one.get("class", "") and "marks" in one.get("class", "")
    ]
    assert [sum(part.tag.endswith("path") for part in layer) for layer in layers] == [1, 1, 1]


def test_counts_are_legible_on_light_and_on_dark_cells(drawn):
    rows = [
        {"true": "low", "graded": "low", "count": 9, "share": 0.9},
        {"true": "low", "graded": "award", "count": 1, "share": 0.1},
    ]
    fill = {
        one.text: one.get("fill")
        for one in drawn(spec_of("confusion", CLASSES), rows).iter()
        if one.tag.endswith("text") and one.text in ("9", "1")
    }
    assert fill["9"] == "white"
    assert fill["1"] != "white"


def luminance(colour: str) -> float:
    """Return the relative luminance of a colour, by WCAG 2.2."""
    parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


@pytest.mark.parametrize("paper", ["#ffffff", "#14181c"])
def test_colours_of_marks_stand_out_on_light_and_on_dark_paper(paper):
    """At 3 to 1, as WCAG 2.2 asks of graphics (1.4.11)."""
    for colour in (*charts_module.PALETTE, charts_module.ACCENT):
        light, dark = sorted((luminance(colour), luminance(paper)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 3, colour


def test_classes_differ_in_more_than_colour():
    assert len(charts_module.PALETTE) == len(charts_module.SHAPES) == len(charts_module.DASHES)
    for each in (charts_module.PALETTE, charts_module.SHAPES, charts_module.DASHES):
        assert all(a != b for a, b in itertools.combinations(each, 2))
    roc = head_charts(CLASSES)["roc"]
    encoding = roc["layer"][1]["encoding"]
    assert encoding["strokeDash"]["scale"]["range"] == list(charts_module.DASHES[:3])
    assert charts.map_chart(ODD)["encoding"]["shape"]["scale"]["range"] == [
        *charts_module.SHAPES,
        charts_module.SHAPES[1],
    ]


def test_charts_name_the_unit():
    told = str(head_charts(CLASSES, unit="entries"))
    assert "training entries" in told
    assert "training images" not in told


def test_columns_become_rows():
    assert charts_module.as_rows({"x": [1, 2], "y": ["a", None]}) == [{"x": 1, "y": "a"}, {"x": 2, "y": None}]
    assert charts_module.as_rows({"x": [], "y": []}) == []
    with pytest.raises(ValueError, match="zip"):
        charts_module.as_rows({"x": [1], "y": []})
