"""The registry against the installed keras.applications, and every network against NumPy."""

import inspect
import subprocess
import sys

import numpy as np
import pytest

from featurize.backbones.lite0 import LITE0_FILE, LITE0_NAME, LITE0_SHA256
from featurize.backbones.networks import build_network, preprocess_pixels
from featurize.backbones.registry import BACKBONES, CONVENTIONS, get_backbone
from featurize.backbones.weights import find_weights
from featurize.engines import freeze, tensorflow as engine_module
from featurize.errors import ConfigError

KERAS_NAMES = [name for name in BACKBONES if name != LITE0_NAME]
# Checked by what Keras builds alone, for the minutes that freezing them takes; each is a deeper or wider
# sibling, of the same blocks, of one whose features are checked.
BY_CONFIG = {
    *("resnet101", "resnet152", "resnet101v2", "resnet152v2", "densenet169", "densenet201", "nasnet_large"),
    *(
        "efficientnet_b1",
        "efficientnet_b2",
        "efficientnet_b3",
        "efficientnet_b4",
        "efficientnet_b5",
        "efficientnet_b6",
        "efficientnet_b7",
    ),
    *(
        "efficientnet_v2_b1",
        "efficientnet_v2_b2",
        "efficientnet_v2_b3",
        "efficientnet_v2_m",
        "efficientnet_v2_l",
    ),
    "mobilenet_v3_large",
    *("convnext_small", "convnext_base", "convnext_large", "convnext_xlarge"),
}


# Networks that are small and differ in what Keras builds and how it preprocesses; the others take --long.
BY_DEFAULT = {LITE0_NAME, "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0"}


def _marked(names):
    long = pytest.mark.long
    return [pytest.param(name, marks=[] if name in BY_DEFAULT else [long]) for name in names]


@pytest.fixture(autouse=True)
def _free_keras():
    yield
    import keras

    keras.backend.clear_session()


def test_no_network_of_keras_is_missing():
    import keras

    functions = {
        name
        for name, value in vars(keras.applications).items()
        if inspect.isfunction(value) and name[0].isupper()
    }
    assert functions == {BACKBONES[name].factory.split(".")[1] for name in KERAS_NAMES}


class _Asked(Exception):
    pass


@pytest.mark.parametrize("name", _marked(KERAS_NAMES))
def test_the_registry_agrees_with_what_keras_builds_and_downloads(name, monkeypatch):
    """Width, sizes, parameters, file, address and hash, as Keras itself uses them for weights="imagenet"."""
    import keras
    from keras.src.applications import imagenet_utils
    from keras.src.models import Functional
    from keras.src.utils import file_utils

    backbone, seen = BACKBONES[name], {}
    own_shape = imagenet_utils.obtain_input_shape

    def shape(*args, **kwargs):
        seen.update(default_size=kwargs["default_size"], min_size=kwargs["min_size"])
        return own_shape(*args, **kwargs)

    def get_file(fname, origin, cache_subdir=None, file_hash=None):
        seen.update(file=fname, url=origin, folder=cache_subdir, hash=file_hash or "")

    monkeypatch.setattr(imagenet_utils, "obtain_input_shape", shape)
    monkeypatch.setattr(file_utils, "get_file", get_file)
    monkeypatch.setattr(Functional, "load_weights", lambda self, path: None)
    monkeypatch.setattr("keras.src.initializers.GlorotUniform.__call__", _zeros)
    monkeypatch.setattr("keras.src.initializers.VarianceScaling.__call__", _zeros)
    monkeypatch.setattr("keras.src.initializers.TruncatedNormal.__call__", _zeros)
    size = (backbone.size, backbone.size, 3)
    network = getattr(keras.applications, backbone.factory.split(".")[1])(
        weights="imagenet", include_top=False, input_shape=size
    )

    if "mobilenet" not in name:  # these take the size asked for as their default
        assert seen["default_size"] == backbone.size
    if "mobilenet_v3" not in name:  # and these do not ask
        assert seen["min_size"] == backbone.min_size
    assert (seen["file"], seen["url"], seen["hash"]) == (
        backbone.weights_file, backbone.weights_url, backbone.weights_hash)  # fmt: skip
    assert seen["folder"] == "models"
    assert network.output_shape[-1] == backbone.n_features
    assert network.count_params() == backbone.parameters
    assert backbone.megabytes == pytest.approx(backbone.parameters * 4 / 1e6, abs=0.1)


def _zeros(self, shape, dtype=None):
    import keras

    return keras.ops.zeros(shape, dtype=dtype)


