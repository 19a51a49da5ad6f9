"""Reports of runs, also if stores or images have moved, changed or are missing."""

import csv
import json
import os
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from classify.errors import CompareError
from classify.jobs.compare import compare
from classify.report.report import make_report

WITHOUT_FOLDER = "because the image folder was not found"


def data_of(page: Path) -> dict:
    text = page.read_text(encoding="utf-8")
    start = text.index('<script type="application/json" id="data">')
    block = text[text.index(">", start) + 1 : text.index("</script>", start)]
    return json.loads(block)


def said(folder: Path) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


def edit(folder: Path, change) -> None:
    record = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    change(record)
    (folder / "results.json").write_text(json.dumps(record), encoding="utf-8")


@pytest.fixture
def run(make_store, tmp_path):
    """Compare a small store with the quickest head, without a report."""

    def run(heads=("nearest-mean",), *, store=None, **options):
        path = make_store(**(store or {}))
        return compare([path], heads=heads, out=tmp_path / "run", jobs=1, report=False, **options).folder

    return run


def test_a_second_report_is_identical(photo_run, copied_run):
    """Also with an empty cache and a copy of the run."""
    for name in ("report.html", "leaderboard.md"):
        (copied_run / name).unlink()
    shutil.rmtree(copied_run / "figures")
    progress = []
    made = make_report(copied_run, on_progress=lambda *now: progress.append(now))
    assert (made.path, made.table, made.figures, made.notes) == (
        copied_run / "report.html",
        copied_run / "leaderboard.md",
        copied_run / "figures",
        (),
    )
    assert progress[-1] == (60, 60)
    names = {path.relative_to(photo_run.folder) for path in photo_run.folder.rglob("*") if path.is_file()}
    assert names == {path.relative_to(copied_run) for path in copied_run.rglob("*") if path.is_file()}
    for name in names:
        assert (copied_run / name).read_bytes() == (photo_run.folder / name).read_bytes(), name
    assert photo_run.page.stat().st_size < 10_000_000
    again = make_report(copied_run, on_progress=lambda *now: pytest.fail("decoded again"))
    assert again.path.read_bytes() == photo_run.page.read_bytes()
    assert os.stat(again.path).st_mode & 0o777 == 0o644


def test_without_pictures_the_page_shows_none(copied_run):
    made = make_report(copied_run, pictures=False, figures="none")
    assert made.notes == ("Pictures are not shown, as requested.",)
    assert made.figures is None
    assert not (copied_run / "figures").exists()
    assert "data:image" not in said(copied_run)
    data = data_of(made.path)
    assert data["pictures"] == []
    assert set(data["images"]["picture"]) == {-1}
    assert len(data["maps"]) == 2  # the map and what is alike are there all the same
    assert "Pictures are not shown, as requested." in said(copied_run)


def test_figures_as_png(copied_run):
    make_report(copied_run, pictures=False, figures="png")
    files = list((copied_run / "figures").iterdir())
    assert {path.name for path in files} >= {"leaderboard.png", "map.png", "confusion.png"}
    assert {path.suffix for path in files} == {".png"}
    for path in files:
        with Image.open(path) as image:
            assert image.format == "PNG"
            assert image.width > 900


def test_stores_that_moved(photo_run, copied_run, tmp_path):
    def move(record):
        for store in record["stores"]:
            store["path"] = f"features/{store['store']}.h5"

    edit(copied_run, move)
    made = make_report(copied_run, figures="none")
    why = "features/efficientnet_lite0.h5: not found. Pass its current path with: --store FILE"
    assert made.notes == (f"No map and no pictures: {why}",)
    data = data_of(made.path)
    assert (data["pictures"], data["maps"], data["why_no_map"]) == ([], {}, f"No map and no pictures: {why}")
    assert len(data["heads"]) == 8  # what heads said needs no store
    with pytest.raises(CompareError) as caught:  # what is named has to be enough
        make_report(copied_run, stores=photo_run.stores[:1])
    assert str(caught.value) == "features/vgg16.h5: not found. Pass its current path with: --store FILE"
    with pytest.raises(CompareError, match=r"resnet50\.h5: not a store of this run"):
        make_report(copied_run, stores=[*photo_run.stores, tmp_path / "resnet50.h5"])
    progress = make_report(copied_run, stores=[str(path) for path in photo_run.stores], figures="none")
    assert progress.notes == ()
    assert data_of(progress.path)["pictures"] == data_of(photo_run.page)["pictures"]


