"""Files as people have them; every expected pixel is worked out by hand."""

import hashlib
import io
import os
import struct
import subprocess
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image

from featurize.errors import ConfigError, FolioError
from featurize.images.decode import RESIZES, SkippedImage, read_image
from featurize.images.skip_reasons import SKIP_REASONS

RED, GREEN, BLUE, YELLOW = (230, 20, 20), (20, 200, 30), (30, 40, 220), (220, 210, 20)
QUADRANTS = [[RED, GREEN], [BLUE, YELLOW]]  # top row, bottom row


pytestmark = pytest.mark.filterwarnings(r"ignore:::PIL\.")  # of damaged EXIF, of many pixels


def quadrants(width=64, height=48, mode="RGB"):
    image = Image.new("RGB", (width, height))
    for row, colours in enumerate(QUADRANTS):
        for column, colour in enumerate(colours):
            image.paste(colour, (column * width // 2, row * height // 2, width, height))
    return image.convert(mode)


def corners(pixels):
    """Return the colours in the middle of the four quadrants."""
    quarter = len(pixels) // 4
    return [[tuple(pixels[y, x].tolist()) for x in (quarter, 3 * quarter)] for y in (quarter, 3 * quarter)]


def save(path, image, **options):
    image.save(path, **options)
    return path


def encoded(image, file_format, **options):
    stream = io.BytesIO()
    image.save(stream, file_format, **options)
    return stream.getvalue()


def flat(path, colour, mode="RGB", **options):
    """Save one colour and return what is read of it."""
    save(path, Image.new(mode, (40, 40), colour), **options)
    pixels = read_image(path, size=16).pixels
    assert (pixels == pixels[0, 0]).all()
    return tuple(pixels[0, 0].tolist())


def skipped(path, **options):
    with pytest.raises(SkippedImage) as caught:
        read_image(path, size=32, **options)
    assert str(caught.value) == caught.value.reason
    assert caught.value.reason.split(":")[0] in SKIP_REASONS
    assert isinstance(caught.value, FolioError)
    return caught.value.reason


# What it gives


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "ppm", "tga", "webp", "qoi", "jp2"])
def test_lossless_formats_keep_the_exact_colours(tmp_path, suffix):
    options = {"lossless": True} if suffix == "webp" else {}
    picture = read_image(save(tmp_path / f"x.{suffix}", quadrants(), **options), size=32)
    assert corners(picture.pixels) == QUADRANTS
    assert picture.pixels.shape == (32, 32, 3)
    assert picture.pixels.dtype == np.uint8
    assert (picture.width, picture.height) == (64, 48)


def test_content_decides_not_the_suffix(tmp_path):
    (tmp_path / "png.jpg").write_bytes(encoded(quadrants(), "PNG"))
    (tmp_path / "gif.txt").write_bytes(encoded(quadrants(mode="P"), "GIF"))
    assert corners(read_image(tmp_path / "png.jpg", size=32).pixels) == QUADRANTS
    read_image(tmp_path / "gif.txt", size=32)


UPRIGHT = {  # by the EXIF standard: where the stored top-left, top-right / bottom-left, bottom-right are seen
    1: [["TL", "TR"], ["BL", "BR"]],
    2: [["TR", "TL"], ["BR", "BL"]],
    3: [["BR", "BL"], ["TR", "TL"]],
    4: [["BL", "BR"], ["TL", "TR"]],
    5: [["TL", "BL"], ["TR", "BR"]],
    6: [["BL", "TL"], ["BR", "TR"]],
    7: [["BR", "TR"], ["BL", "TL"]],
    8: [["TR", "BR"], ["TL", "BL"]],
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_exif_orientation_is_applied(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"jpg": {"quality": 95, "subsampling": 0}, "webp": {"lossless": True}}.get(suffix, {})
    path = save(tmp_path / f"x.{suffix}", quadrants(320, 240), exif=exif, **options)
    picture = read_image(path, size=64)
    colour = {"TL": RED, "TR": GREEN, "BL": BLUE, "BR": YELLOW}
    expected = [[colour[name] for name in row] for row in UPRIGHT[orientation]]
    np.testing.assert_allclose(corners(picture.pixels), expected, atol=4 if suffix == "jpg" else 0)
    assert (picture.width, picture.height) == ((240, 320) if orientation >= 5 else (320, 240))


@pytest.mark.parametrize(
    ("kind", "count", "value"),
    [
        (3, 1, b"\0\0"),
        (3, 1, b"\x09\0"),
        (2, 2, b"6\0"),
        (11, 1, b"\0\0\xc0\x40"),
        (99, 1, b"6"),
    ],
    ids=["zero", "nine", "text", "float", "unknown type"],
)
def test_an_orientation_that_does_not_exist_is_upright(tmp_path, kind, count, value):
    entry = struct.pack("<HHI", 0x0112, kind, count) + value.ljust(4, b"\0")
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0" + entry + bytes(4)
    assert corners(read_image(save(tmp_path / "x.png", quadrants(), exif=exif), size=32).pixels) == QUADRANTS


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\x7f", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"]
)
def test_an_image_with_broken_exif_is_read(tmp_path, exif):
    path = save(tmp_path / "x.jpg", quadrants(), exif=exif, quality=95, subsampling=0)
    np.testing.assert_allclose(corners(read_image(path, size=32).pixels), QUADRANTS, atol=4)


