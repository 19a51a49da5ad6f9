"""The sample portfolio: what is in it, that every run draws the same, that grading it is worth doing."""

from __future__ import annotations

import hashlib
import random
import statistics
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import make_sample as maker
from sample_pages import Breaks, draw_page

ORIENTATION = 0x0112


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="session")
def sample(small_sample) -> Path:
    """Three training pages a grade, and odd ones; drawn by two processes."""
    return small_sample


@pytest.fixture(scope="module")
def sample_again(tmp_path_factory) -> Path:
    """The same sample, drawn by one process into an empty folder beside what an interrupted run left."""
    folder = tmp_path_factory.mktemp("again")
    (folder / "out").mkdir()
    half_done = folder / ".out.partial" / "train"
    half_done.mkdir(parents=True)
    (half_done / "left_over.jpg").touch()
    assert maker.make_sample(folder / "out", images=3, jobs=1)
    return folder / "out"


def test_folders_are_the_tutorials(sample):
    counts = {
        folder.relative_to(sample).as_posix(): len(list(folder.glob("page_*.jpg")))
        for folder in sample.rglob("*")
        if folder.is_dir() and folder.name not in ("train", "test")
    }
    graded = {
        f"{split}/{grade}_{split}" for split in ("train", "test") for grade in ("award", "middle", "low")
    }
    assert counts == {name: 3 if name.startswith("train") else 1 for name in graded} | {"new": 2}


def opened(path: Path) -> tuple[tuple[int, int], int | None]:
    """Return the stored size and the EXIF orientation of a picture."""
    with Image.open(path) as picture:
        return picture.size, picture.getexif().get(ORIENTATION)


def test_some_pages_are_larger_than_ten_megapixels(sample):
    sizes = [opened(path)[0] for path in sample.rglob("scan_a2.jpg")]
    assert len(sizes) == 3
    assert all(width * height > 10_000_000 for width, height in sizes)


def test_one_page_lies_on_its_side(sample):
    turned = {path.name: opened(path)[0] for path in sample.rglob("*.jpg") if opened(path)[1] is not None}
    assert list(turned) == ["phone_photo.jpg"]
    width, height = turned["phone_photo.jpg"]
    assert width > height  # stored sideways; pages are upright


def test_one_page_is_broken_and_says_so(sample):
    broken = []
    for path in sample.rglob("*.jpg"):
        with Image.open(path) as picture:
            try:
                picture.load()
            except OSError:
                broken.append(path.relative_to(sample).as_posix())
    assert broken == ["train/low_train/broken_upload.jpg"]


def test_same_seed_same_bytes_whoever_draws(sample, sample_again):
    assert digests(sample_again) == digests(sample)


def test_another_seed_draws_other_pages(sample, tmp_path):
    maker.make_sample(tmp_path / "other", images=3, jobs=1, seed=1)
    other, first = digests(tmp_path / "other"), digests(sample)
    assert other.keys() == first.keys()
    assert not {other[name] for name in other} & {first[name] for name in first}


def test_a_page_is_the_same_drawing_at_any_scale():
    breaks = Breaks(grid=0.0, palette=0.0, type=0.0)
    small, large = (draw_page(random.Random("page"), breaks, scale=scale) for scale in (1.0, 2.0))
    assert large.size == (1200, 1696)
    difference = np.abs(np.asarray(small, float) - np.asarray(large.reduce(2), float))
    assert difference.mean() < 12  # edges and small type differ, the layout does not


def test_grades_overlap_but_differ():
    levels = {
        grade: [maker.breaks_of(random.Random(f"{grade}/{i}"), grade).palette for i in range(300)]
        for grade in ("award", "middle", "low")
    }
    means = [statistics.mean(levels[grade]) for grade in ("award", "middle", "low")]
    assert means == sorted(means)
    assert all(0.0 <= level <= 1.0 for grade in levels.values() for level in grade)


def test_a_finished_sample_is_reused(sample):
    before = {path: path.stat().st_mtime_ns for path in sample.rglob("*")}
    assert not maker.make_sample(sample, images=3)
    assert {path: path.stat().st_mtime_ns for path in sample.rglob("*")} == before


def test_an_empty_folder_and_an_interrupted_run_are_no_obstacle(sample, sample_again):
    assert digests(sample_again) == digests(sample)
    assert [path.name for path in sample_again.parent.iterdir()] == ["out"]


def test_files_of_others_are_left_alone(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("mine")
    assert maker.main([str(tmp_path)]) == 1
    assert "holds files that this script did not make; nothing was written" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_sample_with_other_settings_is_left_alone(sample, capsys):
    before = digests(sample)
    assert maker.main([str(sample), "--images", "4"]) == 1
    assert "with seed 0 and 3 images is there, not seed 0 and 4" in capsys.readouterr().err
    assert digests(sample) == before


def test_a_file_in_the_way_is_one_line(tmp_path, capsys):
    (tmp_path / "out").touch()
    assert maker.main([str(tmp_path / "out")]) == 1
    assert "a file, not a folder" in capsys.readouterr().err


def test_no_images_is_an_error(tmp_path):
    with pytest.raises(maker.SampleError, match="at least 1"):
        maker.make_sample(tmp_path / "out", images=0)


@pytest.mark.long
def test_grading_the_sample_is_neither_trivial_nor_noise(tmp_path):
    """A plain scikit-learn logistic regression on EfficientNet-Lite0; no code of ours fits or scores."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import Normalizer

    import featurize

    maker.make_sample(tmp_path / "sample")
    featurize.extract(
        tmp_path / "sample", backbones=["efficientnet_lite0"], views=0, out=tmp_path / "features"
    )
    with featurize.open_store(tmp_path / "features" / "efficientnet_lite0.h5") as store:
        images, features = store.images, store.plain()
    usable = {
        split: [i for i, s in enumerate(images.split) if s == split and not images.skipped[i]]
        for split in ("train", "test")
    }
    X = {split: features[np.asarray(images.content)[rows]] for split, rows in usable.items()}
    y = {split: np.asarray(images.label)[rows] for split, rows in usable.items()}
    model = make_pipeline(Normalizer(), LogisticRegression(C=10.0, max_iter=2000)).fit(X["train"], y["train"])
    assert 0.65 < model.score(X["test"], y["test"]) < 0.92
    assert np.bincount(y["test"]).max() / len(y["test"]) < 0.4
