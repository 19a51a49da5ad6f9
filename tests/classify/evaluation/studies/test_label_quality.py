"""Lists of doubtful grades: flipped grades, near duplicates and outliers."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from classify.data.samples import load_samples
from classify.evaluation.studies.label_quality import (
    DoubtfulEntry,
    merge_reasons,
    near_duplicates,
    study_label_quality,
    write_doubtful,
)

FOOD = Path(__file__).resolve().parents[5] / "shared" / "data" / "food3"


def read(folder):
    with (folder / "doubtful.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def flipped(samples, *, share, seed):
    """Return samples with another grade for a random share of the training images, and their paths."""
    generator = np.random.default_rng(seed)
    images = generator.choice(samples.train_images, round(share * len(samples.train_images)), replace=False)
    y = samples.y.copy()
    y[images] = (y[images] + generator.integers(1, len(samples.classes), len(images))) % len(samples.classes)
    return replace(samples, y=y), {samples.path[image] for image in images}


def share_on_top(folder, wrong, *, n_images):
    """Return the flipped grades in the top 5 % of the list, relative to a perfect ranking."""
    n_top = round(0.05 * n_images)
    top = [row["path"] for row in read(folder)[:n_top]]
    return len(wrong.intersection(top)) / min(n_top, len(wrong))


def test_flipped_grades_stand_at_the_top(make_case, tmp_path):
    samples = make_case(classes=("a", "b", "c"), counts={"train": 60, "test": 4}, distance=4.0).samples
    wrong_samples, wrong = flipped(samples, share=0.05, seed=0)
    case = replace(make_case(samples=wrong_samples), folder=tmp_path)
    found = study_label_quality(case)
    assert share_on_top(tmp_path, wrong, n_images=180) >= 0.8
    first = read(tmp_path)[0]
    assert first["rank"] == "1"
    assert first["reason"].startswith(f"looks like {first['looks_like']} (probability ")
    true = {path: samples.classes[k] for path, k in zip(samples.path, samples.y, strict=True)}
    assert first["looks_like"] == true[first["path"]]
    assert float(first["p_looks_like"]) > float(first["p_grade"])
    assert found["n_entries"] == 180
    assert len(found["shown"]) == 5
    assert found["shown"][0] == f"{first['path']} ({first['grade']}): {first['reason']}"


def test_near_duplicates_are_listed_across_grades_and_splits_only(make_case):
    samples = make_case(n_features=20, counts={"train": 30, "test": 10}).samples
    plain, content = samples.plain.copy(), samples.content
    train, test = samples.train_images, samples.test_images
    low = train[samples.y[train] == 1]
    noise = 0.01 * np.random.default_rng(0).normal(size=20).astype(np.float32)
    plain[content[low[0]]] = plain[content[train[0]]] + noise  # another grade
    plain[content[train[5]]] = plain[content[train[4]]] + noise  # the same grade: not listed
    plain[content[test[0]]] = plain[content[train[9]]] + noise  # another split
    rows = {row.path: row.reasons[0] for row in near_duplicates(replace(samples, plain=plain))}
    assert set(rows) == {samples.path[image] for image in (train[0], low[0], train[9])}
    expected = f"near duplicate of {samples.path[low[0]]}, which is graded low"
    assert rows[samples.path[train[0]]].startswith(expected)
    assert "in the test split (cosine similarity 1.000)" in rows[samples.path[train[9]]]
    assert "graded" not in rows[samples.path[train[9]]]  # the grade of a test image is not disclosed


def test_reasons_of_one_image_are_merged_at_the_position_of_the_first(tmp_path):
    one = DoubtfulEntry(entry="e", path="a.jpg", grade="low", looks_like="high", doubt=0.5, reasons=("r1",))
    two = DoubtfulEntry(entry="f", path="b.jpg", grade="low", reasons=("r2",))
    joined = merge_reasons([one, two, replace(one, looks_like="", doubt=None, reasons=("r3",))])
    assert [row.reasons for row in joined] == [("r1", "r3"), ("r2",)]
    write_doubtful(tmp_path, joined)
    assert [(row["rank"], row["doubt"], row["reason"]) for row in read(tmp_path)] == [
        ("1", "0.500000", "r1; r3"),
        ("2", "", "r2"),
    ]


def test_an_entry_of_several_images_is_doubted_as_a_whole(make_case, tmp_path):
    samples = make_case(counts={"train": 40, "test": 4}, distance=4.0).samples
    number = np.arange(len(samples.y))
    entry = [f"entry {one // 2}" for one in number]
    both = replace(samples, entry=entry, group=number // 2)
    wrong = both.train_images[[10, 11]]
    y = samples.y.copy()
    y[wrong] = 1 - y[wrong]
    study_label_quality(replace(make_case(samples=replace(both, y=y)), folder=tmp_path))
    first = read(tmp_path)[0]
    assert (first["entry"], first["path"]) == (entry[wrong[0]], "")


@pytest.mark.long
@pytest.mark.skipif(not FOOD.is_dir(), reason="needs the data sets beside the checkout")
def test_flipped_grades_of_photographs_stand_at_the_top(make_case, tmp_path, tmp_path_factory):
    from featurize import extract

    (done,) = extract(FOOD, out=tmp_path_factory.mktemp("food3"), views=0)
    samples = load_samples(done.path)
    for seed in range(3):
        wrong_samples, wrong = flipped(samples, share=0.05, seed=seed)
        study_label_quality(replace(make_case(samples=wrong_samples), folder=tmp_path))
        assert share_on_top(tmp_path, wrong, n_images=len(samples.train_images)) >= 0.5
