"""A config's whole forward pass as a Keras model of standard layers, which other programs can load."""

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
        Of a store or bundle. Whatever its precision, this computes in float32.
    name : str
        The model's; two of the same backbone in one larger model need different ones.
    weights : path-like, optional
        The weights file a bundle carries; found as for extraction when absent.

    Returns
    -------
    keras.Model
        From uint8 (n, size, size, 3), upright RGB squares rendered as the config says, to float32
        (n, width), the means over the last maps; with levels to a list of those of each level, in the order
        in which a store has them side by side. Not rounded to the store's dtype, as no image is that is
        graded. Of standard layers and operations alone, so that it can be saved, and loaded in safe mode
        where Folio is not installed.

    Raises
    ------
    WeightsError
        If the weights at hand are not those of the config.
    ConfigError, EngineError
        If the size or the Keras set-up does not fit.
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
        made = inner(scaled)
        pooled = [
            keras.layers.GlobalAveragePooling2D(name=f"{name}_mean_{k + 1}")(one)
            for k, one in enumerate(made if isinstance(made, list | tuple) else [made])
        ]
        return keras.Model(pixels, pooled if config["levels"] else pooled[0], name=name)
