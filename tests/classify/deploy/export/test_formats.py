"""Each format in its own runtime, on images resized by Pillow, equals `classify predict`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from classify.deploy.export.formats import FORMATS, describe, format_module, get_format
from classify.deploy.export.network import export_network
from classify.deploy.predict import predict
from classify.errors import ExportError
from classify.io.bundle import load_bundle

CLASSES = ["low", "middle", "award"]
SQUASHED, CROPPED = "pixels_64_squash_bicubic", "pixels_80_crop_lanczos"
# Keras in a process that has no Folio.
WITHOUT_FOLIO = """
import sys
sys.modules["featurize"] = sys.modules["classify"] = None
import json, zipfile
import keras, numpy
network = keras.models.load_model(sys.argv[1], safe_mode=True)
pixels = dict(numpy.load(sys.argv[2]))
one, five = network({name: one[:1] for name, one in pixels.items()}), network.predict(pixels, verbose=0)
numpy.savez(sys.argv[3], one=one, five=five)
print(json.loads(zipfile.ZipFile(sys.argv[1]).read("folio.json"))["classes"])
print([variable.path for variable in network.trainable_variables], network.output_names)
"""


@pytest.fixture(scope="module")
def files(portfolio) -> list[Path]:
    return sorted((portfolio / "test").rglob("*.png"))[::2]


@pytest.fixture(scope="module")
def pixels(files) -> dict[str, np.ndarray]:
    """The squares of both backbones: (5, size, size, 3)."""
    squashed, cropped = [], []
    for file in files:
        image = Image.open(file).convert("RGB")  # 130 × 150
        squashed.append(np.asarray(image.resize((64, 64), Image.Resampling.BICUBIC)))
        centre = (0, 10, 130, 140)
        cropped.append(np.asarray(image.resize((80, 80), Image.Resampling.LANCZOS, box=centre)))
    return {SQUASHED: np.stack(squashed), CROPPED: np.stack(cropped)}


@pytest.fixture(scope="module")
def expected(bundles, files) -> np.ndarray:
    result = predict(bundles["ensemble"], files)
    assert list(result.classes) == CLASSES
    return np.array([grade.probabilities for grade in result.grades])


@pytest.fixture(scope="module")
def written(bundles, tmp_path_factory) -> dict[str, Path]:
    """The ensemble in every format: three heads on two backbones, one alone and both side by side."""
    bundle = load_bundle(bundles["ensemble"])
    network = export_network(bundle)
    folder = tmp_path_factory.mktemp("exports")
    for one in FORMATS.values():
        format_module(one).write(network, folder / f"grader{one.suffix}", describe(bundle))
    return {one.name: folder / f"grader{one.suffix}" for one in FORMATS.values()}


def assert_equal(outputs, expected, n):
    assert outputs.shape == (n, 3)
    assert outputs.dtype == np.float32
    assert np.ptp(expected, axis=0).max() > 0.05  # the files do differ
    np.testing.assert_allclose(outputs, expected[:n], rtol=0, atol=2e-6)


def test_keras_in_safe_mode_without_folio(written, pixels, expected, tmp_path):
    np.savez(tmp_path / "pixels.npz", **pixels)
    arguments = [written["keras"], tmp_path / "pixels.npz", tmp_path / "outputs.npz"]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_FOLIO, *map(str, arguments)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-2:] == [str(CLASSES), "[] ['probabilities']"]
    with np.load(tmp_path / "outputs.npz") as outputs:
        assert_equal(outputs["one"], expected, 1)
        assert_equal(outputs["five"], expected, 5)


def test_tensorflow(written, pixels, expected):
    import tensorflow as tf

    loaded = tf.saved_model.load(str(written["saved_model"]))
    grade = loaded.signatures["serving_default"]
    for n in (1, 5):
        outputs = grade(**{name: tf.constant(one[:n]) for name, one in pixels.items()})
        assert list(outputs) == ["probabilities"]
        assert_equal(outputs["probabilities"].numpy(), expected, n)
    about = loaded.signatures["about"]()
    assert [name.decode() for name in about["classes"].numpy()] == CLASSES
    description = json.loads(about["description"].numpy())
    assert description == json.loads((written["saved_model"] / "folio.json").read_text(encoding="utf-8"))


def test_onnx_runtime(written, pixels, expected):
    import onnxruntime

    session = onnxruntime.InferenceSession(written["onnx"], providers=["CPUExecutionProvider"])
    taken = {one.name: (one.type, one.shape[1:]) for one in session.get_inputs()}
    assert taken == {SQUASHED: ("tensor(uint8)", [64, 64, 3]), CROPPED: ("tensor(uint8)", [80, 80, 3])}
    assert [one.name for one in session.get_outputs()] == ["probabilities"]
    for n in (1, 5):
        (outputs,) = session.run(None, {name: one[:n] for name, one in pixels.items()})
        assert_equal(outputs, expected, n)
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["classes"]) == CLASSES
    assert json.loads(metadata["folio"])["ordered"] is True


def test_openvino(written, pixels, expected):
    from featurize.engines.openvino import import_openvino

    core = import_openvino().Core()
    model = core.read_model(written["openvino"] / "model.xml")
    assert json.loads(model.get_rt_info(["folio", "classes"]).value) == CLASSES
    assert json.loads(model.get_rt_info(["folio", "description"]).value)["head"] == "ensemble"
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for n in (1, 5):
        outputs = compiled({name: one[:n] for name, one in pixels.items()})["probabilities"]
        assert_equal(outputs, expected, n)


@pytest.mark.parametrize("name", list(FORMATS))
def test_load(written, pixels, expected, name):
    run = format_module(FORMATS[name]).load(written[name])
    assert_equal(np.asarray(run(pixels)), expected, 5)


@pytest.mark.parametrize("name", list(FORMATS))
def test_the_printed_command_prints_the_classes(written, name):
    code = FORMATS[name].print_classes.replace("PATH", json.dumps(str(written[name])))
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=written[name].parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    places = [done.stdout.index(one) for one in CLASSES]
    assert places == sorted(places)


def test_an_unknown_format():
    with pytest.raises(
        ExportError, match=r"--format tflite: unknown\. Choose one of: keras, saved_model, onnx"
    ):
        get_format("tflite")


def test_missing_onnx_packages(monkeypatch):
    module = format_module(FORMATS["onnx"])
    module.require()
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == "tf2onnx" else object())
    with pytest.raises(ExportError, match=r"--format onnx: tf2onnx cannot be imported here\..*\.\[onnx\]"):
        module.require()


def test_a_network_too_large_for_onnx_is_refused(monkeypatch, bundles, tmp_path):
    module = format_module(FORMATS["onnx"])
    network = export_network(load_bundle(bundles["final"]))
    monkeypatch.setattr(module, "MAX_BYTES", 10**6)
    with pytest.raises(ExportError, match=r"0\.0 GB of weights, but an ONNX file holds at most 2\.1 GB"):
        module.write(network, tmp_path / "large.onnx", {"classes": CLASSES})
    assert list(tmp_path.iterdir()) == []


def test_an_operation_that_onnx_lacks(tmp_path):
    import keras

    module = format_module(FORMATS["onnx"])
    given = keras.Input((3,), dtype="float32", name="pixels")
    network = keras.Model([given], keras.ops.expm1(given))
    with pytest.raises(ExportError, match=r"this network cannot be converted \(.*Expm1.*\)") as caught:
        module.write(network, tmp_path / "a.onnx", {"classes": CLASSES})
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", ["caffe", "torch"])
def test_the_means_of_preprocessing_are_constants_in_onnx(tmp_path, mode):
    """Keras holds them as tensors, which a traced function catches."""
    import keras

    module = format_module(FORMATS["onnx"])
    preprocess = keras.applications.imagenet_utils.preprocess_input
    given = keras.Input((4, 4, 3), dtype="uint8", name="pixels")
    scaled = preprocess(keras.ops.cast(given, "float32"), data_format="channels_last", mode=mode)
    network = keras.Model([given], keras.layers.GlobalAveragePooling2D(name="probabilities")(scaled))
    module.write(network, tmp_path / "a.onnx", {"classes": CLASSES})
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), dtype=np.uint8)
    outputs = module.load(tmp_path / "a.onnx")({"pixels": pixels})
    known = preprocess(pixels.astype(np.float32), data_format="channels_last", mode=mode)
    np.testing.assert_allclose(outputs, known.mean(axis=(1, 2)), rtol=1e-5, atol=1e-5)


def test_grouped_convolutions_in_onnx(tmp_path):
    """As ConvNeXt has them: Keras wraps each in a function for XLA."""
    import keras

    module = format_module(FORMATS["onnx"])
    given = keras.Input((6, 6, 4), dtype="uint8", name="pixels")
    layer = keras.layers.Conv2D(4, 3, groups=4, use_bias=False)
    maps = layer(keras.ops.cast(given, "float32"))
    network = keras.Model([given], keras.layers.GlobalMaxPooling2D(name="probabilities")(maps))
    module.write(network, tmp_path / "a.onnx", {"classes": CLASSES})
    pixels = np.random.default_rng(0).integers(0, 256, (2, 6, 6, 4), dtype=np.uint8)
    outputs = module.load(tmp_path / "a.onnx")({"pixels": pixels})
    kernel = np.asarray(layer.kernel)[:, :, 0]  # (3, 3, 4)
    windows = np.lib.stride_tricks.sliding_window_view(pixels.astype(float), (3, 3), axis=(1, 2))
    known = np.einsum("nrcdij,ijd->nrcd", windows, kernel).max(axis=(1, 2))
    np.testing.assert_allclose(outputs, known, rtol=1e-5, atol=1e-3)


def test_gelu_in_onnx(tmp_path):
    """As ConvNeXt has it: x Φ(x), of SciPy's normal distribution."""
    import keras
    from scipy.stats import norm

    module = format_module(FORMATS["onnx"])
    given = keras.Input((5,), dtype="float32", name="pixels")
    network = keras.Model([given], keras.layers.Activation("gelu", name="probabilities")(given))
    module.write(network, tmp_path / "a.onnx", {"classes": CLASSES})
    rows = np.random.default_rng(0).normal(scale=3, size=(40, 5)).astype(np.float32)
    outputs = module.load(tmp_path / "a.onnx")({"pixels": rows})
    np.testing.assert_allclose(outputs, rows * norm.cdf(rows), rtol=0, atol=2e-6)
