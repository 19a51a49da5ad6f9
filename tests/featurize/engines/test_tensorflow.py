"""The TensorFlow engine on the CPU; for GPUs see test_gpu_path.py."""

import gc

import numpy as np
import pytest

from featurize.backbones.registry import get_backbone
from featurize.backbones.weights import find_weights
from featurize.engines.factory import create_engine
from featurize.engines.freeze import NetworkSpec, frozen_forward
from featurize.engines.tensorflow import check_precision
from featurize.errors import EngineError

SIZE = 64


def _engine(name="efficientnet_lite0", *, weights=None, **options):
    backbone = get_backbone(name)
    weights = weights or ("imagenet" if name == "efficientnet_lite0" else "random")
    options = {"engine": "tensorflow", "input_size": SIZE, "batch_size": 4, **options}
    return create_engine(backbone, find_weights(backbone, weights), **options)


def _images(n=4, size=SIZE, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def lite0():
    return _engine()


# --- features -------------------------------------------------------------------------------------


def test_attributes_of_an_engine(lite0):
    assert (lite0.name, lite0.size, lite0.n_features, lite0.batch_size) == ("tensorflow", 64, 1280, 4)
    assert (lite0.precision, lite0.device) == ("float32", "cpu")
    assert (lite0.in_flight, lite0.notes) == (2, ())
    assert (lite0.level_names, lite0.level_ends) == (("final",), (1280,))
    features = lite0(_images())
    assert features.shape == (4, 1280)
    assert features.dtype == np.float32
    assert features.flags.owndata


def test_features_do_not_depend_on_the_rest_of_the_batch(lite0):
    """To the byte: the batch has one shape always."""
    images = _images()
    features = lite0(images)
    for order in ([3, 2, 1, 0], [1, 3, 0, 2]):
        np.testing.assert_array_equal(lite0(images[order]), features[order])
    for n in range(5):
        np.testing.assert_array_equal(lite0(images[:n]), features[:n])


def test_two_engines_agree_to_the_byte(lite0):
    np.testing.assert_array_equal(_engine()(_images()), lite0(_images()))


def test_the_images_are_unchanged(lite0):
    images = _images()
    images.flags.writeable = False
    lite0(images)
    np.testing.assert_array_equal(images, _images())


@pytest.mark.parametrize(
    "images",
    [_images(5), _images(2, size=32), _images().astype(np.float32), _images()[0], _images()[..., :1]],
    ids=["too many", "too small", "not uint8", "no batch", "gray"],
)
def test_other_images_are_refused(lite0, images):
    with pytest.raises(
        EngineError,
        match=r"expected (uint8 images of shape \(n, 64, 64, 3\)|at most 4 images per batch), received",
    ):
        lite0(images)


def test_the_graph_has_no_variables_and_no_batch_norm():
    """Folded into the convolutions, or they would be computed for every image again."""
    backbone = get_backbone("efficientnet_lite0")
    spec = NetworkSpec(
        backbone=backbone,
        weights=find_weights(backbone, "imagenet"),
        input_size=SIZE,
        preprocess="native",
        statistics=None,
        levels=False,
        batch_size=4,
    )
    graph = frozen_forward(spec, precision="float32", device_name="/CPU:0").function.graph
    assert not graph.variables
    assert not [op.type for op in graph.get_operations() if "Var" in op.type or "BatchNorm" in op.type]


def test_submitted_batches_come_back_in_any_order(lite0):
    batches = [_images(n, seed=n) for n in (4, 1, 3, 2)]
    expected = [lite0(images) for images in batches]
    pending = [lite0.submit(images) for images in batches]
    for number in (2, 0, 3, 1):
        np.testing.assert_array_equal(pending[number].result(), expected[number])


def test_the_threads_end_with_the_engine():
    engine = _engine("mobilenet_v3_small")
    threads = engine._queues._threads
    engine(_images())
    assert [thread.is_alive() for thread in threads] == [True]
    del engine
    gc.collect()
    threads[0].join(60)
    assert not threads[0].is_alive()


# --- preprocessing --------------------------------------------------------------------------------


def _features_by_keras(name, pixels, **factory_options):
    """Keras' own network with the same random numbers, on pixels scaled by NumPy; NumPy's mean."""
    import keras

    from featurize.backbones.networks import build_network

    backbone = get_backbone(name)
    ours = build_network(backbone, find_weights(backbone, "random"), input_size=SIZE)
    theirs = getattr(keras.applications, backbone.factory.split(".")[1])(
        weights=None, include_top=False, input_shape=(SIZE, SIZE, 3), **factory_options
    )
    theirs.set_weights(ours.get_weights())
    return np.asarray(theirs(pixels, training=False)).mean(axis=(1, 2))


@pytest.mark.parametrize(
    ("name", "options"), [("mobilenet", {}), ("mobilenet_v3_small", {"include_preprocessing": False})]
)
@pytest.mark.parametrize("preprocess", ["rescale", "featurewise"])
def test_preprocess_replaces_the_scaling_of_the_network(name, options, preprocess):
    """Also for scaling inside the network. Formulas as the legacy ImageDataGenerator has them."""
    mean, std = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]
    pixels = _images().astype(np.float64) / 255
    statistics = None
    if preprocess == "featurewise":
        statistics = {"mean": mean, "std": std}
        pixels = (pixels - np.array(mean)) / (np.array(std) + 1e-6)
    expected = _features_by_keras(name, pixels.astype(np.float32), **options)
    features = _engine(name, preprocess=preprocess, statistics=statistics)(_images())
    np.testing.assert_allclose(features, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", ["efficientnet_b0", "efficientnet_v2_b0", "convnext_tiny"])
def test_scaling_layers_inside_a_network_are_removed(name):
    from featurize.backbones.networks import build_network, without_scaling

    backbone = get_backbone(name)
    network = build_network(backbone, find_weights(backbone, "random"), input_size=SIZE)
    bare = without_scaling(network)
    kinds = [type(layer).__name__ for layer in bare.layers]
    assert not {"Rescaling", "Normalization"} & set(kinds)
    assert len(bare.layers) < len(network.layers)
    assert len(bare.weights) >= len(network.weights) - 3  # of a Normalization: mean, variance, count


# --- precision ------------------------------------------------------------------------------------


def test_bfloat16_is_near_and_pools_in_float32(lite0):
    features, exact = _engine(precision="bfloat16")(_images()), lite0(_images())
    assert features.dtype == np.float32
    assert not np.array_equal(features, exact)
    cosine = (features * exact).sum(1) / np.linalg.norm(features, axis=1) / np.linalg.norm(exact, axis=1)
    assert (cosine > 0.99).all()
    assert (features.view(np.uint32) & 0xFFFF).any()  # a mean in bfloat16 would end in 16 zero bits


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "efficientnet_b0", "convnext_tiny"])
def test_scaling_inside_a_network_stays_exact_in_bfloat16(name):
    import keras

    from featurize.backbones.networks import build_network

    backbone = get_backbone(name)
    network = build_network(backbone, find_weights(backbone, "random"), input_size=SIZE, precision="bfloat16")
    exact = build_network(backbone, find_weights(backbone, "random"), input_size=SIZE)

    def scaled(network):
        last = [layer for layer in network.layers if type(layer).__name__ in ("Rescaling", "Normalization")][
            -1
        ]
        return np.asarray(keras.Model(network.input, last.output)(_images().astype(np.float32)))

    np.testing.assert_array_equal(scaled(network), scaled(exact))
    assert network.layers[-1].compute_dtype == "bfloat16"


