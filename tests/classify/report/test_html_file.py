"""The page as a file, against an HTML parser, hashes of its scripts, and the run's CSV file."""

import base64
import csv
import hashlib
import html
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from classify.report.collect import without_stores
from classify.report.html import chart_library, render

VOID = {"meta", "br", "img", "input", "link", "hr"}


class Page(HTMLParser):
    """What stands in a page."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inside: list[str] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append((dict(attrs), ""))
        if tag not in VOID:
            self.inside.append(tag)

    def handle_endtag(self, tag):
        assert self.inside.pop() == tag  # nothing from outside opened or closed one

    def handle_data(self, data):
        if self.inside[-1:] == ["script"]:
            attrs, before = self.scripts[-1]
            self.scripts[-1] = attrs, before + data
        elif self.inside[-1:] != ["style"]:
            self.words.append(data)

    @property
    def said(self) -> str:
        return " ".join(" ".join(self.words).split())

    @property
    def data(self) -> dict:
        (text,) = (text for attrs, text in self.scripts if attrs.get("type") == "application/json")
        return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))

    @property
    def policy(self) -> dict[str, list[str]]:
        (content,) = (
            attrs["content"]
            for tag, attrs in self.tags
            if tag == "meta" and attrs.get("http-equiv") == "Content-Security-Policy"
        )
        return {part.split()[0]: part.split()[1:] for part in (content or "").split(";")}


@pytest.fixture(scope="module")
def text(photo_run) -> str:
    return photo_run.page.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(text) -> Page:
    return Page(text)


def test_the_policy_lets_only_the_pages_own_scripts_run(page, text):
    scripts = [script for attrs, script in page.scripts if attrs.get("type") != "application/json"]
    assert len(scripts) == 2
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert page.policy == {
        "default-src": ["'none'"],
        "img-src": ["data:"],
        "style-src": ["'unsafe-inline'"],
        "script-src": [*(f"'sha256-{one}'" for one in hashes), "'unsafe-eval'"],
        "base-uri": ["'none'"],
        "form-action": ["'none'"],
    }
    assert "\r" not in text  # a browser would hash another text
    assert "\0" not in text
    metas = [attrs for tag, attrs in page.tags if tag == "meta"]
    assert metas[0] == {"charset": "utf-8"}
    assert "http-equiv" in metas[1]  # before anything that it is about


def test_no_script_can_end_or_hide_early(page, text):
    assert [tag for tag, _ in page.tags].count("script") == len(page.scripts) == 3
    assert len(re.findall(r"</script", text, re.IGNORECASE)) == 3
    for _, script in page.scripts:
        opened = script.find("<!--")
        assert opened < 0 or "<script" not in script[opened:].lower()
    assert page.inside == []


def test_the_page_fetches_nothing(page, text):
    for tag, attrs in page.tags:
        assert tag not in {"link", "iframe", "object", "embed", "base", "form", "audio", "video", "img"}
        assert not {"src", "srcset", "action", "poster", "background"} & attrs.keys()
        assert not any(name.startswith("on") or name == "style" for name in attrs)
        assert (attrs.get("href") or "#").startswith("#")
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1]
    assert not re.search(r"url\(|@import|https?:", style)


def test_links_lead_to_what_is_there(page):
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    for _, attrs in page.tags:
        if "href" in attrs:
            assert attrs["href"][1:] in ids
        for name in ("aria-labelledby", "for"):
            if name in attrs:
                assert attrs[name] in ids


def test_hostile_names_are_text_and_nothing_else(page, text, photo_run):
    for name in ("<img src=x", "<svg onload", "<script>alert", "\u202e", "onerror=alert(1)>."):
        assert name not in text
    assert html.escape("photos <svg onload=alert(3)>") in text
    assert page.said.count("photos <svg onload=alert(3)>") >= 2  # its title and its heading
    assert {tag for tag, _ in page.tags}.isdisjoint({"svg", "img"})
    paths = page.data["images"]["path"]
    for name in (
        "test/low/<img src=x onerror=alert(1)>.jpg",
        "test/middle/\"'><script>alert(2)<&amp;.jpg",
        "test/award/line\\nbreak \\u202egpj.jpg",
    ):
        assert name in paths
        assert name in page.data["tested"]["entry"]
    block = next(script for attrs, script in page.scripts if attrs.get("type"))
    assert not set("<>&") & set(block)


def test_the_data_is_what_the_csv_says(page, photo_run):
    with (photo_run.folder / "predictions.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    data = page.data
    classes = photo_run.record["classes"]
    assert data["classes"] == classes
    assert data["tested"]["entry"] == [row["entry"] for row in rows[:24]]
    assert [classes[label] for label in data["tested"]["y"]] == [row["true_class"] for row in rows[:24]]
    assert len(data["heads"]) == 8
    place = {entry: k for k, entry in enumerate(data["tested"]["entry"])}
    number = {(head["store"], head["head"]): str(head["id"]) for head in data["heads"]}
    for row in rows:
        said = np.reshape(data["tested"]["p"][number[row["store"], row["head"]]], (24, 3))
        expected = [float(row[f"p_{name}"]) * 10_000 for name in classes]
        np.testing.assert_allclose(said[place[row["entry"]]], expected, atol=0.51)
    best = data["heads"][data["recommended"]]
    chosen = photo_run.record["recommended"]
    assert (best["store"], best["head"]) == (chosen["store"], chosen["head"])


def test_the_data_is_what_the_record_says(page, photo_run):
    results = {(one["store"], one["head"]): one for one in photo_run.record["results"]}
    data = page.data
    assert len(data["verdicts"]) == len(photo_run.record["verdicts"]) == 21
    pairs = {frozenset((one["a"], one["b"])) for one in data["verdicts"]}
    assert len(pairs) == 21
    for head in data["heads"]:
        result = results[head["store"], head["head"]]
        assert head["panels"]["confusion"]["count"] == np.ravel(result["confusion_matrix"]).tolist()
        assert ("training" in head["panels"]) == (head["head"] == "dense")
        assert len(head["panels"].get("training", {}).get("epoch", [])) in (0, 48)  # 12 of each of four
    assert any("learning" in head["panels"] for head in data["heads"])


def test_pictures_are_there_once_and_every_image_that_is_shown_has_one(page):
    data = page.data
    assert len(set(data["pictures"])) == len(data["pictures"]) == 60  # of 61 images two are copies
    assert sorted(set(data["images"]["picture"])) == list(range(60))
    assert all(one.startswith("data:image/webp;base64,") for one in data["pictures"])
    shown = {image for pairs in data["nearest"].values() for unit in pairs for image in unit[::2]}
    assert all(data["images"]["split"][image] == "train" for image in shown)


def test_the_page_says_what_the_record_says(page, photo_run):
    record = photo_run.record
    matrix = next(
        one["confusion_matrix"]
        for one in record["results"]
        if (one["store"], one["head"]) == (record["recommended"]["store"], record["recommended"]["head"])
    )
    right = sum(matrix[k][k] for k in range(3))
    assert f"predicts {right} of 24 test images correctly" in page.said
    assert record["protocol"]["text"] in page.said
    for fact in record["facts"]:
        assert fact in page.said
    for command in (*record["made"]["extract"], record["made"]["command"]):
        assert command in page.said
    assert "train/low/broken.jpg : not an image" in page.said
    for store in record["stores"]:
        assert f"Features: {store['store']}" in page.said
        assert store["config_digest"] in page.said


def rendered(record, tested, *, notes=(), **options) -> Page:
    shown = without_stores(tested, record, "gone").shown
    shown = replace(shown, notes=(*shown.notes, *notes))
    return Page(render(record, tested, shown, summary=None, configs={}, **options))


GOOD = np.eye(3)[[0, 1, 2, 2]]


def test_a_page_without_stores_recommended_head_verdicts_or_studies(by_hand):
    record, tested = by_hand([0, 1, 2, 2], {("a", "baseline"): GOOD}, made=None)
    page = rendered(record, tested, notes=["<b>no</b> pictures"])
    assert "No head could be fitted, so none is recommended." in page.said
    assert "There is no pair of heads to compare." in page.said
    assert "<b>no</b> pictures" in page.said
    ids = {attrs.get("id") for _, attrs in page.tags}
    assert "methods" in ids
    assert not {"studies", "chart-verdicts"} & ids
    assert (page.data["verdicts"], page.data["pictures"], page.data["maps"]) == (None, [], {})
    assert page.data["why_no_map"] == "No map and no pictures: gone"


def test_undefined_figures_and_failed_heads_and_odd_classes(by_hand):
    odd = ("</script><script>alert(1)</script>", "\u2028&amp;", "'\"`${x}")
    record, tested = by_hand(
        [0, 1, 2, 2],
        {("a", "logreg"): GOOD, ("a", "svm-rbf"): None, ("a", "baseline"): GOOD},
        classes=odd,
        recommended=("a", "logreg"),
    )
    record["results"][0]["metrics"] = dict.fromkeys(record["results"][0]["metrics"])
    record["results"][0]["intervals"] = {"log_loss": {"low": None, "high": None}}
    record["results"][0]["undefined"] = {"roc_auc": "one <class> only"}
    record["studies"] = {"leaks": {"text": "<i>none</i>", "shown": ["<u>"]}}
    page = rendered(record, tested)
    assert page.data["classes"] == [odd[0], "\\u2028&amp;", odd[2]]
    assert "svm-rbf on a failed: no convergence <b>" in page.said
    assert "area under the ROC curve is undefined: one <class> only" in page.said
    assert "<i>none</i>" in page.said
    assert page.data["leaderboard"]["label"] == ["baseline"]
    assert page.data["heads"][0]["facts"].startswith("Quadratic-weighted kappa –; accuracy –; log loss –;")


def test_two_classes(by_hand):
    said = np.array([[0.75, 0.25], [0.25, 0.75]])
    record, tested = by_hand([0, 1], {("a", "knn"): said}, classes=("no", "yes"), recommended=("a", "knn"))
    page = rendered(record, tested)
    assert set(page.data["heads"][0]["panels"]["roc"]["class"]) == {"yes"}
    assert "Positive class: yes." in page.said


def test_the_chart_library_is_all_of_it_and_a_script_as_it_is():
    assert len(chart_library()) > 500_000
    assert "vegaEmbed" in chart_library()
    assert chart_library() is chart_library()
