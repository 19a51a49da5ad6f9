"""A config's digest and its file name."""

import dataclasses
import hashlib

import pytest

from featurize.backbones.registry import get_backbone
from featurize.backbones.weights import Weights
from featurize.config import (
    config_digest,
    config_engine,
    differences,
    make_config,
    store_name,
    with_earlier_choices,
)
from featurize.errors import ConfigError
from featurize.images.augment import ViewRanges

PUBLISHED = Weights(kind="imagenet", path=None, sha256="ab" * 32, seed=None)


def config(weights=PUBLISHED, **changes):
    options = {
        "input_size": 224,
        "resize": "squash",
        "resample": "bicubic",
        "preprocess": "native",
        "precision": "float32",
        "store_dtype": "float32",
        "ranges": ViewRanges(),
        "seed": 0,
    }
    return make_config(get_backbone("vgg16"), weights, **(options | changes))


def test_the_digest_is_computed_from_canonical_json():
    text = b'{"a":1,"b":{"c":[0.5,null],"d":"x"}}'
    assert config_digest({"b": {"d": "x", "c": [0.5, None]}, "a": 1}) == hashlib.sha256(text).hexdigest()


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "vgg16"),
        ({"preprocess": "rescale"}, "vgg16+rescale"),
        ({"weights": Weights(kind="random", path=None, sha256="0", seed=0)}, "vgg16+random"),
        ({"weights": Weights(kind="random", path=None, sha256="0", seed=5)}, "vgg16+random5"),
        ({"weights": dataclasses.replace(PUBLISHED, kind="file")}, "vgg16+weights-abababab"),
        ({"input_size": 320, "resize": "pad"}, "vgg16+320px+pad"),
        ({"precision": "bfloat16", "store_dtype": "float16"}, "vgg16+bfloat16+stored-float16"),
        ({"resample": "lanczos"}, "vgg16+lanczos"),
        ({"precision": "auto"}, "vgg16"),
        ({"levels": True}, "vgg16+levels"),
        ({"levels": True, "precision": "bfloat16", "engine": "openvino"}, "vgg16+bfloat16+levels"),
    ],
)
def test_the_file_name_lists_non_default_settings(changes, name):
    assert store_name(config(**changes), default_size=224) == name


def test_other_views_have_another_name_and_the_same_views_the_same():
    names = {
        store_name(config(**changes), default_size=224)
        for changes in ({"seed": 1}, {"seed": 2}, {"ranges": ViewRanges(rotation=5)}, {})
    }
    assert len(names) == 4
    assert store_name(config(seed=1), default_size=224) in names


def test_differences_name_nested_entries():
    found = differences(config(), config(weights=dataclasses.replace(PUBLISHED, sha256="cd" * 32), seed=4))
    assert [difference.key for difference in found] == ["views.seed", "weights.sha256"]
    assert str(found[0]) == "views.seed: stored 0, requested 4"


def test_the_digest_of_a_config_of_before_is_what_it_was():
    """Stores of version 0.1.0 name no engine, whatever their precision; in float32 none is named still."""
    old = {
        "backbone": "vgg16", "weights": {"kind": "imagenet", "sha256": "ab" * 32, "seed": None},
        "input_size": 224, "resize": "squash", "resample": "bicubic", "preprocess": "native",
        "statistics": None, "precision": "float32", "levels": False, "store_dtype": "float32",
        "views": {"rotation": 40.0, "width_shift": 0.2, "height_shift": 0.2, "shear": 0.2, "zoom_low": 0.8,
                  "zoom_high": 1.2, "horizontal_flip": True, "vertical_flip": False, "seed": 0},
    }  # fmt: skip
    assert config() == old
    assert config_digest(old) == "a74ca32a3d613970f663bf45b2d34257cd296e3a8bdd109b5597d624051bdd54"
    assert with_earlier_choices(old, config(precision="auto", engine="openvino")) == old
    short = {**old, "precision": "bfloat16"}
    for engine in ("auto", "tensorflow"):
        assert with_earlier_choices(short, config(precision="auto", engine=engine)) == short
        assert with_earlier_choices(short, config(precision="bfloat16", engine=engine)) == short
    assert with_earlier_choices(short, config(precision="auto", engine="openvino")) == {
        **short,
        "engine": "openvino",
    }


def test_fitted_statistics_are_reused():
    requested = config(preprocess="featurewise")
    stored = config(preprocess="featurewise", statistics={"mean": [0.5] * 3, "std": [0.1] * 3})
    assert config_digest(stored) != config_digest(requested)
    assert with_earlier_choices(stored, requested) == stored
    assert [str(found) for found in differences(stored, with_earlier_choices(stored, config()))] == [
        'preprocess: stored "featurewise", requested "native"'
    ]


def test_an_earlier_choice_fills_an_open_precision_but_not_a_forced_one():
    fast = config(precision="bfloat16", engine="openvino")
    assert with_earlier_choices(fast, config(precision="auto")) == fast
    assert with_earlier_choices(fast, config(precision="bfloat16")) == fast
    assert with_earlier_choices(config(), config(precision="auto", engine="tensorflow")) == config()
    forced = differences(fast, with_earlier_choices(fast, config()))
    assert [str(found) for found in forced] == [
        'precision: stored "bfloat16", requested "float32"',
    ]
    other = differences(fast, with_earlier_choices(fast, config(precision="auto", engine="tensorflow")))
    assert [str(found) for found in other] == ['engine: stored "openvino", requested "tensorflow"']


def test_the_engine_matters_where_engines_differ():
    assert config_engine(config()) is None
    assert config_engine(config(precision="bfloat16", engine="openvino")) == "openvino"
    without_engine = config(precision="bfloat16")
    del without_engine["engine"]
    assert config_engine(without_engine) == "tensorflow"


def test_unknown_values_are_refused():
    with pytest.raises(
        ConfigError, match=r"--precision int8: unknown\. .*: auto, float32, bfloat16, float16"
    ):
        config(precision="int8")
