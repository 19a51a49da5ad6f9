"""Charts as files, opened by Pillow and an XML parser and compared with the record."""

import io
import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from classify.report.figures import draw, write_figures
from classify.report.head_charts import head_charts
from classify.report.images import ShownImages

Y = [0, 1, 2, 2]
GOOD = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.1, 0.2, 0.7], [0.6, 0.2, 0.2]])  # the last is wrong
POOR = np.tile([[0.5, 0.25, 0.25]], (4, 1))


def texts(svg: bytes) -> list[str]:
    return [one.text or "" for one in ET.fromstring(svg).iter() if one.tag.endswith("text")]


def marks(svg: bytes, kind: str) -> list[int]:
    """Return of each layer of marks of a kind how many there are."""
    layers = [one for one in ET.fromstring(svg).iter() if f"mark-{kind} role-mark" in one.get("class", "")]
    return [sum(part.tag.endswith("path") for part in layer.iter()) for layer in layers]


@pytest.fixture
def run(by_hand):
    return by_hand(
        Y,
        {("a", "logreg"): GOOD, ("a", "knn"): POOR, ("a", "baseline"): POOR},
        recommended=("a", "logreg"),
        classes=("low", "it's <b>", "award"),
    )


@pytest.fixture
def shown(run):
    positions = {"image": [0, 1, 2, 4], "x": [0.1, 0.5, 0.9, 0.3], "y": [0.2, 0.4, 0.6, 0.1], "method": "so"}
    return ShownImages(
        path=[f"{k}.jpg" for k in range(5)],
        split=["test"] * 4 + ["train"],
        y=[*Y, 1],
        picture=[-1] * 5,
        entries=range(4),
        entry_images=[[0], [1], [2], [3]],
        entry_split=["test"] * 4,
        maps={"a": positions},
    )


def test_each_chart_is_a_file(tmp_path, run, shown):
    folder = tmp_path / "figures"
    assert write_figures(folder, *run, shown) == folder
    assert {path.name for path in folder.iterdir()} == {
        *("leaderboard.svg", "map.svg"),
        *("confusion.svg", "roc.svg", "precision_recall.svg", "reliability.svg"),
    }
    assert {"logreg", "knn", "baseline"} <= set(texts((folder / "leaderboard.svg").read_bytes()))
    confusion = texts((folder / "confusion.svg").read_bytes())
    assert confusion.count("it's <b>") == 2
    assert sorted(one for one in confusion if one.isdigit()) == ["0"] * 5 + ["1"] * 4  # of the best head
    # Of the map: one training image, three tested that are right, the wrong one is not placed.
    assert marks((folder / "map.svg").read_bytes(), "symbol") == [1, 3, 0]
    for path in folder.iterdir():
        assert b"http" not in path.read_bytes().replace(b"http://www.w3.org/", b"")


def test_earlier_files_are_deleted(tmp_path, run, shown):
    folder = tmp_path / "figures"
    folder.mkdir()
    (folder / "old.svg").write_text("old")
    write_figures(folder, *run, shown, kind="png")
    assert {path.suffix for path in folder.iterdir()} == {".png"}
    assert write_figures(folder, *run, shown, kind="none") is None
    assert not folder.exists()


def test_where_nothing_is_recommended_nothing_is_drawn(tmp_path, run, shown):
    record, tested = run
    assert write_figures(tmp_path / "figures", {**record, "recommended": None}, tested, shown) is None
    assert not (tmp_path / "figures").exists()


def test_without_a_map_the_rest_is_drawn(tmp_path, run, shown):
    write_figures(tmp_path / "figures", *run, replace(shown, maps={}))
    assert {path.stem for path in (tmp_path / "figures").iterdir()} == {
        *("leaderboard", "confusion", "roc", "precision_recall", "reliability"),
    }


def test_training_curves_are_drawn_of_a_head_that_has_them(tmp_path, run, shown):
    record, tested = run
    record["results"][0]["training"] = {"loss": [1.0, 0.5], "accuracy": [0.5, 0.75]}
    record["studies"]["learning"] = {
        "store": "a",
        "head": "logreg",
        "points": [{"n_images": n, "accuracy": 0.5, "low": 0.4, "high": 0.6} for n in (4, 8)],
    }
    write_figures(tmp_path / "figures", record, tested, shown)
    names = {path.stem for path in (tmp_path / "figures").iterdir()}
    assert {"training_loss", "training_accuracy", "learning"} <= names
    assert "accuracy, out of fold" in texts((tmp_path / "figures/learning.svg").read_bytes())


def test_a_png_has_three_dots_to_a_pixel_and_white_paper():
    columns = {"confidence": [0.8], "accuracy": [0.7], "low": [0.5], "high": [0.9], "count": [12]}
    spec = head_charts(("no", "yes"))["reliability"]
    before = repr(spec)
    svg = ET.fromstring(draw(spec, columns, kind="svg"))
    with Image.open(io.BytesIO(draw(spec, columns, kind="png"))) as image:
        assert image.format == "PNG"
        for side, name in zip(image.size, ("width", "height"), strict=True):
            assert side == pytest.approx(3 * float(svg.get(name)), abs=3)
        assert image.convert("RGBA").getpixel((0, 0)) == (255, 255, 255, 255)
    assert repr(spec) == before


def test_a_chart_does_not_depend_on_earlier_charts(tmp_path, run, shown):
    first, second = (write_figures(tmp_path / name, *run, shown) for name in ("one", "two"))
    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes()
    drawing = (first / "map.svg").read_text()
    used = re.findall(r"url\(#(\w+)\)", drawing)
    assert used
    assert all(f'id="{name}"' in drawing for name in used)


def test_the_same_record_has_the_same_figures(photo_run, tmp_path):
    """They contain no date and no path."""
    from classify.report.collect import without_stores
    from classify.report.predictions import read_tested

    tested = read_tested(photo_run.folder, photo_run.record)
    without = without_stores(tested, photo_run.record, "gone").shown
    write_figures(tmp_path / "figures", photo_run.record, tested, without)
    for path in (tmp_path / "figures").iterdir():
        assert path.read_bytes() == (photo_run.folder / "figures" / path.name).read_bytes()
    assert {path.name for path in (photo_run.folder / "figures").iterdir()} - {
        path.name for path in (tmp_path / "figures").iterdir()
    } == {"map.svg"}
