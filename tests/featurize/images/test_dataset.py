"""Folder trees as people lay them out, and what the table says of them."""

import hashlib
import os
import random
import socket
import unicodedata
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from featurize.errors import ConfigError, DatasetError
from featurize.images.dataset import find_images, load_dataset
from featurize.images.folders import SCALES, order_classes, suggest_order

TUTORIAL = ["train/award_train/1.jpg", "train/low_train/1.jpg", "train/middle_train/1.jpg"]
SPLIT = ["train/a/1.jpg", "train/b/1.jpg", "test/a/2.jpg"]


def make(root, paths):
    for path in paths:
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(path.encode(errors="surrogateescape"))
    return root


def table(dataset):
    return {image.path: (image.split, image.class_name, image.entry) for image in dataset.images}


def test_tutorial_layout_strips_the_split_from_the_class(tmp_path):
    make(
        tmp_path, [*TUTORIAL, "test/award_test/9.jpg", "test/low-TEST/9.jpg", "Validation/middle valid/3.jpg"]
    )
    dataset = load_dataset(tmp_path)
    assert dataset.classes == ("award", "low", "middle")
    assert dataset.has_split
    assert not dataset.ordered
    assert dataset.suggested_order == ("low", "middle", "award")
    assert table(dataset) == {
        "Validation/middle valid/3.jpg": ("val", "middle", "Validation/middle valid/3.jpg"),
        "test/award_test/9.jpg": ("test", "award", "test/award_test/9.jpg"),
        "test/low-TEST/9.jpg": ("test", "low", "test/low-TEST/9.jpg"),
        "train/award_train/1.jpg": ("train", "award", "train/award_train/1.jpg"),
        "train/low_train/1.jpg": ("train", "low", "train/low_train/1.jpg"),
        "train/middle_train/1.jpg": ("train", "middle", "train/middle_train/1.jpg"),
    }
    assert [dataset.label(image) for image in dataset.images] == [2, 0, 1, 0, 1, 2]


def test_only_the_name_of_the_split_is_stripped(tmp_path):
    dataset = load_dataset(
        make(tmp_path, ["train/crash test/1.jpg", "train/_train/1.jpg", "train/train/1.jpg"])
    )
    assert dataset.classes == ("_train", "crash test", "train")


def test_hashes_are_computed_from_the_content(tmp_path):
    dataset = load_dataset(make(tmp_path, SPLIT))
    for image in dataset.images:
        assert image.sha256 == hashlib.sha256(image.path.encode()).hexdigest()
        assert image.problem == ""


def test_without_split_every_class_folder_is_training(tmp_path):
    dataset = load_dataset(make(tmp_path, ["award/x/1.jpg", "low/1.jpg", "Unlabelled/e/1.jpg", "notes.txt"]))
    assert not dataset.has_split
    assert dataset.classes == ("award", "low")
    assert table(dataset) == {
        "Unlabelled/e/1.jpg": ("new", "", "Unlabelled/e"),
        "award/x/1.jpg": ("train", "award", "award/x"),
        "low/1.jpg": ("train", "low", "low/1.jpg"),
    }
    assert dataset.outside == ("notes.txt",)
    assert dataset.label(dataset.images[0]) == -1


def test_images_alone_are_ungraded(tmp_path):
    make(tmp_path, ["b.jpg", "a.png"])
    (tmp_path / "empty").mkdir()
    dataset = load_dataset(tmp_path)
    assert table(dataset) == {"a.png": ("new", "", "a.png"), "b.jpg": ("new", "", "b.jpg")}
    assert dataset.classes == ()
    assert dataset.suggested_order is None


def test_only_new_images(tmp_path):
    dataset = load_dataset(make(tmp_path, ["new/1.jpg", "new/e/f/2.jpg"]))
    assert table(dataset) == {"new/1.jpg": ("new", "", "new/1.jpg"), "new/e/f/2.jpg": ("new", "", "new/e")}
    assert dataset.classes == ()


