"""Levels: the maps that the published architectures end their stages with, named by hand."""

from __future__ import annotations

import numpy as np
import pytest

from featurize.backbones.levels import level_maps
from featurize.backbones.networks import build_network, without_scaling
from featurize.backbones.registry import get_backbone
from featurize.backbones.weights import find_weights

# Level, layer, side and channels at the network's own size, from the tables of the papers and the names in
# keras.applications. Where Keras counts names up in a whole process, "Add 2" is the third layer of that kind.
PUBLISHED = {
    "vgg16": [  # the last convolution ahead of each pool: arXiv:1409.1556, table 1
        ("1/1", "block1_conv2", 224, 64),
        ("1/2", "block2_conv2", 112, 128),
        ("1/4", "block3_conv3", 56, 256),
        ("1/8", "block4_conv3", 28, 512),
        ("1/16", "block5_conv3", 14, 512),
        ("final", "block5_pool", 7, 512),
    ],
    "resnet50": [  # arXiv:1512.03385, table 1
        ("1/2", "conv1_relu", 112, 64),
        ("1/4", "conv2_block3_out", 56, 256),
        ("1/8", "conv3_block4_out", 28, 512),
        ("1/16", "conv4_block6_out", 14, 1024),
        ("final", "conv5_block3_out", 7, 2048),
    ],
    "densenet121": [  # the convolution of each transition halves: arXiv:1608.06993, table 1
        ("1/2", "conv1_relu", 112, 64),
        ("1/4", "pool2_conv", 56, 128),
        ("1/8", "pool3_conv", 28, 256),
        ("1/16", "pool4_conv", 14, 512),
        ("final", "relu", 7, 1024),
    ],
    "mobilenet_v2": [  # expansions by 6: arXiv:1801.04381, table 2
        ("1/2", "block_1_expand_relu", 112, 6 * 16),
        ("1/4", "block_3_expand_relu", 56, 6 * 24),
        ("1/8", "block_6_expand_relu", 28, 6 * 32),
        ("1/16", "block_13_expand_relu", 14, 6 * 96),
        ("final", "out_relu", 7, 1280),
    ],
    "efficientnet_lite0": [  # expansions by 6: arXiv:1905.11946, table 1
        ("1/2", "block1_expand_relu", 112, 6 * 16),
        ("1/4", "block3_expand_relu", 56, 6 * 24),
        ("1/8", "block5_expand_relu", 28, 6 * 40),
        ("1/16", "block11_expand_relu", 14, 6 * 112),
        ("final", "head_relu", 7, 1280),
    ],
    "efficientnet_v2_b0": [  # fused blocks have their stride in the expansion: nothing stands ahead of it
        ("1/2", "block1a_project_activation", 112, 16),
        ("1/4", "block2b_add", 56, 32),
        ("1/8", "block4a_expand_activation", 28, 4 * 48),
        ("1/16", "block6a_expand_activation", 14, 6 * 112),
        ("final", "top_activation", 7, 1280),
    ],
    "inception_v3": [  # grids of 147, 71, 35, 17 and 8: arXiv:1512.00567, table 1
        ("1/2", "Activation 2", 147, 64),
        ("1/4", "Activation 4", 71, 192),
        ("1/8", "mixed2", 35, 288),
        ("1/16", "mixed7", 17, 768),
        ("final", "mixed10", 8, 2048),
    ],
    "xception": [  # arXiv:1610.02357, figure 5
        ("1/2", "block1_conv2_act", 147, 64),
        ("1/4", "Add 0", 74, 128),
        ("1/8", "Add 1", 37, 256),
        ("1/16", "Add 10", 19, 728),
        ("final", "block14_sepconv2_act", 10, 2048),
    ],
    "nasnet_mobile": [  # 4 @ 1056: F = 44 filters; cells concatenate 6 F, 12 F and 24 F
        ("1/2", "stem_bn1", 111, 32),
        ("1/4", "reduction_concat_stem_1", 56, 44),
        ("1/8", "normal_concat_3", 28, 264),
        ("1/16", "normal_concat_8", 14, 528),
        ("final", "Activation -1", 7, 1056),
    ],
    "convnext_tiny": [  # the stem divides by 4; stages of 3, 3, 9 and 3 blocks: arXiv:2201.03545, table 9
        ("1/4", "Add 2", 56, 96),
        ("1/8", "Add 5", 28, 192),
        ("1/16", "Add 14", 14, 384),
        ("final", "LayerNormalization -1", 7, 768),
    ],
}