def test_alpha_is_blended_over_white(tmp_path):
    # (a * colour + (255 - a) * 255) / 255 by hand: 51/255 = 0.2
    assert flat(tmp_path / "a.png", (100, 0, 255, 51), "RGBA") == (224, 204, 255)
    assert flat(tmp_path / "b.png", (9, 9, 9, 0), "RGBA") == (255, 255, 255)
    assert flat(tmp_path / "c.png", (50, 51), "LA") == (214, 214, 214)
    assert flat(tmp_path / "d.webp", (10, 20, 30, 0), "RGBA", lossless=True, exact=True) == (255, 255, 255)
    assert flat(tmp_path / "e.tif", (100, 0, 255, 51), "RGBA") == (224, 204, 255)


def test_a_transparent_colour_is_white(tmp_path):
    assert flat(tmp_path / "rgb.png", (1, 2, 3), transparency=(1, 2, 3)) == (255, 255, 255)
    assert flat(tmp_path / "rgb2.png", (1, 2, 4), transparency=(1, 2, 3)) == (1, 2, 4)
    assert flat(tmp_path / "l.png", 7, "L", transparency=7) == (255, 255, 255)
    assert flat(tmp_path / "one.png", 0, "1", transparency=0) == (255, 255, 255)
    assert flat(tmp_path / "i16.png", 700, "I;16", transparency=700) == (255, 255, 255)


def test_palettes_with_and_without_transparency(tmp_path):
    image = Image.new("P", (40, 40), 1)
    image.putpalette([0, 0, 0, 10, 200, 30])
    assert read_image(save(tmp_path / "p.png", image), size=8).pixels[0, 0].tolist() == [10, 200, 30]
    for number, transparency in enumerate([1, b"\xff\x00"]):
        path = save(tmp_path / f"{number}.png", image, transparency=transparency)
        assert read_image(path, size=8).pixels[0, 0].tolist() == [255, 255, 255]
    half = save(tmp_path / "half.png", image, transparency=b"\xff\x33")  # 51 of 255
    assert read_image(half, size=8).pixels[0, 0].tolist() == [206, 244, 210]


def test_depths(tmp_path):
    assert flat(tmp_path / "one.png", 1, "1") == (255, 255, 255)
    assert flat(tmp_path / "l.png", 77, "L") == (77, 77, 77)
    # v * 255 / 65535 = v / 257, rounded
    assert flat(tmp_path / "i16.png", 32896, "I;16") == (128, 128, 128)
    assert flat(tmp_path / "i16b.tif", 25957, "I;16B") == (101, 101, 101)
    assert flat(tmp_path / "i16.tif", 64250, "I;16") == (250, 250, 250)
    assert flat(tmp_path / "dark.png", 100, "I;16") == (0, 0, 0)


