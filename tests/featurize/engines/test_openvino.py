"""The OpenVINO engine fulfils the engine protocol and agrees with TensorFlow."""

import threading
import types

import numpy as np
import pytest

from featurize.backbones.registry import get_backbone
from featurize.backbones.weights import find_weights
from featurize.engines import openvino
from featurize.engines.base import auto_batch_size
from featurize.engines.factory import create_engine
from featurize.engines.openvino import _Batch, _compiled_network
from featurize.errors import ConfigError, EngineError

SIZE = 64


def _engine(name="efficientnet_lite0", *, weights=None, **options):
    backbone = get_backbone(name)
    weights = weights or ("imagenet" if name == "efficientnet_lite0" else "random")
    options = {"engine": "openvino", "input_size": SIZE, "batch_size": 4, **options}
    return create_engine(backbone, find_weights(backbone, weights), **options)


def _images(n=4, size=SIZE, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def lite0():
    return _engine()


# --- features -------------------------------------------------------------------------------------


def test_attributes_of_an_engine(lite0):
    assert (lite0.name, lite0.size, lite0.n_features, lite0.batch_size) == ("openvino", 64, 1280, 4)
    assert (lite0.precision, lite0.device) == ("float32", "cpu")
    assert (lite0.level_names, lite0.level_ends) == (("final",), (1280,))
    features = lite0(_images())
    assert features.shape == (4, 1280)
    assert features.dtype == np.float32
    assert features.flags.owndata


def test_auto_chooses_openvino_on_a_cpu():
    assert _engine(engine="auto", device="cpu").name == "openvino"


def test_features_do_not_depend_on_the_rest_of_the_batch(lite0):
    """Bit for bit, because the batch always has the same shape."""
    images = _images()
    features = lite0(images)
    for order in ([3, 2, 1, 0], [1, 3, 0, 2]):
        np.testing.assert_array_equal(lite0(images[order]), features[order])
    for n in range(5):
        np.testing.assert_array_equal(lite0(images[:n]), features[:n])


def test_features_do_not_depend_on_other_batches_in_flight(lite0):
    """Many batches at the same time, on any stream, with results taken in any order."""
    images = _images(40)
    features = np.concatenate([lite0(images[start : start + 4]) for start in range(0, 40, 4)])
    generator = np.random.default_rng(1)
    for _ in range(3):
        picks = [generator.permutation(40)[: generator.integers(1, 5)] for _ in range(30)]
        pending = [lite0.submit(images[pick]) for pick in picks]
        for position in generator.permutation(30):
            np.testing.assert_array_equal(pending[position].result(), features[picks[position]])


def test_pixels_may_be_overwritten_after_submit(lite0):
    images, expected = _images(), lite0(_images())
    pending = lite0.submit(images)
    images[:] = 0
    np.testing.assert_array_equal(pending.result(), expected)


def test_a_result_may_be_taken_twice_and_is_not_shared(lite0):
    pending, other = lite0.submit(_images()), lite0.submit(_images(seed=1))
    first = pending.result().copy()
    other.result()[:] = 0
    np.testing.assert_array_equal(pending.result(), first)


def test_several_threads_share_an_engine(lite0):
    images = _images(8)
    expected = [lite0(images[n : n + 1]) for n in range(8)]
    wrong = []

    def work(n):
        for _ in range(20):
            if not np.array_equal(lite0.submit(images[n : n + 1]).result(), expected[n]):
                wrong.append(n)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive()
    assert wrong == []


def test_the_images_are_unchanged(lite0):
    images = _images()
    images.flags.writeable = False
    lite0(images)
    np.testing.assert_array_equal(images, _images())


def test_images_that_are_a_view_of_a_larger_array(lite0):
    wide = np.random.default_rng(2).integers(0, 256, (4, SIZE, SIZE, 4), dtype=np.uint8)
    np.testing.assert_array_equal(lite0(wide[..., :3]), lite0(np.ascontiguousarray(wide[..., :3])))


@pytest.mark.parametrize(
    "images",
    [_images(5), _images(2, size=32), _images().astype(np.float32), _images()[0], _images()[..., :1]],
    ids=["too many", "too small", "not uint8", "no batch", "gray"],
)
def test_other_images_are_refused(lite0, images):
    with pytest.raises(EngineError, match=r"expected (uint8 images|at most 4 images)"):
        lite0.submit(images)


# --- agreement with TensorFlow --------------------------------------------------------------------


def _by_tensorflow(graph, images):
    """Run a serialised graph."""
    import tensorflow as tf

    definition = tf.compat.v1.GraphDef.FromString(graph)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.import_graph_def(definition, name="")
        return session.run("Identity:0", {"images:0": images})


def _disagreement(monkeypatch, name, size, **options):
    """Return the largest difference from TensorFlow on the same graph, to the largest feature."""
    made = []
    real = openvino.frozen_graph

    def frozen_graph(spec):
        made.append(real(spec))
        return made[-1]

    monkeypatch.setattr(openvino, "frozen_graph", frozen_graph)
    engine = _engine(name, input_size=size, **{"batch_size": 2, **options})
    images = _images(2, size=size, seed=7)
    expected = _by_tensorflow(made[0].graph, images)
    assert np.abs(expected).max() > 0
    return np.abs(engine(images) - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize(
    ("name", "size", "options"),
    [
        ("efficientnet_lite0", 96, {}),
        ("vgg16", 64, {"preprocess": "rescale"}),
        (
            "mobilenet_v3_small",
            96,
            {"preprocess": "featurewise", "statistics": {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3]}},
        ),
        ("mobilenet_v2", 96, {"levels": True}),
    ],
)
def test_it_agrees_with_tensorflow(monkeypatch, name, size, options):
    assert _disagreement(monkeypatch, name, size, **options) < 1e-5


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("resnet50", 64),
        ("convnext_tiny", 64),
        ("efficientnet_v2_b0", 64),
        ("nasnet_mobile", 64),
    ],
)
def test_it_agrees_with_tensorflow_on_other_networks(monkeypatch, name, size):
    assert _disagreement(monkeypatch, name, size) < 1e-5


