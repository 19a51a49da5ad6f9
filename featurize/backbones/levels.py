"""The levels of a network: the last map of every resolution, before the next stride halves it.

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


FINAL = "final"
_PADDING = ("ZeroPadding2D", "Cropping2D")


@dataclass(frozen=True, kw_only=True)
class _Step:
    """What one layer gives at its place in the network."""

    map: Any  # KerasTensor (n, rows, columns, channels)
    reduction: int  # product of the strides on the way from the pixels
    is_learned: bool  # a kernel lies behind it: pixels, scaled or not, are no features
    is_padding: bool
    is_merged: bool  # of several maps
    is_cut: bool  # all that follows is computed from this map alone


def level_maps(network: keras.Model) -> list[tuple[str, Any]]:
    """Return the last map of every resolution of a network.

    It is the last map before the next stride from which alone all that follows is computed: the output of
    the stage's last block, or of the layers that ready it for the stride, such as the expansion of an
    inverted residual or the narrowing convolution between two dense blocks. Decoders for segmentation take
    the same maps. A stage without such a map (NASNet's cells read the two cells before) gives its widest
    merged map, the last of them: the output of its last cell.

    Strides tell the stages, not sizes, which rounding and unpadded convolutions blur; so a network has the
    same levels at every input size.

    Parameters
    ----------
    network : keras.Model
        Functional, from pictures to unpooled maps.

    Returns
    -------
    list of (str, KerasTensor)
        From the pixels on: "1/2" where the strides so far make 2, "1/4", ...; "1/1" only where convolutions
        keep the full size. The last is always ("final", ``network.output``), and stands for the last stage.
        Each map is (n, rows, columns, channels).
    """
    steps = [step for step in _steps(network) if step.is_learned and not step.is_padding]
    reductions = sorted({step.reduction for step in steps})
    levels = []
    for reduction in reductions[:-1]:
        stage = [step for step in steps if step.reduction == reduction]
        cuts = [step for step in stage if step.is_cut]
        merged = sorted((step for step in stage if step.is_merged), key=lambda step: step.map.shape[-1])
        if ends := cuts or merged:
            levels.append((f"1/{reduction}", ends[-1].map))
    return [*levels, (FINAL, network.output)]


def _steps(network: Any) -> list[_Step]:
    """Return what every layer gives, in topological order."""
    # A layer of a network that was cut out of a larger one belongs to both, and its own `output` is then
    # ambiguous; only the network knows which tensors are its own.
    depths = sorted(network._nodes_by_depth, reverse=True)
    nodes = [node for depth in depths for node in network._nodes_by_depth[depth]]
    last_reader = {id(tensor): number for number, node in enumerate(nodes) for tensor in node.input_tensors}
    last_reader[id(network.output)] = len(nodes)
    steps: dict[int, _Step] = {}
    for number, node in enumerate(nodes):
        (made,) = node.output_tensors
        layer, read = node.operation, [steps[id(tensor)] for tensor in node.input_tensors]
        still_read = {key for key in (*steps, id(made)) if last_reader.get(key, -1) > number}
        steps[id(made)] = _Step(
            map=made,
            reduction=max((step.reduction for step in read), default=1) * _stride(layer),
            is_learned=any(step.is_learned for step in read) or _has_kernel(layer),
            is_padding=type(layer).__name__ in _PADDING,
            is_merged=len(read) > 1,
            is_cut=still_read == {id(made)},
        )
    return list(steps.values())


def _stride(layer: Any) -> int:
    """Return how many times fewer rows a layer gives than it takes, by its strides."""
    if inner := getattr(layer, "layers", None):  # ConvNeXt's halvings are small networks
        return math.prod(_stride(part) for part in inner)
    strides = getattr(layer, "strides", 1)
    return strides if isinstance(strides, int) else int(strides[0])


def _has_kernel(layer: Any) -> bool:
    return any(len(weight.shape) > 1 for weight in getattr(layer, "weights", ()))
