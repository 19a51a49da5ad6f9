"""leaderboard.md, as two readers of Markdown understand it: Python-Markdown and markdown-it (CommonMark)."""

import xml.etree.ElementTree as ET

import markdown
import numpy as np
import pytest
from markdown_it import MarkdownIt

from classify.report.report import leaderboard_markdown

HOSTILE = "<img src=x onerror=alert(1)> a|b \\| *c* _d_ `e` [f](g) &lt; ~~h~~ ![i](j) # k \\"
READERS = {
    "Python-Markdown": lambda text: markdown.markdown(text, extensions=["tables"]),
    "CommonMark": MarkdownIt("commonmark").enable(["table", "strikethrough"]).render,
}
TAGS = {"html", "h1", "p", "table", "thead", "tbody", "tr", "th", "td", "strong", "ul", "li", "pre", "code"}


def read(text: str, reader: str) -> ET.Element:
    return ET.fromstring(f"<html>{READERS[reader](text)}</html>")


def said(element: ET.Element) -> str:
    return " ".join("".join(element.itertext()).split())


@pytest.fixture
def record(by_hand):
    y = [0, 1, 2, 2]
    good, poor = np.eye(3)[[0, 1, 2, 2]], np.eye(3)[[0, 0, 0, 2]]
    found, _ = by_hand(
        y,
        {
            ("a", "logreg"): good,
            ("b", "knn"): poor,
            ("a", "svm-rbf"): None,
            ("a", "baseline"): poor,
            ("b", "baseline"): poor,
        },
        recommended=("a", "logreg"),
    )
    return found


@pytest.mark.parametrize("reader", READERS)
def test_the_table_holds_what_the_record_says(record, reader):
    page = read(leaderboard_markdown(record), reader)
    assert {element.tag for element in page.iter()} <= TAGS
    (table,) = page.iter("table")
    head, *rows = [[said(cell) for cell in row] for row in table.iter("tr")]
    assert head == [
        *("head", "store", "CV", "kappa", "accuracy", "MAE", "off by 2"),
        *("ROC-AUC", "log loss", "ECE", "fit s"),
    ]
    # In cross-validation the heads have 0.9, 0.89, … in the order in which they are written down; the
    # interval is 0.125 to either side; the poor one has two of four right, three grades off in all.
    others = ["0.250", "0.250", "0.250", "1.2"]
    assert rows == [
        ["logreg ★", "a", "0.900", "0.250 [0.12, 0.38]", "1.000 [0.88, 1.12]", "0.000", "0.000", *others[:4]],
        ["knn", "b", "0.890", "0.250 [0.12, 0.38]", "0.500 [0.38, 0.62]", "0.750", "0.250", *others[:4]],
        ["baseline", "", "0.870", "0.250 [0.12, 0.38]", "0.500 [0.38, 0.62]", "0.750", "0.250", *others[:4]],
        ["svm-rbf", "a", "failed", *[""] * 8],
    ]
    assert [said(element) for element in page.iter("strong")] == ["logreg"]
    assert [said(element) for element in page.iter("h1")] == ["posters"]
    assert "svm-rbf on a failed: no convergence <b>" in [said(item) for item in page.iter("li")]
    (code,) = page.iter("pre")
    assert "".join(code.itertext()).splitlines() == [
        "featurize extract posters",
        "classify compare features/a.h5",
    ]


@pytest.mark.parametrize("reader", READERS)
def test_whatever_comes_from_outside_is_only_text(record, reader):
    for store in record["stores"]:
        store["store"] = f"{store['store']} {HOSTILE}"
    for result in record["results"]:
        result["store"] = f"{result['store']} {HOSTILE}"
    record["recommended"]["store"] = f"a {HOSTILE}"
    record["dataset"] = HOSTILE
    record["made"]["command"] = f"classify compare '{HOSTILE}'"
    page = read(leaderboard_markdown(record), reader)
    assert {element.tag for element in page.iter()} <= TAGS
    assert said(next(page.iter("h1"))) == HOSTILE
    assert f"Stores: A: a {HOSTILE}, B: b {HOSTILE}" in [said(one) for one in page.iter("p")]
    (table,) = page.iter("table")
    assert [len(row) for row in table.iter("tr")] == [11] * 5
    assert [row[1].text for row in list(table.iter("tr"))[1:3]] == ["A", "B"]
    assert f"svm-rbf on a {HOSTILE} failed: no convergence <b>" in [said(one) for one in page.iter("li")]
    assert f"classify compare '{HOSTILE}'" in "".join(next(page.iter("pre")).itertext())


@pytest.mark.parametrize("reader", READERS)
def test_a_hostile_name_of_a_store_stands_in_its_cell(by_hand, reader):
    names = {"x|y": "x|y", "<b>\\": "<b>\\"}
    record, _ = by_hand([0, 1], {(name, "knn"): np.eye(3)[[0, 1]] for name in names})
    page = read(leaderboard_markdown(record), reader)
    rows = [[said(cell) for cell in row] for row in page.iter("tr")]
    assert [(len(row), row[1]) for row in rows[1:]] == [(11, name) for name in names]


@pytest.mark.parametrize("reader", READERS)
def test_without_a_recommended_head_or_a_pair(by_hand, reader):
    record, _ = by_hand([0, 1], {("a", "baseline"): np.eye(3)[[0, 0]]}, made=None)
    page = read(leaderboard_markdown(record), reader)
    assert not list(page.iter("strong"))
    assert not list(page.iter("pre"))
    told = [said(one) for one in page.iter("p")]
    assert "No head could be fitted, so none is recommended." in told
    assert "There is no pair of heads to compare." in told


def test_a_real_run(photo_run):
    text = (photo_run.folder / "leaderboard.md").read_text(encoding="utf-8")
    assert text == leaderboard_markdown(photo_run.record)
    page = read(text, "CommonMark")
    assert said(next(page.iter("h1"))) == "photos <svg onload=alert(3)>"
    rows = [[said(cell) for cell in row] for row in page.iter("tr")][1:]
    best = max(result["cv_balanced_accuracy"] for result in photo_run.record["results"])
    assert rows[0][2] == f"{best:.3f}"
    assert [row[0] for row in rows].count("baseline") == 1
    assert len(rows) == len(photo_run.record["results"]) - 1
