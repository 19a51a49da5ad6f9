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

from featurize.backbones import Backbone, get_backbone
from featurize.decode.decoding import IMAGE_TIMEOUT, Decoder, Request
from featurize.decode.rendering import Rendering
from featurize.engines import Engine
from featurize.engines.configured import configured_engine
from featurize.engines.feeding import Feeder
from featurize.errors import WeightsError
from featurize.weights import Weights, find_weights


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
        self._build = partial(configured_engine, precision=precision, device=device, gpu_memory=gpu_memory)
        self._engine: Engine | None = None
        self._decoder = Decoder(
            Rendering.of_config(config, max_pixels=max_pixels),
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
        feeder: Feeder[int] = Feeder(
            engine, lambda numbers, features: found.update(zip(numbers, features, strict=True))
        )
        for position, decoded in enumerate(self._decoder.decode([Request(path=path) for path in paths])):
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


def config_weights(
    backbone: Backbone,
    config: Mapping[str, Any],
    path: str | Path | None = None,
    *,
    download: bool = True,
    on_download: Callable[[str], None] | None = None,
) -> Weights:
    """Return the weights a config names; refuse any other. Options as in `find_weights`.

    Raises
    ------
    WeightsError
        If they are not on this machine, or are not the ones of the config.
    """
    wanted = config["weights"]
    if path is None and wanted["kind"] == "file":
        raise WeightsError(
            f"These features need a {backbone.name} weights file (SHA-256 {wanted['sha256'][:12]}…) "
            "that did not come along. Name it with: --weights FILE"
        )
    source = wanted["kind"] if path is None else str(path)
    found = find_weights(
        backbone, source, seed=wanted["seed"] or 0, download=download, on_download=on_download
    )
    # A random network that was carried along as a file is known by the bundle's own digest of that file.
    if found.sha256 != wanted["sha256"] and not (path is not None and wanted["kind"] == "random"):
        raise WeightsError(
            f"{found.path or source}: weights of {backbone.name} with SHA-256 {found.sha256[:12]}…, but the "
            f"features were made with {wanted['sha256'][:12]}…. Extract anew, or name the right file with: "
            "--weights FILE"
        )
    return found
