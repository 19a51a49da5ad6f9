"""Thumbnails of the page against Pillow, and their byte budget."""

import base64
import dataclasses
import io

import h5py
import numpy as np
import pytest
from PIL import Image

from classify.data.load import load_same_dataset
from classify.report import thumbnails as module
from classify.report.images import run_images
from classify.report.thumbnails import BUDGET, STEPS, page_thumbnails

START = "data:image/webp;base64,"


def opened(uri: str) -> Image.Image:
    assert uri.startswith(START)
    image = Image.open(io.BytesIO(base64.b64decode(uri.removeprefix(START), validate=True)))
    assert image.format == "WEBP"
    return image.convert("RGB")


@pytest.fixture
def folder(tmp_path, draw_picture):
    """Twelve pictures of three classes: one tall, one small, one a copy."""
    for number in range(12):
        place = tmp_path / "data" / "train" / ("low", "middle", "award")[number % 3]
        place.mkdir(parents=True, exist_ok=True)
        size = {1: (100, 400), 2: (40, 30)}.get(number, (320, 240))
        draw_picture(50 + number, size=size).save(place / f"{number:02}.png")
    (tmp_path / "data/train/low/copy.png").write_bytes((tmp_path / "data/train/low/00.png").read_bytes())
    return tmp_path / "data"


@pytest.fixture
def shown(folder, tmp_path, photo_store, store_config):
    store = photo_store(tmp_path / "a.h5", folder, {**store_config}, seed=0)
    return run_images(load_same_dataset([store], order=None), store=store)


def row_of(shown, name):
    return next(row for row, path in enumerate(shown.path) if path.endswith(f"/{name}.png"))


def test_thumbnails_match_pillow(shown, folder):
    rows = [row_of(shown, name) for name in ("03", "01", "02")]
    small = [row_of(shown, name) for name in ("04", "01")]
    told = []
    found = page_thumbnails(
        shown, data=folder, large=rows, small=small, on_progress=lambda *now: told.append(now)
    )
    assert found.sides == STEPS[0] == (160, 64)
    assert found.notes == ()
    assert len(found.uri) == 4  # one is in both
    expected = {"03": (160, 120), "01": (40, 160), "02": (40, 30), "04": (64, 48)}
    for name, size in expected.items():
        picture = opened(found.uri[found.number[row_of(shown, name)]])
        assert picture.size == size
        with Image.open(folder / shown.path[row_of(shown, name)]) as image:
            image.thumbnail((max(size), max(size)), Image.Resampling.LANCZOS)
            assert (
                np.abs(np.asarray(picture, float) - np.asarray(image, float)).mean() < 10
            )  # what WebP loses
    assert set(np.flatnonzero(found.number >= 0)) == {*rows, *small}
    assert told == [(k, 4) for k in range(1, 5)]


def test_copies_share_a_thumbnail_which_is_large_if_one_of_them_needs_it(shown, folder):
    first, copy = row_of(shown, "00"), row_of(shown, "copy")
    found = page_thumbnails(shown, data=folder, large=[copy], small=[first])
    assert found.number[first] == found.number[copy] == 0
    assert len(found.uri) == 1
    assert opened(found.uri[0]).size == (160, 120)


def test_no_thumbnail_if_none_is_requested(shown, folder):
    found = page_thumbnails(shown, data=folder)
    assert (found.uri, set(found.number.tolist()), found.notes) == ((), {-1}, ())


def bytes_of(found) -> int:
    """Return what the addresses take in a JSON list: each with two quotes and a comma."""
    return sum(len(uri) + 3 for uri in found.uri)


def test_the_first_sizes_that_fit_the_budget_are_taken(shown, folder, monkeypatch):
    every = {"data": folder, "large": range(6), "small": range(6, len(shown))}
    costs = []
    for step in STEPS:
        with monkeypatch.context() as patch:
            patch.setattr(module, "STEPS", (step,))
            costs.append(bytes_of(page_thumbnails(shown, **every)))
    assert costs == sorted(costs, reverse=True)
    for step, cost in zip(STEPS, costs, strict=True):
        fits = page_thumbnails(shown, **every, budget=cost)
        assert (fits.sides, bytes_of(fits), fits.notes) == (step, cost, ())
    below = page_thumbnails(shown, **every, budget=costs[-1] - 1)
    assert below.sides == STEPS[-1]
    assert below.notes == ("1 image is not shown, to limit the size of this page.",)


def test_where_not_all_fit_the_most_important_do(shown, folder, monkeypatch):
    monkeypatch.setattr(module, "STEPS", ((64, 32),))
    large, small = [7, 3, 11], [5, 3, 9, 0]
    order = [7, 3, 11, 5, 9, 0]
    whole = page_thumbnails(shown, data=folder, large=large, small=small)
    cost = [len(whole.uri[whole.number[row]]) + 3 for row in order]
    for n in range(len(order) + 1):
        for spare in (0, 1):  # a byte too few and it is not there
            budget = sum(cost[:n]) - spare
            found = page_thumbnails(shown, data=folder, large=large, small=small, budget=max(0, budget))
            assert bytes_of(found) <= max(0, budget)
            there = order[: max(0, n - spare)]
            assert set(np.flatnonzero(found.number >= 0)) == set(there)
            assert [found.uri[found.number[row]] for row in there] == [
                whole.uri[whole.number[row]] for row in there
            ]
    assert found.notes == ("1 image is not shown, to limit the size of this page.",)
    assert 10_000_000 - BUDGET >= 3_000_000  # room for the scripts, the figures and what is said


