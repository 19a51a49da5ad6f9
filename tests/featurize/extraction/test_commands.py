"""Commands shown to the user: parsed by click, and run."""

import re
import shlex
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

import featurize
from featurize import open_store
from featurize.backbones.registry import get_backbone
from featurize.backbones.weights import Weights
from featurize.cli.main import cli
from featurize.config import make_config
from featurize.extraction.commands import extract_command, extract_words, rebuild_command, repair_command
from featurize.images.augment import ViewRanges

IMAGENET = Weights(kind="imagenet", path=None, sha256="0" * 64, seed=None)


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
def test_extract_words_create_the_same_store(task, tmp_path, stand_in, monkeypatch, options):
    stand_in.fast = ("bfloat16",)
    monkeypatch.chdir(tmp_path)
    (result,) = featurize.extract(task, backbones="mean", weights="random", workers=1, **options)
    with open_store(result.path) as store:
        words = extract_words(store)
        before = (store.config_digest, store.classes, store.ordered, store.n_views, list(store.images.entry))
    assert words[:3] == ["featurize", "extract", str(task)]
    with h5py.File(result.path) as file:
        features = {name: file[f"features/{name}"][:] for name in ("plain", "augmented")}
    result.path.unlink()
    words = ["auto" if word == "stand-in" else word for word in words]  # click rejects that engine
    cli.commands["extract"].main([*words[2:], "--workers", "1", "--json"], standalone_mode=False)
    with open_store(result.path) as store:
        after = (store.config_digest, store.classes, store.ordered, store.n_views, list(store.images.entry))
    assert after == before
    with h5py.File(result.path) as file:
        for name, values in features.items():
            np.testing.assert_array_equal(file[f"features/{name}"][:], values)


def test_extract_words_name_a_folder_that_is_not_the_default(task, tmp_path, stand_in):
    (result,) = featurize.extract(task, backbones=["mean"], weights="random", out=tmp_path / "out", workers=1)
    with open_store(result.path) as store:
        words = extract_words(store)
    assert words[3:5] == ["--out", str(tmp_path / "out")]


def config_of(name="efficientnet_lite0", weights=IMAGENET, seed=0, **changes):
    backbone = get_backbone(name)
    options = {
        "input_size": backbone.size,
        "resize": "squash",
        "resample": "bicubic",
        "preprocess": "native",
        "precision": "float32",
        "store_dtype": "float32",
        "ranges": ViewRanges(),
        **changes,
    }
    return make_config(backbone, weights, seed=seed, **options)


def parsed(command):
    """Return the parameters that click reads from a command of featurize."""
    program, name, *arguments = shlex.split(command)
    assert program == "featurize"
    return cli.commands[name].make_context(name, arguments).params


def test_extract_command_forces_the_precision():
    assert extract_command(config_of()) == (
        "featurize extract IMAGES --backbone efficientnet_lite0 --precision float32"
    )


def test_extract_command_names_what_is_not_default():
    other = config_of(
        weights=Weights(kind="random", path=None, sha256="", seed=3),
        resize="crop",
        store_dtype="float16",
        input_size=320,
        ranges=ViewRanges(rotation=10.0, horizontal_flip=False),
        seed=3,
    )
    command = extract_command(other)
    assert command == (
        "featurize extract IMAGES --backbone efficientnet_lite0 --weights random --input-size 320 "
        "--resize crop --store-dtype float16 --precision float32 --seed 3 --rotation 10.0 "
        "--no-horizontal-flip"
    )
    params = parsed(command)
    assert (params["input_size"], params["rotation"], params["horizontal_flip"]) == (320, 10.0, False)
    fast = config_of(precision="bfloat16", engine="openvino", levels=True)
    assert extract_command(fast) == (
        "featurize extract IMAGES --backbone efficientnet_lite0 --precision bfloat16 --engine openvino "
        "--levels"
    )
    assert parsed(extract_command(fast))["levels"] is True


def test_a_config_without_levels_and_with_its_own_weights_file():
    """As in bundles written before there were levels."""
    config = config_of(weights=Weights(kind="file", path=None, sha256="0" * 64, seed=None))
    del config["levels"]
    assert parsed(extract_command(config))["weights"] == "FILE"


def test_rebuild_command_is_accepted():
    created_with = {
        "data": "my images",
        "weights_path": "own weights.h5",
        "precision": {"asked": "auto"},
        "options": {"entries": "image", "views_for": "all", "max_pixels": 10},
    }
    weights = Weights(kind="file", path=None, sha256="0" * 64, seed=None)
    config = config_of(weights=weights, precision="bfloat16", engine="openvino", ranges=ViewRanges(shear=1.5))
    text = rebuild_command(Path("a b/x.h5"), config, created_with)
    move, _, command = text.partition(", then: ")
    assert move == "move 'a b/x.h5' away"
    params = parsed(command)
    assert (params["data"], params["out"]) == (Path("my images"), Path("a b"))
    assert (params["weights"], params["precision"], params["engine"]) == ("own weights.h5", "auto", "auto")
    assert (params["entries"], params["views_for"], params["max_pixels"]) == ("image", "all", 10)
    assert params["shear"] == 1.5


def test_rebuild_command_of_a_file_that_cannot_be_read():
    text = rebuild_command(Path("out/vgg16+random.h5"), None, None)
    assert text == "move out/vgg16+random.h5 away, then: featurize extract DATA --out out --backbone vgg16"
    assert parsed(re.sub(".*then: ", "", text))["backbones"] == (("vgg16",),)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"data": None, "weights": None, "sample": 8, "seed": 0}, "featurize repair 'a b.h5'"),
        (
            {"data": "x y", "weights": Path("w.h5"), "sample": 0, "seed": 2},
            "featurize repair 'a b.h5' --data 'x y' --weights w.h5 --sample 0 --seed 2",
        ),
    ],
)
def test_repair_command_is_accepted(given, expected):
    command = repair_command(Path("a b.h5"), **given)
    assert command == expected
    params = parsed(command)
    assert params["store"] == Path("a b.h5")
    assert params["seed"] == given["seed"]
