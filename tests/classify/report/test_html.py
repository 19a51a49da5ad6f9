"""The report in a browser."""

import base64
import csv
import io
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from featurize.base.text import printable

pytestmark = [pytest.mark.browser, pytest.mark.report]

# Of the words on charts: WCAG's contrast of ink and paper.
CONTRASTS = """() => {
  const linear = (v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const luminance = (colour) => {
    const [r, g, b] = colour.match(/[\\d.]+/g).map((v) => linear(Number(v) / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const paper = luminance(getComputedStyle(document.documentElement).backgroundColor);
  const words = ".role-axis-label text, .role-axis-title text, .role-legend-label text";
  return [...document.querySelectorAll(words)]
    .filter((text) => text.textContent && getComputedStyle(text).opacity !== "0")
    .map((text) => luminance(getComputedStyle(text).fill))
    .map((ink) => (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05));
}"""
RECOMMENDED = "logreg"
OTHER = "knn"


@pytest.fixture
def said(photo_run):
    """What predictions.csv holds of a head: of each tested entry its class, the grade, the probabilities."""

    def of(head, store=None):
        store = store or photo_run.record["recommended"]["store"]
        with (photo_run.folder / "predictions.csv").open(encoding="utf-8", newline="") as stream:
            rows = [row for row in csv.DictReader(stream) if (row["head"], row["store"]) == (head, store)]
        return {
            row["entry"]: {
                "true": row["true_class"],
                "graded": row["predicted_class"],
                "p": {name.removeprefix("p_"): float(row[name]) for name in row if name.startswith("p_")},
            }
            for row in rows
        }

    return of


@pytest.fixture
def report(photo_run, open_page):
    return lambda place="", **options: open_page(photo_run.page.as_uri() + place, **options)


def mistakes(page):
    """Return the entries of the gallery of mistakes, in its order."""
    return page.locator("#mistakes-gallery > li > .path").all_text_contents()


def wrong(said):
    return {entry for entry, one in said.items() if one["true"] != one["graded"]}


@pytest.mark.parametrize(
    ("width", "dark"),
    [
        pytest.param(1280, False, id="desktop-light"),
        pytest.param(390, True, id="phone-dark"),
        pytest.param(1280, True, id="desktop-dark", marks=pytest.mark.long),
        pytest.param(390, False, id="phone-light", marks=pytest.mark.long),
    ],
)
def test_it_opens_without_complaint_and_nothing_sticks_out(report, assert_accessible, width, dark):
    """Complaints of the console and requests fail `open_page`; axe-core judges contrast and names."""
    page = report(width=width, dark=dark)
    page.wait_for_selector("#chart-map svg")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    charts = page.locator(".chart:visible svg")
    assert charts.count() >= 8
    for chart in charts.all():
        assert chart.bounding_box()["height"] > 80
    assert_accessible(page)
    shot = np.asarray(Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("L"))
    assert shot.shape[1] == width
    paper = np.bincount(shot.ravel()).argmax()
    assert (paper < 60) == dark
    assert 0.02 < np.mean(shot != paper) < 0.6  # something is drawn, and most of it is paper


def test_words_on_charts_can_be_read_on_both_papers(report):
    """axe-core does not look into SVG: contrast by WCAG's formula, text of 12 pixels needs 4.5."""
    for dark in (False, True):
        page = report(dark=dark)
        page.wait_for_selector("#chart-map svg")
        found = page.evaluate(CONTRASTS)
        assert len(found) > 40
        assert min(found) >= 4.5


def test_the_head_is_chosen_by_mouse(report, said):
    page = report()
    recommended, other = said(RECOMMENDED), said(OTHER)
    assert wrong(recommended) != wrong(other)  # or this would not tell them apart
    assert set(mistakes(page)) == wrong(recommended)
    page.select_option("#filter-head", label=OTHER)  # the first store's, or the only one of that name
    store = page.locator("#head-name").text_content().removeprefix(f"{OTHER} on ")
    assert set(mistakes(page)) == wrong(said(OTHER, store))
    assert f"{len(wrong(said(OTHER, store)))} image" in page.locator("#mistakes-count").text_content()
    assert page.url.endswith("#?head=" + page.locator("#filter-head").input_value())


