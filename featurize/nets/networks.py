"""Backbone and weights to a Keras network that ends in unpooled maps. Importing this module imports no Keras.

Keras' global settings (dtype policy, axis order) and Python's random state are what they were afterwards.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from featurize.backbones import Backbone
from featurize.errors import ConfigError, EngineError
from featurize.nets.lite0 import LITE0_NAME, lite0_network, load_lite0
from featurize.nets.weights_file import load_weights_file
from featurize.weights import Weights

if TYPE_CHECKING:
    import keras

PREPROCESSES = ("native", "rescale", "featurewise")
_POLICIES = {"float32": "float32", "float16": "mixed_float16", "bfloat16": "mixed_bfloat16"}
_IMAGENET_STD = (0.229, 0.224, 0.225)  # of the channels of pixels / 255
_SCALING = ("Rescaling", "Normalization")


@contextlib.contextmanager
def keras_settings(precision: str = "float32") -> Iterator[None]:
    """Build under our own Keras settings, whatever ~/.keras/keras.json or the calling program set."""
    import keras

    if keras.backend.backend() != "tensorflow":
        raise EngineError(
            f"Keras runs on {keras.backend.backend()!r}; Folio needs TensorFlow. Set KERAS_BACKEND=tensorflow"
        )
    policy, floatx = keras.config.dtype_policy(), keras.config.floatx()
    axes = keras.config.image_data_format()
    state = random.getstate()  # Keras draws the seed of every initialiser from it
    keras.config.set_floatx("float32")
    keras.config.set_image_data_format("channels_last")
    keras.config.set_dtype_policy(_POLICIES[precision])
    try:
        yield
    finally:
        keras.config.set_dtype_policy(policy)
        keras.config.set_image_data_format(axes)
        keras.config.set_floatx(floatx)
        random.setstate(state)


def check_input_size(backbone: Backbone, input_size: int | None) -> int:
    """Return the side of the input in pixels, or say which sizes the network takes.

    Raises
    ------
    ConfigError
        If the network cannot take that size.
    """
    size = backbone.size if input_size is None else input_size
    if size < backbone.min_size:
        raise ConfigError(
            f"--input-size {size}: {backbone.name} needs at least {backbone.min_size} pixels "
            f"(its own size is {backbone.size})"
        )
    return size


def build_network(
    backbone: Backbone, weights: Weights, *, input_size: int | None = None, precision: str = "float32"
) -> keras.Model:
    """Return the network without its top, with its weights.

    Parameters
    ----------
    backbone : Backbone
        From the registry.
    weights : Weights
        From `find_weights`.
    input_size : int, optional
        Side of the square input in pixels; the backbone's own by default.
    precision : {"float32", "float16", "bfloat16"}, default="float32"
        Format of the arithmetic; the weights stay float32.

    Returns
    -------
    keras.Model
        From float32 (n, size, size, 3), what the network's `preprocess_input` returns, to the last maps
        (n, rows, columns, n_features). Networks of convention "inside" scale their pixels themselves.

    Raises
    ------
    ConfigError, WeightsError, EngineError
        If the size, the weights file or the Keras set-up does not fit.
    """
    network = untouched_network(backbone, weights, input_size=input_size, precision=precision)
    if backbone.factory.startswith("efficientnet."):
        _scale_as_published(network)
    return network


def untouched_network(
    backbone: Backbone, weights: Weights, *, input_size: int | None = None, precision: str = "float32"
) -> keras.Model:
    """Return the network with its weights exactly as their file has them; parameters as `build_network`."""
    size = check_input_size(backbone, input_size)
    with keras_settings(precision):
        if backbone.name == LITE0_NAME:
            network = lite0_network(input_size=size)
        else:
            import keras

            network = getattr(keras.applications, backbone.factory.split(".")[1])(
                weights=None, include_top=False, pooling=None, input_shape=(size, size, 3)
            )
    if precision != "float32":
        _scale_in_float32(network)
    if weights.kind == "random":
        assert weights.seed is not None
        _randomise(network, name=backbone.name, seed=weights.seed)
    elif backbone.name == LITE0_NAME and weights.kind == "imagenet":
        assert weights.path is not None
        load_lite0(network, weights.path)
    else:
        assert weights.path is not None
        load_weights_file(network, weights.path, name=backbone.name)
    return network


def _scale_as_published(network: keras.Model) -> None:
    """Divide once more by the root of the deviation, as Keras does in the first EfficientNets.

    There it is a layer that `keras.applications` adds only with ``weights="imagenet"``; here the variance of
    the layer before takes it in: (x - m) / sqrt(v) / sqrt(s) = (x - m) / sqrt(v s).
    """
    (layer,) = [layer for layer in network.layers if type(layer).__name__ == "Normalization"]
    layer.adapt_variance.assign(np.asarray(layer.adapt_variance) * np.asarray(_IMAGENET_STD, np.float32))
    layer.finalize_state()


def _scale_in_float32(network: keras.Model) -> None:
    """Keep the scaling of pixels inside a network exact; only what follows runs in the shorter format."""
    for layer in network.layers:
        if type(layer).__name__ in _SCALING:
            layer.dtype_policy = "float32"
            if getattr(layer, "input_mean", None) is not None:
                layer.build((None, None, None, 3))  # its constants were made in the shorter format


def _randomise(network: keras.Model, *, name: str, seed: int) -> None:
    """Draw every kernel from a counter-based generator: the same numbers in every process, on every device.

    Uniform with the variance 1 / fan-in; Keras' own initialiser counts the channels of a depthwise kernel
    as its inputs and lets a MobileNet fade to nothing. Biases, scales and batch statistics stay as Keras
    makes them.
    """
    key = np.frombuffer(name.encode().ljust(32, b"\0"), dtype=np.uint32)
    for number, variable in enumerate(network.weights):
        shape = tuple(variable.shape)
        if len(shape) < 2 or not np.issubdtype(np.dtype(variable.dtype), np.floating):
            continue
        depthwise = len(shape) == 4 and shape[-1] == 1  # (rows, columns, channels, 1): one input each
        fan_in = math.prod(shape[:2] if depthwise else shape[:-1])
        generator = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, number, *key])))
        # Of raw 24-bit integers, because NumPy promises those for ever and its distributions not.
        fraction = (generator.bit_generator.random_raw(math.prod(shape)) >> 40).astype(np.float32) / 2**23 - 1
        variable.assign((math.sqrt(3 / max(fan_in, 1)) * fraction).reshape(shape).astype(np.float32))


def without_scaling(network: keras.Model) -> keras.Model:
    """Return the network without the pixel scaling that some bring inside; other scaling can stand in."""
    import keras

    start = network.input
    for layer in network.layers[1:]:
        if type(layer).__name__ not in _SCALING:
            break
        start = layer.output
    return network if start is network.input else keras.Model(start, network.output)


def preprocess_pixels(
    backbone: Backbone,
    pixels: Any,
    *,
    preprocess: str = "native",
    statistics: Mapping[str, Sequence[float]] | None = None,
) -> Any:
    """Return what the network takes, from a float32 tensor of RGB pixels in [0, 255].

    Parameters
    ----------
    backbone : Backbone
        Whose convention "native" means.
    pixels : tf.Tensor
        (n, size, size, 3), float32.
    preprocess : {"native", "rescale", "featurewise"}
        The network's own `preprocess_input`; pixels / 255; or (pixels / 255 - mean) / (std + 1e-6), as the
        legacy `ImageDataGenerator` standardises.
    statistics : mapping, optional
        "mean" and "std" of the channels of pixels / 255, three numbers each; for "featurewise" only.

    Returns
    -------
    tf.Tensor
        Of the same shape, float32.
    """
    if preprocess == "native":
        if backbone.name == LITE0_NAME:
            return (pixels - 127.0) / 128.0
        module = importlib.import_module(f"keras.applications.{backbone.factory.split('.')[0]}")
        return module.preprocess_input(pixels, data_format="channels_last")
    scaled = pixels / 255.0
    if preprocess == "rescale":
        return scaled
    assert statistics is not None
    mean, std = (np.asarray(statistics[key], dtype=np.float32) for key in ("mean", "std"))
    return (scaled - mean) / (std + np.float32(1e-6))
