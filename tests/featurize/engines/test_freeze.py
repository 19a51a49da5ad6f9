"""The frozen forward pass against Keras' own layers and NumPy's mean."""

import types

import numpy as np
import pytest

from featurize.backbones.registry import get_backbone
from featurize.backbones.weights import find_weights
from featurize.engines.freeze import NetworkSpec, _graph_of_constants, frozen_forward, frozen_graph

SIZE = 64
MOBILENET = get_backbone("mobilenet")
# The last layer of each resolution, and its width, in table 1 of the MobileNet paper (arXiv:1704.04861).
LEVELS = {
    "conv_pw_1_relu": 64,
    "conv_pw_3_relu": 128,
    "conv_pw_5_relu": 256,
    "conv_pw_11_relu": 512,
    "conv_pw_13_relu": 1024,
}


def _spec(*, levels=False):
    return NetworkSpec(
        backbone=MOBILENET,
        weights=find_weights(MOBILENET, "random"),
        input_size=SIZE,
        preprocess="native",
        statistics=None,
        levels=levels,
        batch_size=2,
    )


def _frozen(*, levels=False, precision="float32"):
    return frozen_forward(_spec(levels=levels), precision=precision, device_name="/CPU:0")


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def maps(images):
    """The maps of those layers, by Keras, of pixels scaled by NumPy."""
    import keras

    from featurize.backbones.networks import build_network

    network = build_network(MOBILENET, find_weights(MOBILENET, "random"), input_size=SIZE)
    model = keras.Model(network.input, [network.get_layer(name).output for name in LEVELS])
    return [np.asarray(one) for one in model(images.astype(np.float32) / 127.5 - 1, training=False)]


def _features(frozen, images):
    import tensorflow as tf

    (features,) = frozen.function(tf.constant(images))
    return features.numpy()


def _assert_near(features, expected):
    np.testing.assert_allclose(features, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_the_final_level_alone(images, maps):
    frozen = _frozen()
    assert (frozen.level_names, frozen.level_ends) == (("final",), (1024,))
    _assert_near(_features(frozen, images), maps[-1].mean(axis=(1, 2)))


def test_all_levels_side_by_side_in_one_pass(images, maps):
    frozen = _frozen(levels=True)
    assert frozen.level_names == ("1/2", "1/4", "1/8", "1/16", "final")
    assert frozen.level_ends == tuple(np.cumsum(list(LEVELS.values())))
    features = _features(frozen, images)
    starts = (0, *frozen.level_ends)
    for level, (start, end) in enumerate(zip(starts, frozen.level_ends, strict=False)):
        _assert_near(features[:, start:end], maps[level].mean(axis=(1, 2)))
    assert not frozen.function.graph.variables


def test_levels_of_a_shorter_format_are_pooled_in_float32(images):
    features = _features(_frozen(levels=True, precision="bfloat16"), images)
    assert features.dtype == np.float32
    assert (features.view(np.uint32) & 0xFFFF).any(axis=0).mean() > 0.5  # else 16 zero bits


def test_the_graph_is_the_same_with_and_without_private_functions_of_tensorflow(monkeypatch, images, maps):
    """If TensorFlow does not have the private functions, its public function is used."""
    import tensorflow as tf
    from tensorflow.python import framework
    from tensorflow.python.framework import convert_to_constants as freezing

    def features():
        frozen = frozen_graph(_spec())
        assert (frozen.level_names, frozen.level_ends) == (("final",), (1024,))
        graph = tf.compat.v1.GraphDef.FromString(frozen.graph)
        assert not [node.op for node in graph.node if "Variable" in node.op]
        with tf.Graph().as_default(), tf.compat.v1.Session() as session:
            tf.import_graph_def(graph, name="")
            return session.run("Identity:0", {"images:0": images})

    by_private_functions = features()
    _assert_near(by_private_functions, maps[-1].mean(axis=(1, 2)))
    public = types.SimpleNamespace(
        convert_variables_to_constants_v2=freezing.convert_variables_to_constants_v2
    )
    monkeypatch.setattr(framework, "convert_to_constants", public)
    np.testing.assert_array_equal(features(), by_private_functions)


def test_nodes_that_the_features_do_not_need_are_removed():
    """A node without consumers, such as an inactive dropout, would be a second output to other engines."""
    import tensorflow as tf

    variable = tf.Variable([2.0, 3.0])

    @tf.function(input_signature=[tf.TensorSpec((1, 2), tf.float32)])
    def forward(x):
        tf.random.uniform((1,), seed=1) + tf.reduce_sum(variable)  # a seed: other tests ask for one
        return x * variable

    function = forward.get_concrete_function()
    assert "RandomUniform" in [node.op for node in function.graph.as_graph_def().node]
    graph = _graph_of_constants(function)
    assert {node.op for node in graph.node} - {"NoOp"} == {"Placeholder", "Const", "Mul", "Identity"}
    read = {name.lstrip("^").split(":")[0] for node in graph.node for name in node.input}
    assert {node.name for node in graph.node} - read == {"Identity"}
