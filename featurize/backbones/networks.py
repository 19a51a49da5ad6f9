"""Keras networks of the backbones: building, loading and saving weights, pixel preprocessing.

A weights file in any Keras format must match the network completely. The format is detected from the content,
not from the file name.
"""

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

from featurize.backbones.lite0 import LITE0_NAME, lite0_network, load_lite0
from featurize.backbones.registry import Backbone
from featurize.backbones.weights import Weights
from featurize.base.files import atomic_path
from featurize.base.text import plural
from featurize.errors import ConfigError, EngineError, WeightsError

if TYPE_CHECKING:
    import keras


def save_weights(backbone: Backbone, weights: Weights, path: str | Path) -> Path:
    """Write a copy of weights to a file that `find_weights` accepts as `source`.

    Parameters
    ----------
    backbone : Backbone
        The network the weights belong to.
    weights : Weights
        From `find_weights`. Random weights are drawn and written in Keras' own format.
    path : path-like
        The new file. `.weights.h5` is a suitable suffix for every format, since formats are detected from the
        content.

    Returns
    -------
    Path
        `path`.
    """
    path = Path(path)
    with atomic_path(path) as temporary:
        if weights.path is not None:
            shutil.copyfile(weights.path, temporary)
        else:
            with tempfile.TemporaryDirectory(dir=path.parent) as folder:
                written = Path(folder) / "network.weights.h5"  # Keras requires this suffix
                _network_as_in_file(backbone, weights).save_weights(written)
                written.replace(temporary)
    return path


_KERAS_ARCHIVE_MEMBER = "model.weights.h5"


def load_weights_file(network: keras.Model, path: Path, *, name: str) -> None:
    """Load all weights of a network from a file that contains exactly these weights.

    Parameters
    ----------
    network : keras.Model
        Built, without its top.
    path : Path
        HDF5 in the layout of `.weights.h5` or of the legacy `*_notop.h5`, or a `.keras` archive. Only the
        weights of an archive are read: nothing in it is deserialised or executed.
    name : str
        The backbone's name, for error messages.

    Raises
    ------
    WeightsError
        If the file is damaged, belongs to another network, includes a top, or leaves any variable unset.
    """
    try:
        with _as_hdf5(path) as (hdf5, legacy):
            _check_shapes(network, _file_shapes(hdf5, legacy), path, name)
            _unset_weights(network)
            suffix = ".h5" if legacy else ".weights.h5"
            with _with_suffix(hdf5, suffix) as named, warnings.catch_warnings():
                # Keras only warns about layers that it skips; below, an unset variable is an error.
                warnings.simplefilter("ignore")
                network.load_weights(named)
    except (
        OSError, KeyError, ValueError, TypeError, RuntimeError, zipfile.BadZipFile, zlib.error
    ) as error:  # fmt: skip
        reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
        raise WeightsError(_mismatch(path, name, reason)) from error
    unset = [weight.path for weight in network.weights if _is_unset(weight)]
    if unset:
        reason = f"no finite values for {plural(len(unset), 'variable')}; the first is {unset[0]}"
        raise WeightsError(_mismatch(path, name, reason))


def _mismatch(path: Path, name: str, reason: str) -> str:
    return (
        f"{path}: not a complete weights file of {name}: {reason}. Expected all weights without the top, as "
        f".weights.h5, *_notop.h5 or .keras. If this is a download, delete it and try again"
    )


@contextlib.contextmanager
def _as_hdf5(path: Path) -> Iterator[tuple[Path, bool]]:
    """Yield the HDF5 file, extracted from a `.keras` archive if needed, and whether its layout is legacy."""
    import h5py

    with contextlib.ExitStack() as stack:
        if not h5py.is_hdf5(path) and zipfile.is_zipfile(path):
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            with zipfile.ZipFile(path) as archive:
                path = Path(archive.extract(_KERAS_ARCHIVE_MEMBER, folder))
        if not h5py.is_hdf5(path):
            raise ValueError("it is not HDF5")
        with h5py.File(path, "r") as file:
            group = _legacy_group(file)
        yield path, group is not None


def _legacy_group(file: Any) -> Any:
    """Return the group with the legacy layers, or None; in a complete legacy model it is one level down."""
    for group in (file, file.get("model_weights")):
        if group is not None and any(key in group.attrs for key in ("layer_names", "layer_names0")):
            return group
    return None