def test_the_head_is_chosen_by_keyboard(report, said, photo_run):
    page = report()
    for _ in range(200):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "filter-head":
            break
    assert page.evaluate("document.activeElement.id") == "filter-head"
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"  # where one is can be seen
    before = page.locator("#head-name").text_content()
    page.keyboard.press("End")
    page.wait_for_function("name => document.getElementById('head-name').textContent !== name", arg=before)
    head, store = page.locator("#head-name").text_content().split(" on ")
    assert {"head": head, "store": store} in [
        {"head": result["head"], "store": result["store"]} for result in photo_run.record["results"]
    ]
    assert set(mistakes(page)) == wrong(said(head, store))


def test_a_name_in_the_leaderboard_leads_to_its_head(report):
    page = report()
    page.locator(".pick", has_text=OTHER).first.click()
    assert page.locator("#head-name").text_content().startswith(OTHER)
    assert page.evaluate("document.activeElement.id") == "filter-head"
    page.wait_for_function("document.getElementById('head').getBoundingClientRect().top < 200")


def test_class_and_split_narrow_what_is_shown(report, said, photo_run):
    page = report()
    found = said(RECOMMENDED)
    page.select_option("#filter-show", "all")
    page.select_option("#filter-class", label="middle")
    assert set(mistakes(page)) == {entry for entry, one in found.items() if one["true"] == "middle"}
    marks = page.locator("#chart-map .mark-symbol.role-mark path")
    counted = {split: len(list((photo_run.data / split / "middle").iterdir())) for split in ("train", "test")}
    assert marks.count() == sum(counted.values())
    page.select_option("#filter-split", label="train")
    assert marks.count() == counted["train"]
    assert mistakes(page) == []
    assert "Images of the train split were not tested" in page.locator("#mistakes-count").text_content()
    page.select_option("#filter-split", label="test")
    assert marks.count() == counted["test"]
    again = report(page.url.partition("report.html")[2])
    assert again.locator("#filter-class").input_value() == "1"
    assert again.locator("#filter-split").input_value() == "test"


def test_mistakes_stand_by_how_far_and_how_surely_wrong(report, said, photo_run):
    page = report()
    found, order = said(RECOMMENDED), photo_run.record["classes"]

    def badness(entry):
        one = found[entry]
        off = abs(order.index(one["true"]) - order.index(one["graded"]))
        return -off, -(one["p"][one["graded"]] - one["p"][one["true"]])

    shown = mistakes(page)
    assert shown == sorted(shown, key=badness)
    assert len(shown) == len(wrong(found)) > 1
    page.select_option("#filter-show", "unsure")
    unsure = mistakes(page)
    assert set(unsure) == found.keys() - wrong(found)
    sure = [found[entry]["p"][found[entry]["graded"]] for entry in unsure]
    assert sure == pytest.approx(sorted(sure), abs=1e-3)
    first = page.locator("#mistakes-gallery > li").first
    shares = {
        name: int(value.removesuffix(" %"))
        for name, value in zip(
            first.locator(".bars .name").all_text_contents(),
            first.locator(".bars .value").all_text_contents(),
            strict=True,
        )
    }
    assert shares == {name: pytest.approx(100 * p, abs=0.51) for name, p in found[unsure[0]]["p"].items()}


def test_names_from_the_file_system_are_only_text(report, photo_run):
    """A dialog, a request for ``x`` or an error of the console would fail `open_page`."""
    page = report()
    page.select_option("#filter-show", "all")
    page.wait_for_selector("#chart-map svg")
    names = {printable(path.relative_to(photo_run.data).as_posix()) for path in photo_run.data.rglob("*.jpg")}
    assert set(mistakes(page)) == {name for name in names if name.startswith("test/")}
    assert page.locator("h1").text_content() == photo_run.record["dataset"]
    assert page.locator("img:not([src^='data:image/webp'])").count() == 0
    assert page.locator("svg:not(.marks)").count() == 0
    assert page.locator("script").count() == 3


def pixels(uri):
    head, data = uri.split(",", 1)
    assert head == "data:image/webp;base64"
    return Image.open(io.BytesIO(base64.b64decode(unquote(data)))).convert("RGB")


