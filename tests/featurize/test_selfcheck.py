"""The self-check as logic, with engines whose features are known by hand."""

import numpy as np
import pytest

from featurize import selfcheck as module
from featurize.backbones import get_backbone
from featurize.errors import EngineError
from featurize.selfcheck import compare_engines, cosines, selfcheck, synthetic_images
from featurize.weights import find_weights


class _MeanEngine:
    """Features: the mean of each channel, turned by an angle in the plane of the first two."""

    name, size, n_features, precision = "stand-in", 16, 3, "float32"

    def __init__(self, device, angle=0.0):
        self.device, self.batch_size = device, 8
        self.turn = np.eye(3)
        self.turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]

    def __call__(self, images):
        return (images.mean(axis=(1, 2)) @ self.turn).astype(np.float32)


def _backbone():
    backbone = get_backbone("efficientnet_lite0")
    return backbone, find_weights(backbone)


def test_engines_that_agree():
    result = compare_engines(_MeanEngine("gpu:0"), _MeanEngine("cpu"), backbone="stand-in")
    assert (result.backbone, result.device, result.n_images) == ("stand-in", "gpu:0", 8)
    assert result.smallest_cosine == pytest.approx(1)
    assert result.gpu_images_per_second > 0
    assert result.cpu_images_per_second > 0


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


def test_the_pictures_are_seeded_and_differ():
    images = synthetic_images(4, size=32, seed=1)
    assert images.shape == (4, 32, 32, 3)
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(images, synthetic_images(4, size=32, seed=1))
    assert len({image.tobytes() for image in (*images, *synthetic_images(4, size=32, seed=2))}) == 8
    assert images.std() > 30


def test_the_gpu_is_made_first_and_both_are_compared(monkeypatch):
    made = []

    def create_engine(backbone, weights, *, device, **options):
        made.append((device, options))
        return _MeanEngine("gpu:0" if device == "auto" else device)

    monkeypatch.setattr(module, "create_engine", create_engine)
    result = selfcheck(*_backbone(), precision="float16", gpu_memory=0.5)
    assert [device for device, _ in made] == ["auto", "cpu"]
    assert made[0][1] == {"gpu_memory": 0.5, "precision": "float16", "batch_size": 8}
    assert made[1][1] == {"batch_size": 8}
    assert result.smallest_cosine == pytest.approx(1)


def test_without_a_gpu_it_says_so(monkeypatch):
    monkeypatch.setattr(module, "create_engine", lambda *args, **options: _MeanEngine("cpu"))
    with pytest.raises(EngineError, match=r"TensorFlow finds no GPU here\. .*folio-grader\[cuda\]"):
        selfcheck(*_backbone())


def test_a_cpu_is_not_checked_against_itself():
    with pytest.raises(EngineError, match="type --device auto or gpu:N"):
        selfcheck(*_backbone(), device="cpu")
