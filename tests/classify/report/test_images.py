"""The images of a run, against the folder as read by Pillow and hashlib."""

import dataclasses
import hashlib

import numpy as np
import pytest
from PIL import Image

from classify.data.load import load_same_dataset
from classify.errors import CompareError
from classify.report.images import data_folder, run_images


def test_run_images_are_the_readable_graded_files(photo_run, photo_shown):
    files = {
        path.relative_to(photo_run.data).as_posix(): path
        for split in ("train", "test")
        for path in photo_run.data.glob(f"{split}/*/*")
        if path.name != "broken.jpg"
    }
    assert len(photo_shown) == len(files) == 61
    assert set(photo_shown.path) == set(files)
    assert photo_shown.classes == ("low", "middle", "award")
    for row, path in enumerate(photo_shown.path):
        split, name, _ = path.split("/", 2)
        assert photo_shown.split[row] == split
        assert photo_shown.classes[photo_shown.y[row]] == name
        assert photo_shown.entry[row] == path
        assert photo_shown.sha256[row] == hashlib.sha256(files[path].read_bytes()).hexdigest()
        with Image.open(files[path]) as image:
            assert (photo_shown.width[row], photo_shown.height[row]) == image.size
    np.testing.assert_array_equal(photo_shown.tested, photo_shown.split == "test")
    # Of the two copies in train one is fitted on.
    left_out = photo_shown.fitted != (photo_shown.split == "train")
    assert [photo_shown.path[row] for row in np.flatnonzero(left_out)] == ["train/award/copy.jpg"]
    copies = [photo_shown.path.index(f"train/award/{name}.jpg") for name in ("00", "copy")]
    assert photo_shown.group[copies[0]] == photo_shown.group[copies[1]]
    assert len(np.unique(photo_shown.group)) == 60
    assert photo_shown.squashed
    assert photo_shown.source == str(photo_run.data)
    np.testing.assert_array_equal(photo_shown.sample, np.arange(61))


def test_without_a_test_split_what_is_fitted_on_is_tested(make_store):
    path = make_store(counts={"train": 5, "val": 3})
    shown = run_images(load_same_dataset([path], order=None), store=path)
    assert set(shown.split) == {"train"}
    np.testing.assert_array_equal(shown.tested, shown.fitted)
    assert shown.tested.sum() == 16
    assert shown.source == ""


def test_a_content_under_two_grades_is_neither_fitted_on_nor_tested(make_store):
    path = make_store(counts={"train": 6, "test": 4}, copy_test_into_train=True)
    shown = run_images(load_same_dataset([path], order=None), store=path)
    assert len(shown) == 12 + 8 + 8
    assert int(shown.tested.sum()) == 8
    assert int(shown.fitted.sum()) == 12  # a train image that is a test image is left out of fitting


def test_images_of_an_entry_with_averaged_features_have_its_row(make_store):
    path = make_store(counts={"train": 6, "test": 4}, per_entry=2)
    samples = load_same_dataset([path], order=None, join="features")
    shown = run_images(samples, store=path)
    assert len(shown) == 20
    for row, entry in enumerate(shown.entry):
        assert samples[0].entry[shown.sample[row]] == entry
        assert shown.group[row] == samples[0].group[shown.sample[row]]
    assert np.bincount(shown.sample).tolist() == [2] * 10
    assert int(shown.tested.sum()) == 8


def test_a_store_of_other_images_is_refused(make_store):
    path, other = make_store(), make_store("other", counts={"train": 6, "test": 4}, per_entry=2)
    with pytest.raises(CompareError) as caught:
        run_images(load_same_dataset([path], order=None), store=other)
    assert (
        str(caught.value)
        == f"{other}: its images differ from those of the comparison. Run classify compare again"
    )
    paired = make_store("paired", counts={"train": 20, "test": 10}, per_entry=2)
    joined = load_same_dataset([paired], order=None, join="features")
    with pytest.raises(CompareError, match="differ from those of the comparison"):
        run_images(joined, store=other)


def test_the_data_folder(photo_run, photo_shown, tmp_path):
    assert data_folder(photo_shown) == photo_run.data
    assert data_folder(photo_shown, given=tmp_path) == tmp_path
    for source in ("", str(tmp_path / "gone"), "no\0name", "x" * 5000, str(photo_run.page)):
        assert data_folder(dataclasses.replace(photo_shown, source=source)) is None
    for given in (tmp_path / "gone", photo_run.page):
        with pytest.raises(CompareError) as caught:
            data_folder(photo_shown, given=given)
        assert str(caught.value) == (
            f"{given}: no such folder. Pass the folder with the images of photos <svg onload=alert(3)>"
        )
