"""The command that makes a store again, run."""

import h5py
import numpy as np
import pytest
from PIL import Image

import featurize
from featurize import open_store
from featurize.cli.main import cli
from featurize.extraction.commands import extract_words
from featurize.images.augment import ViewRanges


@pytest.fixture
def task(tmp_path):
    generator = np.random.default_rng(0)
    for name in ("low", "<b> high"):
        folder = tmp_path / "my task" / "train" / name
        folder.mkdir(parents=True)
        for i in range(2):
            pixels = generator.integers(0, 255, (40, 60, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}.png")
    return tmp_path / "my task"


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"views": 1, "views_for": "all", "resize": "crop", "input_size": 48, "seed": 3, "entries": "image"},
        {"views": 0, "order": ("low", "<b> high"), "precision": "bfloat16", "levels": True},
        {"views": 2, "ranges": ViewRanges(rotation=10.0, horizontal_flip=False), "store_dtype": "float16"},
    ],
    ids=str,
)
def test_the_command_makes_the_store_again(task, tmp_path, stand_in, monkeypatch, options):
    stand_in.fast = ("bfloat16",)
    monkeypatch.chdir(tmp_path)
    (made,) = featurize.extract(task, backbones=["mean"], weights="random", workers=1, **options)
    with open_store(made.path) as store:
        words = extract_words(store)
        before = (store.config_digest, store.classes, store.ordered, store.n_views, list(store.images.entry))
    assert words[:3] == ["featurize", "extract", str(task)]
    with h5py.File(made.path) as file:
        features = {name: file[f"features/{name}"][:] for name in ("plain", "augmented")}
    made.path.unlink()
    words = ["auto" if word == "stand-in" else word for word in words]  # an engine that no command knows
    cli.commands["extract"].main([*words[2:], "--workers", "1", "--json"], standalone_mode=False)
    with open_store(made.path) as store:
        after = (store.config_digest, store.classes, store.ordered, store.n_views, list(store.images.entry))
    assert after == before
    with h5py.File(made.path) as file:
        for name, values in features.items():
            np.testing.assert_array_equal(file[f"features/{name}"][:], values)


def test_the_folder_is_named_where_it_is_not_the_usual_one(task, tmp_path, stand_in):
    (made,) = featurize.extract(task, backbones=["mean"], weights="random", out=tmp_path / "out", workers=1)
    with open_store(made.path) as store:
        words = extract_words(store)
    assert words[3:5] == ["--out", str(tmp_path / "out")]
