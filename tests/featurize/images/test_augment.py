"""Views against Keras' own legacy transform; parameters against a Philox written out from its paper."""

import hashlib
import math
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given, strategies as st

from featurize.errors import ConfigError
from featurize.images import augment
from featurize.images.augment import ViewParameters, ViewRanges, render_view, view_parameters

SHA = hashlib.sha256(b"a picture").hexdigest()
WILD = ViewRanges(rotation=180, width_shift=0.5, height_shift=0.4, shear=30, zoom_low=0.4, vertical_flip=True)


@pytest.fixture(scope="module")
def keras_transform():
    """Keras' legacy transform, on float32 so that it does not round."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from keras.src.legacy.preprocessing.image import ImageDataGenerator

        generator = ImageDataGenerator(fill_mode="nearest")

    def transform(pixels, parameters):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Keras uses an old SciPy name
            return generator.apply_transform(pixels.astype(np.float32), asdict(parameters))

    return transform


def noise(size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


def smooth(size):
    y, x = np.mgrid[:size, :size] / size
    waves = [np.sin(7 * x) * np.cos(5 * y), np.cos(9 * x * y), np.sin(3 * (x + y))]
    return np.rint(127.5 + 127.5 * np.stack(waves, axis=-1)).astype(np.uint8)


def draws(ranges, *, size, n):
    return [view_parameters(SHA, view, ranges=ranges, seed=7, size=size) for view in range(1, n + 1)]


def largest_difference(pixels, parameters, keras_transform):
    view = render_view(pixels, parameters)
    assert view.dtype == np.uint8
    assert view.shape == pixels.shape
    return np.abs(view.astype(np.float64) - keras_transform(pixels, parameters)).max()


@pytest.mark.parametrize("ranges", [ViewRanges(vertical_flip=True), WILD], ids=["default", "wild"])
@pytest.mark.parametrize("size", [33, 224])
def test_views_equal_keras_legacy_transform(keras_transform, ranges, size):
    for parameters in draws(ranges, size=size, n=24):
        for pixels in (noise(size), smooth(size)):
            assert (
                largest_difference(pixels, parameters, keras_transform) < 1.0
            )  # gray levels, border included


@pytest.mark.parametrize(
    "parameters",
    [
        ViewParameters(theta=31.0),
        ViewParameters(tx=5.25),
        ViewParameters(ty=-7.5),
        ViewParameters(shear=25.0),
        ViewParameters(zx=1.2, zy=0.8),
        ViewParameters(flip_horizontal=True),
        ViewParameters(flip_vertical=True, theta=10.0),
    ],
)
def test_each_parameter_alone_means_what_keras_means(keras_transform, parameters):
    assert largest_difference(noise(64), parameters, keras_transform) < 0.6


def test_the_comparison_detects_half_a_pixel(keras_transform, monkeypatch):
    right = augment._matrix
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    monkeypatch.setattr(augment, "_matrix", lambda p, size: half @ right(p, size) @ np.linalg.inv(half))
    differences = [largest_difference(noise(64), p, keras_transform) for p in draws(WILD, size=64, n=8)]
    assert min(differences) > 10


def test_no_transform_changes_nothing():
    np.testing.assert_array_equal(render_view(noise(64), ViewParameters()), noise(64))


def test_flips_mirror_exactly():
    pixels = noise(65)
    np.testing.assert_array_equal(render_view(pixels, ViewParameters(flip_horizontal=True)), pixels[:, ::-1])
    np.testing.assert_array_equal(render_view(pixels, ViewParameters(flip_vertical=True)), pixels[::-1])


def test_whole_pixel_shift_repeats_the_border():
    pixels = noise(16)
    expected = pixels[:, np.minimum(np.arange(16) + 3, 15)]
    np.testing.assert_array_equal(render_view(pixels, ViewParameters(tx=3.0)), expected)


def test_pixels_are_left_unchanged_and_the_view_is_a_copy():
    pixels = noise(32)
    pixels.setflags(write=False)
    view = render_view(pixels, ViewParameters(theta=20.0))
    view[:] = 0
    np.testing.assert_array_equal(pixels, noise(32))


def test_pixels_that_are_not_a_square_of_bytes_are_refused():
    with pytest.raises(ValueError, match=r"Received uint8 \(4, 5, 3\)"):
        render_view(np.zeros((4, 5, 3), np.uint8), ViewParameters())
    with pytest.raises(ValueError, match="Received float32"):
        render_view(np.zeros((4, 4, 3), np.float32), ViewParameters())


def test_same_bytes_in_any_order_and_thread():
    ranges, pixels = ViewRanges(vertical_flip=True), noise(96)
    numbers = [*range(1, 17)]

    def view(number):
        parameters = view_parameters(SHA, number, ranges=ranges, seed=3, size=96)
        return render_view(pixels, parameters).tobytes()

    one_by_one = [view(number) for number in numbers]
    with ThreadPoolExecutor(4) as threads:
        backwards = [*threads.map(view, numbers[::-1])][::-1]
    assert one_by_one == backwards
    assert len(set(one_by_one)) == len(numbers)


# Philox4x64-10 after Salmon et al. (SC 2011), table 2 and section 3.3.
MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
WEYL = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
WORD = 2**64


def philox4x64(counter, key):
    c, k = list(counter), list(key)
    for _ in range(10):
        high0, low0 = divmod(MULTIPLIERS[0] * c[0], WORD)
        high1, low1 = divmod(MULTIPLIERS[1] * c[2], WORD)
        c = [high1 ^ c[1] ^ k[0], low1, high0 ^ c[3] ^ k[1], low0]
        k = [(k[0] + WEYL[0]) % WORD, (k[1] + WEYL[1]) % WORD]
    return c


def test_the_reference_philox_gives_the_published_numbers():
    """Known-answer vector of the Random123 library: all zero."""
    answer = [0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B]
    assert philox4x64([0, 0, 0, 0], [0, 0]) == answer


@given(st.integers(0, 2**64), st.integers(1, 1000), st.integers(0, 2**256 - 1))
def test_parameters_are_drawn_as_documented(seed, view, content):
    sha256 = f"{content:064x}"
    digest = hashlib.sha256(f"{seed}/{sha256}/{view}".encode()).digest()
    key = [int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:16], "little")]
    # NumPy counts before it draws: the first block is that of counter 1.
    words = philox4x64([1, 0, 0, 0], key) + philox4x64([2, 0, 0, 0], key)
    u = [(word >> 11) / 2**53 for word in words]
    ranges = ViewRanges(width_shift=0.1, height_shift=0.3, zoom_low=0.5, zoom_high=1.5, vertical_flip=True)
    parameters = view_parameters(sha256, view, ranges=ranges, seed=seed, size=100)
    expected = {
        "theta": 40 * (2 * u[0] - 1),
        "tx": 30 * (2 * u[1] - 1),  # height_shift, as in Keras
        "ty": 10 * (2 * u[2] - 1),
        "shear": 0.2 * (2 * u[3] - 1),
        "zx": 0.5 + u[4],
        "zy": 0.5 + u[5],
    }
    drawn = asdict(parameters)
    assert drawn.pop("flip_horizontal") is (u[6] < 0.5)
    assert drawn.pop("flip_vertical") is (u[7] < 0.5)
    assert drawn == pytest.approx(expected, abs=1e-12)


def test_draws_are_uniform_over_the_ranges():
    drawn = draws(ViewRanges(), size=100, n=2000)
    for name, low, high in [("theta", -40, 40), ("tx", -20, 20), ("ty", -20, 20), ("zx", 0.8, 1.2)]:
        quantiles = np.quantile([getattr(p, name) for p in drawn], [0, 0.25, 0.5, 0.75, 1])
        np.testing.assert_allclose((quantiles - low) / (high - low), [0, 0.25, 0.5, 0.75, 1], atol=0.04)
    assert 0.45 < np.mean([p.flip_horizontal for p in drawn]) < 0.55
    assert not any(p.flip_vertical for p in drawn)
    assert abs(np.corrcoef([p.zx for p in drawn], [p.zy for p in drawn])[0, 1]) < 0.1


def test_seed_content_and_view_number_each_change_the_view():
    base = view_parameters(SHA, 1, ranges=ViewRanges(), seed=0, size=64)
    other = hashlib.sha256(b"another picture").hexdigest()
    assert base == view_parameters(SHA, 1, ranges=ViewRanges(), seed=0, size=64)
    assert base != view_parameters(SHA, 1, ranges=ViewRanges(), seed=1, size=64)
    assert base != view_parameters(SHA, 2, ranges=ViewRanges(), seed=0, size=64)
    assert base != view_parameters(other, 1, ranges=ViewRanges(), seed=0, size=64)


def test_changing_one_range_leaves_the_other_parameters():
    base = view_parameters(SHA, 1, ranges=ViewRanges(), seed=0, size=64)
    still = view_parameters(SHA, 1, ranges=ViewRanges(rotation=0.0), seed=0, size=64)
    assert still == replace(base, theta=0.0)


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ({"rotation": -1}, "rotation range -1 is invalid. Expected a number from 0 to 180"),
        ({"shear": 90}, "shear range 90"),
        ({"width_shift": 1.0}, "width shift range 1.0"),
        ({"height_shift": math.nan}, "height shift range nan"),
        ({"zoom_low": 0}, "zoom range 0"),
        ({"zoom_high": math.inf}, "zoom range inf"),
        ({"zoom_low": 1.3, "zoom_high": 1.2}, r"zoom range 1\.3 to 1\.2 is empty"),
    ],
)
def test_invalid_ranges_are_refused(ranges, message):
    with pytest.raises(ConfigError, match=message):
        ViewRanges(**ranges)


def test_views_are_numbered_from_one():
    with pytest.raises(ConfigError, match="numbered from 1"):
        view_parameters(SHA, 0, ranges=ViewRanges(), seed=0, size=64)