def test_thumbnails_are_cached(shown, folder, tmp_path, monkeypatch):
    every = range(len(shown))
    first = page_thumbnails(shown, data=folder, large=every)
    monkeypatch.setattr(module, "thumbnails_at", lambda *args, **options: pytest.fail("decoded again"))
    again = page_thumbnails(shown, data=None, large=every)
    assert again.uri == first.uri
    assert again.notes == ()
    np.testing.assert_array_equal(again.number, first.number)


def test_a_large_thumbnail_is_added_to_a_cached_small_one(shown, folder):
    page_thumbnails(shown, data=folder, small=[3])
    told = []
    found = page_thumbnails(shown, data=folder, large=[3], on_progress=lambda *now: told.append(now))
    assert opened(found.uri[0]).size == (160, 120)
    assert told == [(1, 1)]
    both = page_thumbnails(shown, data=None, small=[3])  # and both are kept
    assert opened(both.uri[0]).size == (64, 48)


def test_a_damaged_cache_file_is_replaced(shown, folder, tmp_path):
    kept = tmp_path / "kept"
    first = page_thumbnails(shown, data=folder, large=[0, 1], folder=kept)
    (file,) = kept.iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:-10] + b"0123456789")
    told = []
    again = page_thumbnails(
        shown, data=folder, large=[0, 1], folder=kept, on_progress=lambda *now: told.append(now)
    )
    assert again.uri == first.uri
    assert told == [(1, 2), (2, 2)]
    assert file.read_bytes() == whole


def test_a_cache_that_cannot_be_written_only_costs_time(shown, folder, tmp_path):
    (tmp_path / "file").write_text("no folder")
    found = page_thumbnails(shown, data=folder, large=[0], folder=tmp_path / "file")
    assert len(found.uri) == 1


def test_without_the_folder_the_stores_thumbnails_are_used(shown):
    rows = [row_of(shown, name) for name in ("03", "01", "00")]
    found = page_thumbnails(shown, data=None, large=rows)
    assert found.notes == (
        "3 images are shown with the store's thumbnail of 32 pixels, because the image folder was not found "
        f"({shown.source}: not found). Pass it with: classify report RUN --data FOLDER",
    )
    with h5py.File(shown.store) as file:
        own = file["content/thumbnail"][:]
        sha256 = file["content/sha256"].asstr()[:].tolist()
    for row, size in zip(rows, ((32, 24), (8, 32), (32, 24)), strict=True):
        picture = opened(found.uri[found.number[row]])
        assert picture.size == size
        pixels = own[sha256.index(shown.sha256[row])].mean(axis=(0, 1))
        np.testing.assert_allclose(np.asarray(picture, float).mean(axis=(0, 1)), pixels, atol=6)
    unknown = page_thumbnails(
        dataclasses.replace(shown, source="", squashed=False), data=None, large=[rows[1]]
    )
    assert unknown.notes == (
        "1 image is shown with the store's thumbnail of 32 pixels, because the image folder was not found "
        "(the store does not name it). Pass it with: classify report RUN --data FOLDER",
    )
    assert opened(unknown.uri[0]).size == (32, 32)  # the middle of the image: its proportions are not known


def test_changed_files_get_the_stores_thumbnails(shown, folder, draw_picture):
    rows = {name: row_of(shown, name) for name in ("03", "04", "05", "06", "00", "07")}
    files = {name: folder / shown.path[row] for name, row in rows.items()}
    draw_picture(999).save(files["03"])
    files["04"].write_text("no picture any more")
    files["05"].unlink()
    files["06"].unlink()
    files["06"].mkdir()
    files["00"].unlink()  # there is a copy of it
    found = page_thumbnails(shown, data=folder, large=list(rows.values()))
    assert found.notes == (
        "4 images are shown with the store's thumbnail of 32 pixels, because of changes since the features "
        "were extracted: 2 have changed, 1 is missing, 1 could not be read.",
    )
    sizes = {name: opened(found.uri[found.number[row]]).size for name, row in rows.items()}
    assert sizes == {
        **dict.fromkeys(("03", "04", "05", "06"), (32, 24)),
        **dict.fromkeys(("00", "07"), (160, 120)),
    }
    changed = np.asarray(opened(found.uri[found.number[rows["03"]]]), float)
    with h5py.File(shown.store) as file:
        sha256 = file["content/sha256"].asstr()[:].tolist()
        own = file["content/thumbnail"][sha256.index(shown.sha256[rows["03"]])].astype(float)
    np.testing.assert_allclose(changed.mean(axis=(0, 1)), own.mean(axis=(0, 1)), atol=6)
    # What a file held is not kept under the name of what it holds now.
    again = page_thumbnails(shown, data=folder, large=list(rows.values()))
    assert again.uri == found.uri
    assert again.notes == found.notes


@pytest.mark.parametrize("name", ["../secret.png", "/etc/../{}", "train/../../secret.png", "nul\0.png"])
def test_a_path_that_leads_out_of_the_folder_is_not_followed(shown, folder, draw_picture, name):
    secret = folder.parent / "secret.png"
    draw_picture(50).save(secret)
    outside = dataclasses.replace(
        shown, path=[name.format(secret)] * len(shown), sha256=[one[::-1] for one in shown.sha256]
    )
    found = page_thumbnails(outside, data=folder, large=[0])
    assert opened(found.uri[0]).size[0] <= 32
    assert found.notes[0].endswith("since the features were extracted: 1 is missing.")