def _file_shapes(path: Path, legacy: bool) -> Counter[tuple[int, ...]]:
    """Count the array shapes in the file, except those of an optimizer's, metric's or generator's state."""
    import h5py

    shapes: Counter[tuple[int, ...]] = Counter()

    def count(name: str, item: Any) -> None:
        parts = name.split("/")
        if isinstance(item, h5py.Dataset) and not {"optimizer", "seed_generator", "metrics"} & set(parts):
            shapes[tuple(item.shape)] += 1

    with h5py.File(path, "r") as file:
        (_legacy_group(file) if legacy else file).visititems(count)
    return shapes


def _check_shapes(network: keras.Model, found: Counter[tuple[int, ...]], path: Path, name: str) -> None:
    expected = Counter(tuple(weight.shape) for weight in network.weights)
    if found == expected:
        return
    width = network.output.shape[-1]
    missing, extra = expected - found, found - expected
    if not missing and any(len(shape) >= 2 and shape[-2] == width for shape in extra):
        reason = "it includes the top; use the file without it (*_notop.h5)"
    else:
        example = next(iter((missing or extra).elements()))
        reason = (
            f"expected {expected.total()} arrays, found {found.total()}; "
            f"{missing.total()} missing and {extra.total()} unexpected, for example one of shape {example}"
        )
    raise WeightsError(_mismatch(path, name, reason))


def _unset_weights(network: keras.Model) -> None:
    """Set every variable to NaN, integers to -1, so that `_is_unset` finds those that are not loaded."""
    for weight in network.weights:
        unset = float("nan") if np.issubdtype(np.dtype(weight.dtype), np.floating) else -1
        weight.assign(np.full(weight.shape, unset, dtype=weight.dtype))


def _is_unset(weight: Any) -> bool:
    values = np.asarray(weight)
    if np.issubdtype(values.dtype, np.floating):
        return not np.isfinite(values).all()
    return bool((values == -1).any())


@contextlib.contextmanager
def _with_suffix(path: Path, suffix: str) -> Iterator[Path]:
    """Yield a path to the same file with the given suffix: Keras detects the format from the name."""
    if path.name.endswith(suffix) and (suffix != ".h5" or not path.name.endswith(".weights.h5")):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        named = Path(folder) / f"weights{suffix}"
        try:
            os.symlink(path.resolve(), named)
        except OSError:  # creating links is not permitted
            shutil.copyfile(path, named)
        yield named


_POLICIES = {"float32": "float32", "float16": "mixed_float16", "bfloat16": "mixed_bfloat16"}
_IMAGENET_STD = (0.229, 0.224, 0.225)  # standard deviation per channel of pixels / 255
_SCALING_LAYERS = ("Rescaling", "Normalization")


@contextlib.contextmanager
def keras_settings(precision: str = "float32") -> Iterator[None]:
    """Use fixed Keras settings, independent of ~/.keras/keras.json and of the calling program."""
    import keras

    if keras.backend.backend() != "tensorflow":
        raise EngineError(
            f"Keras runs on {keras.backend.backend()!r}; Folio needs TensorFlow. Set KERAS_BACKEND=tensorflow"
        )
    policy, floatx = keras.config.dtype_policy(), keras.config.floatx()
    axes = keras.config.image_data_format()
    state = random.getstate()  # Keras draws the seed of every initializer from it
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
    """Return the side of the square input in pixels; the backbone's default for None.

    Raises
    ------
    ConfigError
        If the network does not accept that size.
    """
    size = backbone.size if input_size is None else input_size
    if size < backbone.min_size:
        raise ConfigError(
            f"--input-size {size}: {backbone.name} needs at least {backbone.min_size} pixels "
            f"(default: {backbone.size})"
        )
    return size


def build_network(
    backbone: Backbone, weights: Weights, *, input_size: int | None = None, precision: str = "float32"
) -> keras.Model:
    """Return a backbone's Keras network without its top, with its weights.

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
        Input: float32 (n, size, size, 3), the output of the network's `preprocess_input`. Output: the last
        feature maps (n, rows, columns, n_features). Networks of convention "inside" scale pixels themselves.

    Raises
    ------
    ConfigError
        If the network does not accept the input size.
    WeightsError
        If the weights file does not match the network.
    EngineError
        If Keras does not run on TensorFlow.
    """
    network = _network_as_in_file(backbone, weights, input_size=input_size, precision=precision)
    if backbone.factory.startswith("efficientnet."):
        _fold_imagenet_std(network)
    return network