def test_a_store_made_anew_with_other_settings(photo_run, copied_run, photo_store, tmp_path, store_config):
    other = photo_store(
        tmp_path / "vgg16.h5", photo_run.data, {**store_config, "resample": "nearest"}, seed=1
    )
    edit(copied_run, lambda record: record["stores"][1].update(path=str(other)))
    made = make_report(copied_run, figures="none")
    assert made.notes == (
        f"No map and no pictures: {other}: was extracted again with other settings since the comparison. Run "
        "classify compare again",
    )


def test_a_store_that_is_damaged(photo_run, copied_run, tmp_path):
    broken = tmp_path / "vgg16.h5"
    broken.write_bytes(photo_run.stores[1].read_bytes()[:3000])
    edit(copied_run, lambda record: record["stores"][1].update(path=str(broken)))
    (note,) = make_report(copied_run, figures="none").notes
    assert note.startswith(f"No map and no pictures: {broken}")


@pytest.fixture
def elsewhere(photo_run, copied_run, tmp_path):
    """The run with stores whose image folder does not exist."""
    stores = [Path(shutil.copy(path, tmp_path)) for path in photo_run.stores]
    for path in stores:
        with h5py.File(path, "r+") as file:
            created = json.loads(file.attrs["created_with"])
            file.attrs["created_with"] = json.dumps({**created, "data": "/gone/photos"})

    def move(record):
        for store, path in zip(record["stores"], stores, strict=True):
            store["path"] = str(path)

    edit(copied_run, move)
    return copied_run


def test_images_that_moved(photo_run, elsewhere, tmp_path):
    made = make_report(elsewhere, figures="none")
    assert made.notes == (
        f"60 images are shown with the store's thumbnail of 32 pixels, {WITHOUT_FOLDER} (/gone/photos: not "
        "found). Pass it with: classify report RUN --data FOLDER",
    )
    assert len(data_of(made.path)["pictures"]) == 60
    small = made.path.stat().st_size
    with pytest.raises(CompareError) as caught:
        make_report(elsewhere, data=tmp_path / "none")
    assert str(caught.value) == (
        f"{tmp_path / 'none'}: no such folder. Pass the folder with the images of "
        "photos <svg onload=alert(3)>"
    )
    found = make_report(elsewhere, data=str(photo_run.data), figures="none")
    assert found.notes == ()
    assert data_of(found.path)["pictures"] == data_of(photo_run.page)["pictures"]
    assert found.path.stat().st_size > small
    other = make_report(elsewhere, data=tmp_path, figures="none")  # kept pictures are as good as the files
    assert other.notes == ()


def test_images_that_changed(photo_run, elsewhere, tmp_path):
    data = Path(shutil.copytree(photo_run.data, tmp_path / "data"))
    (data / "test/low/03.jpg").write_bytes((data / "test/low/04.jpg").read_bytes())
    (data / "test/award/05.jpg").unlink()
    (note,) = make_report(elsewhere, data=data, figures="none").notes
    assert note == (
        "2 images are shown with the store's thumbnail of 32 pixels, because of changes since the features "
        "were extracted: 1 is missing, 1 has changed."
    )


@pytest.mark.parametrize("name", ["report.html", "leaderboard.md", "figures"])
def test_write_errors_are_one_line(run, name):
    folder = run()
    if name == "figures":
        (folder / name).write_text("no folder")
    else:
        (folder / name).mkdir()
    before = set(folder.iterdir())
    with pytest.raises(CompareError) as caught:
        make_report(folder)
    assert str(caught.value).startswith(f"{folder / name}: cannot be written (")
    assert str(caught.value).endswith("). Check free space and permissions")
    assert {path for path in set(folder.iterdir()) - before if path.name.startswith(".")} == set()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written(run):
    folder = run()
    folder.chmod(0o555)
    try:
        with pytest.raises(CompareError, match=r"report\.html: cannot be written \(Permission denied\)"):
            make_report(folder)
    finally:
        folder.chmod(0o755)


def test_a_full_disk_leaves_the_earlier_report(run, monkeypatch):
    folder = run()
    before = make_report(folder, figures="none").path.read_bytes()
    names = sorted(folder.iterdir())

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(CompareError) as caught:
        make_report(folder, figures="none")
    assert str(caught.value) == (
        f"{folder / 'leaderboard.md'}: cannot be written (No space left on device). Check free space and "
        "permissions"
    )
    assert (folder / "report.html").read_bytes() == before
    assert sorted(folder.iterdir()) == names


def test_invalid_runs_and_formats_are_refused(run, tmp_path):
    with pytest.raises(CompareError) as caught:
        make_report(tmp_path)
    assert str(caught.value) == f"{tmp_path}: has no results.json. Make a run with: classify compare STORE"
    with pytest.raises(CompareError) as caught:
        make_report(tmp_path, figures="pdf")
    assert str(caught.value) == "figures is 'pdf': expected svg or png or none"
    folder = run()
    (folder / "predictions.csv").unlink()
    with pytest.raises(CompareError, match=r"predictions\.csv is missing"):
        make_report(folder)
    assert not (folder / "report.html").exists()


