"""Conversion to OpenVINO: no telemetry, a cache for later runs, no damaged cache entry is ever used."""

import contextlib
import dataclasses
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from featurize.backbones.registry import get_backbone
from featurize.backbones.weights import Weights, find_weights
from featurize.engines import openvino
from featurize.engines.factory import create_engine
from featurize.engines.freeze import FrozenGraph, NetworkSpec
from featurize.errors import EngineError, WeightsError

ROOT = Path(__file__).resolve().parents[3]

# In a separate process: creates an engine; prints a digest of its features, and the network contacts.
START = """
import sys
contacts = []
def audit(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        contacts.append(event)
sys.addaudithook(audit)
import hashlib
import numpy as np
from featurize.backbones.registry import get_backbone
from featurize.engines.factory import create_engine
from featurize.backbones.weights import find_weights
lite0 = get_backbone("efficientnet_lite0")
engine = create_engine(lite0, find_weights(lite0), device="cpu", input_size=32, batch_size=2)
images = np.random.default_rng(3).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
print(engine.name, hashlib.sha256(engine(images).tobytes()).hexdigest())
print(*sorted(set(contacts)))
print(*sorted({"tensorflow", "keras", "openvino_telemetry", "sklearn", "h5py"} & set(sys.modules)))
"""


@dataclasses.dataclass(frozen=True)
class _Started:
    features: str
    contacts: str
    loaded: list
    errors: str
    home: set


