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
    region: mmap.mmap, *, size: int, n_views: int
) -> tuple[tuple[npt.NDArray[np.uint8], ...], npt.NDArray[np.uint8]]:
    """Return copies of the views, (size, size, 3) each, and of the (32, 32, 3) thumbnail."""
    values = np.frombuffer(region, np.uint8, count=region_bytes(size, n_views))
    end = n_views * size * size * 3
    views = values[:end].reshape(n_views, size, size, 3).copy()
    # Copied apart: whoever keeps the thumbnail must not keep all views alive with it.
    return tuple(views), values[end:].reshape(THUMBNAIL, THUMBNAIL, 3).copy()


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
    from featurize.views import render_view, view_parameters

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
    n_bytes = rendering.size * rendering.size * 3
    for place, view in enumerate(request["views"]):
        pixels = picture.pixels
        if view != PLAIN:
            parameters = view_parameters(
                request["sha256"], view, ranges=rendering.ranges, seed=rendering.seed, size=rendering.size
            )
            pixels = render_view(pixels, parameters)
        buffer[place * n_bytes : (place + 1) * n_bytes] = np.ascontiguousarray(pixels).reshape(-1).data
    end = len(request["views"]) * n_bytes
    thumbnail = np.ascontiguousarray(picture.thumbnail).reshape(-1)
    buffer[end : end + thumbnail.nbytes] = thumbnail.data
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