def test_entries_are_first_folders_with_their_whole_path(tmp_path):
    make(tmp_path, ["train/a/e/1.jpg", "train/a/e/deep/2.jpg", "train/b/e/1.jpg", "train/b/3.jpg"])
    assert [image.entry for image in load_dataset(tmp_path).images] == [
        "train/a/e",
        "train/a/e",
        "train/b/3.jpg",
        "train/b/e",
    ]
    assert all(image.entry == image.path for image in load_dataset(tmp_path, entries="image").images)
    with pytest.raises(ConfigError, match=r"Unknown --entries 'page'\. Choose one of: folder, image"):
        load_dataset(tmp_path, entries="page")


def test_files_in_no_class_are_listed_and_system_files_are_counted(tmp_path):
    make(tmp_path, [*SPLIT, "MANIFEST.csv", "train/notes.txt", "train/a/notes.txt"])
    make(
        tmp_path,
        [".DS_Store", "train/a/Thumbs.db", "train/a/.x.jpg", "__MACOSX/train/a/1.jpg", "new/desktop.ini"],
    )
    dataset = load_dataset(tmp_path)
    assert dataset.outside == ("MANIFEST.csv", "train/notes.txt")
    assert dataset.ignored == 5
    assert [image.path for image in dataset.images if "notes" in image.path] == ["train/a/notes.txt"]
    assert len(dataset.images) == 4


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ([*SPLIT, "extra/x.jpg"], r"'extra' next to 'train' is not a split\. .*val, test or new .*rename it"),
        (["test/a/1.jpg", "b/1.jpg"], "there is 'test' but no 'train' folder"),
        (
            [*SPLIT, "test/c/1.jpg"],
            r"class 'c' is in test but not in train\. train has 'a', 'b'; test has 'a', 'c'",
        ),
        ([*SPLIT, "train/a_train/1.jpg"], "'train/a' and 'train/a_train' both mean the class 'a'. Merge"),
        ([*SPLIT, "val/a/1.jpg", "valid/a/1.jpg"], "'val' and 'valid' both mean the split 'val'. Merge them"),
        (
            [*SPLIT, "train/c/.hidden"],
            "train/c: no files found, so class 'c' is empty. Add images or remove",
        ),
        (["a/1.jpg", "b/.hidden"], "b: no files found, so class 'b' is empty"),
        (["b/.hidden", "README.txt"], "b: no files found, so class 'b' is empty"),
        (["train/1.jpg"], "train: no class folders found. Put the training images into .*/train/CLASS"),
        ([".hidden"], "no images found. Expected DATA/train/CLASS"),
        (["new/.hidden"], "no images found. Expected DATA/train/CLASS"),
    ],
)
def test_invalid_layouts_are_refused(tmp_path, paths, message):
    make(tmp_path, paths)
    with pytest.raises(DatasetError, match=message):
        load_dataset(tmp_path)


def test_a_root_that_is_not_a_folder_is_refused(tmp_path):
    with pytest.raises(DatasetError, match=r"missing: no such folder\. Give a folder with the layout DATA"):
        load_dataset(tmp_path / "missing")
    (tmp_path / "file").touch()
    with pytest.raises(DatasetError, match="file: not a folder"):
        load_dataset(tmp_path / "file")


def test_the_two_spellings_of_an_accent_are_one_class(tmp_path):
    composed, decomposed = unicodedata.normalize("NFC", "première"), unicodedata.normalize("NFD", "première")
    assert composed != decomposed
    dataset = load_dataset(
        make(tmp_path / "data", [f"train/{decomposed}_train/1.jpg", f"test/{composed}/1.jpg"])
    )
    assert dataset.classes == (composed,)
    make(tmp_path / "both", [f"{composed}/1.jpg", f"{decomposed}/1.jpg"])
    with pytest.raises(DatasetError, match="both mean the class"):
        load_dataset(tmp_path / "both")