def _network_as_in_file(
    backbone: Backbone, weights: Weights, *, input_size: int | None = None, precision: str = "float32"
) -> keras.Model:
    """Return the network with exactly the weights of the file; parameters as for `build_network`."""
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
        _randomize(network, name=backbone.name, seed=weights.seed)
    elif backbone.name == LITE0_NAME and weights.kind == "imagenet":
        assert weights.path is not None
        load_lite0(network, weights.path)
    else:
        assert weights.path is not None
        load_weights_file(network, weights.path, name=backbone.name)
    return network


def _fold_imagenet_std(network: keras.Model) -> None:
    """Add the division by sqrt(std) that `keras.applications` applies in EfficientNet B0 to B7.

    Keras adds it as a layer only with ``weights="imagenet"``. Here it becomes part of the variance of the
    layer before: (x - m) / sqrt(v) / sqrt(s) = (x - m) / sqrt(v s).
    """
    (layer,) = [layer for layer in network.layers if type(layer).__name__ == "Normalization"]
    layer.adapt_variance.assign(np.asarray(layer.adapt_variance) * np.asarray(_IMAGENET_STD, np.float32))
    layer.finalize_state()


def _scale_in_float32(network: keras.Model) -> None:
    """Compute the pixel scaling inside a network in float32; only later layers use the shorter format."""
    for layer in network.layers:
        if type(layer).__name__ in _SCALING_LAYERS:
            layer.dtype_policy = "float32"
            if getattr(layer, "input_mean", None) is not None:
                layer.build((None, None, None, 3))  # its constants were created in the shorter format


def _randomize(network: keras.Model, *, name: str, seed: int) -> None:
    """Draw every kernel from a counter-based generator: the same values in every process, on every device.

    Kernels are uniform with variance 1 / fan-in. Keras' own initializer counts the channels of a depthwise
    kernel as inputs, so that the activations of a MobileNet vanish. Biases, scales and batch statistics keep
    their initial Keras values.
    """
    key = np.frombuffer(name.encode().ljust(32, b"\0"), dtype=np.uint32)
    for number, variable in enumerate(network.weights):
        shape = tuple(variable.shape)
        if len(shape) < 2 or not np.issubdtype(np.dtype(variable.dtype), np.floating):
            continue
        depthwise = len(shape) == 4 and shape[-1] == 1  # (rows, columns, channels, 1): one input each
        fan_in = math.prod(shape[:2] if depthwise else shape[:-1])
        generator = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, number, *key])))
        # From raw 24-bit integers: NumPy guarantees a stable bit stream, but not stable distributions.
        fraction = (generator.bit_generator.random_raw(math.prod(shape)) >> 40).astype(np.float32) / 2**23 - 1
        variable.assign((math.sqrt(3 / max(fan_in, 1)) * fraction).reshape(shape).astype(np.float32))


def without_scaling(network: keras.Model) -> keras.Model:
    """Return the network without the pixel scaling layers that some networks start with."""
    import keras

    scaled = network.input
    for layer in network.layers[1:]:
        if type(layer).__name__ not in _SCALING_LAYERS:
            break
        scaled = layer.output
    return network if scaled is network.input else keras.Model(scaled, network.output)


def preprocess_pixels(
    backbone: Backbone,
    pixels: Any,
    *,
    preprocess: str = "native",
    statistics: Mapping[str, Sequence[float]] | None = None,
) -> Any:
    """Return the network's input computed from RGB pixels.

    Parameters
    ----------
    backbone : Backbone
        The network; its own convention applies with "native".
    pixels : tf.Tensor
        float32 (n, size, size, 3), RGB in [0, 255].
    preprocess : {"native", "rescale", "featurewise"}
        The network's own `preprocess_input`; pixels / 255; or (pixels / 255 - mean) / (std + 1e-6), as in the
        legacy `ImageDataGenerator`.
    statistics : mapping, optional
        Only for "featurewise": "mean" and "std" of pixels / 255, three numbers each (one per channel).

    Returns
    -------
    tf.Tensor
        float32 of the same shape.
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
