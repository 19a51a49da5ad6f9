"""Samples from small stores: what is fitted on, what is scored, what is left out and said."""

import hashlib
from dataclasses import dataclass

import numpy as np
import pytest

from classify.data.samples import load_samples
from classify.errors import CompareError
from featurize import ConfigError, StoreError
from featurize.store.reader import ContentRow, ImageTable
from featurize.store.writer import write_store

K = 2  # views of each train picture


@dataclass
class File:
    """One image file; pictures of the same letter are near duplicates, equal names one content."""

    path: str  # split/class/file or split/class/entry/file
    picture: str  # "" for a file that could not be read


def content_name(picture):
    return hashlib.sha256(picture.encode()).hexdigest()


def letter_thumbnail(letter):
    return np.random.default_rng(ord(letter)).integers(0, 250, (32, 32, 3), dtype=np.uint8)


def row(picture, *, with_views):
    letter, variant = picture[0], int(picture[1:] or 0)
    value = float(ord(letter) - ord("a"))
    bits = int.from_bytes(hashlib.sha256(letter.encode()).digest()[:8], "big")
    views = np.array([[value, variant, view] for view in range(1, K + 1)], dtype=np.float32)
    return ContentRow(
        sha256=content_name(picture),
        width=10,
        height=10,
        phash=bits ^ (variant & 0b11),
        thumbnail=letter_thumbnail(letter) + np.uint8(variant % 4),
        plain=np.array([value, variant, 0], dtype=np.float32),  # the third column tells the view
        augmented=views if with_views else None,
    )


def make_store(folder, files, *, classes, ordered=False):
    """Write a store the way extract does: contents by hash, images by path, views for train only."""
    files = sorted(files, key=lambda file: file.path)
    pictures = sorted({file.picture for file in files if file.picture}, key=content_name)
    trained = {file.picture for file in files if file.path.startswith("train/")}
    parts = [file.path.split("/") for file in files]
    images = ImageTable(
        path=[file.path for file in files],
        sha256=[content_name(file.picture) for file in files],
        content=np.array([pictures.index(f.picture) if f.picture else -1 for f in files], dtype=np.int64),
        label=np.array([-1 if p[0] == "new" else classes.index(p[1]) for p in parts], dtype=np.int16),
        split=[p[0] for p in parts],
        entry=["/".join(p[:3]) for p in parts],
        skipped=["" if file.picture else "not an image" for file in files],
    )
    path = folder / "vgg16.h5"
    write_store(
        path,
        config={"backbone": "vgg16"},
        config_digest="abc",
        rows=[row(picture, with_views=picture in trained) for picture in pictures],
        n_views=K,
        n_features=3,
        images=images,
        classes=classes,
        ordered=ordered,
        created_with={"dataset": "task"},
    )
    return path


@pytest.fixture
def load(tmp_path):
    def load(files, *, classes=("bad", "good"), order=None, ordered=False):
        table = [File(path, picture) for path, picture in files.items()]
        return load_samples(make_store(tmp_path, table, classes=classes, ordered=ordered), order=order)

    return load


PLAIN = {
    "train/bad/1.jpg": "a",
    "train/bad/2.jpg": "b",
    "train/good/1.jpg": "c",
    "train/good/2.jpg": "d",
    "test/bad/1.jpg": "e",
    "test/good/1.jpg": "f",
}


def paths(samples, images):
    return [samples.path[i] for i in images]


def test_without_duplicates_nothing_is_left_out(load):
    samples = load(PLAIN)
    assert (samples.store, samples.dataset, samples.backbone) == ("vgg16", "task", "vgg16")
    assert samples.path == sorted(PLAIN)
    assert samples.y.tolist() == [0, 1, 0, 0, 1, 1]
    assert paths(samples, samples.train_images) == [p for p in sorted(PLAIN) if p.startswith("train")]
    assert paths(samples, samples.test_images) == ["test/bad/1.jpg", "test/good/1.jpg"]
    assert samples.fit_images.tolist() == samples.train_images.tolist()
    assert samples.has_test
    assert not samples.has_val
    assert len(np.unique(samples.group)) == 6
    assert samples.facts.counts == {"train": {"bad": 2, "good": 2}, "test": {"bad": 1, "good": 1}}
    assert samples.facts.lines() == []


