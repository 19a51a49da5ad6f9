"""Facts of intake, counted in the folder itself."""

import dataclasses
from collections import Counter

import numpy as np
from PIL import Image

from classify.data.load import load_same_dataset
from classify.report import images as module
from classify.report.images import dataset_summary, run_images


def test_what_is_counted_is_what_lies_there(photo_run, photo_samples, photo_shown):
    found = dataset_summary(photo_samples, photo_shown, photo_run.record)
    files = [path for path in photo_run.data.rglob("*") if path.is_file()]
    graded = [path for path in files if path.name != "broken.jpg" and "new" not in path.parts[-2]]
    counts = Counter(path.relative_to(photo_run.data).parts[:2] for path in graded)
    sizes = []
    for path in graded:
        with Image.open(path) as image:
            sizes.append(image.size)
    width, height = np.array(sizes).T
    assert found["splits"] == ["train", "test"]
    assert found["rows"] == [
        {"name": name, "counts": [counts["train", name], counts["test", name]]}
        for name in ("low", "middle", "award")
    ]
    assert (found["n_files"], found["n_images"], found["n_entries"]) == (len(files), 61, 61)
    assert (found["n_fitted"], found["n_tested"]) == (36, 24)
    assert (found["n_ungraded"], found["n_skipped"]) == (1, 1)
    assert found["skipped"] == [("train/low/broken.jpg", "not an image")]
    assert found["n_copies"] == 1
    assert (found["n_alike"], found["n_in_alike"], found["n_portfolios"]) == (0, 0, 0)
    assert found["n_small"] == int((np.minimum(width, height) < 224).sum()) == 6
    assert found["input_size"] == 224
    for name, values in (("width", width), ("height", height), ("megapixels", width * height / 1e6)):
        ends = [values.min(), np.median(values), values.max()]
        np.testing.assert_allclose(
            [found["sizes"][name][key] for key in ("min", "median", "max")], ends, atol=0.005
        )
    assert found["lines"] == photo_run.record["facts"]


def test_sets_of_images_that_are_alike_are_counted_by_their_files(photo_samples, photo_shown, photo_run):
    """Copies count with the files that they are copies of; chains are one set."""
    pairs = (
        ("train/award/00.jpg", "train/award/01.jpg"),
        ("train/award/01.jpg", "train/award/02.jpg"),
        ("train/low/00.jpg", "train/low/01.jpg"),
    )
    first, second = photo_samples
    told = [
        dataclasses.replace(first, facts=dataclasses.replace(first.facts, near_duplicates=pairs[:2])),
        dataclasses.replace(second, facts=dataclasses.replace(second.facts, near_duplicates=pairs[1:])),
    ]
    found = dataset_summary(told, photo_shown, photo_run.record)
    assert found["n_alike"] == 2
    assert found["n_in_alike"] == 6  # award/00 and its copy, 01, 02; low/00, 01


def test_a_list_of_what_was_skipped_is_cut_and_names_are_printable(
    monkeypatch, photo_samples, photo_shown, photo_run
):
    monkeypatch.setattr(module, "MOST_SKIPPED", 0)
    record = {**photo_run.record, "facts": ["bad \udcff\nname"]}
    found = dataset_summary(photo_samples, photo_shown, record)
    assert (found["n_skipped"], found["skipped"]) == (1, [])
    assert found["lines"] == ["bad \\xff\\nname"]
    silent = dataset_summary(photo_samples, photo_shown, {**photo_run.record, "facts": []})
    assert silent["lines"] == photo_run.record["facts"]  # as the stores have them


def test_portfolios_are_counted(make_store):
    path = make_store(counts={"train": 6, "test": 4, "new": 2}, per_entry=2)
    samples = load_same_dataset([path], order=None)
    found = dataset_summary(samples, run_images(samples, store=path), {"facts": ["one"]})
    assert (found["n_images"], found["n_entries"], found["n_portfolios"]) == (20, 10, 10)
    assert found["n_ungraded"] == 4
    assert found["rows"] == [{"name": "award", "counts": [6, 4]}, {"name": "low", "counts": [6, 4]}]
    assert found["sizes"]["width"] == {"min": 300, "median": 300, "max": 300}
    assert found["sizes"]["megapixels"] == {"min": 0.06, "median": 0.06, "max": 0.06}
    assert found["n_small"] == 20
