"""The decode processes of a run."""

from __future__ import annotations

from pathlib import Path

from featurize.asked import Asked
from featurize.backbones import get_backbone
from featurize.decode.decoding import Decoder
from featurize.decode.rendering import Rendering

EARLY = 2  # processes that are started before it is known how many files there are


class Decoders:
    """Decode processes of one rendering at a time; they end when it is closed.

    Parameters
    ----------
    workers : int, optional
        Processes; one a core by default.
    image_timeout : float
        Seconds after which a file is given up.
    """

    def __init__(self, *, workers: int | None, image_timeout: float) -> None:
        self.workers, self.image_timeout = workers, image_timeout
        self._rendering: Rendering | None = None
        self._most_views = 0
        self._decoder: Decoder | None = None

    def of(self, rendering: Rendering, *, most_views: int) -> Decoder:
        """Return the decoder of a rendering, for files of up to so many views; any other one ends."""
        if self._decoder is None or rendering != self._rendering or most_views > self._most_views:
            self.close()
            self._rendering, self._most_views = rendering, most_views
            self._decoder = Decoder(
                rendering,
                most_views=most_views,
                workers=self.workers,
                image_timeout=self.image_timeout,
            )
        return self._decoder

    def start_early(self, data: Path, asked: Asked, *, max_pixels: int) -> None:
        """Have processes load their libraries while the folder is read, if there is no store of it yet.

        All of it is to be decoded then; otherwise they might start for nothing.
        """
        name = asked.backbones[0]
        folder = asked.out if asked.out is not None else asked.default_folder(data.resolve().name)
        if not data.is_dir() or next(folder.glob(f"{name}*"), None) is not None:
            return
        size = get_backbone(name).size if asked.input_size is None else asked.input_size
        rendering = Rendering(
            size=size,
            resize=asked.resize,
            resample=asked.resample,
            max_pixels=max_pixels,
            ranges=asked.ranges,
            seed=asked.seed,
        )
        self.of(rendering, most_views=1 + asked.views).start(EARLY)

    def close(self) -> None:
        """End all processes."""
        if self._decoder is not None:
            self._decoder.close()
            self._decoder = None