def test_rows_are_the_plain_view_followed_by_augmented_views(load):
    samples = load(PLAIN)
    a, e, c = (samples.path.index(p) for p in ("train/bad/1.jpg", "test/bad/1.jpg", "train/good/1.jpg"))
    rows = samples.rows([c, e, a])  # any order; e is a test image without views
    assert samples.n_rows(np.array([c, e, a])) == 3 + 1 + 3
    # columns: letter, variant, view
    expected = [[2, 0, 0], [2, 0, 1], [2, 0, 2], [4, 0, 0], [0, 0, 0], [0, 0, 1], [0, 0, 2]]
    np.testing.assert_array_equal(rows.X, np.array(expected, dtype=np.float32))
    assert rows.X.dtype == np.float32
    assert rows.y.tolist() == [1, 1, 1, 0, 0, 0, 0]
    assert rows.image.tolist() == [c, c, c, e, a, a, a]
    assert rows.groups.tolist() == [samples.group[i] for i in [c, c, c, e, a, a, a]]
    assert rows.is_plain.tolist() == [True, False, False, True, True, False, False]


def test_rows_without_views_are_the_plain_features(load):
    samples = load(PLAIN)
    rows = samples.rows(samples.fit_images, views=False)
    np.testing.assert_array_equal(rows.X[:, 2], 0)
    assert rows.is_plain.all()
    assert rows.image.tolist() == samples.fit_images.tolist()
    rows.X[:] = -1
    assert samples.plain.min() >= 0  # rows are new arrays
    assert samples.rows([]).X.shape == (0, 3)


def test_train_images_like_test_images_are_left_out_and_counted(load):
    samples = load(
        PLAIN
        | {
            "train/bad/copy.jpg": "e",  # the very file
            "train/good/near.jpg": "f1",  # nearly
            "train/good/nearer.jpg": "f2",
        }
    )
    assert paths(samples, samples.train_images) == [
        "train/bad/1.jpg",
        "train/bad/2.jpg",
        "train/good/1.jpg",
        "train/good/2.jpg",
    ]
    assert samples.facts.left_out.train_like_test == (
        ("train/bad/copy.jpg", "test/bad/1.jpg"),
        ("train/good/near.jpg", "test/good/1.jpg"),
        ("train/good/nearer.jpg", "test/good/1.jpg"),
    )
    line = samples.facts.lines()[0]
    assert line.startswith(
        "3 training images are identical or nearly identical to test images and were left out of fitting: "
        "train/bad/copy.jpg (like test/bad/1.jpg)"
    )
    alike = [
        samples.path.index(p) for p in ("test/good/1.jpg", "train/good/near.jpg", "train/good/nearer.jpg")
    ]
    assert len(set(samples.group[alike])) == 1


def test_an_image_of_the_same_entry_as_a_copy_of_a_test_image_is_still_fitted_on(load):
    samples = load(PLAIN | {"train/bad/e1/1.jpg": "e", "train/bad/e1/2.jpg": "g"})
    kept, left_out = (samples.path.index(f"train/bad/e1/{k}.jpg") for k in (2, 1))
    assert samples.fit[kept]
    assert not samples.fit[left_out]
    assert (
        samples.group[kept] == samples.group[left_out] == samples.group[samples.path.index("test/bad/1.jpg")]
    )


