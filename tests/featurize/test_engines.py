"""The engine's promises; what it decides about devices is tested as logic, with made-up GPUs."""

import types

import numpy as np
import pytest
from hypothesis import given, strategies as st

from featurize.backbones import get_backbone
from featurize.engines import auto_batch_size, create_engine
from featurize.engines.tensorflow import DevicePlan, apply_plan, check_precision, plan_device
from featurize.errors import ConfigError, EngineError
from featurize.weights import find_weights

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


def test_what_an_engine_is(lite0):
    assert (lite0.name, lite0.size, lite0.n_features, lite0.batch_size) == ("tensorflow", 64, 1280, 4)
    assert (lite0.precision, lite0.device) == ("float32", "cpu")
    features = lite0(_images())
    assert features.shape == (4, 1280)
    assert features.dtype == np.float32
    assert features.flags.owndata


def test_an_image_has_one_feature_whatever_its_place_and_neighbours(lite0):
    """To the byte: the batch has one shape always."""
    images = _images()
    features = lite0(images)
    for order in ([3, 2, 1, 0], [1, 3, 0, 2]):
        np.testing.assert_array_equal(lite0(images[order]), features[order])
    for n in range(5):
        np.testing.assert_array_equal(lite0(images[:n]), features[:n])


def test_two_engines_agree_to_the_byte(lite0):
    np.testing.assert_array_equal(_engine()(_images()), lite0(_images()))


def test_the_images_are_left_as_they_were(lite0):
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
        EngineError, match=r"expected (uint8 pictures \(n, 64, 64, 3\)|at most 4 pictures), received|at once"
    ):
        lite0(images)


def test_the_graph_has_no_variables_and_no_batch_norm(lite0):
    """Folded into the convolutions, or they would be computed for every image again."""
    graph = lite0._forward.graph
    assert not graph.variables
    assert not [op.type for op in graph.get_operations() if "Var" in op.type or "BatchNorm" in op.type]


# --- preprocessing --------------------------------------------------------------------------------


def _features_by_keras(name, pixels, **factory_options):
    """Keras' own network with the same random numbers, on pixels scaled by NumPy; NumPy's mean."""
    import keras

    from featurize.nets.networks import build_network

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
def test_other_scaling_stands_in_for_the_networks_own(name, options, preprocess):
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
def test_networks_that_scale_inside_do_so_no_more(name):
    from featurize.nets.networks import build_network, without_scaling

    backbone = get_backbone(name)
    network = build_network(backbone, find_weights(backbone, "random"), input_size=SIZE)
    bare = without_scaling(network)
    kinds = [type(layer).__name__ for layer in bare.layers]
    assert not {"Rescaling", "Normalization"} & set(kinds)
    assert len(bare.layers) < len(network.layers)
    assert len(bare.weights) >= len(network.weights) - 3  # of a Normalization: mean, variance, count


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"preprocess": "zoom"}, "--preprocess zoom: unknown. Choose one of: native, rescale, featurewise"),
        ({"preprocess": "featurewise"}, "statistics belong to featurewise"),
        ({"statistics": {"mean": [0] * 3, "std": [1] * 3}}, "statistics belong to featurewise"),
        ({"preprocess": "featurewise", "statistics": {"mean": [0, 0], "std": [1] * 3}}, "3 finite .* 'mean'"),
        ({"preprocess": "featurewise", "statistics": {"mean": [0] * 3}}, "3 finite .* 'std'"),
        ({"preprocess": "featurewise", "statistics": {"mean": [0] * 3, "std": [1, -1, 1]}}, "as 'std'"),
        ({"engine": "torch"}, "--engine torch: unknown. Choose one of: auto, tensorflow"),
        ({"batch_size": 0}, "--batch-size 0: expected auto or a whole number"),
        ({"batch_size": "many"}, "--batch-size many"),
        ({"gpu_memory": 0.0}, "--gpu-memory 0.0: expected a fraction"),
        ({"gpu_memory": 1.5}, "--gpu-memory 1.5"),
        ({"precision": "int8"}, "--precision int8: unknown. Choose one of: float32, float16, bfloat16"),
        ({"input_size": 31}, "--input-size 31: efficientnet_lite0 needs at least 32 pixels"),
        ({"device": "tpu"}, "--device tpu: expected auto, cpu or gpu:N"),
    ],
)  # fmt: skip
def test_options_that_make_no_sense(options, text):
    with pytest.raises(ConfigError, match=text):
        _engine(**options)


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

    from featurize.nets.networks import build_network

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


