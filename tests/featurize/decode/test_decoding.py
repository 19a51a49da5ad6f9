"""Decode processes: files in their order, whatever the number of workers."""

import hashlib

import numpy as np
import pytest
from PIL import Image

from featurize.decode.decoding import Request, decode_all
from featurize.decode.rendering import Rendering
from featurize.views import ViewRanges, render_view, view_parameters

RENDERING = Rendering(
    size=24, resize="squash", resample="bicubic", max_pixels=10_000, ranges=ViewRanges(), seed=7
)


@pytest.fixture
def files(tmp_path):
    """Forty pictures of one colour each: the number of the picture."""
    for number in range(40):
        Image.new("RGB", (30, 20), (number, 255 - number, 3)).save(tmp_path / f"{number:02}.png")
    return sorted(tmp_path.glob("*.png"))


@pytest.mark.parametrize("workers", [1, 3])
def test_pictures_come_in_the_order_they_were_asked_for(files, workers):
    stream = decode_all([Request(path=path) for path in files], RENDERING, workers=workers)
    for number, decoded in enumerate(stream):
        assert decoded.request.path == files[number]
        assert (decoded.problem, decoded.width, decoded.height) == ("", 30, 20)
        np.testing.assert_array_equal(decoded.views[0], np.full((24, 24, 3), (number, 255 - number, 3)))
        np.testing.assert_array_equal(decoded.thumbnail, np.full((32, 32, 3), (number, 255 - number, 3)))
    assert number == 39


def test_views_are_those_of_the_content_and_the_seed(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "noise.png"
    Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    (decoded,) = decode_all([Request(path=path, sha256=sha256, views=(0, 2, 5))], RENDERING)
    plain = np.asarray(Image.open(path))
    np.testing.assert_array_equal(decoded.views[0], plain)
    for place, view in ((1, 2), (2, 5)):
        parameters = view_parameters(sha256, view, ranges=ViewRanges(), seed=7, size=24)
        np.testing.assert_array_equal(decoded.views[place], render_view(plain, parameters))


def test_a_file_that_changed_since_it_was_hashed_is_not_used(files):
    (decoded,) = decode_all([Request(path=files[0], sha256="0" * 64)], RENDERING)
    assert decoded.problem.startswith("changed while being read")


def test_a_thumbnail_does_not_keep_the_views_in_memory(files):
    (decoded,) = decode_all([Request(path=files[0])], RENDERING)
    assert decoded.thumbnail.base is None or decoded.thumbnail.base.nbytes == decoded.thumbnail.nbytes


def test_whoever_stops_early_leaves_no_process(files):
    stream = decode_all([Request(path=path) for path in files], RENDERING, workers=2)
    next(stream)
    workers = [worker for worker in stream.gi_frame.f_locals["pool"] if worker._process is not None]
    processes = [worker._process for worker in workers]
    assert processes
    stream.close()
    assert all(process.wait(timeout=30) != 0 for process in processes)


def test_nothing_asked_for_starts_nothing():
    assert list(decode_all([], RENDERING)) == []
