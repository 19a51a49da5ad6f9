"""Data set summary, counted in the folder itself."""

from collections import Counter

from classify.data.load import load_same_dataset
from classify.report import images as module
from classify.report.images import dataset_summary, run_images


def test_counts_match_the_folder(photo_run, photo_shown):
    files = [path for path in photo_run.data.rglob("*") if path.is_file()]
    graded = [path for path in files if path.name != "broken.jpg" and "new" not in path.parts[-2]]
    counts = Counter(path.relative_to(photo_run.data).parts[:2] for path in graded)
    assert dataset_summary(photo_shown) == {
        "splits": ["train", "test"],
        "rows": [
            {"name": name, "counts": [counts["train", name], counts["test", name]]}
            for name in ("low", "middle", "award")
        ],
        "n_skipped": 1,
        "skipped": [("train/low/broken.jpg", "not an image")],
    }


def test_the_list_of_skipped_files_is_limited(monkeypatch, photo_shown):
    monkeypatch.setattr(module, "MAX_SKIPPED", 0)
    found = dataset_summary(photo_shown)
    assert (found["n_skipped"], found["skipped"]) == (1, [])


def test_ungraded_images_are_not_counted(make_store):
    path = make_store(counts={"train": 6, "test": 4, "new": 2}, per_entry=2)
    samples = load_same_dataset([path], order=None)
    found = dataset_summary(run_images(samples, store=path))
    assert found["rows"] == [{"name": "award", "counts": [6, 4]}, {"name": "low", "counts": [6, 4]}]
    assert (found["n_skipped"], found["skipped"]) == (0, [])