def test_val_duplicates_leave_train_and_test_duplicates_leave_val(load):
    samples = load(
        PLAIN
        | {
            "val/bad/1.jpg": "g",
            "val/bad/2.jpg": "e1",  # nearly test/bad/1.jpg
            "val/good/1.jpg": "h",
            "train/bad/near.jpg": "g1",  # nearly val/bad/1.jpg
        }
    )
    assert samples.has_val
    assert paths(samples, samples.val_images) == ["val/bad/1.jpg", "val/good/1.jpg"]
    assert samples.fit_images.tolist() == sorted([*samples.train_images, *samples.val_images])
    assert samples.facts.left_out.train_like_val == (("train/bad/near.jpg", "val/bad/1.jpg"),)
    assert samples.facts.left_out.val_like_test == (("val/bad/2.jpg", "test/bad/1.jpg"),)
    assert "train/bad/near.jpg" not in paths(samples, samples.fit_images)


def test_one_file_with_two_grades_is_not_used_and_listed(load):
    samples = load(
        PLAIN
        | {
            "train/bad/x.jpg": "x",
            "train/good/x.jpg": "x",
            "train/bad/y.jpg": "y",  # its other grade stands in test
            "test/good/y.jpg": "y",
        }
    )
    used = [*paths(samples, samples.fit_images), *paths(samples, samples.test_images)]
    assert sorted(used) == sorted(PLAIN)
    assert set(samples.facts.left_out.conflicts) == {
        ("train/bad/x.jpg", "train/good/x.jpg"),
        ("test/good/y.jpg", "train/bad/y.jpg"),
    }
    assert (
        "one file has several grades and was left out of fitting and scoring: "
        "train/bad/x.jpg, train/good/x.jpg"
    ) in samples.facts.lines()
    assert samples.facts.left_out.train_like_test == ()


def test_train_copies_are_fitted_on_once_and_test_copies_are_all_scored(load):
    samples = load(
        PLAIN
        | {"train/bad/3.jpg": "a", "train/bad/4.jpg": "a", "test/good/2.jpg": "f", "train/bad/5.jpg": "b1"}
    )
    assert samples.facts.left_out.copies == (
        ("train/bad/3.jpg", "train/bad/1.jpg"),
        ("train/bad/4.jpg", "train/bad/1.jpg"),
    )
    assert samples.facts.left_out.test_copies == (("test/good/2.jpg", "test/good/1.jpg"),)
    assert samples.facts.near_duplicates == (("train/bad/2.jpg", "train/bad/5.jpg"),)
    fitted = [path.removeprefix("train/") for path in paths(samples, samples.train_images)]
    # 5.jpg is a near copy of 2.jpg: in one group with it, and fitted on
    assert fitted == ["bad/1.jpg", "bad/2.jpg", "bad/5.jpg", "good/1.jpg", "good/2.jpg"]
    assert len(samples.test_images) == 3
    assert samples.facts.lines()[0].startswith("2 images are exact copies of other images of the same split")


def test_ungraded_images_link_no_groups(load):
    samples = load(PLAIN | {"new/1.jpg": "e1", "new/2.jpg": ""})  # e1 is nearly test/bad/1.jpg
    assert samples.path == sorted(PLAIN)
    assert samples.facts.near_duplicates == ()
    assert samples.facts.skipped == ()


def test_without_a_test_split_train_and_val_are_merged(load):
    files = {path: picture for path, picture in PLAIN.items() if not path.startswith("test")}
    samples = load(files | {"val/bad/1.jpg": "g", "val/good/1.jpg": "d1", "val/bad/2.jpg": "a"})
    assert not samples.has_test
    assert not samples.has_val
    assert set(samples.split) == {"train"}
    assert "val/good/1.jpg" in paths(samples, samples.train_images)  # a near duplicate: grouped, not left out
    assert samples.facts.left_out.copies == (("val/bad/2.jpg", "train/bad/1.jpg"),)
    assert samples.facts.counts["val"] == {"bad": 2, "good": 1}
    assert samples.facts.merged_val
    assert samples.facts.lines()[-1].startswith("there is no test split, so train and val are used together")
    assert len(samples.test_images) == 0


