"""A config's forward pass as one Keras model: Keras' own preprocessing and NumPy's means over its maps."""

from __future__ import annotations

import importlib
import warnings

import keras
import numpy as np
import pytest

from featurize.backbones.levels import level_maps
from featurize.backbones.networks import build_network, without_scaling
from featurize.backbones.registry import get_backbone
from featurize.backbones.weights import find_weights
from featurize.engines.portable import portable_network
from featurize.errors import WeightsError

SIZE = 64


def make_config(name, *, weights="random", **options):
    found = find_weights(get_backbone(name), weights, seed=3)
    return {
        "backbone": name,
        "weights": {"kind": found.kind, "sha256": found.sha256, "seed": found.seed},
        "input_size": SIZE,
        "preprocess": "native",
        "statistics": None,
        "precision": "float32",
        "levels": False,
        "store_dtype": "float32",
        **options,
    }


def network_of(config):
    backbone = get_backbone(config["backbone"])
    weights = find_weights(backbone, config["weights"]["kind"], seed=config["weights"]["seed"] or 0)
    return build_network(backbone, weights, input_size=SIZE)


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 3), dtype=np.uint8)


def reloaded(network, tmp_path):
    with warnings.catch_warnings():
        # Keras' own conversion of its variables to NumPy 2 arrays.
        warnings.filterwarnings("ignore", message="__array__ implementation", category=DeprecationWarning)
        network.save(tmp_path / "network.keras")
    return keras.models.load_model(tmp_path / "network.keras", safe_mode=True)


def assert_features(said, expected):
    said = said if isinstance(said, list) else [said]
    assert len(said) == len(expected)
    for one, other in zip(said, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5 * np.abs(other).max())


# One of each convention: caffe, tf, torch, and scaled inside.
@pytest.mark.parametrize(
    "name", ["vgg16", "mobilenet", pytest.param("densenet121", marks=pytest.mark.long), "mobilenet_v3_small"]
)
def test_the_model_is_preprocessing_network_and_mean(name, pixels, tmp_path):
    config = make_config(name)
    module = importlib.import_module(f"keras.applications.{get_backbone(name).factory.split('.')[0]}")
    maps = network_of(config)(module.preprocess_input(pixels.astype(np.float32)))
    said = reloaded(portable_network(config, name="one"), tmp_path)(pixels)
    assert_features(said, [np.mean(np.asarray(maps), axis=(1, 2))])


def test_the_packaged_network_scales_as_it_was_trained(pixels, tmp_path):
    config = make_config("efficientnet_lite0", weights="imagenet", precision="bfloat16")
    maps = network_of(config)((pixels.astype(np.float32) - 127) / 128)
    said = reloaded(portable_network(config, name="one"), tmp_path)(pixels)
    assert_features(said, [np.mean(np.asarray(maps), axis=(1, 2))])


def test_levels_and_statistics_of_the_data(pixels, tmp_path):
    """In the place of the network's own scaling, which comes inside."""
    statistics = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.1]}
    config = make_config("mobilenet_v3_small", preprocess="featurewise", statistics=statistics, levels=True)
    bare = without_scaling(network_of(config))
    scaled = (pixels / 255.0 - statistics["mean"]) / (np.array(statistics["std"]) + 1e-6)
    maps = keras.Model(bare.input, [one for _, one in level_maps(bare)])(scaled.astype(np.float32))
    said = reloaded(portable_network(config, name="one"), tmp_path)(pixels)
    assert_features(said, [np.mean(np.asarray(one), axis=(1, 2)) for one in maps])


def test_tutorials_pixels_are_divided_by_255(pixels):
    config = make_config("mobilenet", preprocess="rescale")
    maps = network_of(config)((pixels / 255.0).astype(np.float32))
    assert_features(portable_network(config, name="one")(pixels), [np.mean(np.asarray(maps), axis=(1, 2))])


def test_other_weights_are_refused():
    config = make_config("mobilenet")
    config["weights"]["sha256"] = "0" * 64
    with pytest.raises(WeightsError, match="but the features were computed with 000000000000"):
        portable_network(config, name="one")
