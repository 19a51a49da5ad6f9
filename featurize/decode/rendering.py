"""One file to its views, as pixels in shared memory: the work of a decode worker."""

from __future__ import annotations

import dataclasses
import mmap
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from featurize.views import PLAIN, ViewRanges

THUMBNAIL = 32  # side, in pixels


@dataclass(frozen=True, kw_only=True)
class Rendering:
    """How files become pixels; the same for every file of a run."""

    size: int  # side of the square, in pixels
    resize: str
    resample: str
    max_pixels: int
    ranges: ViewRanges
    seed: int

    @classmethod
    def of_config(cls, config: Mapping[str, Any], *, max_pixels: int) -> Rendering:
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
    def from_json(cls, values: dict[str, Any]) -> Rendering:
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


def render(request: dict[str, Any], rendering: Rendering, buffer: memoryview) -> dict[str, Any]:
    """Decode one file into a buffer.

    Parameters
    ----------
    request : dict
        "path"; "sha256" of the expected content, or None; "views", the numbers of those wanted.
    rendering : Rendering
        How.
    buffer : writable memoryview of bytes
        Receives (n_views, size, size, 3) uint8, then the (32, 32, 3) thumbnail.

    Returns
    -------
    dict
        "problem", "" or the reason why there is no picture; "seconds"; and of a picture "width", "height",
        "phash" (decimal text: JSON has no 64-bit integers everywhere), "format", "mode" and "orientation".
    """
    from featurize.images import SkippedImage, read_picture  # Pillow and OpenCV: in the worker only
    from featurize.views import render_views, view_parameters

    start = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a damaged EXIF block is no news to anyone
            picture = read_picture(
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
