"""Creation of the engine that computes the features of a config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from featurize.backbones.registry import Backbone
from featurize.backbones.weights import Weights
from featurize.config import PREPROCESSES, config_engine
from featurize.engines import select
from featurize.engines.base import Engine
from featurize.engines.device import check_device
from featurize.engines.select import resolve_engine
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
    """Build a backbone's network, freeze it and load it on a device.

    Parameters
    ----------
    backbone : Backbone
        From the registry.
    weights : Weights
        From `find_weights`.
    engine : {"auto", "tensorflow", "openvino"}, default="auto"
        Library that runs the network; "auto" is TensorFlow if a GPU is usable, else OpenVINO.
    input_size : int, optional
        Side of the square input in pixels; the backbone's own by default.
    preprocess : {"native", "rescale", "featurewise"}, default="native"
        The network's own `preprocess_input`, pixels / 255, or pixels / 255 standardised with `statistics`.
        The latter two replace the pixel scaling layers inside some networks.
    statistics : mapping, optional
        Only for "featurewise": "mean" and "std" of pixels / 255, three numbers each (one per channel).
    device : str, default="auto"
        "cpu", "gpu" (all GPUs), "gpu:N", or several as in "gpu:0,gpu:2"; "auto" is every GPU, or the CPU on
        machines without a GPU.
    gpu_memory : float, optional
        Fraction of each GPU's memory to reserve, in (0, 1]; by default memory grows as needed.
    precision : {"float32", "float16", "bfloat16"}, default="float32"
        Format of the network's arithmetic; pixels and pooling stay float32.
    batch_size : int or "auto", default="auto"
        Images per forward pass; see `auto_batch_size`. On GPUs, "auto" is halved until a batch fits.
    levels : bool, default=False
        Also pool the last map of every resolution stage, in the same forward pass.
    threads : int, optional
        Number of OpenVINO threads; by default all cores that this process may use. TensorFlow decides itself.

    Returns
    -------
    Engine
        Ready to call.

    Raises
    ------
    ConfigError
        If an option is invalid for this backbone.
    WeightsError
        If the weights do not match the network.
    EngineError
        If the device or the precision is not available on this machine.
    """
    if batch_size != "auto" and (not isinstance(batch_size, int) or batch_size < 1):
        raise ConfigError(f"--batch-size {batch_size}: expected auto or a whole number of at least 1")
    check_device(device, gpu_memory=gpu_memory)
    if threads is not None and threads < 1:
        raise ConfigError(f"threads={threads}: expected a whole number of at least 1")
    _check_statistics(preprocess, statistics)
    if resolve_engine(engine, device=device, precision=precision) == "openvino":
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
    from featurize.engines.tensorflow import TensorFlowEngine  # takes seconds

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
    if preprocess not in PREPROCESSES:
        raise ConfigError(f"--preprocess {preprocess}: unknown. Choose one of: {', '.join(PREPROCESSES)}")
    if (preprocess == "featurewise") != (statistics is not None):
        raise ConfigError(f"--preprocess {preprocess}: statistics are required for featurewise only")
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
) -> Engine:
    """Create an engine that computes features as a store's config specifies.

    Parameters
    ----------
    backbone, weights, device, gpu_memory, batch_size, threads
        As in `create_engine`.
    config : mapping
        Config of a store.
    engine : {"auto", "tensorflow", "openvino"}, default="auto"
        Used if the config does not name an engine, which is the case in float32.
    precision : str, optional
        Use this precision instead of the config's.

    Raises
    ------
    EngineError
        If the precision or the engine is not available on this machine.
    """
    precision = precision or config["precision"]
    name = engine
    if precision == config["precision"]:
        name = config_engine(config) or engine
    # OpenVINO treats an unsupported precision as a hint and computes in float32.
    if name == "openvino" and precision not in ("float32", *select.fast_precisions(name, "cpu")):
        raise EngineError(
            f"--precision {precision}: this processor has no instructions for it, which OpenVINO requires. "
            "Type --precision float32, or --engine tensorflow"
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
