"""The engine that makes the features of a config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from featurize.backbones.registry import Backbone
from featurize.backbones.weights import Weights
from featurize.config import config_engine
from featurize.engines import base, select
from featurize.engines.base import Engine
from featurize.engines.select import engine_here
from featurize.errors import ConfigError, EngineError


def create_engine(
    backbone: Backbone,
    weights: Weights,
    *,
    engine: str = "auto",
    input_size: int | None = None,
    preprocess: str = "native",
    statistics: Mapping[str, Sequence[float]] | None = None,
    device: str = "auto",
    gpu_memory: float | None = None,
    precision: str = "float32",
    batch_size: int | str = "auto",
    levels: bool = False,
    threads: int | None = None,
) -> Engine:
    """Build a backbone's network, freeze it and put it on a device.

    Parameters
    ----------
    backbone : Backbone
        From the registry.
    weights : Weights
        From `find_weights`.
    engine : {"auto", "tensorflow", "openvino"}, default="auto"
        What runs it; "auto" is TensorFlow where a GPU is usable, and OpenVINO on a CPU.
    input_size : int, optional
        Side of the square input in pixels; the backbone's own by default.
    preprocess : {"native", "rescale", "featurewise"}, default="native"
        The network's own `preprocess_input`, pixels / 255, or that standardised with `statistics`; the latter
        two stand in for the scaling that some networks bring inside.
    statistics : mapping, optional
        "mean" and "std" of the channels of pixels / 255, three numbers each; for "featurewise" only.
    device : str, default="auto"
        "cpu", "gpu" (all), "gpu:N", or several as in "gpu:0,gpu:2"; by default every GPU, or the CPU where
        there is none.
    gpu_memory : float, optional
        Fraction of each GPU's memory to take at once, in (0, 1]; by default it grows as needed.
    precision : {"float32", "float16", "bfloat16"}, default="float32"
        Format of the network's arithmetic; pixels and pooling stay float32.
    batch_size : int or "auto", default="auto"
        Pictures in one forward pass; see `auto_batch_size`. On GPUs "auto" is halved until it fits.
    levels : bool, default=False
        Also pool the last map of every resolution stage, in the same forward pass.
    threads : int, optional
        Cores that OpenVINO takes; all that this process may use by default. TensorFlow settles that itself.

    Returns
    -------
    Engine
        Ready to call.

    Raises
    ------
    ConfigError
        If an option makes no sense for this backbone.
    WeightsError
        If the weights do not fit.
    EngineError
        If the device or the precision is not to be had here.
    """
    if batch_size != "auto" and (not isinstance(batch_size, int) or batch_size < 1):
        raise ConfigError(f"--batch-size {batch_size}: expected auto or a whole number from 1 up")
    if gpu_memory is not None and not 0 < gpu_memory <= 1:
        raise ConfigError(f"--gpu-memory {gpu_memory}: expected a fraction above 0 and up to 1, such as 0.5")
    if threads is not None and threads < 1:
        raise ConfigError(f"threads={threads}: expected a number from 1 up")
    _check_statistics(preprocess, statistics)
    if engine_here(engine, device=device, precision=precision) == "openvino":
        from featurize.engines.openvino import OpenVINOEngine

        return OpenVINOEngine(
            backbone,
            weights,
            input_size=input_size,
            preprocess=preprocess,
            statistics=statistics,
            precision=precision,
            batch_size=batch_size,
            levels=levels,
            threads=threads,
        )
    from featurize.engines.tensorflow import TensorFlowEngine  # some seconds

    return TensorFlowEngine(
        backbone,
        weights,
        input_size=input_size,
        preprocess=preprocess,
        statistics=statistics,
        device=device,
        gpu_memory=gpu_memory,
        precision=precision,
        batch_size=batch_size,
        levels=levels,
    )


def _check_statistics(preprocess: str, statistics: Mapping[str, Sequence[float]] | None) -> None:
    if preprocess not in ("native", "rescale", "featurewise"):
        raise ConfigError(f"--preprocess {preprocess}: unknown. Choose one of: native, rescale, featurewise")
    if (preprocess == "featurewise") != (statistics is not None):
        raise ConfigError(f"--preprocess {preprocess}: statistics belong to featurewise, and to it alone")
    if statistics is None:
        return
    for key in ("mean", "std"):
        numbers = np.asarray(statistics.get(key, ()), dtype=float)
        finite = numbers.shape == (3,) and np.isfinite(numbers).all()
        if not finite or (key == "std" and (numbers < 0).any()):
            raise ConfigError(
                f"--preprocess featurewise: expected 3 finite numbers as {key!r}, found {numbers}"
            )


def engine_for_config(
    backbone: Backbone,
    weights: Weights,
    config: Mapping[str, Any],
    *,
    engine: str = "auto",
    precision: str | None = None,
    device: str = "auto",
    gpu_memory: float | None = None,
    batch_size: int | str = "auto",
    threads: int | None = None,
) -> base.Engine:
    """Build the engine that makes features as the config has it.

    Parameters
    ----------
    backbone, weights, device, gpu_memory, batch_size, threads
        As in `featurize.engines.factory.create_engine`.
    config : mapping
        Of a store.
    engine : {"auto", "tensorflow", "openvino"}, default="auto"
        Where the config names none, which is in float32.
    precision : str, optional
        Another precision than the config's.

    Raises
    ------
    EngineError
        If this machine does not compute in that precision, or not by that engine.
    """
    precision = precision or config["precision"]
    name = engine
    if precision == config["precision"]:
        name = config_engine(config) or engine
    # OpenVINO takes the wish for what it cannot do for a hint, and computes in float32.
    if name == "openvino" and precision not in ("float32", *select.fast_precisions(name, "cpu")):
        raise EngineError(
            f"--precision {precision}: this processor does not compute in it by itself, and OpenVINO needs "
            "one that does. Type --precision float32, or --engine tensorflow"
        )
    return create_engine(
        backbone,
        weights,
        engine=name,
        input_size=config["input_size"],
        preprocess=config["preprocess"],
        statistics=config["statistics"],
        precision=precision,
        levels=config["levels"],
        device=device,
        gpu_memory=gpu_memory,
        batch_size=batch_size,
        threads=threads,
    )
