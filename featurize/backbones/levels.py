"""Levels of a network: the last feature map at each resolution.

References
----------
Pooled maps of every stage as features: Hosu, Goldlücke & Saupe, "Effective Aesthetics Prediction with
Multi-level Spatially Pooled Features", arXiv:1904.01382.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras


_PADDING = ("ZeroPadding2D", "Cropping2D")


@dataclass(frozen=True, kw_only=True)
class _LayerOutput:
    """Output of one layer, and the layer's position in the network."""

    map: Any  # KerasTensor (n, rows, columns, channels)
    reduction: int  # product of the strides between the pixels and this map
    is_learned: bool  # depends on at least one kernel; scaled pixels alone are not features
    is_padding: bool
    is_merged: bool  # computed from several maps
    is_cut: bool  # everything after it is computed from this map alone


def level_maps(network: keras.Model) -> list[tuple[str, Any]]:
    """Return the last map of every resolution of a network.

    A stage is a run of layers with the same resolution. Its level is the last map on which everything after
    it depends: the output of the stage's last block, or of the layers that prepare it for the next stride,
    such as the expansion of an inverted residual or the transition convolution between two dense blocks.
    Segmentation decoders use the same maps. In a stage without such a map (NASNet cells read the two previous
    cells), the level is the last of the widest merged maps: the output of the stage's last cell.

    Stages are found by strides, not by map sizes, which also depend on rounding and unpadded convolutions.
    Therefore a network has the same levels at every input size.

    Parameters
    ----------
    network : keras.Model
        Functional model from images to feature maps before pooling.

    Returns
    -------
    list of (str, KerasTensor)
        From high to low resolution: "1/2" where the product of the strides is 2, then "1/4", and so on; "1/1"
        only where learned layers work at full resolution. The last item is always ("final",
        ``network.output``); it represents the last stage. Each map has shape (n, rows, columns, channels).
    """
    outputs = [output for output in _layer_outputs(network) if output.is_learned and not output.is_padding]
    reductions = sorted({output.reduction for output in outputs})
    levels = []
    for reduction in reductions[:-1]:
        stage = [output for output in outputs if output.reduction == reduction]
        cuts = [output for output in stage if output.is_cut]
        merged = sorted((output for output in stage if output.is_merged), key=lambda out: out.map.shape[-1])
        if candidates := cuts or merged:
            levels.append((f"1/{reduction}", candidates[-1].map))
    return [*levels, ("final", network.output)]


def _layer_outputs(network: Any) -> list[_LayerOutput]:
    """Return the output of every layer, in topological order."""
    # The tensors come from the network's nodes: a layer shared with a larger network has several outputs, and
    # its `output` attribute is then ambiguous.
    depths = sorted(network._nodes_by_depth, reverse=True)
    nodes = [node for depth in depths for node in network._nodes_by_depth[depth]]
    last_use = {id(tensor): number for number, node in enumerate(nodes) for tensor in node.input_tensors}
    last_use[id(network.output)] = len(nodes)
    outputs: dict[int, _LayerOutput] = {}
    for number, node in enumerate(nodes):
        (tensor,) = node.output_tensors
        layer, inputs = node.operation, [outputs[id(source)] for source in node.input_tensors]
        used_later = {key for key in (*outputs, id(tensor)) if last_use.get(key, -1) > number}
        outputs[id(tensor)] = _LayerOutput(
            map=tensor,
            reduction=max((source.reduction for source in inputs), default=1) * _stride(layer),
            is_learned=any(source.is_learned for source in inputs) or _has_kernel(layer),
            is_padding=type(layer).__name__ in _PADDING,
            is_merged=len(inputs) > 1,
            is_cut=used_later == {id(tensor)},
        )
    return list(outputs.values())


def _stride(layer: Any) -> int:
    """Return the factor by which a layer reduces the number of rows, from its strides."""
    if inner := getattr(layer, "layers", None):  # ConvNeXt's downsampling layers are small models
        return math.prod(_stride(part) for part in inner)
    strides = getattr(layer, "strides", 1)
    return strides if isinstance(strides, int) else int(strides[0])


def _has_kernel(layer: Any) -> bool:
    return any(len(weight.shape) > 1 for weight in getattr(layer, "weights", ()))
