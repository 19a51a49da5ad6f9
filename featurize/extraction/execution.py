"""Options that control how a run computes, and the decode processes of a run."""

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
    """Options that control how a run computes; none of them changes a feature."""

    engine: str
    device: str
    gpu_memory: float | None
    batch_size: int | str
    strict: bool
    report: Callable[[str, int, int], None]
    note: Callable[[str], None]  # called with a message about an engine that the user should see
    stored_options: Mapping[str, Any]  # saved in the store: options that a repair needs and the config lacks
    threads: int | None = None  # CPU threads of an engine; all cores by default

    def build(
        self,
        backbone: Backbone,
        weights: Weights,
        config: Mapping[str, Any],
        *,
        engine: str | None = None,
        precision: str | None = None,
    ) -> Engine:
        """Return the engine of a config; ``engine`` and ``precision`` override the options and the config."""
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


EARLY_PROCESSES = 2  # started before the number of files is known


class Decoders:
    """Decode processes, for one rendering at a time; `close` ends them.

    Parameters
    ----------
    workers : int, optional
        Number of processes; one per core by default.
    image_timeout : float
        Seconds after which decoding a file is abandoned.
    """

    def __init__(self, *, workers: int | None, image_timeout: float) -> None:
        self.workers, self.image_timeout = workers, image_timeout
        self._rendering: RenderSettings | None = None
        self._most_views = 0
        self._decoder: Decoder | None = None

    def get(self, rendering: RenderSettings, *, most_views: int) -> Decoder:
        """Return a decoder for a rendering and up to ``most_views`` views per file; close any other one."""
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

    def start_early(self, data: Path, options: ExtractOptions, *, max_pixels: int) -> None:
        """Start decode processes before the folder is read, if it has no store yet.

        They load their libraries meanwhile. If a store exists, there may be nothing to decode.
        """
        name = options.backbones[0]
        folder = options.out if options.out is not None else options.default_folder(data.resolve().name)
        if not data.is_dir() or next(folder.glob(f"{name}*"), None) is not None:
            return
        size = get_backbone(name).size if options.input_size is None else options.input_size
        rendering = RenderSettings(
            size=size,
            resize=options.resize,
            resample=options.resample,
            max_pixels=max_pixels,
            ranges=options.ranges,
            seed=options.seed,
        )
        self.get(rendering, most_views=1 + options.views).start(EARLY_PROCESSES)

    def close(self) -> None:
        """End the decode processes."""
        if self._decoder is not None:
            self._decoder.close()
            self._decoder = None