@pytest.mark.parametrize(
    ("mode", "values", "expected"),
    [
        ("I", [0, 200], [0, 200]),
        ("I", [0, 32896], [0, 128]),
        ("I", [-5, 2**30], [0, 128]),  # of 2**31 - 1: 127.5000001
        ("F", [0.0, 0.2], [0, 51]),
        ("F", [-3.0, 200.4], [0, 200]),
        ("F", [0.0, 25700.0], [0, 100]),
        ("F", [1e5, 1e6], [26, 255]),  # 25.5 to even
        ("F", [float("nan"), 1.0], [0, 255]),
    ],
)
def test_integers_and_floats_of_32_bits(tmp_path, mode, values, expected):
    numbers = np.repeat(np.array(values, dtype="int32" if mode == "I" else "float32"), 32)
    path = save(tmp_path / "x.tif", Image.fromarray(np.tile(numbers, (64, 1))))
    pixels = read_image(path, size=64).pixels
    assert [pixels[5, 5, 0], pixels[5, 60, 0]] == expected


def test_a_dark_16_bit_ppm_stays_dark(tmp_path):
    (tmp_path / "x.pgm").write_bytes(b"P5 8 8 65535\n" + struct.pack(">64H", *[200] * 64))
    assert read_image(tmp_path / "x.pgm", size=8).pixels.max() == 1  # 200 / 257


def test_cmyk_ycck_and_lab(tmp_path):
    # Ink 0 is paper; full cyan takes red away.
    assert flat(tmp_path / "cmyk.tif", (255, 0, 0, 0), "CMYK") == (0, 255, 255)
    np.testing.assert_allclose(flat(tmp_path / "cmyk.jpg", (0, 255, 255, 0), "CMYK"), (255, 0, 0), atol=3)
    np.testing.assert_allclose(
        flat(tmp_path / "ycbcr.tif", (128, 128, 128), "YCbCr"), (128, 128, 128), atol=1
    )
    # L* = 100, a* = b* = 0 is white, L* = 0 black; Pillow holds L* scaled to 255, a* and b* with 128 added.
    np.testing.assert_allclose(flat(tmp_path / "white.tif", (255, 128, 128), "LAB"), (255, 255, 255), atol=1)
    np.testing.assert_allclose(flat(tmp_path / "black.tif", (0, 128, 128), "LAB"), (0, 0, 0), atol=1)


def test_ycck_jpeg(tmp_path):
    """The Adobe marker of a CMYK JPEG names its colour transform: 2 makes the same four planes YCCK."""
    data = bytearray(encoded(Image.new("CMYK", (40, 40), (0, 0, 0, 0)), "JPEG", quality=95))
    marker = data.index(b"Adobe")
    assert data[marker + 11] == 0
    data[marker + 11] = 2
    (tmp_path / "ycck.jpg").write_bytes(data)
    # No ink is stored inverted: now Y = Cb = Cr = 255 and K = 255. By JFIF that is R = 255 + 1.402 * 127,
    # clipped to 255, G = 255 - (0.344 + 0.714) * 127 = 121, B = 255. C, M, Y = 255 - RGB = 0, 134, 0, all
    # inverted by Adobe's rule: 255, 121, 255 with K = 0 is no red, 255 - 121 green, no blue.
    picture = read_image(tmp_path / "ycck.jpg", size=16)
    np.testing.assert_allclose(picture.pixels[8, 8], (0, 134, 0), atol=3)


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif"])
def test_animations_give_their_first_frame(tmp_path, suffix):
    frames = [Image.new("RGB", (32, 32), colour) for colour in (RED, GREEN, BLUE)]
    options = {"lossless": True} if suffix == "webp" else {}
    path = save(tmp_path / f"x.{suffix}", frames[0], save_all=True, append_images=frames[1:], **options)
    np.testing.assert_allclose(read_image(path, size=16).pixels[8, 8], RED, atol=1)


def test_mpo_gives_its_first_image(tmp_path):
    other = Image.new("RGB", (640, 480), "black")
    path = save(tmp_path / "x.mpo", quadrants(640, 480), save_all=True, append_images=[other], quality=95)
    with Image.open(path) as image:
        assert image.format == "MPO"
    picture = read_image(path, size=64)
    np.testing.assert_allclose(corners(picture.pixels), QUADRANTS, atol=6)
    assert (picture.width, picture.height) == (640, 480)


# The one resize