def _layer(network, name):
    kind, _, number = name.partition(" ")
    if not number:
        return network.get_layer(name)
    return [step for step in network.operations if type(step).__name__ == kind][int(number)]


def _network(name, *, input_size=None):
    backbone = get_backbone(name)
    return build_network(backbone, find_weights(backbone, "random"), input_size=input_size)


BY_DEFAULT = ("vgg16", "resnet50", "mobilenet_v2", "efficientnet_lite0")


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in BY_DEFAULT else [pytest.mark.long]) for name in PUBLISHED],
)
def test_levels_are_those_of_the_published_architecture(name):
    network = _network(name)
    expected = PUBLISHED[name]
    levels = level_maps(network)
    assert [level for level, _ in levels] == [level for level, *_ in expected]
    for (level, found), (_, layer, side, channels) in zip(levels, expected, strict=True):
        assert found is _layer(network, layer).output, level
        assert found.shape == (None, side, side, channels), level


@pytest.mark.parametrize(
    ("name", "size"),
    [pytest.param("inception_v3", 75, marks=pytest.mark.long), ("efficientnet_lite0", 32)],
)
def test_levels_are_the_same_at_the_smallest_size(name, size):
    """Sides of Inception's grids are then 37, 17, 7, 3 and 1: no powers of two apart."""
    found = [(level, maps.shape[-1]) for level, maps in level_maps(_network(name, input_size=size))]
    assert found == [(level, channels) for level, _, _, channels in PUBLISHED[name]]


def test_scaled_pixels_are_not_a_level():
    """Keras' EfficientNets scale, standardise and pad at full size; without scaling they still pad."""
    network = _network("efficientnet_b0", input_size=64)
    for each in (network, without_scaling(network)):
        levels = level_maps(each)
        assert [(level, maps.shape[1:]) for level, maps in levels] == [
            ("1/2", (32, 32, 96)),
            ("1/4", (16, 16, 144)),
            ("1/8", (8, 8, 240)),
            ("1/16", (4, 4, 672)),
            ("final", (2, 2, 1280)),
        ]
        assert levels[-1][1] is each.output


def test_a_map_with_a_bypass_is_not_a_level():
    """By hand: what the first block's output skips past ends no stage, however late it comes."""
    import keras
    from keras import layers

    pixels = keras.Input((16, 16, 3))
    first = layers.Conv2D(4, 3, padding="same")(pixels)
    inside = layers.Conv2D(9, 3, padding="same")(first)
    narrow = layers.MaxPooling2D(2)(layers.Conv2D(4, 1)(inside))
    joined = layers.Add()([narrow, layers.Conv2D(4, 1, strides=2)(first)])
    network = keras.Model(pixels, layers.Conv2D(5, 3, strides=3)(joined))
    levels = level_maps(network)
    assert [level for level, _ in levels] == ["1/1", "1/2", "final"]
    assert levels[0][1] is first
    assert levels[1][1] is joined


def test_features_of_levels_are_means_over_their_maps():
    """The oracle: a Keras model of layers named by hand, and NumPy's mean."""
    import keras

    from featurize.engines.factory import create_engine

    backbone = get_backbone("efficientnet_lite0")
    weights = find_weights(backbone)
    network = build_network(backbone, weights, input_size=64)
    maps = keras.Model(
        network.input, [network.get_layer(layer).output for _, layer, _, _ in PUBLISHED["efficientnet_lite0"]]
    )
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    pixels = (images.astype(np.float32) - 127) / 128
    expected = np.concatenate([each.mean(axis=(1, 2)) for each in maps.predict(pixels, verbose=0)], axis=1)
    engine = create_engine(
        backbone, weights, engine="tensorflow", input_size=64, levels=True, device="cpu", batch_size=4
    )
    assert engine.level_names == ("1/2", "1/4", "1/8", "1/16", "final")
    assert engine.level_ends == (96, 240, 480, 1152, 2432)
    np.testing.assert_allclose(engine(images), expected, rtol=1e-4, atol=1e-5)