def test_the_settings_of_keras_are_restored():
    import keras

    keras.config.set_dtype_policy("mixed_bfloat16")
    keras.config.set_image_data_format("channels_first")
    try:
        features = _engine()(_images())
        assert keras.config.dtype_policy().name == "mixed_bfloat16"
        assert keras.config.image_data_format() == "channels_first"
    finally:
        keras.config.set_dtype_policy("float32")
        keras.config.set_image_data_format("channels_last")
    np.testing.assert_array_equal(features, _engine()(_images()))


def test_another_keras_backend_is_an_error(monkeypatch):
    import keras

    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(
        EngineError, match=r"Keras runs on 'jax'; Folio needs TensorFlow\. Set KERAS_BACKEND=tensorflow"
    ):
        _engine()


@pytest.mark.parametrize(
    ("precision", "device"), [("float32", "cpu"), ("bfloat16", "cpu"), ("float16", "gpu:1")]
)
def test_precisions_that_a_device_supports(precision, device):
    check_precision(precision, device=device)


def test_float16_needs_a_gpu():
    with pytest.raises(EngineError, match=r"float16 needs a GPU.*--precision bfloat16 or float32"):
        check_precision("float16", device="cpu")


# --- batch size -----------------------------------------------------------------------------------


def test_auto_is_the_default():
    assert _engine(batch_size="auto").batch_size == 32


# --- devices -----------------------------------------------------------------------------------------


def test_a_gpu_that_does_not_exist():
    import tensorflow as tf

    if tf.config.list_physical_devices("GPU"):
        pytest.skip("this machine has a GPU")
    with pytest.raises(EngineError, match="--device gpu:0: TensorFlow finds no GPU here"):
        _engine(device="gpu:0")
