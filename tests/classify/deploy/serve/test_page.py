"""The page in a real browser: predictions for dropped, chosen and pasted images with any file names."""

from __future__ import annotations

import csv
import io
import os
import re
from pathlib import Path

import pytest

from classify.deploy.predict import predict
from classify.io.grades import write_grades

pytestmark = pytest.mark.browser

HOSTILE = {
    "<img src=x onerror=alert(1)>.jpg": "<img src=x onerror=alert(1)>.jpg",
    "javascript:alert(1).png": "javascript:alert(1).png",
    "'\"><script>alert(1)</script>.png": "'\"><script>alert(1)</script>.png",
    "photo\u202egnp.exe": r"photo\u202egnp.exe",
    "line\nbreak\ttab\r.png": r"line\nbreak\ttab\r.png",
    "zero\x1b[2Jwidth\x85\u2028.png": r"zero\x1b[2Jwidth\x85\u2028.png",
    "x" * 255: "x" * 255,
    "word " * 50: "word " * 50,
    "=cmd|' /C calc'!A0.png": "=cmd|' /C calc'!A0.png",
    "Ärger 图 🎨.png": "Ärger 图 🎨.png",
    "lone \udc80 surrogate.png": "lone \ufffd surrogate.png",
}


@pytest.fixture
def opened(server, open_page):
    """Open the page of the server with examples, once it is ready."""

    def opened(of=server, **options):
        page = open_page(of.url, **options)
        page.wait_for_selector("html[data-ready]", state="attached")
        return page

    return opened


def file(name: str, data: bytes, kind: str = "image/png") -> dict:
    return {"name": name, "mimeType": kind, "buffer": data}


def choose(page, *files) -> None:
    page.set_input_files("#files", list(files))
    settled(page)


def settled(page, *, timeout: float = 60_000) -> None:
    page.wait_for_selector("#progress.done", state="attached", timeout=timeout)


def drop(page, files: dict[str, bytes]) -> None:
    """Drop files on the page with the events that a browser sends."""
    script = """(files) => {
      const transfer = new DataTransfer();
      for (const [name, bytes] of files)
        transfer.items.add(new File([Uint8Array.from(bytes)], name, { type: "image/png" }));
      for (const type of ["dragenter", "dragover", "drop"])
        document.body.dispatchEvent(
          new DragEvent(type, { bubbles: true, cancelable: true, dataTransfer: transfer }));
    }"""
    page.evaluate(script, [[name, list(data)] for name, data in files.items()])
    settled(page)


def cards(page) -> dict[str, str]:
    """Return the text of each card by file name."""
    return {card.locator(".name").text_content(): card.inner_text() for card in page.locator(".card").all()}


def fits(page) -> bool:
    """Return whether the page has no horizontal overflow."""
    return page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize(
    ("width", "dark"),
    [
        pytest.param(1280, False, id="desktop-light"),
        pytest.param(390, True, id="phone-dark"),
        pytest.param(1280, True, id="desktop-dark", marks=pytest.mark.long),
        pytest.param(390, False, id="phone-light", marks=pytest.mark.long),
    ],
)
def test_page_is_accessible_in_every_state(opened, coloured, assert_accessible, width, dark):
    page = opened(width=width, dark=dark)
    assert_accessible(page)
    assert fits(page)
    page.get_by_text("About this model").click()
    good = coloured.picture(coloured.colour("low", 2))
    broken = [file("cut short.png", good[:60]), file("w" * 200, b"x"), file("long name " * 20, good)]
    choose(page, file("good.png", good), *broken)
    page.locator(".near img").first.wait_for()
    assert_accessible(page)
    assert fits(page)
    page.locator(".cards").evaluate("(cards) => { document.body.classList.remove('busy'); }")
    background = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", background)[:3])) < 200) is dark


def test_chosen_images_get_the_predictions_of_the_endpoint(opened, server, coloured):
    files = {
        f"{grade} {k}.png": coloured.picture(coloured.colour(grade, k))
        for grade in coloured.CLASSES
        for k in (1, 6)
    }
    rows = server.grade(*files.items()).json
    page = opened()
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Choose images").click()
    assert chooser.value.is_multiple()
    chooser.value.set_files([file(name, data) for name, data in files.items()])
    settled(page)
    assert page.locator("#status").text_content() == "6 predicted: 2 award, 2 low, 2 middle."
    shown = cards(page)
    assert list(shown) == sorted(files)
    for row in rows:
        text = shown[row["path"]]
        for name, p in row["probabilities"].items():
            percent = "< 1 %" if p < 0.005 else "> 99 %" if p > 0.995 else f"{p * 100:.0f} %"
            assert re.search(rf"{name}\s+{percent}", text), (text, row)
        assert row["grade"] in text.split("\n")[1:3]


