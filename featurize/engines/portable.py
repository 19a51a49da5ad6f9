"""The complete forward pass of a config as a Keras model of standard layers, for export."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurize.backbones.registry import get_backbone
from featurize.backbones.weights import config_weights

if TYPE_CHECKING:
    import keras


def portable_network(
    config: Mapping[str, Any], *, name: str, weights: str | Path | None = None
) -> keras.Model:
    """Return preprocessing, backbone and pooling as one functional Keras model.

    Parameters
    ----------
    config : mapping
        Config of a store or bundle. The model always computes in float32, whatever the config's precision.
    name : str
        Name of the model; must be unique if several models are combined into one.
    weights : path-like, optional
        Weights file of a bundle; by default the weights are located as for extraction.

    Returns
    -------
    keras.Model
        Input: uint8 (n, size, size, 3), upright RGB squares rendered as in the config. Output: float32
        (n, n_features), the means over the last maps; with levels a list with one such array per level, in
        the column order of a store. The values are not rounded to the store's dtype; features for predictions
        are not rounded either. The model has standard layers and operations only, so it can be saved, and
        loaded in safe mode without Folio.

    Raises
    ------
    WeightsError
        If the weights differ from those of the config.
    ConfigError
        If the network does not accept the input size.
    EngineError
        If Keras does not run on TensorFlow.
    """
    import keras

    from featurize.backbones.levels import level_maps
    from featurize.backbones.networks import build_network, keras_settings, preprocess_pixels, without_scaling

    backbone = get_backbone(config["backbone"])
    found = config_weights(backbone, config, weights)
    size = config["input_size"]
    network = build_network(backbone, found, input_size=size)
    with keras_settings():
        if config["preprocess"] != "native":
            network = without_scaling(network)
        maps = [network.output]
        if config["levels"]:
            maps = [tensor for _, tensor in level_maps(network)]
        inner = keras.Model(network.input, maps, name=f"{name}_maps")
        pixels = keras.Input((size, size, 3), dtype="uint8", name=f"{name}_pixels")
        scaled = preprocess_pixels(
            backbone,
            keras.ops.cast(pixels, "float32"),
            preprocess=config["preprocess"],
            statistics=config["statistics"],
        )
        outputs = inner(scaled)
        pooled = [
            keras.layers.GlobalAveragePooling2D(name=f"{name}_mean_{number}")(output)
            for number, output in enumerate(
                outputs if isinstance(outputs, list | tuple) else [outputs], start=1
            )
        ]
        return keras.Model(pixels, pooled if config["levels"] else pooled[0], name=name)
