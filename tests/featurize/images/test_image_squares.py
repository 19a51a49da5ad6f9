"""Files as the squares that a network is given: Pillow's own resizing, to the byte."""

import numpy as np
import pytest
from PIL import Image

from featurize.backbones.registry import get_backbone
from featurize.backbones.weights import Weights
from featurize.config import make_config
from featurize.images.augment import ViewRanges
from featurize.images.thumbnails import image_squares

FILTERS = {"bicubic": Image.Resampling.BICUBIC, "nearest": Image.Resampling.NEAREST}


def config_of(**options):
    given = {"input_size": 40, "resize": "squash", "resample": "bicubic", **options}
    return make_config(
        get_backbone("vgg16"),
        Weights(kind="random", path=None, sha256="0" * 64, seed=0),
        preprocess="native",
        precision="float32",
        store_dtype="float32",
        ranges=ViewRanges(),
        seed=0,
        **given,
    )


@pytest.fixture
def files(tmp_path):
    """Three pictures of noise, wide, high and square, and between them a file that is none."""
    generator = np.random.default_rng(0)
    found = []
    for number, shape in enumerate([(60, 90, 3), (90, 60, 3), (40, 40, 3)]):
        found.append(tmp_path / f"{number}.png")
        Image.fromarray(generator.integers(0, 256, shape, dtype=np.uint8)).save(found[-1])
    bad = tmp_path / "bad.png"
    bad.write_text("no")
    return [found[0], bad, *found[1:]]


@pytest.mark.parametrize("resample", list(FILTERS))
def test_squares_equal_those_of_pillow(files, resample):
    found = image_squares(files, config_of(resample=resample), workers=1)
    expected = [Image.open(files[k]).resize((40, 40), FILTERS[resample]) for k in (0, 2, 3)]
    np.testing.assert_array_equal(found.pixels, np.stack([np.asarray(one) for one in expected]))
    np.testing.assert_array_equal(found.index, [0, 2, 3])
    assert list(found.problems) == [1]
    assert found.problems[1].startswith("not an image")


def test_the_centre_is_cropped(files):
    found = image_squares(files[:1], config_of(resize="crop"), workers=1)
    centre = Image.open(files[0]).resize((40, 40), Image.Resampling.BICUBIC, box=(15, 0, 75, 60))
    np.testing.assert_array_equal(found.pixels[0], np.asarray(centre))


def test_unreadable_files_give_no_square(files):
    found = image_squares(files[1:2], config_of(), workers=1)
    assert found.pixels.shape == (0, 40, 40, 3)
    assert found.index.shape == (0,)
