"""Sample portfolio: content, reproducibility, difficulty."""

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
    """Three training pages per grade and the files with defects; written by two processes."""
    return small_sample


@pytest.fixture(scope="module")
def sample_again(tmp_path_factory) -> Path:
    """The same sample, written by one process next to the remains of an interrupted run."""
    folder = tmp_path_factory.mktemp("again")
    (folder / "out").mkdir()
    half_done = folder / ".out.partial" / "train"
    half_done.mkdir(parents=True)
    (half_done / "left_over.jpg").touch()
    assert maker.make_sample(folder / "out", images=3, jobs=1)
    return folder / "out"


def test_folders(sample):
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
    """Return the stored size and the EXIF orientation of a image."""
    with Image.open(path) as image:
        return image.size, image.getexif().get(ORIENTATION)


def test_some_pages_are_larger_than_ten_megapixels(sample):
    sizes = [opened(path)[0] for path in sample.rglob("scan_a2.jpg")]
    assert len(sizes) == 3
    assert all(width * height > 10_000_000 for width, height in sizes)


def test_one_page_is_stored_sideways(sample):
    turned = {path.name: opened(path)[0] for path in sample.rglob("*.jpg") if opened(path)[1] is not None}
    assert list(turned) == ["phone_photo.jpg"]
    width, height = turned["phone_photo.jpg"]
    assert width > height  # stored sideways; pages are upright


def test_one_page_is_truncated(sample):
    broken = []
    for path in sample.rglob("*.jpg"):
        with Image.open(path) as image:
            try:
                image.load()
            except OSError:
                broken.append(path.relative_to(sample).as_posix())
    assert broken == ["train/low_train/broken_upload.jpg"]


def test_equal_seeds_give_equal_bytes(sample, sample_again):
    assert digests(sample_again) == digests(sample)


def test_other_seeds_give_other_pages(sample, tmp_path):
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


def test_empty_folder_and_interrupted_run(sample, sample_again):
    assert digests(sample_again) == digests(sample)
    assert [path.name for path in sample_again.parent.iterdir()] == ["out"]


def test_other_files_are_not_changed(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("mine")
    assert maker.main([str(tmp_path)]) == 1
    assert "contains files that this script did not write; nothing was changed" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_sample_with_other_settings_is_not_changed(sample, capsys):
    before = digests(sample)
    assert maker.main([str(sample), "--images", "4"]) == 1
    assert "contains a sample with seed 0 and 3 images, not seed 0 and 4" in capsys.readouterr().err
    assert digests(sample) == before


def test_an_existing_file_is_an_error(tmp_path, capsys):
    (tmp_path / "out").touch()
    assert maker.main([str(tmp_path / "out")]) == 1
    assert "a file, not a folder" in capsys.readouterr().err


def test_no_images_is_an_error(tmp_path):
    with pytest.raises(maker.SampleError, match="expected at least 1"):
        maker.make_sample(tmp_path / "out", images=0)


@pytest.mark.long
def test_accuracy_on_the_sample_is_neither_trivial_nor_chance(tmp_path):
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
