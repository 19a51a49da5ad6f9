"""Image files as the squares of pixels that a config's network is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featurize.decode.decoding import IMAGE_TIMEOUT, Decoder, Request
from featurize.decode.rendering import Rendering


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
        As in `featurize.inference.FeatureReader`.
    """
    size = config["input_size"]
    squares: list[npt.NDArray[np.uint8]] = []
    index: list[int] = []
    problems: dict[int, str] = {}
    with Decoder(
        Rendering.of_config(config, max_pixels=max_pixels),
        most_views=1,
        workers=workers,
        image_timeout=image_timeout,
    ) as decoder:
        for position, decoded in enumerate(decoder.decode([Request(path=path) for path in paths])):
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
