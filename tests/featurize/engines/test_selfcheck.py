"""The self-check, with engines that have features known by hand."""

import numpy as np
import pytest

from featurize.backbones.registry import get_backbone
from featurize.backbones.weights import find_weights
from featurize.engines import select, selfcheck as module
from featurize.engines.base import ReadyFeatures
from featurize.engines.selfcheck import compare_engines, cosines, selfcheck, synthetic_images
from featurize.errors import EngineError


class _MeanEngine:
    """Features: the mean of each channel, turned by an angle in the plane of the first two."""

    name, size, n_features, precision, in_flight = "stand-in", 16, 3, "float32", 2
    notes: tuple[str, ...] = ()

    def __init__(self, device, angle=0.0, name="stand-in"):
        self.device, self.batch_size, self.name = device, 8, name
        self.turn = np.eye(3)
        self.turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]

    def __call__(self, images):
        return (images.mean(axis=(1, 2)) @ self.turn).astype(np.float32)

    def submit(self, images):
        return ReadyFeatures(self(images))


def _backbone():
    backbone = get_backbone("efficientnet_lite0")
    return backbone, find_weights(backbone)


def test_engines_that_agree():
    result = compare_engines(_MeanEngine("gpu:0"), _MeanEngine("cpu"), backbone="stand-in")
    assert (result.backbone, result.device, result.n_images) == ("stand-in", "gpu:0", 8)
    assert result.smallest_cosine == pytest.approx(1)
    assert result.images_per_second > 0
    assert result.reference_images_per_second > 0


def test_the_smallest_cosine_is_that_of_the_worst_image():
    images = synthetic_images(8, size=16, seed=0).mean(axis=(1, 2))
    angle = 0.3
    # Turning (x, y, z) by an angle in the first plane: cos = ((x² + y²) cos a + z²) / (x² + y² + z²)
    x, y, z = images.T
    by_hand = ((x**2 + y**2) * np.cos(angle) + z**2) / (x**2 + y**2 + z**2)
    result = compare_engines(_MeanEngine("gpu:1", angle), _MeanEngine("cpu"), backbone="stand-in")
    assert result.smallest_cosine == pytest.approx(by_hand.min(), abs=1e-6)
    assert by_hand.max() - by_hand.min() > 1e-3


def test_cosines_by_hand():
    a = np.array([[3, 4], [1, 0], [0, 0], [0, 0], [np.nan, 1]], dtype=np.float32)
    b = np.array([[4, 3], [-1, 0], [0, 0], [1, 0], [1, 1]], dtype=np.float32)
    np.testing.assert_allclose(cosines(a, b), [0.96, -1, 1, 0, -1], rtol=1e-12)


def test_the_images_are_seeded_and_differ():
    images = synthetic_images(4, size=32, seed=1)
    assert images.shape == (4, 32, 32, 3)
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(images, synthetic_images(4, size=32, seed=1))
    assert len({image.tobytes() for image in (*images, *synthetic_images(4, size=32, seed=2))}) == 8
    assert images.std() > 30


@pytest.fixture
def made(monkeypatch):
    """Note what is created; OpenVINO unless a GPU or TensorFlow is asked for."""
    made = []

    def create_engine(backbone, weights, *, device, **options):
        made.append((device, options))
        on_gpu = device.startswith("gpu")
        name = "tensorflow" if on_gpu or options["engine"] == "tensorflow" else "openvino"
        return _MeanEngine(device if on_gpu else "cpu", name=name)

    monkeypatch.setattr(module, "create_engine", create_engine)
    monkeypatch.setattr(module, "fast_precisions", lambda name, device: (f"{name} on {device}",))
    monkeypatch.setattr(select, "gpus", lambda: ())
    return made


def test_the_engine_of_extraction_is_created_before_the_reference(made):
    result = selfcheck(*_backbone(), device="gpu:1", precision="float16", gpu_memory=0.5)
    assert made == [
        ("gpu:1", {"engine": "auto", "gpu_memory": 0.5, "precision": "float16", "batch_size": 8}),
        ("cpu", {"engine": "tensorflow", "batch_size": 8}),
    ]
    assert (result.engine, result.device, result.formats) == ("tensorflow", "gpu:1", ("tensorflow on gpu:1",))
    assert result.smallest_cosine == pytest.approx(1)
    assert result.note == ""


def test_without_a_gpu_openvino_is_checked(made):
    result = selfcheck(*_backbone())
    assert (result.engine, result.device, result.note) == ("openvino", "cpu", "")
    assert made[0][0] == "auto"


def test_a_gpu_that_tensorflow_cannot_use_is_noted(made, monkeypatch):
    monkeypatch.setattr(select, "gpus", lambda: (select.Gpu(capability=(8, 0), memory=1),))
    assert "folio-grader[cuda]" in selfcheck(*_backbone()).note
    assert selfcheck(*_backbone(), device="cpu").note == ""


def test_tensorflow_on_the_cpu_is_not_checked_against_itself(made):
    with pytest.raises(EngineError, match=r"also the engine to check here\. Type --device gpu:N"):
        selfcheck(*_backbone(), engine="tensorflow", device="cpu")
