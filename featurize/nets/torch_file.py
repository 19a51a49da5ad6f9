"""Read the tensors of a legacy PyTorch file without PyTorch, and nothing else from it.

Such a file is a chain of pickles (magic number, protocol, platform, the object, the storage keys) followed by
the raw numbers of every storage. Pickle can call anything it can name, so the names are a closed list here.
"""

from __future__ import annotations

import collections
import io
import pickle
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from featurize.errors import WeightsError

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_STORAGES = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}


@dataclass(frozen=True)
class _Storage:
    dtype: np.dtype
    key: str
    n_numbers: int


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in numbers, not bytes


def _rebuild_tensor(storage: _Storage, offset: int, shape: Sequence[int], strides: Sequence[int],
                    requires_grad: bool = False, hooks: Any = None) -> _Tensor:  # fmt: skip
    if not isinstance(storage, _Storage):
        raise pickle.UnpicklingError(f"a tensor needs a storage, found {type(storage).__name__}")
    return _Tensor(storage, int(offset), tuple(map(int, shape)), tuple(map(int, strides)))


class _TensorUnpickler(pickle.Unpickler):
    """Admits tensors, their storages and ordered dicts."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not a tensor")

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _location, n_numbers, view = pid
        if kind != "storage" or not isinstance(dtype, np.dtype) or view is not None:
            raise pickle.UnpicklingError(f"found an unknown kind of storage: {kind!r}")
        return _Storage(dtype, str(key), int(n_numbers))


def _array(tensor: _Tensor, numbers: np.ndarray) -> np.ndarray:
    """Return a copy of `tensor` in row-major order; refuse one that reaches outside its storage."""
    reach = tensor.offset + sum((n - 1) * step for n, step in zip(tensor.shape, tensor.strides, strict=True))
    if min((tensor.offset, *tensor.strides, *tensor.shape)) < 0 or reach >= numbers.size:
        raise ValueError(f"a tensor of shape {tensor.shape} reaches outside its {numbers.size} numbers")
    strides = [step * numbers.itemsize for step in tensor.strides]
    view = np.lib.stride_tricks.as_strided(numbers[tensor.offset :], tensor.shape, strides, writeable=False)
    return np.ascontiguousarray(view)


def _read_storages(stream: io.BytesIO, storages: dict[str, _Storage]) -> dict[str, np.ndarray]:
    numbers: dict[str, np.ndarray] = {}
    for key in _TensorUnpickler(stream).load():
        (n_numbers,) = struct.unpack("<q", stream.read(8))
        storage = storages[key]
        if n_numbers != storage.n_numbers:
            raise ValueError(f"storage {key} has {n_numbers} numbers, expected {storage.n_numbers}")
        data = stream.read(n_numbers * storage.dtype.itemsize)
        numbers[key] = np.frombuffer(data, dtype=storage.dtype, count=n_numbers)
    return numbers


def read_torch_tensors(data: bytes) -> dict[str, np.ndarray]:
    """Return the named tensors of a legacy (not zip) PyTorch state dict.

    Parameters
    ----------
    data : bytes
        The whole file. Check its digest first: the closed list of names stops code, not nonsense.

    Returns
    -------
    dict of str to ndarray
        float32 or int64 arrays in the file's order, each in PyTorch's axis order.

    Raises
    ------
    WeightsError
        If the bytes are not such a file, are cut short, or name anything but tensors and ordered dicts.
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
        numbers = _read_storages(stream, {t.storage.key: t.storage for t in tensors.values()})
        return {str(name): _array(tensor, numbers[tensor.storage.key]) for name, tensor in tensors.items()}
    # An unpickler fed with nonsense raises nearly anything; all of it means the same here.
    except Exception as error:
        raise WeightsError(f"not a PyTorch file of plain tensors: {error}") from error