def test_keras_is_left_as_it_was():
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


def test_another_keras_backend_is_named(monkeypatch):
    import keras

    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(
        EngineError, match=r"Keras runs on 'jax'; Folio needs TensorFlow\. Set KERAS_BACKEND=tensorflow"
    ):
        _engine()


@pytest.mark.parametrize(
    ("precision", "device"), [("float32", "cpu"), ("bfloat16", "cpu"), ("float16", "gpu:1")]
)
def test_precisions_that_a_device_has(precision, device):
    check_precision(precision, device=device)


def test_float16_needs_a_gpu():
    with pytest.raises(EngineError, match=r"float16 needs a GPU.*--precision bfloat16 or float32"):
        check_precision("float16", device="cpu")


# --- batch size -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "size", "expected"),
    [("cpu", 224, 32), ("cpu", 64, 32), ("cpu", 299, 16), ("cpu", 331, 8), ("cpu", 600, 4),
     ("gpu:0", 224, 128), ("gpu:3", 600, 16), ("cpu", 5000, 1)],
)  # fmt: skip
def test_auto_batch_size(device, size, expected):
    assert auto_batch_size(device, input_size=size) == expected


@given(st.integers(32, 4096))
def test_a_batch_never_has_more_pixels_than_32_pictures_of_224(size):
    n = auto_batch_size("cpu", input_size=size)
    assert n == 1 or n * size**2 <= 32 * 224**2
    assert n == 32 or 2 * n * size**2 > 32 * 224**2


def test_auto_is_the_default():
    assert _engine(batch_size="auto").batch_size == 32


# --- devices, as logic ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "n_gpus", "device", "spelled"),
    [("auto", 0, "cpu", "/CPU:0"), ("auto", 2, "gpu:0", "/GPU:0"), ("cpu", 2, "cpu", "/CPU:0"),
     ("gpu", 1, "gpu:0", "/GPU:0"), ("gpu:1", 2, "gpu:1", "/GPU:1")],
)  # fmt: skip
def test_the_device_that_is_taken(asked, n_gpus, device, spelled):
    plan = plan_device(asked, n_gpus=n_gpus)
    assert (plan.device, plan.tensorflow_name) == (device, spelled)
    assert plan.hide_gpus == (device == "cpu")
    assert plan.memory_limit is None


@pytest.mark.parametrize(
    ("asked", "n_gpus", "visible", "text"),
    [
        ("gpu:1", 0, None, r"--device gpu:1: TensorFlow finds no GPU here\. Type --device cpu$"),
        ("gpu", 0, "", r"finds no GPU here \(CUDA_VISIBLE_DEVICES is ''\)\. Type --device cpu$"),
        ("gpu:2", 2, "3,1", r"gpu:0, gpu:1 here \(CUDA_VISIBLE_DEVICES is '3,1'\)\. Type --device gpu:1$"),
    ],
)  # fmt: skip
def test_a_gpu_that_is_not_there(asked, n_gpus, visible, text):
    with pytest.raises(EngineError, match=text):
        plan_device(asked, n_gpus=n_gpus, visible=visible)


@pytest.mark.parametrize("device", ["gpu:x", "gpu:-1", "gpus", "", "cuda:0"])
def test_a_device_that_is_none(device):
    with pytest.raises(ConfigError, match=f"--device {device}: expected auto, cpu or gpu:N, such as gpu:0"):
        plan_device(device, n_gpus=4)


def test_a_fraction_of_the_gpus_memory():
    """Half of 80 GiB is 40960 MiB."""
    plan = plan_device("gpu:1", n_gpus=2, gpu_memory=0.5, gpu_total={0: 1 << 30, 1: 80 << 30}.__getitem__)
    assert plan.memory_limit == 40960