def assert_shows(uri, path):
    shown = pixels(uri)
    with Image.open(path) as original:
        wanted = original.convert("RGB").resize(shown.size, Image.Resampling.LANCZOS)
    apart = np.abs(np.asarray(shown, dtype=float) - np.asarray(wanted, dtype=float)).mean()
    assert apart < 12, path  # other pictures of this kind are 60 and more away


def test_pictures_are_those_of_their_files(report, photo_run):
    page = report()
    page.select_option("#filter-show", "all")
    by_name = {
        printable(path.relative_to(photo_run.data).as_posix()): path for path in photo_run.data.rglob("*.jpg")
    }
    cards = page.locator("#mistakes-gallery > li").all()
    assert len(cards) == 24
    for card in cards[:8]:
        image = card.locator(".pictures img")
        assert_shows(image.get_attribute("src"), by_name[card.locator("> .path").text_content()])
        near = card.locator(".near li").all()
        assert len(near) == 5
        for one in near[:2]:
            path = by_name[one.get_attribute("title")]
            assert_shows(one.locator("img").get_attribute("src"), path)
            assert path.parts[-3:-1] == ("train", one.locator(".grade").text_content())


def test_pointing_at_the_map_shows_the_picture(report, photo_run):
    page = report()
    page.select_option("#filter-split", label="test")
    mark = page.locator("#chart-map .mark-symbol.role-mark path").last
    mark.scroll_into_view_if_needed()
    mark.hover()
    tip = page.locator("#tip")
    tip.wait_for(state="visible")
    name = tip.locator(".path").text_content()
    path = next(
        path
        for path in photo_run.data.rglob("*.jpg")
        if printable(path.relative_to(photo_run.data).as_posix()) == name
    )
    assert_shows(tip.locator("img").get_attribute("src"), path)
    assert path.parent.name in tip.text_content()
    box = tip.bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 1280
    page.mouse.wheel(0, 50)
    tip.wait_for(state="hidden")


def test_the_table_is_sorted_by_a_column(report, photo_run):
    page = report()
    column = page.locator("table.sortable thead th").all_text_contents().index("log loss")
    page.locator("table.sortable thead th").nth(column).get_by_role("button").click()
    shown = page.locator(f"table.sortable tbody tr > *:nth-child({column + 1})").all_text_contents()
    losses = [result["metrics"]["log_loss"] for result in photo_run.record["results"]]
    wanted = sorted({f"{value:.3f}" for value in losses}, key=float, reverse=True)
    assert list(dict.fromkeys(shown)) == wanted
    page.locator("table.sortable thead th").nth(column).get_by_role("button").press("Enter")
    again = page.locator(f"table.sortable tbody tr > *:nth-child({column + 1})").all_text_contents()
    assert list(dict.fromkeys(again)) == wanted[::-1]


def test_verdicts_are_drawn_as_they_were_found(report, photo_run):
    page = report()
    page.select_option("#matrix-store", label="all")
    page.wait_for_function("document.querySelectorAll('#chart-verdicts .ink_sign_marks text').length > 30")
    signs = page.locator("#chart-verdicts .ink_sign_marks text").all_text_contents()
    better = sum(verdict["verdict"] == "better" for verdict in photo_run.record["verdicts"])
    assert signs.count("▲") == signs.count("▼") == better
    assert signs.count("·") == 2 * (len(photo_run.record["verdicts"]) - better)


def test_it_prints_on_paper_with_all_that_is_folded_away(report):
    page = report()
    page.emulate_media(media="print")
    assert not page.locator(".filters").is_visible()
    printed = page.pdf(format="A4")
    assert printed.startswith(b"%PDF")
    assert printed.count(b"/Type /Page\n") > 3
    assert page.locator("details:not([open])").count() == 0


def test_without_scripts_it_says_so_and_shows_the_table(photo_run, open_page):
    page = open_page(photo_run.page.as_uri(), java_script_enabled=False)
    assert page.locator("noscript p").is_visible()
    rows = page.locator("table.sortable tbody tr").count()
    assert rows == len(photo_run.record["results"]) - 1  # the baseline, which says the same of both stores
