"""Decode processes: order of results, shared memory, reuse of processes."""

import hashlib
import time

import numpy as np
import pytest
from PIL import Image

from featurize.images import pool
from featurize.images.augment import ViewRanges, render_view, view_parameters
from featurize.images.pool import Decoder, DecodeRequest, decode_all
from featurize.images.render import RenderSettings
from featurize.images.worker import Worker

RENDERING = RenderSettings(
    size=24, resize="squash", resample="bicubic", max_pixels=10_000, ranges=ViewRanges(), seed=7
)


@pytest.fixture
def files(tmp_path):
    """Forty images of one colour each, which encodes their number."""
    for number in range(40):
        Image.new("RGB", (30, 20), (number, 255 - number, 3)).save(tmp_path / f"{number:02}.png")
    return sorted(tmp_path.glob("*.png"))


@pytest.mark.parametrize("workers", [1, 3])
def test_results_are_in_the_order_of_the_requests(files, workers):
    stream = decode_all([DecodeRequest(path=path) for path in files], RENDERING, workers=workers)
    for number, decoded in enumerate(stream):
        assert decoded.request.path == files[number]
        assert (decoded.problem, decoded.width, decoded.height) == ("", 30, 20)
        np.testing.assert_array_equal(decoded.views[0], np.full((24, 24, 3), (number, 255 - number, 3)))
        np.testing.assert_array_equal(decoded.thumbnail, np.full((32, 32, 3), (number, 255 - number, 3)))
    assert number == 39


def test_views_depend_on_content_and_seed(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "noise.png"
    Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    (decoded,) = decode_all([DecodeRequest(path=path, sha256=sha256, views=(0, 2, 5))], RENDERING)
    plain = np.asarray(Image.open(path))
    np.testing.assert_array_equal(decoded.views[0], plain)
    for position, view in ((1, 2), (2, 5)):
        parameters = view_parameters(sha256, view, ranges=ViewRanges(), seed=7, size=24)
        np.testing.assert_array_equal(decoded.views[position], render_view(plain, parameters))


def test_a_file_that_changed_since_it_was_hashed_is_not_used(files):
    (decoded,) = decode_all([DecodeRequest(path=files[0], sha256="0" * 64)], RENDERING)
    assert decoded.problem.startswith("changed while being read")


def test_a_thumbnail_does_not_keep_the_views_in_memory(files):
    (decoded,) = decode_all([DecodeRequest(path=files[0])], RENDERING)
    assert decoded.thumbnail.base is None or decoded.thumbnail.base.nbytes == decoded.thumbnail.nbytes


def test_stopping_early_leaves_no_process(files, monkeypatch):
    started = []
    monkeypatch.setattr(pool, "Worker", lambda *given: started.append(Worker(*given)) or started[-1])
    stream = decode_all([DecodeRequest(path=path) for path in files], RENDERING, workers=2)
    next(stream)
    assert len(started) == 2
    stream.close()
    assert all(worker.process.poll() is not None for worker in started)


def test_no_request_starts_no_process():
    assert list(decode_all([], RENDERING)) == []


def test_views_stay_valid_until_the_next_result_is_taken(files):
    """No slot is overwritten while its result is in use, however far ahead the workers decode."""
    with Decoder(RENDERING, most_views=1, workers=2) as decoder:
        for number, decoded in enumerate(decoder.decode([DecodeRequest(path=path) for path in files])):
            if number % 10 == 0:
                time.sleep(0.2)  # lets the workers decode as far ahead as possible
            np.testing.assert_array_equal(decoded.views[0][0, 0], (number, 255 - number, 3))
            with pytest.raises(ValueError, match="read-only"):
                decoded.views[0][0, 0] = 0


def test_processes_are_reused_for_the_next_list(files, monkeypatch):
    started = []
    monkeypatch.setattr(pool, "Worker", lambda *given: started.append(Worker(*given)) or started[-1])
    requests = [DecodeRequest(path=path) for path in files]
    with Decoder(RENDERING, most_views=2, workers=2) as decoder:
        assert [decoded.problem for decoded in decoder.decode(requests)] == [""] * 40
        stopped = decoder.decode(requests)
        next(stopped)
        stopped.close()  # replies in progress must not be taken for replies to the next requests
        reds = [int(decoded.views[0][0, 0, 0]) for decoded in decoder.decode(requests[::-1])]
        assert reds == list(range(39, -1, -1))
        assert list(decoder.decode([])) == []
    assert 2 <= len(started) <= 4  # two, and replacements of workers that were busy at the stop
    assert all(worker.process.poll() is not None for worker in started)