def test_squash_is_one_resize_by_pillow(tmp_path):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 70, 3), dtype=np.uint8))
    path = save(tmp_path / "x.png", noise)
    for name, resample in [("nearest", 0), ("lanczos", 1), ("bilinear", 2), ("bicubic", 3)]:
        expected = np.asarray(noise.resize((32, 32), resample))
        np.testing.assert_array_equal(read_image(path, size=32, resample=name).pixels, expected)


@pytest.mark.parametrize("turned", [False, True])
def test_crop_keeps_the_centre_of_the_short_side(tmp_path, turned):
    stripes = Image.new("RGB", (300, 100), RED)
    stripes.paste(GREEN, (100, 0, 200, 100))
    stripes = stripes.transpose(Image.Transpose.ROTATE_90) if turned else stripes
    path = save(tmp_path / "x.png", stripes)
    assert (read_image(path, size=32, resize="crop", resample="nearest").pixels == GREEN).all()
    assert read_image(path, size=32, resize="crop").pixels[16, 16].tolist() == list(GREEN)


@pytest.mark.parametrize("turned", [False, True])
def test_pad_keeps_all_and_fills_with_white(tmp_path, turned):
    path = save(tmp_path / "x.png", Image.new("RGB", (50, 200) if turned else (200, 50), BLUE))
    pixels = read_image(path, size=64, resize="pad").pixels
    pixels = pixels.swapaxes(0, 1) if turned else pixels
    assert (pixels[24:40] == BLUE).all()  # 64 * 50 / 200 = 16 rows in the middle
    assert (pixels[:24] == 255).all()
    assert (pixels[40:] == 255).all()


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("shape", [(1, 1), (2000, 1), (1, 2000), (7, 3)])
def test_tiny_and_thin_images(tmp_path, resize, shape):
    for suffix in ("png", "jpg"):
        path = save(tmp_path / f"x.{suffix}", Image.new("RGB", shape, "white"))
        picture = read_image(path, size=32, resize=resize)
        assert (picture.pixels == 255).all()
        assert (picture.width, picture.height) == shape


@pytest.mark.parametrize(
    ("shape", "resize", "decoded"),
    [
        ((1000, 1000), "squash", (250, 250)),  # 1/8 would be 125
        ((1600, 1600), "squash", (200, 200)),  # 1/8 is exactly enough
        ((1599, 1600), "squash", (400, 400)),  # 1/8 is one short of it
        ((4000, 400), "squash", (2000, 200)),  # the short side decides
        ((4000, 400), "crop", (2000, 200)),
        ((4000, 400), "pad", (500, 50)),  # only the long side becomes 200
        ((400, 4000), "pad", (50, 500)),
        ((150, 100), "squash", (150, 100)),
    ],
)
def test_jpeg_is_decoded_at_the_smallest_scale_that_covers(tmp_path, monkeypatch, shape, resize, decoded):
    path = save(tmp_path / "x.jpg", Image.new("RGB", shape, "gray"))
    sizes = []
    system_resize = Image.Image.resize

    def watch(image, size, *args, **kwargs):
        sizes.append(image.size)
        return system_resize(image, size, *args, **kwargs)

    monkeypatch.setattr(Image.Image, "resize", watch)
    picture = read_image(path, size=200, resize=resize)
    assert sizes[0] == decoded
    assert (picture.width, picture.height) == shape


