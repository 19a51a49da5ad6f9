"""How a run is carried out, and the engines it takes for that."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featurize.backbones.registry import Backbone, get_backbone
from featurize.backbones.weights import Weights
from featurize.engines.base import Engine
from featurize.engines.factory import engine_for_config
from featurize.extraction.options import ExtractOptions
from featurize.images.pool import Decoder
from featurize.images.render import RenderSettings


@dataclass(frozen=True, kw_only=True)
class ExecutionOptions:
    """How a run is carried out; none of it changes a feature."""

    engine: str
    device: str
    gpu_memory: float | None
    batch_size: int | str
    strict: bool
    report: Callable[[str, int, int], None]
    note: Callable[[str], None]  # called with what the user should know of an engine
    remembered: Mapping[str, Any]  # options that a repair needs again and the config does not name
    threads: int | None = None  # cores that an engine takes; all by default

    def build(
        self,
        backbone: Backbone,
        weights: Weights,
        config: Mapping[str, Any],
        *,
        engine: str | None = None,
        precision: str | None = None,
    ) -> Engine:
        """Return the engine of a config; engine and precision stand in for what was asked and is settled."""
        built = engine_for_config(
            backbone,
            weights,
            config,
            engine=engine or self.engine,
            precision=precision,
            device=self.device,
            gpu_memory=self.gpu_memory,
            batch_size=self.batch_size,
            threads=self.threads,
        )
        for text in built.notes:
            self.note(text)
        return built


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
        self._rendering: RenderSettings | None = None
        self._most_views = 0
        self._decoder: Decoder | None = None

    def of(self, rendering: RenderSettings, *, most_views: int) -> Decoder:
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

    def start_early(self, data: Path, asked: ExtractOptions, *, max_pixels: int) -> None:
        """Have processes load their libraries while the folder is read, if there is no store of it yet.

        All of it is to be decoded then; otherwise they might start for nothing.
        """
        name = asked.backbones[0]
        folder = asked.out if asked.out is not None else asked.default_folder(data.resolve().name)
        if not data.is_dir() or next(folder.glob(f"{name}*"), None) is not None:
            return
        size = get_backbone(name).size if asked.input_size is None else asked.input_size
        rendering = RenderSettings(
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
