"""A weights file in any of Keras' formats into a network: all of it or an error. Content tells the format."""

from __future__ import annotations

import contextlib
import importlib
import math
import os
import random
import shutil
import tempfile
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featurize.backbones.lite0 import (
    LITE0_NAME,
    lite0_network,
    load_lite0,
)
from featurize.backbones.registry import Backbone
from featurize.backbones.weights import Weights
from featurize.errors import ConfigError, EngineError, WeightsError

if TYPE_CHECKING:
    import keras


def save_weights(backbone: Backbone, weights: Weights, path: str | Path) -> Path:
    """Keep a copy of weights that `find_weights` can find again by its path.

    Parameters
    ----------
    backbone : Backbone
        The network they belong to.
    weights : Weights
        From `find_weights`. Random ones are drawn and written in Keras' own format.
    path : path-like
        Where to; `.weights.h5` is a good ending for any of them, since files are told apart by content.

    Returns
    -------
    Path
        `path`.
    """
    path = Path(path)
    if weights.path is not None:
        shutil.copyfile(weights.path, path)
        return path

    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        written = Path(folder) / "network.weights.h5"  # Keras insists on the ending
        untouched_network(backbone, weights).save_weights(written)
        written.replace(path)
    return path


_INSIDE_KERAS_FILE = "model.weights.h5"


def load_weights_file(network: keras.Model, path: Path, *, name: str) -> None:
    """Give `network` every weight from a file, and use every weight of the file.

    Parameters
    ----------
    network : keras.Model
        Built, without its top.
    path : Path
        HDF5 in the layout of `.weights.h5` or of the legacy `*_notop.h5`, or a `.keras` archive, of which
        only the weights are read: nothing in it is ever deserialised or run.
    name : str
        The backbone's name, for messages.

    Raises
    ------
    WeightsError
        If the file is damaged, of another network, with a top, or leaves any variable as it was.
    """
    try:
        with _as_hdf5(path) as (hdf5, legacy):
            _compare(network, _file_shapes(hdf5, legacy), path, name)
            _fill_with_nan(network)
            ending = ".h5" if legacy else ".weights.h5"
            with _with_ending(hdf5, ending) as named, warnings.catch_warnings():
                # Keras warns of layers it leaves out; here the marks tell, and it is an error.
                warnings.simplefilter("ignore")
                network.load_weights(named)
    except (
        OSError, KeyError, ValueError, TypeError, RuntimeError, zipfile.BadZipFile, zlib.error
    ) as error:  # fmt: skip
        reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
        raise WeightsError(_wrong(path, name, reason)) from error
    untouched = [weight.path for weight in network.weights if _left_as_it_was(weight)]
    if untouched:
        raise WeightsError(
            _wrong(path, name, f"{len(untouched)} arrays got no number, the first of them {untouched[0]}")
        )


def _wrong(path: Path, name: str, reason: str) -> str:
    return (
        f"{path}: not a whole weights file of {name}: {reason}. Expected all weights without the top, as "
        f".weights.h5, *_notop.h5 or .keras. If this is a download, delete it and try again"
    )


@contextlib.contextmanager
def _as_hdf5(path: Path) -> Iterator[tuple[Path, bool]]:
    """Give the HDF5 file, out of a `.keras` archive if need be, and whether its layout is the legacy one."""
    import h5py

    with contextlib.ExitStack() as stack:
        if not h5py.is_hdf5(path) and zipfile.is_zipfile(path):
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            with zipfile.ZipFile(path) as archive:
                path = Path(archive.extract(_INSIDE_KERAS_FILE, folder))
        if not h5py.is_hdf5(path):
            raise ValueError("it is not HDF5")
        with h5py.File(path, "r") as file:
            group = _legacy_group(file)
        yield path, group is not None


def _legacy_group(file: Any) -> Any:
    """Return the group that holds legacy layers, or None: a whole legacy model keeps them one level down."""
    for group in (file, file.get("model_weights")):
        if group is not None and any(key in group.attrs for key in ("layer_names", "layer_names0")):
            return group
    return None


def _file_shapes(path: Path, legacy: bool) -> Counter[tuple[int, ...]]:
    """Count the shapes of the network's arrays in the file, without an optimiser's or generator's state."""
    import h5py

    shapes: Counter[tuple[int, ...]] = Counter()

    def count(name: str, item: Any) -> None:
        parts = name.split("/")
        if isinstance(item, h5py.Dataset) and not {"optimizer", "seed_generator", "metrics"} & set(parts):
            shapes[tuple(item.shape)] += 1

    with h5py.File(path, "r") as file:
        (_legacy_group(file) if legacy else file).visititems(count)
    return shapes


def _compare(network: keras.Model, found: Counter[tuple[int, ...]], path: Path, name: str) -> None:
    expected = Counter(tuple(weight.shape) for weight in network.weights)
    if found == expected:
        return
    width = network.output.shape[-1]
    missing, extra = expected - found, found - expected
    if not missing and any(len(shape) >= 2 and shape[-2] == width for shape in extra):
        reason = "it has a top as well; take the file without it (*_notop.h5)"
    else:
        example = next(iter((missing or extra).elements()))
        reason = (
            f"expected {expected.total()} arrays, found {found.total()}; "
            f"{missing.total()} are missing and {extra.total()} too many, such as one of shape {example}"
        )
    raise WeightsError(_wrong(path, name, reason))


def _fill_with_nan(network: keras.Model) -> None:
    """Mark every variable, so that one which loading forgets is seen."""
    for weight in network.weights:
        weight.assign(np.full(weight.shape, _mark(weight), dtype=weight.dtype))


def _mark(weight: Any) -> float:
    return float("nan") if np.issubdtype(np.dtype(weight.dtype), np.floating) else -1


def _left_as_it_was(weight: Any) -> bool:
    numbers = np.asarray(weight)
    if np.issubdtype(numbers.dtype, np.floating):
        return not np.isfinite(numbers).all()
    return bool((numbers == -1).any())


@contextlib.contextmanager
def _with_ending(path: Path, ending: str) -> Iterator[Path]:
    """Give the same file under a name that ends as Keras wants it to: Keras goes by the name."""
    if path.name.endswith(ending) and (ending != ".h5" or not path.name.endswith(".weights.h5")):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        named = Path(folder) / f"weights{ending}"
        try:
            os.symlink(path.resolve(), named)
        except OSError:  # no right to make links
            shutil.copyfile(path, named)
        yield named


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
