"""Weights: located, identified, loaded completely or refused. Files are written with h5py or Keras."""

import dataclasses
import functools
import hashlib
import http.server
import itertools
import os
import shutil
import socket
import subprocess
import sys
import threading
import zipfile
import zlib

import h5py
import numpy as np
import pytest

from featurize.backbones.networks import build_network, save_weights
from featurize.backbones.registry import get_backbone
from featurize.backbones.weights import find_weights, models_folder, weights_status
from featurize.engines.factory import create_engine
from featurize.errors import WeightsError

# Keras' own, when it saves under NumPy 2.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"
)

SMALL = "mobilenet_v3_small"
SIZE = 64


@pytest.fixture
def backbone():
    return get_backbone(SMALL)


@pytest.fixture(autouse=True)
def keras_home(tmp_path, monkeypatch):
    """An empty cache, and no way to the network: what a test reaches it must name."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setenv("FOLIO_WEIGHTS_MIRROR", "http://127.0.0.1:9")  # nothing listens there
    return tmp_path / "keras"


def _network(name=SMALL, *, include_top=False, seed=1):
    """A network by keras.applications alone, every number of it drawn from `seed`."""
    import keras

    from featurize.backbones.networks import keras_settings

    factory = getattr(keras.applications, get_backbone(name).factory.split(".")[1])
    with keras_settings():
        size = None if include_top else (SIZE, SIZE, 3)
        network = factory(weights=None, include_top=include_top, input_shape=size)
    generator = np.random.default_rng(seed)
    for weight in network.weights:
        low, high = (0.5, 1.5) if weight.name in ("gamma", "moving_variance", "variance") else (-0.1, 0.1)
        if len(weight.shape) > 1:  # so that a picture is still seen at the end
            one_input = weight.shape[-1] == 1
            high = (6 / np.prod(weight.shape[:2] if one_input else weight.shape[:-1])) ** 0.5
            low = -high
        if "int" in weight.dtype:
            low, high = 1, 9
        weight.assign(generator.uniform(low, high, weight.shape).astype(weight.dtype))
    return network


def _write_legacy(network, path, *, root=""):
    """The layout of Keras 1 and 2, by hand: a group a layer, names in attributes, trainable weights first."""
    with h5py.File(path, "w") as file:
        top = file.require_group(root) if root else file
        top.attrs["layer_names"] = [layer.name.encode() for layer in network.layers]
        top.attrs["keras_version"], top.attrs["backend"] = b"2.4.0", b"tensorflow"
        for layer in network.layers:
            group = top.create_group(layer.name)
            weights = [*layer.trainable_weights, *layer.non_trainable_weights]
            names = [f"{layer.name}/{number}_{weight.name}:0" for number, weight in enumerate(weights)]
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name, weight in zip(names, weights, strict=True):
                group[name] = np.asarray(weight)
    return path


@pytest.fixture(scope="module")
def published():
    return _network()


@pytest.fixture
def notop(published, tmp_path):
    return _write_legacy(published, tmp_path / "some_notop.h5")


def _assert_same_numbers(network, expected):
    assert len(network.weights) == len(expected.weights)
    for ours, theirs in zip(network.weights, expected.weights, strict=True):
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))


def _load(backbone, path):
    return build_network(backbone, find_weights(backbone, path), input_size=SIZE)


def _images(n=2, size=SIZE):
    return np.random.default_rng(0).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


# --- local files ----------------------------------------------------------------------------------


def test_a_legacy_notop_file_loads(backbone, notop, published):
    weights = find_weights(backbone, notop)
    assert weights.kind == "file"
    assert weights.path == notop
    assert weights.sha256 == hashlib.sha256(notop.read_bytes()).hexdigest()
    _assert_same_numbers(build_network(backbone, weights, input_size=SIZE), published)


def test_a_complete_legacy_model_loads(backbone, published, tmp_path):
    _assert_same_numbers(
        _load(backbone, _write_legacy(published, tmp_path / "model.h5", root="model_weights")), published
    )


@pytest.mark.parametrize("name", ["w.weights.h5", "model.keras"])
def test_files_that_keras_writes_load(backbone, name, published, tmp_path):
    path = tmp_path / name
    (published.save_weights if name.endswith("weights.h5") else published.save)(path)
    _assert_same_numbers(_load(backbone, path), published)


@pytest.mark.parametrize("name", ["w.weights.h5", "model.keras", "some_notop.h5"])
def test_the_format_is_detected_from_the_content(backbone, name, published, notop, tmp_path, long):
    if name == "w.weights.h5":
        published.save_weights(tmp_path / name)
    elif name == "model.keras":
        published.save(tmp_path / name)
    for other in ("copy.weights.h5", "copy.keras", *(("copy.h5", "copy") if long else ())):
        shutil.copyfile(tmp_path / name, tmp_path / other)
        _assert_same_numbers(_load(backbone, tmp_path / other), published)


def test_a_keras_file_with_a_damaged_deflate_stream_is_refused(backbone, published, tmp_path):
    published.save(tmp_path / "model.keras")
    path = tmp_path / "bad.keras"
    with zipfile.ZipFile(tmp_path / "model.keras") as good, zipfile.ZipFile(path, "w") as bad:
        bad.writestr("model.weights.h5", good.read("model.weights.h5"), zipfile.ZIP_DEFLATED)
    content = bytearray(path.read_bytes())
    start = 30 + len("model.weights.h5")  # a local header is 30 bytes and the name
    content[start : start + 64] = b"\xff" * 64  # a block of the type that deflate does not have
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"not a complete weights file .*delete it and try") as caught:
        _load(backbone, path)
    assert isinstance(caught.value.__cause__, zlib.error)


def test_nothing_in_a_keras_file_is_run(backbone, published, tmp_path):
    """Its config, which Keras would turn into layers and functions, may be anything."""
    published.save(tmp_path / "model.keras")
    with (
        zipfile.ZipFile(tmp_path / "model.keras") as good,
        zipfile.ZipFile(tmp_path / "bad.keras", "w") as bad,
    ):
        bad.writestr("config.json", '{"module": "os", "class_name": "system", "config": "touch /ran"}')
        bad.writestr("model.weights.h5", good.read("model.weights.h5"))
    _assert_same_numbers(_load(backbone, tmp_path / "bad.keras"), published)


@pytest.mark.filterwarnings(
    "ignore:`input_shape` is undefined or non-square:UserWarning"
)  # 64 pixels are few
@pytest.mark.parametrize(
    "name",
    [
        "mobilenet_v3_small",
        "efficientnet_b0",
        "mobilenet",
        pytest.param("convnext_tiny", marks=pytest.mark.long),
    ],
)
def test_features_are_those_of_keras_with_imagenet_weights(name, keras_home, monkeypatch):
    """Keras builds some networks otherwise with weights="imagenet"; one file gives both the same features."""
    import keras
    from keras.src.utils import file_utils

    backbone = get_backbone(name)
    path = keras_home / "models" / backbone.weights_file
    path.parent.mkdir(parents=True)
    _write_legacy(_network(name), path)
    monkeypatch.setattr(file_utils, "get_file", lambda *args, **kwargs: str(path))
    theirs = getattr(keras.applications, backbone.factory.split(".")[1])(
        weights="imagenet", include_top=False, input_shape=(SIZE, SIZE, 3)
    )
    pixels = _images().astype(np.float32)
    if name == "mobilenet":
        pixels = keras.applications.mobilenet.preprocess_input(pixels)
    expected = np.asarray(theirs(pixels, training=False)).mean(axis=(1, 2))

    engine = create_engine(
        backbone, find_weights(backbone), engine="tensorflow", device="cpu", input_size=SIZE, batch_size=2
    )
    features = engine(_images())

    assert np.abs(expected[0] - expected[1]).max() > 0.01 * np.abs(expected).max()  # they differ
    np.testing.assert_allclose(features, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


# --- files that are refused -----------------------------------------------------------------------


def _refused(backbone, path, text):
    with pytest.raises(WeightsError, match=text) as caught:
        _load(backbone, path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "Expected all weights without the top, as .weights.h5, *_notop.h5 or .keras" in str(caught.value)


@pytest.mark.parametrize("write", ["legacy", "weights.h5", "keras"])
def test_another_networks_file_is_refused(write, backbone, tmp_path):
    other, path = _network("mobilenet"), tmp_path / f"other.{write}"
    if write == "legacy":
        _write_legacy(other, path)
    elif write == "keras":
        other.save(path)
    else:
        other.save_weights(path)
    _refused(backbone, path, "not a complete weights file of mobilenet_v3_small: expected 206 arrays, found ")


@pytest.mark.parametrize("write", ["legacy", "weights.h5"])
def test_a_file_with_a_top_is_refused(write, backbone, tmp_path):
    network, path = _network(include_top=True), tmp_path / f"top.{write}"
    _write_legacy(network, path) if write == "legacy" else network.save_weights(path)
    _refused(backbone, path, "expected 206 arrays, found 210; 0 missing and 4 unexpected|it includes the top")


def test_a_top_of_1000_classes_is_named(tmp_path):
    _refused(
        get_backbone("mobilenet_v2"),
        _write_legacy(_network("mobilenet_v2", include_top=True), tmp_path / "top.h5"),
        r"it includes the top; use the file without it \(\*_notop.h5\)",
    )


@pytest.mark.parametrize(
    "content", [b"PK\x03\x04 no zip", b"<html>Not Found</html>", b"\x89HDF\r\n\x1a\n" + b"\0" * 99]
)
def test_a_file_that_is_not_a_weights_file_is_refused(content, backbone, tmp_path):
    path = tmp_path / "page.h5"
    path.write_bytes(content)
    _refused(backbone, path, "not a complete weights file")


@pytest.mark.parametrize("share", [0.2, 0.5, 0.99])
def test_a_truncated_file_is_refused(share, backbone, notop):
    with notop.open("r+b") as file:
        file.truncate(int(notop.stat().st_size * share))
    _refused(backbone, notop, "not a complete weights file")


def test_an_empty_file_is_refused(backbone, tmp_path):
    (tmp_path / "empty.h5").touch()
    with pytest.raises(WeightsError, match=r"empty\.h5: is empty"):
        find_weights(backbone, tmp_path / "empty.h5")


def _first_layer_with_weights(file):
    return next(name for name in file.attrs["layer_names"] if len(file[name].attrs["weight_names"]))


def test_one_array_too_few_is_refused(backbone, notop):
    with h5py.File(notop, "r+") as file:
        group = file[_first_layer_with_weights(file)]
        group.attrs["weight_names"] = group.attrs["weight_names"][:-1]
    _refused(backbone, notop, "(Layer|Weight) count mismatch")


def test_arrays_of_the_right_shapes_in_the_wrong_layers_are_refused(backbone, published, tmp_path):
    path = tmp_path / "w.weights.h5"
    published.save_weights(path)
    with h5py.File(path, "r+") as file:
        layers = [name for name in file["layers"] if len(file["layers"][name].get("vars", ()))]
        file["layers"].move(layers[0], "elsewhere")
    _refused(backbone, path, "not a complete weights file")


def test_nan_in_a_weights_file_is_refused(backbone, notop):
    with h5py.File(notop, "r+") as file:
        layer = _first_layer_with_weights(file)
        file[layer][file[layer].attrs["weight_names"][0]][0] = np.nan
    _refused(backbone, notop, "no finite values for 1 variable; the first is ")


def test_a_variable_that_keras_does_not_load_is_detected(backbone, notop, monkeypatch):
    from keras.src.models import Functional

    monkeypatch.setattr(Functional, "load_weights", lambda self, path: None)
    _refused(backbone, notop, "no finite values for 206 variables; the first is conv/kernel")


def test_no_such_file(backbone):
    with pytest.raises(WeightsError, match=r"--weights nowhere\.h5: no such file\. Give .* imagenet, random"):
        find_weights(backbone, "nowhere.h5")


# --- Keras' cache ---------------------------------------------------------------------------------


def test_a_file_in_keras_home_is_used_as_it_is(backbone, notop, keras_home, published):
    (keras_home / "models").mkdir(parents=True)
    shutil.copyfile(notop, keras_home / "models" / backbone.weights_file)
    assert weights_status(backbone).available
    weights = find_weights(backbone)
    assert weights.kind == "file"  # its hash is not the published one
    assert weights.path == keras_home / "models" / backbone.weights_file
    _assert_same_numbers(build_network(backbone, weights, input_size=SIZE), published)


def _published_as(backbone, path, digest=hashlib.md5):
    return dataclasses.replace(backbone, weights_hash=digest(path.read_bytes()).hexdigest())


@pytest.mark.parametrize("digest", [hashlib.md5, hashlib.sha256])
def test_the_published_file_is_recognized_in_any_folder(digest, backbone, notop):
    assert find_weights(_published_as(backbone, notop, digest), notop).kind == "imagenet"


def test_a_cached_file_without_a_known_hash_is_identified_by_its_name(backbone, notop, keras_home):
    backbone = dataclasses.replace(backbone, weights_hash="")
    (keras_home / "models").mkdir(parents=True)
    shutil.copyfile(notop, keras_home / "models" / backbone.weights_file)
    assert find_weights(backbone).kind == "imagenet"
    assert find_weights(backbone, notop).kind == "file"


def test_the_cache_is_in_the_home_folder_by_default(monkeypatch, tmp_path):
    monkeypatch.delenv("KERAS_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert models_folder() == tmp_path / ".keras" / "models"


# --- downloading, against a server on loopback ----------------------------------------------------


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    folder = tmp_path / "mirror"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=folder)
    ) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("FOLIO_WEIGHTS_MIRROR", f"http://127.0.0.1:{server.server_port}/")
        yield folder
        server.shutdown()
        thread.join()


def test_the_download_is_stored_in_the_cache_of_keras(backbone, notop, mirror, keras_home, published, capfd):
    backbone = _published_as(backbone, notop)
    shutil.copyfile(notop, mirror / backbone.weights_file)
    assert not weights_status(backbone).available
    messages = []

    weights = find_weights(backbone, on_download=messages.append)

    assert capfd.readouterr().out == ""  # Keras' progress does not get into the results
    assert weights.kind == "imagenet"
    assert os.listdir(keras_home / "models") == [backbone.weights_file]
    url = f"{os.environ['FOLIO_WEIGHTS_MIRROR']}{backbone.weights_file}"
    assert messages == [f"downloading {backbone.weights_file} (4 MB) from {url}"]
    _assert_same_numbers(build_network(backbone, weights, input_size=SIZE), published)
    shutil.rmtree(mirror)
    assert find_weights(backbone, on_download=messages.append) == weights
    assert len(messages) == 1


def test_the_published_name_is_requested(notop, mirror, keras_home):
    """NASNet is published under another name than it is cached under."""
    backbone = dataclasses.replace(get_backbone("nasnet_mobile"), weights_hash="")
    shutil.copyfile(notop, mirror / "NASNet-mobile-no-top.h5")
    assert find_weights(backbone).path == keras_home / "models" / "nasnet_mobile_no_top.h5"


def test_a_download_with_a_wrong_hash_is_refused_and_not_kept(backbone, notop, mirror, keras_home):
    shutil.copyfile(notop, mirror / backbone.weights_file)
    with pytest.raises(WeightsError, match="Incomplete or corrupted file detected"):
        find_weights(backbone)
    assert os.listdir(keras_home / "models") == []


def _assert_complete_message(text, backbone, keras_home):
    assert "\n" not in text
    assert backbone.weights_file in text
    assert f"are not in {keras_home / 'models'}" in text
    assert "--weights FILE" in text
    assert "--backbone efficientnet_lite0" in text


@pytest.mark.parametrize("name", ["vgg16", "resnet50", "mobilenet"])
def test_the_message_without_network_access(name, keras_home):
    backbone = get_backbone(name)
    with pytest.raises(WeightsError) as caught:
        find_weights(backbone)
    _assert_complete_message(str(caught.value), backbone, keras_home)
    assert backbone.weights_url in str(caught.value)
    assert os.listdir(keras_home / "models") == []
    assert backbone.weights_file in weights_status(backbone).hint


def test_a_missing_file_on_the_server(backbone, mirror, keras_home):
    with pytest.raises(WeightsError, match="404") as caught:
        find_weights(backbone)
    _assert_complete_message(str(caught.value), backbone, keras_home)


def test_no_download_when_disabled(backbone, mirror, keras_home):
    with pytest.raises(WeightsError, match="downloads are disabled here") as caught:
        find_weights(backbone, download=False)
    _assert_complete_message(str(caught.value), backbone, keras_home)


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # urllib leaves its socket open
def test_a_server_that_does_not_answer_times_out(backbone, monkeypatch, keras_home):
    """It accepts the connection and never sends a byte."""
    monkeypatch.setattr("featurize.backbones.weights._TIMEOUT", 0.2)
    before = socket.getdefaulttimeout()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("FOLIO_WEIGHTS_MIRROR", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(WeightsError, match="timed out") as caught:
            find_weights(backbone)
    _assert_complete_message(str(caught.value), backbone, keras_home)
    assert socket.getdefaulttimeout() == before


def test_a_cache_folder_that_cannot_be_created(backbone, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "file"))
    with pytest.raises(WeightsError, match="could not be downloaded"):
        find_weights(backbone)


# --- random weights -------------------------------------------------------------------------------

_FINGERPRINT = """
import hashlib, random, sys
import numpy as np
from featurize.backbones.registry import get_backbone
from featurize.backbones.networks import build_network
from featurize.backbones.weights import find_weights
random.seed(int(sys.argv[1])); np.random.seed(int(sys.argv[1]))
b = get_backbone("mobilenet_v3_small")
w = find_weights(b, "random", seed=7)
n = build_network(b, w, input_size=64)
print(w.sha256, hashlib.sha256(b"".join(np.asarray(v).tobytes() for v in n.weights)).hexdigest())
"""


def test_random_weights_are_the_same_in_every_process(monkeypatch, capsys):
    """In a new one with another order of its sets, and in this one, which has built other networks."""
    there = subprocess.run(
        [sys.executable, "-c", _FINGERPRINT, "1"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "1"},
    ).stdout
    monkeypatch.setattr(sys, "argv", ["fingerprint", "2"])
    exec(_FINGERPRINT, {})
    assert capsys.readouterr().out == there
    assert len(there.split()) == 2


def test_random_weights_by_seed(backbone):
    a, b = (find_weights(backbone, "random", seed=seed) for seed in (0, 1))
    assert (a.kind, a.path, a.seed) == ("random", None, 0)
    assert a.sha256 != b.sha256
    assert a.sha256 != find_weights(get_backbone("mobilenet"), "random").sha256
    kernels = [np.asarray(build_network(backbone, w, input_size=SIZE).weights[0]) for w in (a, b)]
    assert not np.array_equal(*kernels)


def test_random_kernels_have_the_variance_they_should(backbone):
    """Uniform, mean 0, variance 1 / fan-in; measured on every kernel with more than 10 000 numbers."""
    network = build_network(backbone, find_weights(backbone, "random"), input_size=SIZE)
    measured = 0
    for layer in network.layers:
        if type(layer).__name__ != "Conv2D" or layer.kernel.shape.num_elements() < 10_000:
            continue
        kernel = np.asarray(layer.kernel, dtype=np.float64)
        rows, columns, channels, _ = kernel.shape
        assert abs(kernel.mean()) < 5 * kernel.std() / kernel.size**0.5
        assert kernel.var() * rows * columns * channels == pytest.approx(1, abs=0.05)
        measured += 1
    assert measured > 10


def test_building_leaves_every_generator_as_it_was(backbone):
    import random

    import keras
    import tensorflow as tf

    def drawn():
        return (
            random.random(),
            np.random.random(),
            float(tf.random.uniform(())),
            float(keras.random.uniform(())),
        )

    def reset():
        keras.utils.set_random_seed(11)

    reset()
    expected = drawn()
    reset()
    build_network(backbone, find_weights(backbone, "random"), input_size=SIZE)
    assert drawn() == expected


# --- keeping --------------------------------------------------------------------------------------


def test_random_weights_can_be_saved(tmp_path):
    """The maps are the same with the saved file, to the byte, where Keras builds otherwise for a file."""
    backbone = get_backbone("efficientnet_b0")
    weights = find_weights(backbone, "random", seed=4)
    path = save_weights(backbone, weights, tmp_path / "kept.weights.h5")
    again = find_weights(backbone, path)
    assert again.kind == "file"
    pixels = _images().astype(np.float32)
    a, b = (np.asarray(build_network(backbone, w, input_size=SIZE)(pixels)) for w in (weights, again))
    np.testing.assert_array_equal(a, b)
    assert os.listdir(tmp_path) == ["kept.weights.h5"]


def test_a_weights_file_can_be_saved(backbone, notop, tmp_path):
    weights = find_weights(backbone, notop)
    path = save_weights(backbone, weights, tmp_path / "kept.weights.h5")
    again = find_weights(backbone, path)
    assert (again.sha256, again.path) == (weights.sha256, path)
    _load(backbone, path)


def test_the_packaged_file_can_be_saved(tmp_path):
    lite0 = get_backbone("efficientnet_lite0")
    path = save_weights(lite0, find_weights(lite0), tmp_path / "kept.weights.h5")
    assert find_weights(lite0, path).kind == "imagenet"
    _assert_same_numbers(
        build_network(lite0, find_weights(lite0, path)), build_network(lite0, find_weights(lite0))
    )


def test_every_pair_of_kinds_has_its_own_digest(backbone, notop):
    digests = [find_weights(backbone, source).sha256 for source in (notop, "random")]
    assert all(a != b for a, b in itertools.combinations(digests, 2))