def test_dropped_images_get_predictions(opened, coloured):
    page = opened()
    drop(page, {"a.png": coloured.picture((230, 20, 20)), "b.png": coloured.picture((20, 20, 230))})
    assert page.locator(".card .grade").all_text_contents() == ["award", "middle"]
    drop(page, {"c.png": coloured.picture((20, 230, 20))})
    assert page.locator("#status").text_content() == "3 predicted: 1 award, 1 low, 1 middle."


def test_a_pasted_image_gets_a_prediction(opened, coloured):
    page = opened()
    page.evaluate(
        """(bytes) => {
          const transfer = new DataTransfer();
          transfer.items.add(new File([Uint8Array.from(bytes)], "image.png", { type: "image/png" }));
          document.dispatchEvent(new ClipboardEvent("paste", { clipboardData: transfer }));
        }""",
        list(coloured.picture((230, 20, 20))),
    )
    settled(page)
    assert list(cards(page)) == ["image.png"]


def test_hostile_names_are_only_text(opened, coloured):
    page = opened()
    data = coloured.picture((230, 20, 20))
    drop(page, dict.fromkeys(HOSTILE, data))
    assert list(cards(page)) == list(HOSTILE.values())
    assert page.locator("#status").text_content() == f"{len(HOSTILE)} predicted: {len(HOSTILE)} award."
    assert page.locator(".name *").count() == 0
    assert page.locator("main script, main iframe, main [onerror]").count() == 0
    assert fits(page)


def test_a_card_without_a_prediction_shows_the_reason(opened, coloured, assert_accessible, tmp_path):
    page = opened()
    good = coloured.picture((230, 20, 20))
    sent = {"cut.png": good[:60], "notes.txt": b"hello", "empty.png": b"", "fine.png": good, "large.tif": b""}
    for name, data in sent.items():
        (tmp_path / name).write_bytes(data)
    os.truncate(tmp_path / "large.tif", 26_000_000)
    page.set_input_files("#files", [tmp_path / name for name in sent])
    settled(page)
    shown = cards(page)
    assert {name: text.split("\n")[-1] for name, text in shown.items() if name != "fine.png"} == {
        "cut.png": "truncated",
        "notes.txt": "not an image",
        "empty.png": "empty file",
        "large.tif": "too large: 26 MB, the limit is 25 MB",
    }
    assert page.locator("#status").text_content() == "1 predicted: 1 award. 4 without a prediction."
    assert not page.get_by_role("button", name="Try again").is_visible()
    page.get_by_role("button", name="no prediction 4").click()
    assert page.locator(".card:visible").count() == 4
    assert_accessible(page)


def test_similar_training_images_are_shown(opened, server, coloured):
    page = opened()
    data = coloured.picture(coloured.colour("middle", 4))
    (row,) = server.grade(("a.png", data)).json
    choose(page, file("a.png", data))
    images = page.locator(".near img")
    assert images.count() == 5
    for image, near in zip(images.all(), row["nearest"], strict=True):
        image.scroll_into_view_if_needed()
        image.evaluate("(image) => image.decode()")
        assert image.get_attribute("src") == near["picture"]
        assert image.get_attribute("alt") == near["name"]
        assert image.evaluate("(image) => image.naturalWidth") == 48
    assert page.locator(".near .label").all_text_contents() == [near["grade"] for near in row["nearest"]]
    assert page.locator(".near .similarity").all_text_contents() == [
        f"{near['similarity']:.2f}" for near in row["nearest"]
    ]


def test_without_examples_no_similar_images_are_mentioned(start, bundle, opened, coloured):
    page = opened(start(bundle))
    choose(page, file("a.png", coloured.picture((230, 20, 20))))
    assert page.locator(".near, #nearest-about").count() == 0
    assert page.locator(".card").count() == 1


def test_keyboard_operation(opened, coloured, tmp_path):
    page = opened()

    def tab_to(name: str) -> None:
        for _ in range(30):
            page.keyboard.press("Tab")
            if page.evaluate(
                "(document.activeElement.textContent || document.activeElement.id).trim()"
            ).startswith(name):
                outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
                assert outline != "none", f"{name} does not show that it has the focus"
                return
        raise AssertionError(f"{name} cannot be reached by the Tab key")

    with page.expect_file_chooser() as chooser:
        tab_to("Choose images")  # a round trip, so that the chooser is watched before Enter
        page.keyboard.press("Enter")
    sure, unsure = coloured.picture((255, 0, 0)), coloured.picture((120, 110, 110))
    chooser.value.set_files([file("sure.png", sure), file("unsure.png", unsure), file("bad.png", b"x")])
    settled(page)
    tab_to("as added")
    page.keyboard.press("ArrowDown")
    assert list(cards(page)) == ["unsure.png", "sure.png", "bad.png"]
    tab_to("Download CSV")
    with page.expect_download() as download:
        page.keyboard.press("Enter")
    assert download.value.suggested_filename == "grades.csv"
    tab_to("no prediction")
    page.keyboard.press("Space")
    assert page.locator(".card:visible .name").all_text_contents() == ["bad.png"]
    page.keyboard.press("Space")
    assert page.locator(".card:visible").count() == 3
    page.keyboard.press("Shift+Tab")
    page.locator("#clear").focus()
    page.keyboard.press("Enter")
    assert page.locator(".card").count() == 0
    assert page.evaluate("document.activeElement.id") == "choose-files"