def test_memory_that_cannot_be_told():
    with pytest.raises(EngineError, match=r"the memory of gpu:0 cannot be told\. Leave the option out"):
        plan_device("gpu:0", n_gpus=1, gpu_memory=0.5, gpu_total=lambda index: 0)


def test_the_fraction_is_nothing_to_a_cpu():
    assert plan_device("cpu", n_gpus=1, gpu_memory=0.5, gpu_total=lambda index: 1 << 30).memory_limit is None


class _Config:
    """What `tf.config` does about GPUs; once started it refuses changes, as TensorFlow does."""

    def __init__(self, n_gpus, *, started=False):
        self.gpus = [f"GPU {i}" for i in range(n_gpus)]
        self.visible, self.limits, self.growing, self.started = list(self.gpus), {}, set(), started
        self.experimental = types.SimpleNamespace(set_memory_growth=self.set_memory_growth)

    def list_physical_devices(self, kind):
        return list(self.gpus)

    def get_visible_devices(self, kind):
        return list(self.visible)

    def set_visible_devices(self, devices, kind):
        self._change()
        self.visible = list(devices)

    def LogicalDeviceConfiguration(self, memory_limit):  # TensorFlow's name
        return types.SimpleNamespace(memory_limit=memory_limit)

    def set_logical_device_configuration(self, gpu, logical):
        self._change()
        self.limits[gpu] = logical

    def get_logical_device_configuration(self, gpu):
        return self.limits.get(gpu)

    def set_memory_growth(self, gpu, on):
        if gpu in self.growing:
            return
        self._change()
        if gpu in self.limits:
            raise ValueError("Cannot set memory growth on device when virtual devices configured")
        self.growing.add(gpu)

    def _change(self):
        if self.started:
            raise RuntimeError("Physical devices cannot be modified after being initialized")


def _plan(device, limit=None):
    return DevicePlan(device=device, hide_gpus=device == "cpu", memory_limit=limit)


def test_a_cpu_engine_takes_nothing_of_any_gpu():
    config = _Config(2)
    apply_plan(_plan("cpu"), config)
    assert config.visible == []


def test_memory_grows_by_default_on_every_gpu():
    config = _Config(2)
    apply_plan(_plan("gpu:1"), config)
    assert config.growing == {"GPU 0", "GPU 1"}


def test_a_limit_is_set_on_its_gpu_alone():
    config = _Config(2)
    apply_plan(_plan("gpu:1", 1000), config)
    assert config.limits["GPU 1"][0].memory_limit == 1000
    assert config.growing == {"GPU 0"}


@pytest.mark.parametrize("plan", [_plan("cpu"), _plan("gpu:0"), _plan("gpu:1")])
def test_after_the_start_what_is_harmless_goes_on(plan):
    apply_plan(plan, _Config(2, started=True))


def test_after_the_start_the_same_limit_goes_on_and_another_does_not():
    config = _Config(1)
    apply_plan(_plan("gpu:0", 1000), config)
    config.started = True
    apply_plan(_plan("gpu:0", 1000), config)
    apply_plan(_plan("gpu:0"), config)
    with pytest.raises(EngineError, match="already runs on gpu:0 in this process with another limit"):
        apply_plan(_plan("gpu:0", 2000), config)


def test_a_hidden_gpu_is_explained():
    config = _Config(1)
    apply_plan(_plan("cpu"), config)
    with pytest.raises(EngineError, match=r"has already hidden its GPUs.*Make the engine on the GPU first"):
        apply_plan(_plan("gpu:0"), config)


def test_without_gpus_nothing_is_touched():
    apply_plan(_plan("cpu"), _Config(0))


def test_a_gpu_that_is_not_here():
    import tensorflow as tf

    if tf.config.list_physical_devices("GPU"):
        pytest.skip("this machine has a GPU")
    with pytest.raises(EngineError, match="--device gpu:0: TensorFlow finds no GPU here"):
        _engine(device="gpu:0")
