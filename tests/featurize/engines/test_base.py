"""Options of an engine are checked before it is created."""

import pytest
from hypothesis import given, strategies as st

from featurize.backbones.registry import get_backbone
from featurize.backbones.weights import find_weights
from featurize.engines.base import auto_batch_size
from featurize.engines.factory import create_engine
from featurize.errors import ConfigError


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"preprocess": "zoom"}, "--preprocess zoom: unknown. Choose one of: native, rescale, featurewise"),
        ({"preprocess": "featurewise"}, "statistics are required for featurewise only"),
        ({"statistics": {"mean": [0] * 3, "std": [1] * 3}}, "statistics are required for featurewise only"),
        ({"preprocess": "featurewise", "statistics": {"mean": [0, 0], "std": [1] * 3}}, "3 finite .* 'mean'"),
        ({"preprocess": "featurewise", "statistics": {"mean": [0] * 3}}, "3 finite .* 'std'"),
        ({"preprocess": "featurewise", "statistics": {"mean": [0] * 3, "std": [1, -1, 1]}}, "as 'std'"),
        ({"engine": "torch"}, "--engine torch: unknown. Choose one of: auto, tensorflow"),
        ({"batch_size": 0}, "--batch-size 0: expected auto or a whole number"),
        ({"batch_size": "many"}, "--batch-size many"),
        ({"gpu_memory": 0.0}, "--gpu-memory 0.0: expected a fraction"),
        ({"gpu_memory": 1.5}, "--gpu-memory 1.5"),
        ({"precision": "int8"}, "--precision int8: unknown. Choose one of: float32, bfloat16, float16"),
        ({"input_size": 31}, "--input-size 31: efficientnet_lite0 needs at least 32 pixels"),
        ({"device": "tpu"}, "--device tpu: expected auto, cpu, gpu or gpu:N"),
    ],
)  # fmt: skip
def test_invalid_options(options, text):
    backbone = get_backbone("efficientnet_lite0")
    with pytest.raises(ConfigError, match=text):
        create_engine(backbone, find_weights(backbone, "imagenet"), **{"engine": "tensorflow", **options})


@pytest.mark.parametrize(
    ("device", "size", "expected"),
    [("cpu", 224, 32), ("cpu", 64, 32), ("cpu", 299, 16), ("cpu", 331, 8), ("cpu", 600, 4),
     ("gpu:0", 224, 128), ("gpu:3", 600, 16), ("cpu", 5000, 1)],
)  # fmt: skip
def test_auto_batch_size(device, size, expected):
    assert auto_batch_size(device, input_size=size) == expected


@given(st.integers(32, 4096))
def test_a_batch_never_has_more_pixels_than_32_images_of_224(size):
    n = auto_batch_size("cpu", input_size=size)
    assert n == 1 or n * size**2 <= 32 * 224**2
    assert n == 32 or 2 * n * size**2 > 32 * 224**2