def test_hash_and_thumbnail(tmp_path):
    imagehash = pytest.importorskip("imagehash")
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    picture = read_image(save(tmp_path / "x.png", Image.fromarray(noise)), size=64)
    means = noise.reshape(32, 2, 32, 2, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(picture.thumbnail, means, atol=1.0)  # rounded for each axis
    bits = imagehash.phash(Image.fromarray(noise)).hash.ravel()
    assert picture.phash == sum(1 << (63 - place) for place, bit in enumerate(bits) if bit)
    assert 0 <= picture.phash < 2**64


@pytest.mark.parametrize("kind", ["noise", "flat", "mirrored", "blocks", "gradient", "symmetric"])
def test_the_hash_equals_that_of_imagehash_even_for_ties(tmp_path, kind):
    """Pictures of exact symmetry have equal numbers about their median."""
    imagehash = pytest.importorskip("imagehash")
    rng = np.random.default_rng(0)
    for number in range(20):
        noise = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        pixels = {
            "noise": noise,
            "flat": np.full_like(noise, number * 12),
            "mirrored": np.concatenate([noise[:32], noise[31::-1]]),
            "blocks": np.kron(noise[:4, :4], np.ones((16, 16, 1), np.uint8)),
            "gradient": np.broadcast_to(np.arange(64, dtype=np.uint8)[:, None, None] * 3, noise.shape),
            "symmetric": noise // 2 + noise.transpose(1, 0, 2) // 2,
        }[kind]
        image = Image.fromarray(np.ascontiguousarray(pixels))
        assert read_image(save(tmp_path / "x.png", image), size=64).phash == int(
            str(imagehash.phash(image)), 16
        )


# What it skips


def test_truncated_files(tmp_path):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8))
    for file_format in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "AVIF", "PPM", "QOI"):
        data = encoded(noise, file_format)
        (tmp_path / "x").write_bytes(data[: len(data) // 2])
        assert skipped(tmp_path / "x") == "truncated", file_format
    lzw = encoded(noise, "TIFF", compression="tiff_lzw")  # its directory lies at the end
    for data in (lzw, encoded(noise, "JPEG", progressive=True), encoded(noise, "JPEG", optimize=True)):
        (tmp_path / "x").write_bytes(data[: len(data) * 3 // 4])
        assert skipped(tmp_path / "x") == "truncated"


def test_a_file_truncated_in_the_header(tmp_path):
    for file_format in ("JPEG", "PNG", "GIF", "TIFF", "WEBP", "AVIF"):
        (tmp_path / "x").write_bytes(encoded(quadrants(), file_format)[:24])
        assert skipped(tmp_path / "x") == "truncated", file_format


def test_empty_file(tmp_path):
    (tmp_path / "x.jpg").touch()
    assert skipped(tmp_path / "x.jpg") == "empty file"


@pytest.mark.parametrize(
    "content", [b"hello", b"\0" * 500, b"a,b\n1,2\n" * 50, b"\n", "ünïcode".encode("utf-16")]
)
def test_not_an_image(tmp_path, content):
    (tmp_path / "x.jpg").write_bytes(content)
    assert skipped(tmp_path / "x.jpg") == "not an image"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"%PDF-1.7\n...", "it is a PDF"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "it is HEIC"),
        (b"<svg xmlns='...'>", "it is SVG"),
        (b"PK\x03\x04...", "it is a ZIP archive"),
    ],
)
def test_other_formats_are_named(tmp_path, content, says):
    (tmp_path / "x.jpg").write_bytes(content)
    assert skipped(tmp_path / "x.jpg").startswith(f"not an image: {says}")


def test_postscript_starts_no_other_program(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError(f"started {args}")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    path = save(tmp_path / "x.eps", quadrants())
    assert skipped(path) == "not an image: it is PostScript; convert it to JPEG or PNG"


def png(width, height, body=b""):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def test_many_pixels_are_skipped_before_decoding(tmp_path):
    """The pixels are garbage: decoding them would have said so."""
    (tmp_path / "x.png").write_bytes(png(19866, 14043, b"garbage"))  # A1 at 600 dpi
    assert (
        skipped(tmp_path / "x.png") == "too many pixels: 19866 x 14043, the limit is 200000000 (--max-pixels)"
    )
    (tmp_path / "x.png").write_bytes(png(2**31 - 1, 2**31 - 1, b"garbage"))
    assert skipped(tmp_path / "x.png") == "too many pixels: far over the limit (--max-pixels)"


def test_a_jpeg_counts_as_it_is_decoded(tmp_path):
    path = save(tmp_path / "x.jpg", Image.new("L", (4000, 3200), 90))
    limit = 500 * 400
    picture = read_image(path, size=400, max_pixels=limit)  # 1/8
    assert (picture.width, picture.height) == (4000, 3200)
    assert (picture.pixels == 90).all()
    reason = skipped(path, max_pixels=limit - 1)
    assert reason == "too many pixels: 4000 x 3200 (read at 500 x 400), the limit is 199999 (--max-pixels)"
    save(tmp_path / "x.png", Image.new("L", (4000, 3200), 90))
    assert skipped(tmp_path / "x.png", max_pixels=4000 * 3200 - 1).startswith(
        "too many pixels: 4000 x 3200, "
    )
    read_image(tmp_path / "x.png", size=32, max_pixels=4000 * 3200)


def test_an_a1_poster_of_279_megapixels_is_read(tmp_path):
    path = save(tmp_path / "x.jpg", Image.new("L", (19866, 14043), 90))
    picture = read_image(path, size=224)
    assert (picture.width, picture.height) == (19866, 14043)
    assert (picture.pixels == 90).all()


def test_a_changed_file(tmp_path):
    path = save(tmp_path / "x.png", quadrants())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    read_image(path, size=32, sha256=digest)
    path.write_bytes(path.read_bytes() + b"\0")
    assert skipped(path, sha256=digest) == "changed while being read"


def test_unreadable_and_irregular_files(tmp_path):
    assert skipped(tmp_path / "missing") == "unreadable: No such file or directory"
    assert skipped(tmp_path) == "not a regular file"
    os.mkfifo(tmp_path / "pipe.jpg")
    assert skipped(tmp_path / "pipe.jpg") == "not a regular file"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), "damaged: not enough memory to decode it"),
        (struct.error("unpack requires 4 bytes"), "damaged: unpack requires 4 bytes"),
        (SyntaxError("bad\n  header"), "damaged: bad header"),
        (ValueError("at <X object at 0x7f00ab>"), "damaged: at <X object>"),
        (RuntimeError(), "damaged: RuntimeError"),
        (OSError("Image File is Truncated (3 bytes)"), "truncated"),
        (EOFError(), "truncated"),
        (zlib.error("Error -3"), "damaged: Error -3"),
    ],
)
@pytest.mark.parametrize("where", ["open", "load"])
def test_any_exception_of_a_decoder_is_a_skip_reason(tmp_path, monkeypatch, error, reason, where):
    path = save(tmp_path / "x.png", quadrants())

    def fail(*args, **kwargs):
        raise error

    if where == "open":
        monkeypatch.setattr(Image, "open", fail)
    else:
        monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", fail)
    assert skipped(path) == reason


