"""The engine that makes the features of a config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from featurize import engines
from featurize.backbones import Backbone
from featurize.config import config_engine
from featurize.errors import EngineError
from featurize.weights import Weights


def configured_engine(
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
) -> engines.Engine:
    """Build the engine that makes features as the config has it.

    Parameters
    ----------
    backbone, weights, device, gpu_memory, batch_size, threads
        As in `featurize.engines.create_engine`.
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
    if name == "openvino" and precision not in ("float32", *engines.fast_precisions(name, "cpu")):
        raise EngineError(
            f"--precision {precision}: this processor does not compute in it by itself, and OpenVINO needs "
            "one that does. Type --precision float32, or --engine tensorflow"
        )
    return engines.create_engine(
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
