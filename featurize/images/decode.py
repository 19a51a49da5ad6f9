"""Decode image files with Pillow: upright, 8-bit RGB, alpha over white, resized to a square."""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from featurize.errors import ConfigError, ImageError
from featurize.images.files import UnreadableFile, open_regular, unreadable
from featurize.images.skip_reasons import is_truncated, unidentified_reason

RESIZES = ("squash", "crop", "pad")
RESAMPLES = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
# EPS would start Ghostscript; of the others Pillow reads only the header.
_NOT_DECODED = frozenset({"EPS", "BUFR", "GRIB", "HDF5", "WMF", "MPEG"})
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION = 0x0112  # EXIF tag
_DCT_GAIN = 64  # a JPEG can be decoded at 1/8 of its width and height
# First 8 of 32 basis vectors of the type-II DCT, not normalised, as in SciPy's dct.
_LOW_FREQUENCIES = 2 * np.cos(np.pi / 64 * np.outer(np.arange(8), 2 * np.arange(32) + 1))
_TIE = 1e-5  # far above the rounding error of a sum of 1024 products with values up to 255
_LARGE_FILE = 256 * 1024 * 1024  # bytes; larger files are identified before they are read into memory
_FULL_SCALE_16 = 65535  # white in 16 bits


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert a loaded image to 8-bit RGB, with transparent areas over white.

    16-bit gray is scaled to 8 bits and rounded. For 32-bit integers and floats the file does not define
    white; it is taken to be the smallest usual full scale that no value exceeds (255, 65535 or 2**31 - 1 for
    integers; 1, 255 or 65535 for floats, else the largest value). Negative values and NaN become black.
    Colour profiles are not applied, except that CIELAB is converted to sRGB.
    """
    if image.mode.startswith("I;16"):
        return _gray(np.asarray(image), _FULL_SCALE_16, image.info.get("transparency"))
    if image.mode == "I":
        values = np.asarray(image)
        # Pillow scales PPM to 16 bits whatever its maximum, so a dark image must not be stretched.
        scales = (_FULL_SCALE_16, 2**31 - 1) if image.format == "PPM" else (255, _FULL_SCALE_16, 2**31 - 1)
        return _gray(values, _smallest_scale(values, scales))
    if image.mode == "F":
        values = np.nan_to_num(np.asarray(image), nan=0.0, posinf=0.0, neginf=0.0)
        return _gray(values, _smallest_scale(values, (1, 255, _FULL_SCALE_16)))
    if image.mode == "LAB":
        return _from_lab(image)
    if image.mode in {"RGBa", "La"} or image.has_transparency_data:
        return _over_white(image.convert("RGBA"))
    return image if image.mode == "RGB" else image.convert("RGB")


def _smallest_scale(values: np.ndarray, scales: tuple[float, ...]) -> float:
    largest = float(values.max())
    return next((scale for scale in scales if largest <= scale), largest)


def _gray(values: np.ndarray, full_scale: float, transparent: object = None) -> Image.Image:
    shades = np.clip(np.rint(values * (255.0 / full_scale)), 0, 255).astype(np.uint8)
    if isinstance(transparent, int):
        shades = np.where(values == transparent, np.uint8(255), shades)
    return Image.fromarray(shades).convert("RGB")


def _over_white(image: Image.Image) -> Image.Image:
    canvas = Image.new("RGB", image.size, "white")
    canvas.paste(image.convert("RGB"), mask=image.getchannel("A"))
    return canvas


def _from_lab(image: Image.Image) -> Image.Image:
    from PIL import ImageCms

    transform = ImageCms.buildTransform(
        ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB"
    )
    converted = ImageCms.applyTransform(image, transform)
    assert converted is not None  # None only with inPlace=True
    return converted


class SkippedImage(ImageError):
    """An image file that cannot be used; ``reason`` starts with one of `SKIP_REASONS`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, kw_only=True)
class DecodedImage:
    """A decoded image, resized to a square."""

    pixels: npt.NDArray[np.uint8]  # (size, size, 3), upright RGB
    width: int  # of the upright original, in pixels
    height: int
    phash: int  # 64-bit perceptual hash of `pixels`
    thumbnail: npt.NDArray[np.uint8]  # (32, 32, 3), `pixels` averaged over areas
    format: str  # of the content, as named by Pillow: "JPEG"
    mode: str  # Pillow's mode before the conversion to RGB: "CMYK"
    orientation: int  # EXIF, 1 to 8; 1 is upright


