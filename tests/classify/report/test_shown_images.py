"""Unused images are removed, and the others are renumbered."""

from classify.report.collect import sample_indices
from classify.report.images import ShownImages


def test_used_images_are_renumbered_in_their_order():
    shown = ShownImages(
        path=["a", "b", "c", "d", "e", "f"],
        split=["train"] * 4 + ["test"] * 2,
        y=[0, 1, 2, 3, 4, 5],
        picture=[-1, 0, 1, 2, 3, 4],
        pictures=["data:0", "data:1", "data:2", "data:3", "data:4"],
        entries=[7],
        entry_images=[[5]],
        entry_split=["test"],
        maps={"vgg16": {"image": [5, 1], "x": [0.1, 0.2], "y": [0.3, 0.4], "method": "t-SNE"}},
        nearest={"vgg16": [[3, 0.9, 1, 0.5]]},
        doubtful=[{"entry": "d", "images": [3], "near": [1, 0.25]}],
    )
    left = shown.without_unused()
    assert left.path == ["b", "d", "f"]
    assert left.split == ["train", "train", "test"]
    assert left.y == [1, 3, 5]
    assert left.picture == [0, 2, 4]
    assert left.entry_images == [[2]]
    assert left.maps["vgg16"] == {"image": [2, 0], "x": [0.1, 0.2], "y": [0.3, 0.4], "method": "t-SNE"}
    assert left.nearest == {"vgg16": [[1, 0.9, 0, 0.5]]}
    assert left.doubtful == [{"entry": "d", "images": [1], "near": [0, 0.25]}]
    assert (left.pictures, left.entries) == (shown.pictures, shown.entries)


def test_a_sample_depends_on_the_seed_only():
    assert sample_indices(4, most=4, seed=0) == [0, 1, 2, 3]
    some = sample_indices(1000, most=10, seed=0)
    assert len(set(some)) == 10
    assert (
        some == sorted(some) == sample_indices(1000, most=10, seed=0) != sample_indices(1000, most=10, seed=1)
    )
    assert max(some) > 500  # not the first ones