def test_skipped_images_are_listed_with_their_reason(load):
    samples = load(PLAIN | {"train/bad/broken.jpg": ""})
    assert "train/bad/broken.jpg" not in samples.path
    assert samples.facts.skipped == (("train/bad/broken.jpg", "not an image"),)
    assert samples.facts.lines() == [
        "1 graded image could not be read and was left out: train/bad/broken.jpg (not an image)"
    ]


def test_an_order_renumbers_the_labels(load):
    samples = load(PLAIN, order=("good", "bad"))
    assert samples.classes == ("good", "bad")
    assert samples.ordered
    assert samples.y.tolist() == [1, 0, 1, 1, 0, 0]
    assert samples.facts.counts["test"] == {"good": 1, "bad": 1}


def test_without_an_order_the_store_decides(load):
    assert not load(PLAIN).ordered
    assert load(PLAIN, ordered=True).ordered


@pytest.mark.parametrize("order", [("good",), ("good", "bad", "bad"), ("good", "worse")])
def test_an_order_that_differs_from_the_classes_is_refused(load, order):
    with pytest.raises(ConfigError, match=r"--order good.*: the classes of .*vgg16.h5 are bad, good"):
        load(PLAIN, order=order)


def test_a_big_group_is_reported(load):
    singles = {f"train/good/{k:03}.jpg": chr(ord("h") + k) for k in range(38)}
    samples = load(PLAIN | singles | {f"train/bad/entry/{k}.jpg": f"g{k}" for k in range(4)})
    assert samples.facts.big_groups == ((4, pytest.approx(4 / 48), "train/bad/entry/0.jpg"),)
    assert any(line.startswith("4 images (8%) form one group") for line in samples.facts.lines())


def test_few_images_are_no_big_groups(load):
    assert load(PLAIN).facts.big_groups == ()  # each is a sixth of all, and alone


def test_a_class_missing_from_test_is_a_fact(load):
    files = {path: picture for path, picture in PLAIN.items() if path != "test/good/1.jpg"}
    samples = load(files)
    assert samples.facts.untested == ("good",)
    assert samples.facts.lines() == ["no test image of good: some metrics are undefined or less reliable"]


def test_one_class_is_refused(load):
    with pytest.raises(CompareError, match=r"only one class \(bad\); comparing heads needs two or more"):
        load({"train/bad/1.jpg": "a", "train/bad/2.jpg": "b"}, classes=("bad",))


def test_a_class_whose_images_were_all_skipped_is_named(load):
    files = PLAIN | {"train/good/1.jpg": "", "train/good/2.jpg": ""}
    message = r"class 'good' has no image to fit on: 3 found, 2 could not be read \(train/good/1.jpg: not an"
    with pytest.raises(CompareError, match=message):
        load(files)


def test_a_class_with_all_training_images_in_test_is_refused(load):
    files = PLAIN | {"train/good/1.jpg": "f", "train/good/2.jpg": "f1"}
    with pytest.raises(CompareError, match="class 'good' has no image to fit on: 3 found, 3 are test"):
        load(files)


def test_a_test_split_that_cannot_be_read_is_refused(load):
    files = PLAIN | {"test/good/1.jpg": "", "test/bad/1.jpg": ""}
    with pytest.raises(CompareError, match="none of the 2 test images could be read"):
        load(files)


def test_a_test_split_of_conflicts_only_is_refused(load):
    files = PLAIN | {"test/good/1.jpg": "e"}
    with pytest.raises(CompareError, match="no test image is left to score"):
        load(files)


def test_a_missing_store_is_a_store_error(tmp_path):
    with pytest.raises(StoreError, match="no such store"):
        load_samples(tmp_path / "none.h5")


def test_paths_with_undecodable_bytes_come_through(load):
    odd = "train/bad/caf\udce9.jpg"
    samples = load(PLAIN | {odd: "g"})
    assert odd in samples.path