def test_unusual_names_are_kept(tmp_path):
    undecodable = os.fsdecode(b"\xff\xfe.jpg")
    deep = "/".join(["a folder with a long name " * 8] * 15)
    dataset = load_dataset(
        make(tmp_path, [f"a/{undecodable}", f"a/{deep}/é 1.jpg", "b/日本.jpg", "b/dir.jpg/x.jpg"])
    )
    assert [image.problem for image in dataset.images] == [""] * 4
    assert {image.path for image in dataset.images} >= {f"a/{undecodable}", "b/dir.jpg/x.jpg"}
    assert len(os.fsencode(f"a/{deep}")) > 3000


def test_irregular_files_are_listed_and_never_opened(tmp_path, monkeypatch):
    make(tmp_path, ["a/1.jpg", "b/1.jpg"])
    os.mkfifo(tmp_path / "a/pipe.jpg")
    (tmp_path / "a/dangling.jpg").symlink_to("nowhere")
    (tmp_path / "a/self.jpg").symlink_to("self.jpg")
    (tmp_path / "b/link.jpg").symlink_to("../a/1.jpg")
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(tmp_path)  # a socket's path must be short
        server.bind("a/socket.jpg")
        dataset = load_dataset(tmp_path)
    problems = {image.path: image.problem for image in dataset.images if image.problem}
    assert problems == {
        "a/dangling.jpg": "unreadable: No such file or directory",
        "a/pipe.jpg": "not a regular file",
        "a/self.jpg": "unreadable: Too many levels of symbolic links",
        "a/socket.jpg": "not a regular file",
    }
    assert {image.path for image in dataset.images if not image.sha256} == set(problems)
    by_path = {image.path: image.sha256 for image in dataset.images}
    assert by_path["b/link.jpg"] == by_path["a/1.jpg"]


def test_a_file_without_read_permission(tmp_path, monkeypatch):
    make(tmp_path, ["a/1.jpg", "a/2.jpg", "b/1.jpg"])
    system_open = os.open

    def refuse(path, *args, **kwargs):
        if str(path).endswith("2.jpg"):
            raise PermissionError(13, "Permission denied", str(path))
        return system_open(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", refuse)  # the tests may run as root, whom no permission bit stops
    assert [image.problem for image in load_dataset(tmp_path).images] == [
        "",
        "unreadable: Permission denied",
        "",
    ]


def test_a_folder_without_read_permission(tmp_path, monkeypatch):
    make(tmp_path, ["a/e/1.jpg", "b/1.jpg"])
    system_scandir = os.scandir

    def refuse(path):
        if str(path).endswith("e"):
            raise PermissionError(13, "Permission denied", str(path))
        return system_scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(
        DatasetError, match=r"a/e: cannot list this folder \(Permission denied\), so its images"
    ):
        load_dataset(tmp_path)


def test_linked_folders_are_followed_but_not_in_circles(tmp_path):
    make(tmp_path / "elsewhere", ["e/1.jpg"])
    make(tmp_path / "data", ["a/1.jpg", "b/1.jpg"])
    (tmp_path / "data/a/linked").symlink_to(tmp_path / "elsewhere/e")
    (tmp_path / "data/a/up").symlink_to(tmp_path / "data")
    (tmp_path / "data/b/here").symlink_to(".")
    assert [image.path for image in load_dataset(tmp_path / "data").images] == [
        "a/1.jpg",
        "a/linked/1.jpg",
        "b/1.jpg",
    ]


def test_the_name_is_that_of_the_folder(tmp_path, monkeypatch):
    make(tmp_path / "grades", SPLIT)
    monkeypatch.chdir(tmp_path / "grades")
    assert load_dataset(".").name == "grades"


def test_progress_counts_up_to_all(tmp_path):
    calls = []
    load_dataset(make(tmp_path, SPLIT), on_file=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 3), (2, 3), (3, 3)]