def _start(folder, *, code=START, flags=()):
    home = folder / "home"
    home.mkdir(exist_ok=True)
    environment = {
        **os.environ,
        "HOME": str(home),
        "FOLIO_CACHE": str(folder / "cache"),
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    done = subprocess.run(
        [sys.executable, *flags, "-c", code],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    features, contacts, loaded = done.stdout.splitlines()
    names = {path.name for path in home.iterdir()}
    return _Started(features, contacts, loaded.split(), done.stderr, names)


@pytest.fixture(scope="module")
def first_start(tmp_path_factory):
    """A start with an empty cache, and the folder in which the next one finds it full."""
    folder = tmp_path_factory.mktemp("starts")
    return _start(folder), folder


def test_a_first_run_contacts_no_server(first_start):
    """OpenVINO's telemetry keeps an identifier in ~/intel before it sends anything; ~/.keras is Keras'."""
    first, _ = first_start
    assert first.features.startswith("openvino ")
    assert "tensorflow" in first.loaded  # it converted
    assert "openvino_telemetry" not in first.loaded
    assert first.contacts == ""
    assert first.home <= {".keras"}


def test_a_second_run_needs_no_tensorflow_and_contacts_no_server(first_start, tmp_path):
    first, folder = first_start
    shutil.copytree(folder / "cache", tmp_path / "cache")
    second = _start(tmp_path, flags=("-W", "error"))
    assert second == _Started(first.features, "", [], "", set())


@pytest.mark.parametrize("ending", ["", "raise SystemExit(0)", "del engine"])
def test_a_process_may_exit_while_batches_are_running(first_start, ending):
    _, folder = first_start
    ended = _start(folder, code=f"{START}\nleft = [engine.submit(images) for _ in range(9)]\n{ending}")
    assert ended.errors == ""


def test_the_import_leaves_the_telemetry_package_unchanged():
    before = sys.modules.get("openvino_telemetry")
    assert openvino.import_openvino().__name__ == "openvino"
    assert sys.modules.get("openvino_telemetry") is before


def test_openvino_that_cannot_be_imported(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(
        EngineError,
        match=r"^--engine openvino: cannot import OpenVINO \(.*\)\. Type --engine tensorflow, or pip",
    ):
        openvino.import_openvino()
    assert sys.modules.get("openvino_telemetry", "absent") is not None


# --- the cache, with a network that can be worked out by hand ---------------------------------------


def _tiny_network(spec):
    """The mean of each channel, times the seed; divided by 255 when rescaled."""
    import tensorflow as tf

    factor = (spec.weights.seed or 1) / (255 if spec.preprocess == "rescale" else 1)
    shape = (spec.batch_size, spec.input_size, spec.input_size, 3)

    @tf.function(input_signature=[tf.TensorSpec(shape, tf.uint8)])
    def forward(images):
        return tf.reduce_mean(tf.cast(images, tf.float32), axis=(1, 2)) * factor

    graph = forward.get_concrete_function().graph.as_graph_def().SerializeToString()
    return FrozenGraph(graph=graph, level_names=("final",), level_ends=(3,))


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """The folder of an empty cache."""
    monkeypatch.setenv("FOLIO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


@pytest.fixture
def n_converted(monkeypatch):
    """Replace networks by the tiny one, and count how often one is built."""
    made = []

    def frozen_graph(spec):
        made.append(1)
        return _tiny_network(spec)

    monkeypatch.setattr(openvino, "frozen_graph", frozen_graph)
    return lambda: len(made)


LITE0 = get_backbone("efficientnet_lite0")
IMAGES = np.random.default_rng(3).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
MEANS = IMAGES.mean(axis=(1, 2))


def _features(source="random", *, seed=1, **options):
    options = {"engine": "openvino", "input_size": 32, "batch_size": 2, **options}
    return create_engine(LITE0, find_weights(LITE0, source, seed=seed), **options)(IMAGES)


def test_a_second_run_uses_the_cached_network(cache, n_converted):
    for _ in range(2):
        np.testing.assert_allclose(_features(), MEANS, rtol=1e-6)
    assert n_converted() == 1
    assert len(list(cache.iterdir())) == 1


def test_a_damaged_cache_entry_is_converted_again(cache, n_converted):
    _features()
    (path,) = cache.iterdir()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    np.testing.assert_allclose(_features(), MEANS, rtol=1e-6)
    assert n_converted() == 2
    _features()  # the cache entry has been replaced
    assert n_converted() == 2


def test_each_network_has_its_own_cache_entry(cache, n_converted):
    for _ in range(2):
        np.testing.assert_allclose(_features(seed=2), 2 * MEANS, rtol=1e-6)
        np.testing.assert_allclose(_features(seed=3), 3 * MEANS, rtol=1e-6)
        np.testing.assert_allclose(_features(preprocess="rescale"), MEANS / 255, rtol=1e-6)
        assert n_converted() == 3


def test_precisions_and_threads_share_one_cache_entry(cache, n_converted):
    _features()
    _features(threads=1)
    with contextlib.suppress(EngineError):  # this CPU may have no bfloat16
        _features(precision="bfloat16")
    assert n_converted() == 1


def test_a_cache_that_cannot_be_written_is_only_slower(monkeypatch, tmp_path, n_converted):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("FOLIO_CACHE", str(tmp_path / "file" / "cache"))
    for n in (1, 2):
        np.testing.assert_allclose(_features(), MEANS, rtol=1e-6)
        assert n_converted() == n


def test_a_weights_file_that_changes_during_the_conversion_is_not_cached(cache, monkeypatch, tmp_path):
    """The digest is of the file that was found; the network may come from what replaced it."""
    path = tmp_path / "weights.h5"
    path.write_bytes(b"found")

    def frozen_graph(spec):
        path.write_bytes(b"built from")
        return _tiny_network(spec)

    monkeypatch.setattr(openvino, "frozen_graph", frozen_graph)
    with pytest.raises(WeightsError, match=r"weights\.h5: changed while it was being read\. Run the comm"):
        _features(path)
    assert not cache.exists()


def test_the_weights_file_is_digested_at_every_start(cache, n_converted, tmp_path):
    """The file is digested at every start: another content is another network."""
    path = tmp_path / "weights.h5"
    for n, content in enumerate((b"one", b"other", b"one", b"other")):
        path.write_bytes(content)
        _features(path)
        assert n_converted() == min(n + 1, 2)
    path.write_bytes(b"")
    with pytest.raises(WeightsError, match="is empty"):
        _features(path)


def test_no_disk_space_for_the_conversion(monkeypatch, cache, n_converted):
    def full(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(openvino.tempfile, "TemporaryDirectory", full)
    with pytest.raises(
        EngineError,
        match=r"cannot write temporary files for OpenVINO \(No space left on device\)\. Free disk space",
    ):
        _features()


def test_the_key_depends_on_the_digest_of_the_weights_and_not_on_their_path():
    def key(path, content):
        digest = hashlib.sha256(content).hexdigest()
        return openvino.model_key(
            NetworkSpec(
                backbone=LITE0,
                weights=Weights(kind="file", path=Path(path), sha256=digest, seed=None),
                input_size=32,
                preprocess="native",
                statistics=None,
                levels=False,
                batch_size=2,
            )
        )

    assert key("a", b"weights") == key("b", b"weights")
    assert key("a", b"weights") != key("a", b"other weights")
