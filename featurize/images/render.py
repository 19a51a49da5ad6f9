"""Work of a decode process: one file to its views in shared memory, or to small WebP thumbnails."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import io
import mmap
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from featurize.images.augment import PLAIN, ViewRanges

if TYPE_CHECKING:
    from PIL import Image


THUMBNAIL = 32  # side, in pixels


@dataclass(frozen=True, kw_only=True)
class RenderSettings:
    """Settings for decoding files and rendering views; the same for all files of a run."""

    size: int  # side of the square, in pixels
    resize: str
    resample: str
    max_pixels: int
    ranges: ViewRanges
    seed: int

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *, max_pixels: int) -> RenderSettings:
        """Return the render settings of a store's config."""
        views = dict(config["views"])
        seed = views.pop("seed")
        return cls(
            size=config["input_size"],
            resize=config["resize"],
            resample=config["resample"],
            max_pixels=max_pixels,
            ranges=ViewRanges(**views),
            seed=seed,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the settings as JSON-serialisable data for `from_json`."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> RenderSettings:
        """Return the settings from the data of `to_json`."""
        return cls(**{**values, "ranges": ViewRanges(**values["ranges"])})


def region_bytes(size: int, n_views: int) -> int:
    """Return the size of one decoded file in shared memory: its views, then its thumbnail."""
    return n_views * size * size * 3 + THUMBNAIL * THUMBNAIL * 3


def read_region(
    region: mmap.mmap, *, offset: int, size: int, n_views: int
) -> tuple[tuple[npt.NDArray[np.uint8], ...], npt.NDArray[np.uint8]]:
    """Return the views at an offset, (size, size, 3) each, and a copy of the (32, 32, 3) thumbnail."""
    views, thumbnail = _region_arrays(memoryview(region)[offset:], size=size, n_views=n_views)
    views.flags.writeable = False
    return tuple(views), thumbnail.copy()


def _region_arrays(
    buffer: memoryview, *, size: int, n_views: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Return arrays in the buffer: views (n_views, size, size, 3) and thumbnail (32, 32, 3)."""
    values = np.frombuffer(buffer, np.uint8, count=region_bytes(size, n_views))
    end = n_views * size * size * 3
    return values[:end].reshape(n_views, size, size, 3), values[end:].reshape(THUMBNAIL, THUMBNAIL, 3)


def render(request: dict[str, Any], settings: RenderSettings, buffer: memoryview) -> dict[str, Any]:
    """Decode one file and render its views into a buffer.

    Parameters
    ----------
    request : dict
        "path"; "sha256", the expected digest of the content, or None; "views", the numbers of the views.
    settings : RenderSettings
        Settings for decoding and rendering.
    buffer : writable memoryview of bytes
        Receives the views, (n_views, size, size, 3) uint8, then the thumbnail, (32, 32, 3) uint8.

    Returns
    -------
    dict
        "problem", "" or the reason why the file cannot be used; "seconds"; and if there is no problem
        "width", "height", "phash" (as decimal text, because 64-bit integers are not portable in JSON),
        "format", "mode" and "orientation".
    """
    from featurize.images.augment import render_views, view_parameters
    from featurize.images.decode import SkippedImage, read_image  # imports Pillow: in the worker only

    start = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as Pillow's warnings about damaged EXIF data
            image = read_image(
                request["path"],
                size=settings.size,
                resize=settings.resize,
                resample=settings.resample,
                max_pixels=settings.max_pixels,
                sha256=request["sha256"],
            )
    except SkippedImage as skipped:
        return {"problem": skipped.reason, "seconds": time.perf_counter() - start}
    numbers = request["views"]
    views, thumbnail = _region_arrays(buffer, size=settings.size, n_views=len(numbers))
    thumbnail[:] = image.thumbnail
    parameters, targets = [], []  # of the augmented views
    for view, target in zip(numbers, views, strict=True):
        if view == PLAIN:
            target[:] = image.pixels
            continue
        parameters.append(
            view_parameters(
                request["sha256"], view, ranges=settings.ranges, seed=settings.seed, size=settings.size
            )
        )
        targets.append(target)
    if targets:
        render_views(image.pixels, parameters, targets)
    return {
        "problem": "",
        "width": image.width,
        "height": image.height,
        "phash": str(image.phash),
        "format": image.format,
        "mode": image.mode,
        "orientation": image.orientation,
        "seconds": time.perf_counter() - start,
    }


QUALITY = 70  # WebP quality; about a third of the size of a JPEG of the same visual quality
_DRAFT = 2  # a JPEG is decoded to at least this multiple of the side, then resized with a better filter


@dataclass(frozen=True, kw_only=True)
class ThumbnailSettings:
    """Settings for thumbnails; the same for all files of a list."""

    sides: tuple[int, ...]  # longer side of each thumbnail, in pixels
    max_pixels: int

    def to_json(self) -> dict[str, Any]:
        """Return the settings as JSON-serialisable data for `from_json`."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> ThumbnailSettings:
        """Return the settings from the data of `to_json`."""
        return cls(sides=tuple(values["sides"]), max_pixels=values["max_pixels"])


def make_thumbnails(request: dict[str, Any], settings: ThumbnailSettings) -> dict[str, Any]:
    """Decode one file and return thumbnails of it.

    Parameters
    ----------
    request : dict
        "path".
    settings : ThumbnailSettings
        Sizes and limits.

    Returns
    -------
    dict
        "problem", "" or the reason why the file cannot be used; "seconds"; "sha256" of the content, "" if it
        could not be read; and if there is no problem "small": for each side the "width", the "height" and
        the "data", a WebP file in base 64.
    """
    from featurize.images.decode import SkippedImage, open_upright, read_content  # imports Pillow

    start = time.perf_counter()
    sha256, small = "", []
    largest = max(settings.sides)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as Pillow's warnings about damaged EXIF data
            data = read_content(request["path"], max_pixels=settings.max_pixels)
            sha256 = hashlib.sha256(data).hexdigest()
            with open_upright(
                data, size=_DRAFT * largest, resize="pad", max_pixels=settings.max_pixels
            ) as upright:
                size = upright.width, upright.height
                small = [_webp(upright.image, side, size) for side in settings.sides]
    except SkippedImage as skipped:
        return {"problem": skipped.reason, "sha256": sha256, "seconds": time.perf_counter() - start}
    return {"problem": "", "sha256": sha256, "small": small, "seconds": time.perf_counter() - start}


def fit_within(width: int, height: int, side: int) -> tuple[int, int]:
    """Return the size of an image scaled down so that its longer side is at most `side`; at least 1 pixel."""
    scale = min(1.0, side / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def encode_webp(image: Image.Image) -> bytes:
    """Return an RGB image as a WebP file without metadata."""
    file = io.BytesIO()
    image.save(file, "WEBP", quality=QUALITY, method=4, icc_profile=b"", exif=b"", xmp=b"")
    return file.getvalue()


def _webp(image: Image.Image, side: int, size: tuple[int, int]) -> dict[str, Any]:
    from PIL import Image as Pillow

    width, height = fit_within(*size, side)
    if image.size != (width, height):
        image = image.resize((width, height), Pillow.Resampling.LANCZOS, reducing_gap=3.0)
    return {"width": width, "height": height, "data": base64.b64encode(encode_webp(image)).decode("ascii")}
