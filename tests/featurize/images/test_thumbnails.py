"""Thumbnails, against Pillow's own reading of the same files."""

import hashlib
import io
import os

import numpy as np
import pytest
from PIL import Image, ImageOps

from featurize import ConfigError
from featurize.images.thumbnails import thumbnails, thumbnails_at


def blobs(seed: int, size: tuple[int, int]) -> Image.Image:
    cells = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(cells).resize(size, Image.Resampling.BICUBIC)


def opened(thumbnail) -> np.ndarray:
    assert thumbnail.problem == ""
    with Image.open(io.BytesIO(thumbnail.data)) as image:
        assert image.format == "WEBP"
        assert image.size == (thumbnail.width, thumbnail.height)
        return np.asarray(image.convert("RGB")).astype(float)


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        ("large.jpg", (2000, 1500), (128, 96)),
        ("portrait.png", (300, 400), (96, 128)),
        ("square.webp", (256, 256), (128, 128)),
    ],
)
def test_a_thumbnail_equals_that_of_pillow(tmp_path, name, size, expected):
    blobs(1, size).save(tmp_path / name)
    (found,) = thumbnails([tmp_path / name])
    with Image.open(tmp_path / name) as image:
        image.thumbnail((128, 128), Image.Resampling.LANCZOS)
        assert image.size == expected
        np.testing.assert_allclose(
            opened(found).mean(axis=(0, 1)), np.asarray(image).mean(axis=(0, 1)), atol=2
        )
        assert np.abs(opened(found) - np.asarray(image)).mean() < 4  # what WebP loses
    assert found.sha256 == hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "TIFF", "PNG"])
def test_a_thumbnail_is_upright(tmp_path, orientation, kind):
    colours = np.zeros((60, 90, 3), dtype=np.uint8)
    colours[:30, :45], colours[:30, 45:], colours[30:, :45] = (250, 0, 0), (0, 250, 0), (0, 0, 250)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(colours).save(tmp_path / "turned", kind, exif=exif)
    (found,) = thumbnails([tmp_path / "turned"], side=45)
    with Image.open(tmp_path / "turned") as image:
        upright = ImageOps.exif_transpose(image).convert("RGB").resize((found.width, found.height))
    assert (found.width, found.height) == ((45, 30) if orientation < 5 else (30, 45))
    corners = np.ix_((4, -5), (4, -5))
    np.testing.assert_allclose(opened(found)[corners], np.asarray(upright)[corners], atol=25)


def test_transparent_areas_are_white(tmp_path):
    pixels = np.zeros((100, 200, 4), dtype=np.uint8)
    pixels[:, 100:] = (200, 30, 30, 255)
    Image.fromarray(pixels).save(tmp_path / "alpha.png")
    (found,) = thumbnails([tmp_path / "alpha.png"], side=100)
    np.testing.assert_allclose(opened(found)[:, :40], 255, atol=4)
    np.testing.assert_allclose(opened(found)[:, 60:].mean(axis=(0, 1)), (200, 30, 30), atol=6)


@pytest.mark.parametrize(
    ("size", "expected"),
    [((1, 1), (1, 1)), ((20, 10), (20, 10)), ((4000, 3), (128, 1)), ((2, 900), (1, 128))],
)
def test_a_thumbnail_is_never_enlarged_and_has_at_least_one_pixel(tmp_path, size, expected):
    Image.new("RGB", size, (10, 200, 30)).save(tmp_path / "odd.png")
    (found,) = thumbnails([tmp_path / "odd.png"])
    assert (found.width, found.height) == expected
    np.testing.assert_allclose(opened(found).mean(axis=(0, 1)), (10, 200, 30), atol=6)


def test_bad_files_and_hostile_names_keep_their_positions(tmp_path):
    good = blobs(2, (300, 200))
    names = ["<img src=x onerror=alert(1)>.jpg", "line one\nline two.jpg", os.fsdecode(b"\xff\xfe.jpg")]
    for name in names:
        good.save(tmp_path / name, "JPEG")
    whole = (tmp_path / names[0]).read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    bad = {
        "cut.jpg": "truncated",
        "text.jpg": "not an image",
        "empty.jpg": "empty file",
        "folder.jpg": "not a regular file",
        "pipe.jpg": "not a regular file",
        "missing.jpg": "unreadable: No such file or directory",
    }
    order = [names[0], "cut.jpg", "text.jpg", names[1], "empty.jpg", "folder.jpg", "pipe.jpg", "missing.jpg"]
    order.append(names[2])
    told = []
    found = thumbnails([tmp_path / name for name in order], on_progress=lambda *now: told.append(now))
    for name, one in zip(order, found, strict=True):
        if name in bad:
            assert (one.data, one.width, one.height, one.problem) == (b"", 0, 0, bad[name])
        else:
            assert (one.problem, one.sha256) == ("", hashlib.sha256(whole).hexdigest())
            assert (one.width, one.height) == (128, 85)
    assert found[1].sha256 == hashlib.sha256(whole[: len(whole) // 2]).hexdigest()
    assert found[7].sha256 == ""
    assert told == [(done, 9) for done in range(1, 10)]


def test_an_image_of_a_hundred_megapixels_is_scaled_or_skipped_in_time(tmp_path):
    pixels = Image.new("L", (10_000, 10_000), 90)
    pixels.paste(200, (0, 0, 5_000, 10_000))
    pixels.save(tmp_path / "huge.png", compress_level=1)
    blobs(3, (64, 64)).save(tmp_path / "small.png")
    both = [tmp_path / "huge.png", tmp_path / "small.png"]
    huge, small = thumbnails(both, workers=1)
    assert (huge.width, huge.height) == (128, 128)
    np.testing.assert_allclose(opened(huge)[64, (10, 118), 0], (200, 90), atol=4)
    refused, after = thumbnails(both, workers=1, max_pixels=1_000_000)
    assert refused.problem.startswith("too many pixels: 10000 x 10000")
    late, again = thumbnails(both, workers=1, image_timeout=0.15)
    assert late.problem == "timed out: not decoded within 0.15 seconds"
    assert small == after == again


def test_thumbnails_have_no_metadata(tmp_path):
    exif = Image.Exif()
    exif[0x010E] = "secret place"
    profile = b"not a profile, but kept as one"
    blobs(4, (300, 200)).save(tmp_path / "told.jpg", exif=exif, comment=b"secret", icc_profile=profile)
    assert b"secret" in (tmp_path / "told.jpg").read_bytes()
    (found,) = thumbnails([tmp_path / "told.jpg"])
    with Image.open(io.BytesIO(found.data)) as image:
        assert not {"exif", "icc_profile", "xmp", "comment"} & set(image.info)
    assert b"secret" not in found.data
    assert profile not in found.data


def test_several_sides_come_from_one_decoding(tmp_path):
    blobs(5, (600, 300)).save(tmp_path / "a.jpg")
    (found,) = thumbnails_at([tmp_path / "a.jpg"], sides=(200, 50, 20))
    assert [(one.width, one.height) for one in found] == [(200, 100), (50, 25), (20, 10)]
    assert [opened(one).shape for one in found] == [(100, 200, 3), (25, 50, 3), (10, 20, 3)]


@pytest.mark.parametrize("sides", [(), (0,), (128, -1), (5_000,)])
def test_invalid_sides_are_refused(sides):
    with pytest.raises(ConfigError, match="expected sides from 1 to 4096"):
        thumbnails_at(["a.jpg"], sides=sides)


def test_no_files_give_no_thumbnails():
    assert thumbnails([]) == []