@given(seed=st.integers(0, 2**32))
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_table_does_not_depend_on_the_order_of_creation(tmp_path_factory, seed):
    paths = [
        f"{s}/{c}/{e}{n}.jpg"
        for s in ("train", "test")
        for c in "ab"
        for e in ("", "e/", "Z/")
        for n in "21é"
    ]
    root = tmp_path_factory.mktemp("shuffled")
    dataset = load_dataset(make(root, random.Random(seed).sample(paths, len(paths))), jobs=3)
    assert [image.path for image in dataset.images] == sorted(paths, key=str.encode)


def test_a_listing_in_any_order_gives_the_same_table(tmp_path, monkeypatch):
    make(tmp_path, [*SPLIT, "val/b/1.jpg", "train/a/e/1.jpg", "new/1.jpg", "x.txt", "train/y.txt"])
    expected = load_dataset(tmp_path)
    system_scandir = os.scandir

    class Backwards:
        def __init__(self, path):
            with system_scandir(path) as listing:
                self.items = sorted(listing, key=lambda item: item.name, reverse=True)

        def __enter__(self):
            return iter(self.items)

        def __exit__(self, *_):
            return None

    monkeypatch.setattr(os, "scandir", Backwards)
    assert load_dataset(tmp_path) == expected


def test_find_images_in_any_folder(tmp_path):
    make(tmp_path, ["b.jpg", "B/x/1.jpg", "a.txt", ".hidden/1.jpg", "Thumbs.db"])
    assert find_images(tmp_path) == ["B/x/1.jpg", "a.txt", "b.jpg"]


def test_a_given_order_is_the_label_order(tmp_path):
    dataset = load_dataset(make(tmp_path, TUTORIAL), order=["low", " middle", "award"])
    assert dataset.classes == ("low", "middle", "award")
    assert dataset.ordered
    assert dataset.suggested_order is None
    assert [dataset.label(image) for image in dataset.images] == [2, 0, 1]


@pytest.mark.parametrize(
    "order", [["low", "award"], ["low", "middle", "award", "top"], ["low", "low", "middle"], []]
)
def test_an_order_must_be_exactly_the_classes(tmp_path, order):
    with pytest.raises(
        ConfigError, match=r"not match the classes \['award', 'low', 'middle'\].*--order low,middle,award"
    ):
        load_dataset(make(tmp_path, TUTORIAL), order=order)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["10_best", "1_low", "2_middle"], ("1_low", "2_middle", "10_best")),
        (["3", "1", "20"], ("1", "3", "20")),
        (["02 - mid", "1. low"], ("1. low", "02 - mid")),
    ],
)
def test_numbers_in_front_order_the_classes(names, expected):
    assert order_classes(names).classes == expected
    assert order_classes(names).ordered


@pytest.mark.parametrize("names", [["1_a", "b"], ["1_a", "1_b"], ["3d", "2d"], ["1_a"]])
def test_numbers_that_do_not_order_the_classes(names):
    assert order_classes(names).classes == tuple(sorted(names))
    assert not order_classes(names).ordered


@pytest.mark.parametrize(
    "ladder",
    [
        "low middle award",
        "low medium high",
        "minor moderate severe",
        "poor fair good excellent",
        "bronze silver gold",
        "none mild moderate severe",
        "small medium large",
        "S M L XL",
        "bad average good",
        "F D C B A A+",
        "fail pass merit distinction",
        "Low_Quality Mid-Quality High_Quality",
        "very_bad bad ok good very-good",
    ],
)
def test_names_that_look_like_grades_suggest_their_order(ladder):
    expected = tuple(ladder.split())
    assert suggest_order(sorted(expected)) == expected
    assert order_classes(reversed(expected)).suggested == expected


@pytest.mark.parametrize(
    "names", [["pizza", "steak", "sushi"], ["low", "sushi"], ["mid", "middle", "low"], ["low"], []]
)
def test_names_that_are_not_grades_suggest_no_order(names):
    assert suggest_order(names) is None


def test_no_scale_has_a_word_twice():
    for scale in SCALES:
        assert max(Counter(word for place in scale for word in place).values()) == 1