def test_without_a_test_split(run):
    folder = run(store={"counts": {"train": 9}})
    data = data_of(make_report(folder).path)
    assert data["splits"] == ["train"]
    assert data["tested"]["split"] == ["train"] * 18
    assert "predicted out of fold" in said(folder)
    assert "on held-out images" in said(folder)


@pytest.mark.parametrize("join", ["probabilities", "features"])
def test_entries_of_several_images(run, join):
    folder = run(store={"counts": {"train": 12, "test": 6}, "per_entry": 3}, join=join)
    data = data_of(make_report(folder).path)
    with (folder / "predictions.csv").open(newline="") as stream:
        entries = list(dict.fromkeys(row["entry"] for row in csv.DictReader(stream)))
    assert (data["unit"], data["tested"]["entry"]) == ("entry", entries)
    assert [len(unit) for unit in data["tested"]["images"]] == [3] * 4
    assert "4 test entries correctly" in said(folder)
    counts = next(head for head in data["heads"])["panels"]["confusion"]["count"]
    assert sum(counts) == 4


def test_where_only_the_baseline_was_compared(run):
    folder = run(heads=("baseline",))
    record = json.loads((folder / "results.json").read_text())
    assert record["recommended"] is None
    made = make_report(folder)
    assert made.figures is None  # of the recommended head, which is none
    assert data_of(made.path)["recommended"] == 0
    assert "No head could be fitted, so none is recommended." in made.table.read_text()


def test_a_head_that_failed_beside_one_that_did_not(run):
    folder = run(heads=("nearest-mean", "lda"))
    gone = "lda"

    def fail(record):
        for result in record["results"]:
            if result["head"] == gone:
                blank = {"metrics": dict.fromkeys(result["metrics"]), "intervals": {}, "undefined": {}}
                result.update(status="failed: <b>singular</b>", cv_balanced_accuracy=None, **blank)
                result.update(per_class=None, confusion_matrix=None, reliability=None, bundle_params=None)
        record["verdicts"] = []
        record["recommended"] = {"store": "efficientnet_lite0", "head": "nearest-mean", "bundle": "b"}

    edit(folder, fail)
    with (folder / "predictions.csv").open(newline="") as stream:
        head, *rows = csv.reader(stream)
    with (folder / "predictions.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([head, *(row for row in rows if row[1] != gone)])
    made = make_report(folder)
    assert [one["head"] for one in data_of(made.path)["heads"]] == ["nearest-mean", "baseline"]
    assert "failed: &lt;b&gt;singular&lt;/b&gt;" in said(folder)
    assert "failed: &lt;b&gt;singular&lt;/b&gt;" in made.table.read_text()
    assert (folder / "figures" / "map.svg").exists()


@pytest.mark.long
def test_a_page_of_a_thousand_test_images_is_under_ten_million_bytes(tmp_path, photo_store, store_config):
    """Each picture is noise: none could take more bytes."""
    generator = np.random.default_rng(0)
    for split, count in {"train": 40, "test": 334}.items():
        for name in ("low", "middle", "award"):
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 256, (120, 160, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number:04}.jpg", quality=60)
    store = photo_store(tmp_path / "efficientnet_lite0.h5", tmp_path / "data", store_config, seed=0)
    heads = ("nearest-mean", "lda")
    folder = compare([store], heads=heads, out=tmp_path / "run", jobs=1, report=False).folder
    made = make_report(folder, figures="none")
    data = data_of(made.path)
    assert len(data["tested"]["entry"]) == 1002
    assert len(data["images"]["path"]) == 1122
    size = made.path.stat().st_size
    assert size < 10_000_000
    pictures = sum(len(uri) + 3 for uri in data["pictures"])
    assert pictures <= 6_000_000
    # What 24 more heads would add: four digits and a comma for each class of each image.
    assert size + 24 * 1002 * 3 * 5 < 10_000_000
    shown = [data["images"]["picture"][image] for unit in data["tested"]["images"] for image in unit]
    missing = sum(number < 0 for number in shown)
    assert missing == 0 or any("not shown, to limit the size of this page" in note for note in made.notes)
    # The tested images come first: where one of them has no room, no other has.
    others = [k for k, split in enumerate(data["images"]["split"]) if split == "train"]
    assert missing == 0 or all(data["images"]["picture"][k] < 0 for k in others)