@pytest.mark.parametrize("name", _marked(name for name in BACKBONES if name not in BY_CONFIG))
def test_features_are_the_mean_of_the_unpooled_maps(name, monkeypatch):
    """The frozen graph against the network's own maps, its own NumPy preprocessing, and NumPy's mean."""
    backbone = BACKBONES[name]
    built = []

    def build(*args, **kwargs):
        built.append(build_network(*args, **kwargs))
        return built[-1]

    monkeypatch.setattr(freeze, "build_network", build)
    size = max(64, backbone.min_size)
    engine = engine_module.TensorFlowEngine(
        backbone, find_weights(backbone, "random", seed=3), input_size=size, preprocess="native",
        statistics=None, device="cpu", gpu_memory=None, precision="float32", batch_size=3,
    )  # fmt: skip
    images = np.random.default_rng(5).integers(0, 256, (2, size, size, 3), dtype=np.uint8)

    features = engine(images)

    maps = np.asarray(built[0](_preprocessed_by_numpy(name, images), training=False))
    assert maps.ndim == 4
    assert maps.shape[0] == 2
    expected = maps.mean(axis=(1, 2), dtype=np.float64)
    assert features.shape == (2, backbone.n_features) == (2, engine.n_features)
    np.testing.assert_allclose(features, expected, rtol=0, atol=2e-5 * np.abs(expected).max())
    assert np.abs(expected[0] - expected[1]).max() > 1e-3 * np.abs(expected).max()  # they tell images apart


def _preprocessed_by_numpy(name, images):
    if name == LITE0_NAME:
        return (images.astype(np.float32) - 127) / 128
    import importlib

    module = importlib.import_module(f"keras.applications.{BACKBONES[name].factory.split('.')[0]}")
    return module.preprocess_input(images.astype(np.float32))


@pytest.mark.parametrize(
    "name", {backbone.factory.split(".")[0]: name for name, backbone in BACKBONES.items()}.values()
)
def test_preprocessing_in_the_graph_is_the_networks_own(name):
    import tensorflow as tf

    images = np.random.default_rng(1).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)

    @tf.function
    def graph(batch):
        return preprocess_pixels(BACKBONES[name], tf.cast(batch, tf.float32))

    np.testing.assert_allclose(
        graph(tf.constant(images)).numpy(), _preprocessed_by_numpy(name, images), rtol=1e-6, atol=2e-5
    )


def test_conventions_match_their_descriptions():
    """The words of CONVENTIONS, worked out by hand for one orange pixel."""
    pixel = np.array([255.0, 128.0, 0.0])
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    by_hand = {
        "caffe": [0 - 103.939, 128 - 116.779, 255 - 123.68],
        "tf": pixel / 127.5 - 1,
        "torch": (pixel / 255 - mean) / std,
        "inside": pixel,
        "lite": [1.0, 1 / 128, -127 / 128],
    }
    assert set(by_hand) == set(CONVENTIONS)
    for name, backbone in BACKBONES.items():
        image = np.broadcast_to(pixel, (1, 2, 2, 3))
        ours = _preprocessed_by_numpy(name, image.copy())
        np.testing.assert_allclose(ours[0, 0, 0], by_hand[backbone.convention], rtol=1e-4, err_msg=name)


def test_lite0_has_one_file_and_one_digest():
    lite0 = BACKBONES[LITE0_NAME]
    assert (lite0.weights_file, lite0.weights_hash) == (LITE0_FILE, LITE0_SHA256)
    assert next(iter(BACKBONES)) == LITE0_NAME


@pytest.mark.parametrize(
    ("typed", "suggested"),
    [("ResNet50", "resnet50"), ("resnet-50", "resnet50"), ("efficientnetb0", "efficientnet_b0")],
)
def test_an_unknown_name_lists_similar_names(typed, suggested):
    with pytest.raises(
        ConfigError, match=rf"--backbone {typed}: unknown\. Did you mean .*{suggested}.*featurize backbones"
    ):
        get_backbone(typed)


def test_an_unknown_name_without_similar_names():
    with pytest.raises(
        ConfigError, match=r"--backbone zzz: unknown\. List all backbones with: featurize backbones$"
    ):
        get_backbone("zzz")


def test_listing_imports_no_keras():
    code = (
        "import sys; from featurize.backbones.registry import BACKBONES;"
        "from featurize.backbones.weights import weights_status;"
        "from featurize.engines.factory import create_engine;"
        "[weights_status(backbone) for backbone in BACKBONES.values()];"
        "print([m for m in ('keras', 'tensorflow', 'h5py', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