def test_downloaded_csv_equals_the_csv_of_predict(
    opened, server, coloured, network, bundle_with_examples, tmp_path, monkeypatch
):
    names = [
        "a.png",
        "=b.png",
        'c "quoted", too.png',
        "-d\n.png",
        " =e.png",
        "\uff1df.png",
        "\t@g.png",
        "not one.png",
    ]
    data = [coloured.picture((230, 20, 20))] * 7 + [b"hello"]
    folder = tmp_path / "work"
    folder.mkdir()
    for name, content in zip(names, data, strict=True):
        (folder / name).write_bytes(content)

    def image_features(files, config, **options):
        from featurize.extraction.inference import FeatureReader

        with FeatureReader(config, workers=1) as reader:
            return reader.features(files)

    monkeypatch.setattr("featurize.extraction.inference.image_features", image_features)
    monkeypatch.chdir(folder)
    write_grades(tmp_path / "grades.csv", predict(bundle_with_examples, [Path(name) for name in names]))
    page = opened()
    drop(page, dict(zip(names, data, strict=True)))
    with page.expect_download() as download:
        page.get_by_role("button", name="Download CSV").click()
    assert Path(download.value.path()).read_bytes() == (tmp_path / "grades.csv").read_bytes()
    rows = list(csv.reader(io.StringIO((tmp_path / "grades.csv").read_text(encoding="utf-8-sig"))))
    assert [row[0] for row in rows] == [
        "path",
        "a.png",
        "'=b.png",
        'c "quoted", too.png',
        r"'-d\n.png",
        "' =e.png",
        "'\uff1df.png",
        r"'\t@g.png",
        "not one.png",
    ]


def test_folders_can_be_entries(opened, server, coloured, tmp_path):
    files = {
        "ann/1.png": (230, 20, 20),
        "ann/2.png": (200, 60, 60),
        "bo/1.png": (20, 20, 230),
        "alone.png": (20, 230, 20),
    }
    for name, colour in files.items():
        path = tmp_path / "class of 26" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(coloured.picture(colour))
    (tmp_path / "class of 26" / ".DS_Store").write_bytes(b"x")
    page = opened()
    page.get_by_label("Each folder is one entry").check()
    page.set_input_files("#folder", tmp_path / "class of 26")
    settled(page)
    shown = cards(page)
    assert {name: "2 images" in text for name, text in shown.items()} == {
        "class of 26": False,
        "class of 26/ann": True,
        "class of 26/bo": False,
    }
    sent = [(name, coloured.picture(files[name])) for name in ("ann/1.png", "ann/2.png")]
    (row,) = server.grade(*sent, entry="x").json
    assert f"{row['confidence'] * 100:.0f} %" in shown["class of 26/ann"] or row["confidence"] > 0.995


def test_requests_are_repeated_while_the_server_is_busy(opened, coloured, open_page):
    page, refused = opened(), []

    def busy_at_first(route) -> None:
        if len(refused) < 2:
            refused.append(route.request.url)
            route.fulfill(status=503, headers={"Retry-After": "1"}, json={"error": "busy"})
        else:
            route.continue_()

    page.route("**/grade*", busy_at_first)
    choose(page, *[file(f"{k}.png", coloured.picture((230, 20, 20))) for k in range(3)])
    assert page.locator("#status").text_content() == "3 predicted: 3 award."
    assert len(refused) == 2
    assert all("503" in complaint for complaint in open_page.complaints)
    open_page.complaints.clear()


def test_try_again_after_the_server_was_unreachable(opened, coloured, open_page):
    page = opened()
    page.route("**/grade*", lambda route: route.abort())
    choose(page, file("a.png", coloured.picture((230, 20, 20))))
    assert "the server does not answer" in cards(page)["a.png"]
    assert all("ERR_FAILED" in complaint for complaint in open_page.complaints)
    open_page.complaints.clear()
    page.unroute("**/grade*")
    page.get_by_role("button", name="Try again").click()
    page.get_by_text("1 predicted: 1 award.").wait_for()


def test_without_javascript_the_page_shows_the_curl_command(server, open_page):
    page = open_page(server.url, java_script_enabled=False)
    assert f"curl -F image=@poster.jpg {server.url}grade" in page.locator("noscript").inner_text()
