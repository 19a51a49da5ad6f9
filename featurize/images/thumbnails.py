"""Image files as small pictures for a page: upright, in proportion, encoded as WebP."""

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

LARGEST = 4096  # pixels; a picture that is larger is no thumbnail


@dataclass(frozen=True, kw_only=True)
class Thumbnail:
    """A small picture of one file, or the reason why there is none."""

    data: bytes  # a WebP file; b"" where there is no picture
    width: int  # of the small picture, in pixels; 0 where there is none
    height: int
    sha256: str  # of the file as it was read, so that a changed one is noticed; "" if it could not be read
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
    """Return small pictures of image files.

    They are decoded in processes with a deadline and a memory limit, as for extraction: what cannot be read
    there cannot be read here, for the same reason.

    Parameters
    ----------
    paths : sequence of Path
        Image files.
    side : int, default=128
        Of the longer side, in pixels. A smaller picture stays as it is.
    workers : int, optional
        Processes; one a core by default.
    max_pixels : int, default=200_000_000
        Larger pictures are not decoded.
    image_timeout : float, default=60.0
        Seconds after which a file is given up.
    on_progress : callable, optional
        Called with (done, total).

    Returns
    -------
    list of Thumbnail
        In the order of the files: upright by EXIF, RGB, transparent parts over white.

    Raises
    ------
    ConfigError
        If the side or the limit of pixels is out of range.
    """
    found = thumbnails_at(
        paths,
        sides=(side,),
        workers=workers,
        max_pixels=max_pixels,
        image_timeout=image_timeout,
        on_progress=on_progress,
    )
    return [one for (one,) in found]


def thumbnails_at(
    paths: Sequence[Path],
    *,
    sides: Sequence[int],
    workers: int | None = None,
    max_pixels: int = 200_000_000,
    image_timeout: float = IMAGE_TIMEOUT,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[tuple[Thumbnail, ...]]:
    """Return of each file a small picture for each of some sides; it is decoded once. As `thumbnails`."""
    shrinking = ThumbnailSettings(sides=tuple(sides), max_pixels=max_pixels)
    if not sides or min(sides) < 1 or max(sides) > LARGEST or max_pixels < 1:
        raise ConfigError(
            f"thumbnails of {', '.join(map(str, sides)) or 'no'} pixels, of pictures of up to {max_pixels} "
            f"pixels: expected sides from 1 to {LARGEST}, and a limit from 1"
        )
    if not paths:
        return []
    setting = WorkerSettings(work=shrinking, image_timeout=image_timeout, memory_bytes=DECODE_MEMORY)
    found: list[tuple[Thumbnail, ...]] = []
    # The pictures come with the replies, so nothing is shared: a slot is as small as memory can be.
    with (
        WorkerPool(setting, slot_bytes=1, workers=workers) as pool,
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
            data=base64.b64decode(one["data"]),
            width=one["width"],
            height=one["height"],
            sha256=sha256,
            problem="",
        )
        for one in reply["small"]
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageSquares:
    """Pixels of the files that could be read, and why the others could not."""

    pixels: npt.NDArray[np.uint8]  # (n_readable, size, size, 3), upright RGB
    index: npt.NDArray[np.int64]  # (n_readable,) position of each square in the list of files
    problems: dict[int, str]  # position → reason


def image_squares(
    paths: Sequence[Path],
    config: Mapping[str, Any],
    *,
    max_pixels: int = 200_000_000,
    workers: int | None = None,
    image_timeout: float = IMAGE_TIMEOUT,
) -> ImageSquares:
    """Return the pixels that the plain view of each file has, all in memory at once.

    Parameters
    ----------
    paths : sequence of Path
        Image files.
    config : mapping
        Of a store or bundle.
    max_pixels, workers, image_timeout
        As in `featurize.extraction.inference.FeatureReader`.
    """
    size = config["input_size"]
    squares: list[npt.NDArray[np.uint8]] = []
    index: list[int] = []
    problems: dict[int, str] = {}
    with Decoder(
        RenderSettings.of_config(config, max_pixels=max_pixels),
        most_views=1,
        workers=workers,
        image_timeout=image_timeout,
    ) as decoder:
        for position, decoded in enumerate(decoder.decode([DecodeRequest(path=path) for path in paths])):
            if decoded.problem:
                problems[position] = decoded.problem
            else:
                squares.append(decoded.views[0].copy())  # its memory is used again for the next file
                index.append(position)
    return ImageSquares(
        pixels=np.stack(squares) if squares else np.zeros((0, size, size, 3), np.uint8),
        index=np.array(index, dtype=np.int64),
        problems=problems,
    )
