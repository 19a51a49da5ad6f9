"""A config's digest and its file name."""

import dataclasses
import hashlib

import pytest

from featurize.backbones import get_backbone
from featurize.config import config_digest, differences, make_config, same_but_statistics, store_name
from featurize.errors import ConfigError
from featurize.views import ViewRanges
from featurize.weights import Weights

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


def test_the_digest_is_that_of_the_canonical_json():
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
    ],
)
def test_a_file_name_tells_what_is_not_the_default(changes, name):
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
    assert str(found[0]) == "views.seed is 0 there and 4 here"


def test_fitted_statistics_do_not_make_another_config():
    asked = config(preprocess="featurewise")
    stored = config(preprocess="featurewise", statistics={"mean": [0.5] * 3, "std": [0.1] * 3})
    assert same_but_statistics(stored, asked)
    assert config_digest(stored) != config_digest(asked)
    assert not same_but_statistics(stored, config())


def test_unknown_values_are_refused():
    with pytest.raises(ConfigError, match=r"--precision int8: unknown\. .*: float32, bfloat16, float16"):
        config(precision="int8")
