"""One file to its views, as pixels in shared memory: the work of a decode worker."""

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
    """How files become pixels; the same for every file of a run."""

    size: int  # side of the square, in pixels
    resize: str
    resample: str
    max_pixels: int
    ranges: ViewRanges
    seed: int

    @classmethod
    def of_config(cls, config: Mapping[str, Any], *, max_pixels: int) -> RenderSettings:
        """Return the rendering of a store's config."""
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
        """Return what `from_json` takes."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> RenderSettings:
        """Return the rendering that `to_json` described."""
        return cls(**{**values, "ranges": ViewRanges(**values["ranges"])})


def region_bytes(size: int, n_views: int) -> int:
    """Return the bytes that one decoded file takes in shared memory: its views, then its thumbnail."""
    return n_views * size * size * 3 + THUMBNAIL * THUMBNAIL * 3


def read_region(
    region: mmap.mmap, *, offset: int, size: int, n_views: int
) -> tuple[tuple[npt.NDArray[np.uint8], ...], npt.NDArray[np.uint8]]:
    """Return the views in that memory, (size, size, 3) each, and a copy of the (32, 32, 3) thumbnail."""
    views, thumbnail = _places(memoryview(region)[offset:], size=size, n_views=n_views)
    views.flags.writeable = False
    return tuple(views), thumbnail.copy()


def _places(
    buffer: memoryview, *, size: int, n_views: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Return where the views lie, (n_views, size, size, 3), and the thumbnail, (32, 32, 3)."""
    values = np.frombuffer(buffer, np.uint8, count=region_bytes(size, n_views))
    end = n_views * size * size * 3
    return values[:end].reshape(n_views, size, size, 3), values[end:].reshape(THUMBNAIL, THUMBNAIL, 3)


def render(request: dict[str, Any], rendering: RenderSettings, buffer: memoryview) -> dict[str, Any]:
    """Decode one file into a buffer.

    Parameters
    ----------
    request : dict
        "path"; "sha256" of the expected content, or None; "views", the numbers of those wanted.
    rendering : RenderSettings
        How.
    buffer : writable memoryview of bytes
        Receives (n_views, size, size, 3) uint8, then the (32, 32, 3) thumbnail.

    Returns
    -------
    dict
        "problem", "" or the reason why there is no picture; "seconds"; and of a picture "width", "height",
        "phash" (decimal text: JSON has no 64-bit integers everywhere), "format", "mode" and "orientation".
    """
    from featurize.images.augment import render_views, view_parameters
    from featurize.images.decode import (
        SkippedImage,  # Pillow and OpenCV: in the worker only
        read_image,
    )

    start = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a damaged EXIF block is no news to anyone
            picture = read_image(
                request["path"],
                size=rendering.size,
                resize=rendering.resize,
                resample=rendering.resample,
                max_pixels=rendering.max_pixels,
                sha256=request["sha256"],
            )
    except SkippedImage as skipped:
        return {"problem": skipped.reason, "seconds": time.perf_counter() - start}
    numbers = request["views"]
    views, thumbnail = _places(buffer, size=rendering.size, n_views=len(numbers))
    thumbnail[:] = picture.thumbnail
    warped = []  # place and parameters
    for view, place in zip(numbers, views, strict=True):
        if view == PLAIN:
            place[:] = picture.pixels
            continue
        parameters = view_parameters(
            request["sha256"], view, ranges=rendering.ranges, seed=rendering.seed, size=rendering.size
        )
        warped.append((place, parameters))
    if warped:
        render_views(picture.pixels, [one for _, one in warped], [place for place, _ in warped])
    return {
        "problem": "",
        "width": picture.width,
        "height": picture.height,
        "phash": str(picture.phash),
        "format": picture.format,
        "mode": picture.mode,
        "orientation": picture.orientation,
        "seconds": time.perf_counter() - start,
    }


QUALITY = 70  # of WebP, which at that takes about a third of a JPEG that looks the same
_DRAFT = 2  # a JPEG is decoded at this many times the side or more: its own scaling alone looks rough


@dataclass(frozen=True, kw_only=True)
class ThumbnailSettings:
    """How files become small pictures; the same for every file of a list."""

    sides: tuple[int, ...]  # longest side of each wanted picture, in pixels
    max_pixels: int

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` takes."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> ThumbnailSettings:
        """Return what `to_json` described."""
        return cls(sides=tuple(values["sides"]), max_pixels=values["max_pixels"])


def make_thumbnails(request: dict[str, Any], shrinking: ThumbnailSettings) -> dict[str, Any]:
    """Decode one file and return it small.

    Parameters
    ----------
    request : dict
        "path".
    shrinking : ThumbnailSettings
        How.

    Returns
    -------
    dict
        "problem", "" or the reason why there is no picture; "seconds"; "sha256" of the content, "" where it
        could not be read; and of a picture "small": for each side its "width", its "height" and its "data",
        a WebP file in base 64.
    """
    from featurize.images.decode import (
        SkippedImage,  # Pillow: in the worker only
        open_upright,
        read_content,
    )

    start = time.perf_counter()
    sha256, small = "", []
    most = max(shrinking.sides)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a damaged EXIF block is no news to anyone
            data = read_content(request["path"], max_pixels=shrinking.max_pixels)
            sha256 = hashlib.sha256(data).hexdigest()
            with open_upright(
                data, size=_DRAFT * most, resize="pad", max_pixels=shrinking.max_pixels
            ) as upright:
                size = upright.width, upright.height
                small = [_webp(upright.image, side, size) for side in shrinking.sides]
    except SkippedImage as skipped:
        return {"problem": skipped.reason, "sha256": sha256, "seconds": time.perf_counter() - start}
    return {"problem": "", "sha256": sha256, "small": small, "seconds": time.perf_counter() - start}


def fit_within(width: int, height: int, side: int) -> tuple[int, int]:
    """Return the size of a picture whose longer side is at most `side`: never larger, never below 1 pixel."""
    scale = min(1.0, side / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def encode_webp(image: Image.Image) -> bytes:
    """Return an RGB image as a WebP file, without anything that was written about it."""
    file = io.BytesIO()
    image.save(file, "WEBP", quality=QUALITY, method=4, icc_profile=b"", exif=b"", xmp=b"")
    return file.getvalue()


def _webp(image: Image.Image, side: int, size: tuple[int, int]) -> dict[str, Any]:
    from PIL import Image as Pillow

    width, height = fit_within(*size, side)
    if image.size != (width, height):
        image = image.resize((width, height), Pillow.Resampling.LANCZOS, reducing_gap=3.0)
    return {"width": width, "height": height, "data": base64.b64encode(encode_webp(image)).decode("ascii")}