def test_options_are_checked_before_the_file(tmp_path):
    with pytest.raises(ConfigError, match=r"Unknown --resize 'fit'\. Choose one of: squash, crop, pad"):
        read_image(tmp_path, size=32, resize="fit")
    with pytest.raises(ConfigError, match=r"Unknown --resample 'cubic'\. Choose one of: nearest, bilinear"):
        read_image(tmp_path, size=32, resample="cubic")
    with pytest.raises(ConfigError, match="Received size 0"):
        read_image(tmp_path, size=0)


FORMATS = [
    "JPEG",
    "PNG",
    "GIF",
    "TIFF",
    "WEBP",
    "BMP",
    "PPM",
    "TGA",
    "ICO",
    "PCX",
    "SGI",
    "QOI",
    "DDS",
    "JPEG2000",
]
SAMPLES = [encoded(quadrants(16, 12), name) for name in FORMATS]


@given(data=st.data(), sample=st.sampled_from(SAMPLES))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_damage_gives_an_image_or_a_skip_reason(tmp_path, data, sample):
    damaged = bytearray(sample[: data.draw(st.integers(0, len(sample)))])
    for _ in range(data.draw(st.integers(0, 4))):
        if damaged:
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "x").write_bytes(damaged)
    reason, shape = "", None
    try:
        shape = read_image(tmp_path / "x", size=8, max_pixels=10_000_000).pixels.shape
    except SkippedImage as error:
        reason = error.reason
    assert "\n" not in reason
    assert shape == (8, 8, 3) or reason.split(":")[0] in SKIP_REASONS


def test_many_threads_give_equal_results(tmp_path):
    paths = [save(tmp_path / f"{n}.jpg", quadrants(100 + 40 * n, 90)) for n in range(12)]
    alone = [read_image(path, size=64).pixels.tobytes() for path in paths]
    with ThreadPoolExecutor(4) as threads:
        together = [*threads.map(lambda path: read_image(path, size=64).pixels.tobytes(), paths)]
    assert alone == together


def test_the_array_is_writable_and_independent(tmp_path):
    picture = read_image(save(tmp_path / "x.png", quadrants()), size=32)
    picture.pixels[:] = 0
    assert picture.thumbnail.max() > 0
