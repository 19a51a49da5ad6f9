"""Features of single image files under the config of a store or bundle, for grading new images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from featurize.backbones.registry import get_backbone
from featurize.backbones.weights import config_weights
from featurize.base.typing import Float32Array, IntArray
from featurize.engines.base import Engine
from featurize.engines.batching import Batcher
from featurize.engines.factory import engine_for_config
from featurize.images.pool import IMAGE_TIMEOUT, Decoder, DecodeRequest
from featurize.images.render import RenderSettings


@dataclass(frozen=True, kw_only=True)
class ImageFeatures:
    """Features of the files that could be read, and the reasons for the others."""

    features: Float32Array  # (n_readable, n_features), of the plain view
    index: IntArray  # (n_readable,) position of each row in the list of files
    problems: dict[int, str]  # position → reason


class FeatureReader:
    """Computes features of image files under one config; keeps decode processes and network between calls.

    Use it as a context manager, from one thread at a time.

    Parameters
    ----------
    config : mapping
        The config of a store or bundle. It includes the precision, and the engine unless that is float32.
    weights : path-like, optional
        The weights file of a bundle; by default found as for an extraction.
    device, gpu_memory, max_pixels, workers
        As in `featurize.extract`.
    precision : str, optional
        Replaces the precision of the config, for a machine that does not support it.
    image_timeout : float, default=60.0
        Seconds after which a file is skipped.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        *,
        weights: str | Path | None = None,
        device: str = "auto",
        gpu_memory: float | None = None,
        precision: str | None = None,
        max_pixels: int = 200_000_000,
        workers: int | None = None,
        image_timeout: float = IMAGE_TIMEOUT,
    ) -> None:
        self._config, self._weights = config, weights
        self._build = partial(engine_for_config, precision=precision, device=device, gpu_memory=gpu_memory)
        self._engine: Engine | None = None
        self._decoder = Decoder(
            RenderSettings.from_config(config, max_pixels=max_pixels),
            most_views=1,
            workers=workers,
            image_timeout=image_timeout,
        )

    def __enter__(self) -> FeatureReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the decode processes and release the network."""
        self._decoder.close()
        self._engine = None

    def prepare(self, n_files: int) -> Engine:
        """Start decode processes for `n_files` files and build the network; by default `features` does it.

        Raises
        ------
        WeightsError
            If the available weights are not those of the config.
        EngineError
            If this machine does not support the precision of the config.
        """
        self._decoder.start(n_files)  # processes load their libraries while the network is built
        if self._engine is None:
            backbone = get_backbone(self._config["backbone"])
            weights = config_weights(backbone, self._config, self._weights)
            self._engine = self._build(backbone, weights, self._config)
        return self._engine

    def features(
        self, paths: Sequence[Path], *, on_progress: Callable[[int, int], None] | None = None
    ) -> ImageFeatures:
        """Return plain-view features of image files; ``on_progress`` is called with (done, total).

        Raises
        ------
        WeightsError, EngineError
            As in `prepare`.
        """
        if not paths:
            return ImageFeatures(
                features=np.zeros((0, 0), np.float32), index=np.zeros(0, np.int64), problems={}
            )
        engine = self.prepare(len(paths))
        found: dict[int, Float32Array] = {}
        problems: dict[int, str] = {}
        batcher: Batcher[int] = Batcher(
            engine, lambda positions, features: found.update(zip(positions, features, strict=True))
        )
        for position, decoded in enumerate(
            self._decoder.decode([DecodeRequest(path=path) for path in paths])
        ):
            if decoded.problem:
                problems[position] = decoded.problem
            else:
                batcher.add(decoded.views[0], position)
            if on_progress is not None:
                on_progress(position + 1, len(paths))
        batcher.finish()
        return ImageFeatures(
            features=np.stack(list(found.values()))
            if found
            else np.zeros((0, engine.n_features), np.float32),
            index=np.array(list(found), dtype=np.int64),
            problems=problems,
        )


def image_features(
    paths: Sequence[Path],
    config: Mapping[str, Any],
    *,
    weights: str | Path | None = None,
    device: str = "auto",
    gpu_memory: float | None = None,
    precision: str | None = None,
    max_pixels: int = 200_000_000,
    workers: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> ImageFeatures:
    """Return plain-view features of image files, as a store of this config would have them.

    Parameters
    ----------
    paths : sequence of Path
        Image files.
    config, weights, device, gpu_memory, precision, max_pixels, workers
        As in `FeatureReader`, which is for repeated calls.
    on_progress : callable, optional
        Called with (done, total).

    Raises
    ------
    WeightsError
        If the available weights are not those of the config.
    EngineError
        If this machine does not support the precision of the config.
    """
    with FeatureReader(
        config,
        weights=weights,
        device=device,
        gpu_memory=gpu_memory,
        precision=precision,
        max_pixels=max_pixels,
        workers=workers,
    ) as reader:
        return reader.features(paths, on_progress=on_progress)
