"""Features of single files under the config of a store or bundle: what grading new images needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from featurize.backbones.registry import get_backbone
from featurize.backbones.weights import config_weights
from featurize.engines.base import Engine
from featurize.engines.batching import Batcher
from featurize.engines.factory import engine_for_config
from featurize.images.pool import IMAGE_TIMEOUT, Decoder, DecodeRequest
from featurize.images.render import RenderSettings


@dataclass(frozen=True, kw_only=True)
class ImageFeatures:
    """Features of the files that could be read, and why the others could not."""

    features: npt.NDArray[np.float32]  # (n_readable, n_features), the plain view
    index: npt.NDArray[np.int64]  # (n_readable,) position of each row in the list of files
    problems: dict[int, str]  # position → reason


class FeatureReader:
    """Reads image files under one config, as often as asked: decode processes and network stay ready.

    Use as a context manager, from one thread at a time.

    Parameters
    ----------
    config : mapping
        The config of a store or bundle. It names the precision, and where that is not float32 the engine.
    weights : path-like, optional
        The weights file a bundle carries; found as for extraction when absent.
    device, gpu_memory, max_pixels, workers
        As in `featurize.extract`.
    precision : str, optional
        Overrides the config's, where this machine lacks it.
    image_timeout : float, default=60.0
        Seconds after which a file is given up.
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
        """End the decode processes and let go of the network."""
        self._decoder.close()
        self._engine = None

    def prepare(self, n_files: int) -> Engine:
        """Start the processes that so many files can use, and build the network; the first files do it else.

        Raises
        ------
        WeightsError
            If the weights at hand are not those of the config.
        EngineError
            If this machine does not compute in the config's precision.
        """
        self._decoder.start(n_files)  # their libraries load while the network is built
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
            As `prepare` does.
        """
        if not paths:
            return ImageFeatures(
                features=np.zeros((0, 0), np.float32), index=np.zeros(0, np.int64), problems={}
            )
        engine = self.prepare(len(paths))
        found: dict[int, npt.NDArray[np.float32]] = {}
        problems: dict[int, str] = {}
        feeder: Batcher[int] = Batcher(
            engine, lambda numbers, features: found.update(zip(numbers, features, strict=True))
        )
        for position, decoded in enumerate(
            self._decoder.decode([DecodeRequest(path=path) for path in paths])
        ):
            if decoded.problem:
                problems[position] = decoded.problem
            else:
                feeder.add(decoded.views[0], position)
            if on_progress is not None:
                on_progress(position + 1, len(paths))
        feeder.finish()
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
    """Return plain-view features of image files, made as the store of this config made them.

    Parameters
    ----------
    paths : sequence of Path
        Image files.
    config, weights, device, gpu_memory, precision, max_pixels, workers
        As in `FeatureReader`, for whoever asks once.
    on_progress : callable, optional
        Called with (done, total).

    Raises
    ------
    WeightsError
        If the weights at hand are not those of the config.
    EngineError
        If this machine does not compute in the config's precision.
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