@dataclass(frozen=True, kw_only=True)
class UprightImage:
    """A decoded image before resizing."""

    image: Image.Image  # RGB; a JPEG may be scaled down
    width: int  # of the upright original, in pixels
    height: int
    format: str
    mode: str
    orientation: int


def read_image(
    path: str | os.PathLike[str],
    *,
    size: int,
    resize: str = "squash",
    resample: str = "bicubic",
    max_pixels: int = 200_000_000,
    sha256: str | None = None,
) -> DecodedImage:
    """Read one image file, turn it upright and resize it to the input size in one antialiased step.

    The format is detected from the content, not from the file name. Thread-safe.

    Parameters
    ----------
    path : path-like
        The image file.
    size : int
        Side of the square, in pixels.
    resize : {"squash", "crop", "pad"}, default="squash"
        Stretch to the square, crop the centre square, or pad with white.
    resample : {"nearest", "bilinear", "bicubic", "lanczos"}, default="bicubic"
        Pillow's filter; all but "nearest" are antialiased when scaling down.
    max_pixels : int, default=200_000_000
        Larger images are skipped before decoding. A JPEG counts at its decoded size: the smallest of the
        scales 1, 1/2, 1/4, 1/8 that still covers the square.
    sha256 : str, optional
        Expected digest of the content.

    Returns
    -------
    DecodedImage

    Raises
    ------
    SkippedImage
        If the file is not a readable image; `reason` says why.
    ConfigError
        If an option is invalid.
    """
    _check_options(size, resize, resample, max_pixels)
    data = read_content(path, max_pixels=max_pixels, sha256=sha256)
    with open_upright(data, size=size, resize=resize, max_pixels=max_pixels) as upright:
        square = _square(upright.image, size, resize, RESAMPLES[resample])
    return DecodedImage(
        pixels=np.array(square),
        width=upright.width,
        height=upright.height,
        phash=_phash(square),
        thumbnail=np.array(square.resize((32, 32), Image.Resampling.BOX)),
        format=upright.format,
        mode=upright.mode,
        orientation=upright.orientation,
    )


def load_decoders() -> None:
    """Load Pillow's plugins now, so that the memory limit for a file need not include them."""
    Image.init()


def _check_options(size: int, resize: str, resample: str, max_pixels: int) -> None:
    if resize not in RESIZES:
        raise ConfigError(f"Unknown --resize {resize!r}. Choose one of: {', '.join(RESIZES)}")
    if resample not in RESAMPLES:
        raise ConfigError(f"Unknown --resample {resample!r}. Choose one of: {', '.join(RESAMPLES)}")
    if size < 1 or max_pixels < 1:
        raise ConfigError(
            f"Expected sizes of at least 1 pixel. Received size {size} and --max-pixels {max_pixels}"
        )


def read_content(path: str | os.PathLike[str], *, max_pixels: int, sha256: str | None = None) -> bytes:
    """Return the complete content, so that the same bytes are hashed and decoded.

    Raises
    ------
    SkippedImage
        If the file cannot be read, is empty, has changed, or is large and not an image.
    """
    try:
        with open_regular(path) as file:
            if os.fstat(file.fileno()).st_size > _LARGE_FILE:
                # So that a large video, for example, is not read into memory.
                _identify(file, max_pixels=max_pixels)
                file.seek(0)
            data = file.read()
    except UnreadableFile as error:
        raise SkippedImage(error.reason) from error
    except OSError as error:
        raise SkippedImage(unreadable(error)) from error
    except MemoryError as error:
        raise SkippedImage("unreadable: not enough memory to hold the file") from error
    if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
        raise SkippedImage("changed while being read")
    if not data:
        raise SkippedImage("empty file")
    return data


@contextmanager
def open_upright(data: bytes, *, size: int, resize: str, max_pixels: int) -> Iterator[UprightImage]:
    """Decode the content of an image file; a JPEG at the smallest scale that covers `size`.

    Exceptions in the ``with`` block, such as a lack of memory, also become a `SkippedImage` of this file.

    Parameters
    ----------
    data : bytes
        From `read_content`.
    size, resize, max_pixels
        As in `read_image`. `size` is the longer side for "pad", else the shorter side.

    Raises
    ------
    SkippedImage
        If the content is not a readable image; `reason` says why.
    """
    try:
        with _identify(io.BytesIO(data), max_pixels=max_pixels) as image:
            format_, mode = image.format or "", image.mode
            turned = _orientation(image) if format_ == "TIFF" else 1  # lost once the pixels are loaded
            rgb, (width, height) = _decode(image, size=size, resize=resize, max_pixels=max_pixels)
            yield UprightImage(
                image=rgb,
                width=width,
                height=height,
                format=format_,
                mode=mode,
                orientation=max(turned, _orientation(image)),
            )
    except SkippedImage:
        raise
    except Exception as error:  # decoders raise exceptions of any type
        raise SkippedImage(_damage_reason(error, io.BytesIO(data))) from error


