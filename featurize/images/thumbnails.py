"""Thumbnails of image files as WebP, and the plain views of image files as arrays."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featurize.errors import ConfigError
from featurize.images.pool import DECODE_MEMORY, IMAGE_TIMEOUT, Decoder, DecodeRequest, WorkerPool
from featurize.images.render import RenderSettings, ThumbnailSettings
from featurize.images.worker import WorkerSettings

LARGEST = 4096  # pixels; largest side of a thumbnail


@dataclass(frozen=True, kw_only=True)
class Thumbnail:
    """A thumbnail of one file, or the reason why there is none."""

    data: bytes  # a WebP file; b"" if there is a problem
    width: int  # of the thumbnail, in pixels; 0 if there is a problem
    height: int
    sha256: str  # of the file content, so that a changed file is detected; "" if it could not be read
    problem: str  # "" or the reason


def thumbnails(
    paths: Sequence[Path],
    *,
    side: int = 128,
    workers: int | None = None,
    max_pixels: int = 200_000_000,
    image_timeout: float = IMAGE_TIMEOUT,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Thumbnail]:
    """Return thumbnails of image files.

    Files are decoded as in extraction, in processes with a deadline and a memory limit, and are skipped for
    the same reasons.

    Parameters
    ----------
    paths : sequence of Path
        Image files.
    side : int, default=128
        Length of the longer side, in pixels. Smaller images keep their size.
    workers : int, optional
        Number of processes; by default one per core.
    max_pixels : int, default=200_000_000
        Larger images are skipped before decoding.
    image_timeout : float, default=60.0
        Seconds after which a file is skipped.
    on_progress : callable, optional
        Called with (done, total).

    Returns
    -------
    list of Thumbnail
        In the order of the files: upright according to EXIF, RGB, transparent areas over white.

    Raises
    ------
    ConfigError
        If `side` or `max_pixels` is out of range.
    """
    found = thumbnails_at(
        paths,
        sides=(side,),
        workers=workers,
        max_pixels=max_pixels,
        image_timeout=image_timeout,
        on_progress=on_progress,
    )
    return [thumbnail for (thumbnail,) in found]


def thumbnails_at(
    paths: Sequence[Path],
    *,
    sides: Sequence[int],
    workers: int | None = None,
    max_pixels: int = 200_000_000,
    image_timeout: float = IMAGE_TIMEOUT,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[tuple[Thumbnail, ...]]:
    """Return thumbnails of several sizes per file, decoding each file once. Other options as `thumbnails`."""
    if not sides or min(sides) < 1 or max(sides) > LARGEST or max_pixels < 1:
        raise ConfigError(
            f"thumbnails with sides {', '.join(map(str, sides)) or 'none'} of images of up to {max_pixels} "
            f"pixels: expected sides from 1 to {LARGEST} and a limit of at least 1"
        )
    if not paths:
        return []
    settings = WorkerSettings(
        work=ThumbnailSettings(sides=tuple(sides), max_pixels=max_pixels),
        image_timeout=image_timeout,
        memory_bytes=DECODE_MEMORY,
    )
    found: list[tuple[Thumbnail, ...]] = []
    # Thumbnails are part of the replies, so no shared memory is needed: slots have the smallest size.
    with (
        WorkerPool(settings, slot_bytes=1, workers=workers) as pool,
        closing(pool.replies(len(paths), lambda number: {"path": str(paths[number])})) as replies,
    ):
        for _, reply in replies:
            found.append(_thumbnails(reply, n=len(sides)))
            if on_progress is not None:
                on_progress(len(found), len(paths))
    return found


def _thumbnails(reply: dict[str, Any], *, n: int) -> tuple[Thumbnail, ...]:
    sha256, problem = reply.get("sha256", ""), reply["problem"]
    if problem:
        return (Thumbnail(data=b"", width=0, height=0, sha256=sha256, problem=problem),) * n
    return tuple(
        Thumbnail(
            data=base64.b64decode(small["data"]),
            width=small["width"],
            height=small["height"],
            sha256=sha256,
            problem="",
        )
        for small in reply["small"]
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageSquares:
    """Pixels of readable files, and the reasons why other files are not readable."""

    pixels: npt.NDArray[np.uint8]  # (n_readable, size, size, 3), upright RGB
    index: npt.NDArray[np.int64]  # (n_readable,) positions in the list of files
    problems: dict[int, str]  # position in the list of files → reason


def image_squares(
    paths: Sequence[Path],
    config: Mapping[str, Any],
    *,
    max_pixels: int = 200_000_000,
    workers: int | None = None,
    image_timeout: float = IMAGE_TIMEOUT,
) -> ImageSquares:
    """Return the pixels of the plain view of each file, all in memory at once.

    Parameters
    ----------
    paths : sequence of Path
        Image files.
    config : mapping
        Config of a store or bundle.
    max_pixels, workers, image_timeout
        As in `featurize.extraction.inference.FeatureReader`.
    """
    size = config["input_size"]
    squares: list[npt.NDArray[np.uint8]] = []
    index: list[int] = []
    problems: dict[int, str] = {}
    with Decoder(
        RenderSettings.from_config(config, max_pixels=max_pixels),
        most_views=1,
        workers=workers,
        image_timeout=image_timeout,
    ) as decoder:
        for position, decoded in enumerate(decoder.decode([DecodeRequest(path=path) for path in paths])):
            if decoded.problem:
                problems[position] = decoded.problem
            else:
                squares.append(decoded.views[0].copy())  # the next file overwrites this memory
                index.append(position)
    return ImageSquares(
        pixels=np.stack(squares) if squares else np.zeros((0, size, size, 3), np.uint8),
        index=np.array(index, dtype=np.int64),
        problems=problems,
    )