# --- precision ------------------------------------------------------------------------------------


def test_bfloat16_is_near_and_pools_in_float32(lite0):
    try:
        engine = _engine(precision="bfloat16")
    except EngineError as error:
        pytest.skip(f"not on this CPU: {error}")
    features, exact = engine(_images()), lite0(_images())
    assert features.dtype == np.float32
    assert not np.array_equal(features, exact)
    cosine = (features * exact).sum(1) / np.linalg.norm(features, axis=1) / np.linalg.norm(exact, axis=1)
    assert (cosine > 0.99).all()
    assert (features.view(np.uint32) & 0xFFFF).any()  # a mean in bfloat16 would end in 16 zero bits
    np.testing.assert_array_equal(engine(_images()[::-1]), features[::-1])


class _FakeOpenVINO:
    """Compiles everything, and then computes in float32."""

    def __init__(self):
        self.options = None

    def read_model(self, structure, numbers):
        return "model"

    def compile_model(self, model, device, options):
        self.options = options
        kind = types.SimpleNamespace(get_type_name=lambda: "f32")
        return types.SimpleNamespace(get_property=lambda name: kind)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_it_computes_in_the_requested_precision_or_raises(precision):
    """On a CPU without the instructions, OpenVINO computes in float32 without an error."""
    core, stored = _FakeOpenVINO(), types.SimpleNamespace(structure=b"", weights=b"1")
    if precision == "float32":
        _compiled_network(core, stored, precision=precision, threads=None)
    else:
        with pytest.raises(
            EngineError,
            match=r"^--precision bfloat16: OpenVINO would compute in f32 on this CPU\. "
            r"Type --precision float32, or --engine tensorflow$",
        ):
            _compiled_network(core, stored, precision=precision, threads=None)
    assert core.options["INFERENCE_PRECISION_HINT"] == {"float32": "f32", "bfloat16": "bf16"}[precision]


# --- batches and cores ----------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "expected"), [(224, 8), (64, 8), (299, 4), (331, 2), (600, 1), (5000, 1)])
def test_auto_batch_size(size, expected):
    """As many pixels as in 8 pictures of 224 × 224, as a power of two."""
    assert auto_batch_size("cpu", input_size=size, engine="openvino") == expected


def test_auto_is_the_default():
    assert _engine(batch_size="auto").batch_size == 8


def test_one_core_has_one_running_and_one_queued_batch(lite0):
    engine = _engine(threads=1)
    assert engine.in_flight == 2
    np.testing.assert_allclose(engine(_images()), lite0(_images()), rtol=0, atol=1e-5)
    assert lite0.in_flight >= 2


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"threads": 0}, ConfigError, "threads=0: expected a whole number of at least 1"),
        ({"device": "gpu:0"}, EngineError, "OpenVINO runs on the CPU only"),
        ({"precision": "float16"}, EngineError, "float16 needs a GPU"),
        ({"batch_size": 0}, ConfigError, "--batch-size 0: expected auto or a whole number"),
        ({"input_size": 31}, ConfigError, "--input-size 31: efficientnet_lite0 needs at least 32 pixels"),
        ({"preprocess": "featurewise"}, ConfigError, "statistics are required for featurewise only"),
    ],
)
def test_invalid_options(options, error, text):
    with pytest.raises(error, match=text):
        _engine(**options)


def test_a_failed_batch_raises_a_one_line_error_and_releases_its_request():
    def wait():
        raise RuntimeError("Exception from src/inference/src/infer_request.cpp:224:\n\nno memory left\n")

    released = []
    engine = types.SimpleNamespace(_release=lambda batch, request: released.append(request))
    request = types.SimpleNamespace(wait=wait)
    batch = _Batch(engine, request, 1)
    for _ in range(2):
        with pytest.raises(EngineError, match=r"^OpenVINO failed on a batch: no memory left$"):
            batch.result()
    assert released == [request]