def _identify(file: BinaryIO, *, max_pixels: int) -> ImageFile.ImageFile:
    """Return the opened image; its pixels are not read yet."""
    Image.MAX_IMAGE_PIXELS = _DCT_GAIN * max_pixels
    Image.init()
    try:
        return Image.open(file, formats=[name for name in Image.ID if name not in _NOT_DECODED])
    except UnidentifiedImageError as error:
        raise SkippedImage(unidentified_reason(file)) from error
    except Exception as error:
        raise SkippedImage(_damage_reason(error, file)) from error


def _decode(
    image: ImageFile.ImageFile, *, size: int, resize: str, max_pixels: int
) -> tuple[Image.Image, tuple[int, int]]:
    """Return the upright RGB image, and the upright width and height of the original."""
    width, height = image.size
    if min(width, height) < 1:
        raise SkippedImage(f"damaged: the header gives a size of {width} x {height} pixels")
    scaled = isinstance(image, JpegImageFile)
    if scaled:
        image.draft(None, _covering(width, height, size, resize))
    if image.width * image.height > max_pixels:
        scale = f" (read at {image.width} x {image.height})" if image.size != (width, height) else ""
        raise SkippedImage(
            f"too many pixels: {width} x {height}{scale}, the limit is {max_pixels} (--max-pixels)"
        )
    image.load()
    orientation = _orientation(image)
    upright = to_rgb(image)
    if orientation in _UPRIGHT:
        upright = upright.transpose(_UPRIGHT[orientation])
    if not scaled:  # Pillow turns a TIFF upright while loading, so `image.size` may be swapped
        return upright, upright.size
    return upright, (height, width) if orientation >= 5 else (width, height)


def _covering(width: int, height: int, size: int, resize: str) -> tuple[int, int]:
    """Return the smallest size that decoding at a reduced scale may give, for ``draft``."""
    if resize != "pad":
        return size, size
    long_side = max(width, height)  # only the longer side becomes `size`
    return max(1, size * width // long_side), max(1, size * height // long_side)


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 (upright) if EXIF is missing or damaged."""
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
        return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1
    except Exception:  # damaged EXIF raises almost any exception; the pixels may be fine
        return 1


def _square(image: Image.Image, size: int, resize: str, resample: Image.Resampling) -> Image.Image:
    if resize == "squash":
        return image.resize((size, size), resample)
    if resize == "crop":
        side = min(image.size)
        left, top = (image.width - side) / 2, (image.height - side) / 2
        return image.resize((size, size), resample, box=(left, top, left + side, top + side))
    long_side = max(image.size)
    inner = (max(1, round(size * image.width / long_side)), max(1, round(size * image.height / long_side)))
    canvas = Image.new("RGB", (size, size), "white")
    canvas.paste(image.resize(inner, resample), ((size - inner[0]) // 2, (size - inner[1]) // 2))
    return canvas


def _phash(image: Image.Image) -> int:
    """Return the value of imagehash.phash without importing SciPy, which takes 0.2 s per process."""
    gray = np.asarray(image.convert("L").resize((32, 32), Image.Resampling.LANCZOS), dtype=np.float64)
    low = _LOW_FREQUENCIES @ gray @ _LOW_FREQUENCIES.T  # (8, 8)
    below, above = np.sort(low, axis=None)[31:33]
    if above - below < _TIE:  # equal values around the median: their order depends on rounding in imagehash
        import imagehash

        return int(str(imagehash.phash(image)), 16)
    return int.from_bytes(np.packbits(low > (below + above) / 2).tobytes(), "big")


def _damage_reason(error: Exception, file: BinaryIO) -> str:
    """Return the skip reason for an exception of a decoder: one line, the same in every run."""
    if isinstance(error, Image.DecompressionBombError):
        return "too many pixels: far over the limit (--max-pixels)"
    if isinstance(error, MemoryError):
        return "damaged: not enough memory to decode it"
    text = re.sub(r" at 0x[0-9a-fA-F]+", "", " ".join(str(error).split()))
    if isinstance(error, EOFError) or re.search(r"truncated|not enough image data", text, re.IGNORECASE):
        return "truncated"
    if is_truncated(file):
        return "truncated"
    return f"damaged: {text[:200] or type(error).__name__}"
