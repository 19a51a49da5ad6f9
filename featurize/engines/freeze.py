"""A backbone as one TensorFlow graph without variables: what every engine starts from."""

from __future__ import annotations

import dataclasses
import gc
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from featurize.backbones.networks import build_network, keras_settings, preprocess_pixels, without_scaling
from featurize.backbones.registry import Backbone
from featurize.backbones.weights import Weights
from featurize.engines.batching import Forward
from featurize.errors import EngineError


@dataclass(frozen=True, kw_only=True)
class FrozenForward:
    """The whole forward pass, and which of its columns are which."""

    function: Any  # a concrete function: uint8 (batch, size, size, 3) to one float32 (batch, level_ends[-1])
    level_names: tuple[str, ...]
    level_ends: tuple[int, ...]  # level i is the columns from level_ends[i - 1] (or 0) up to level_ends[i]


@dataclass(frozen=True, kw_only=True, eq=False)
class FrozenGraph:
    """The same as a graph on its own: one input, one output."""

    graph: bytes  # a serialised GraphDef
    level_names: tuple[str, ...]
    level_ends: tuple[int, ...]


def frozen_forward(
    backbone: Backbone,
    weights: Weights,
    *,
    input_size: int,
    preprocess: str,
    statistics: Mapping[str, Sequence[float]] | None,
    precision: str,
    levels: bool,
    batch_size: int,
    device_name: str,
) -> FrozenForward:
    """Build a backbone's network and freeze it: preprocessing, network and pooling in one graph.

    Parameters
    ----------
    backbone, weights, preprocess, statistics, precision, levels
        As in `featurize.engines.factory.create_engine`.
    input_size : int
        Side of the square input, in pixels.
    batch_size : int
        Pictures in one forward pass: the graph takes no other number.
    device_name : str
        As TensorFlow spells it: "/CPU:0", "/GPU:1".

    Returns
    -------
    FrozenForward
        Variables are constants in the function, so that batch norms can be folded into convolutions.

    Raises
    ------
    ConfigError, WeightsError, EngineError
        If the size, the weights or the Keras set-up does not fit.
    """
    traced = _traced(
        backbone,
        weights,
        input_size=input_size,
        preprocess=preprocess,
        statistics=statistics,
        precision=precision,
        levels=levels,
        batch_size=batch_size,
        device_name=device_name,
    )
    frozen = dataclasses.replace(traced, function=_without_variables(traced.function))
    del traced
    gc.collect()  # Keras' graphs are full of cycles, and hold the weights a second time
    return frozen


def frozen_graph(
    backbone: Backbone,
    weights: Weights,
    *,
    input_size: int,
    preprocess: str,
    statistics: Mapping[str, Sequence[float]] | None,
    levels: bool,
    batch_size: int,
) -> FrozenGraph:
    """Build and freeze as `frozen_forward` does, in float32 on the CPU, for another engine to read.

    Parameters and errors as there.
    """
    traced = _traced(
        backbone,
        weights,
        input_size=input_size,
        preprocess=preprocess,
        statistics=statistics,
        precision="float32",
        levels=levels,
        batch_size=batch_size,
        device_name="/CPU:0",
    )
    graph = _graph_of_constants(traced.function).SerializeToString()
    frozen = FrozenGraph(graph=graph, level_names=traced.level_names, level_ends=traced.level_ends)
    del traced
    gc.collect()
    return frozen


def _traced(
    backbone: Backbone,
    weights: Weights,
    *,
    input_size: int,
    preprocess: str,
    statistics: Mapping[str, Sequence[float]] | None,
    precision: str,
    levels: bool,
    batch_size: int,
    device_name: str,
) -> FrozenForward:
    """Return the forward pass as a function that still has variables."""
    import tensorflow as tf

    with tf.device(device_name):
        network = build_network(backbone, weights, input_size=input_size, precision=precision)
        if preprocess != "native":
            network = without_scaling(network)
        names, outputs = _levels(network, levels=levels)
        function = _concrete(
            _pooling(network, outputs),
            lambda pixels: preprocess_pixels(backbone, pixels, preprocess=preprocess, statistics=statistics),
            shape=(batch_size, input_size, input_size, 3),
            device_name=device_name,
        )
    ends = tuple(itertools.accumulate(int(maps.shape[-1]) for maps in outputs))
    return FrozenForward(function=function, level_names=names, level_ends=ends)


def _levels(network: Any, *, levels: bool) -> tuple[tuple[str, ...], tuple[Any, ...]]:
    """Return the names and the maps that are pooled."""
    if not levels:
        return ("final",), (network.output,)
    from featurize.backbones.levels import level_maps

    names, outputs = zip(*level_maps(network), strict=True)
    return names, outputs


def _pooling(network: Any, outputs: Sequence[Any]) -> Callable[[Any], Any]:
    """Return the function of scaled pixels to the means over those maps, side by side."""
    import keras
    import tensorflow as tf

    model = keras.Model(network.input, outputs[0] if len(outputs) == 1 else list(outputs))

    def pooled(scaled: Any) -> Any:
        maps = model(scaled, training=False)  # each (n, rows, columns, channels)
        maps = maps if isinstance(maps, list) else [maps]
        means = [tf.reduce_mean(tf.cast(one, tf.float32), axis=(1, 2)) for one in maps]
        return means[0] if len(means) == 1 else tf.concat(means, axis=1)

    return pooled


def _concrete(
    network: Callable[[Any], Any],
    preprocess: Callable[[Any], Any],
    *,
    shape: tuple[int, ...],
    device_name: str,
) -> Any:
    """Return the function of one uint8 tensor of that shape."""
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec(shape, tf.uint8)], autograph=False)
    def forward(images: Any) -> Any:
        with tf.device(device_name):
            return network(preprocess(tf.cast(images, tf.float32)))

    with keras_settings():
        return forward.get_concrete_function()


def _without_variables(function: Any) -> Any:
    """Return the same function, of one tensor to a list of one, with its variables as constants."""
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    graph = _graph_of_constants(function)
    if graph.library.function:  # functions that it calls, as in ConvNeXt: importing does not register those
        return convert_variables_to_constants_v2(function)
    return graph_function(graph, like=function)


def _graph_of_constants(function: Any) -> Any:
    """Return a function's graph with its variables as constants.

    This is the first half of what `convert_variables_to_constants_v2` does; the second makes a function of
    the graph node by node, which takes seconds, and seven times the memory of the weights. The halves have
    private names, so where another TensorFlow has other ones, the whole must do.
    """
    from tensorflow.python.framework import convert_to_constants as freezing

    try:
        data = freezing._FunctionConverterDataInEager(
            func=function, lower_control_flow=True, aggressive_inlining=False
        )
        graph, _ = freezing._replace_variables_by_constants(converter_data=data)
        _drop_unused(graph, function.outputs[0].op.name)
    except (AttributeError, TypeError, ValueError, KeyError):
        return freezing.convert_variables_to_constants_v2(function).graph.as_graph_def()
    return graph


def _drop_unused(graph: Any, output: str) -> None:
    """Remove the nodes that one does not need: whoever reads the graph would take their ends for outputs."""
    sources = {node.name: [name.lstrip("^").partition(":")[0] for name in node.input] for node in graph.node}
    needed: set[str] = set()
    waiting = [output]
    while waiting:
        name = waiting.pop()
        if name not in needed:
            needed.add(name)
            waiting += sources[name]
    for place in reversed(range(len(graph.node))):
        if graph.node[place].name not in needed:
            del graph.node[place]


HOST = "/CPU:0"
_NO_MEMORY = ("out of memory", "alloc_failed", "failed to allocate")  # TensorFlow's and cuDNN's words for it
# Lines that come before the one that says what went wrong.
_FRAMING = re.compile(r'Graph execution error|Detected at node|File "|<stack traces|\d+ root error')


class OutOfMemoryError(EngineError):
    """A batch does not fit into a device's memory."""


def place_on_device(function: Any, name: str) -> Any:
    """Return the same function with all of it, constants included, on another device.

    Parameters
    ----------
    function : ConcreteFunction
        Without variables, of one tensor to one tensor; from `featurize.engines.freeze`.
    name : str
        The device as TensorFlow spells it: "/GPU:1".

    Returns
    -------
    ConcreteFunction
        Of a tensor on any device to a list of one tensor on that device.
    """
    graph = function.graph.as_graph_def()
    for node in graph.node:
        node.device = ""
    return graph_function(graph, like=function, device=name)


def graph_function(graph: Any, *, like: Any, device: str | None = None) -> Any:
    """Return a graph as a function.

    Parameters
    ----------
    graph : GraphDef
        Without variables; it is changed.
    like : ConcreteFunction
        The one whose graph it is, or was: its one input and output are those of the new one.
    device : str, optional
        Where all of it goes, as TensorFlow spells it.

    Returns
    -------
    ConcreteFunction
        Of a uint8 tensor to a list of one tensor.
    """
    import tensorflow as tf

    source, result = like.inputs[0].name, like.outputs[0].name
    # The input is given anew.
    del graph.node[[f"{node.name}:0" for node in graph.node].index(source)]

    @tf.function(input_signature=[tf.TensorSpec(like.inputs[0].shape, tf.uint8)], autograph=False)
    def forward(images: Any) -> Any:
        with tf.device(device):
            return tf.graph_util.import_graph_def(
                graph, input_map={source: images}, return_elements=[result], name=""
            )

    return forward.get_concrete_function()


def forward_function(function: Any, name: str, *, device: str) -> Forward:
    """Return what takes pictures through a function, whatever their number, and brings the features back.

    It may be called from several threads; while it uploads, computes or waits, other Python threads run.

    Parameters
    ----------
    function : ConcreteFunction
        uint8 (batch, size, size, 3) to a list of one float32 (batch, n_features).
    name, device : str
        Where it runs, as TensorFlow spells it and as users do.

    Raises
    ------
    OutOfMemoryError, EngineError
        When called, if a batch does not fit, or cannot be computed.
    """
    import tensorflow as tf

    shape = tuple(function.inputs[0].shape)

    def forward(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        batch = images
        if len(images) < shape[0]:
            batch = np.zeros(shape, dtype=np.uint8)
            batch[: len(images)] = images
        try:
            # The upload and the fetching are left to operations: those wait without holding Python's lock.
            with tf.device(HOST):
                pixels = tf.constant(batch)
            with tf.device(name):
                (features,) = function(pixels)
            with tf.device(HOST):
                fetched = tf.identity(features)
        except tf.errors.OpError as error:
            raise _explained(error, shape, device=device) from error
        return fetched.numpy()[: len(images)].copy()

    return forward


def _explained(error: Exception, shape: tuple[int, ...], *, device: str) -> EngineError:
    import tensorflow as tf

    n, size = shape[:2]
    text = str(error)
    exhausted = isinstance(error, tf.errors.ResourceExhaustedError)
    if exhausted or any(words in text.lower() for words in _NO_MEMORY):
        smaller = "a smaller --input-size" if device == "cpu" else "--device cpu"
        return OutOfMemoryError(
            f"{device} has no memory for a batch of {n} at {size} × {size} pixels. "
            f"Try {f'--batch-size {n // 2}' if n > 1 else smaller}"
        )
    lines = [line.strip() for line in text.splitlines()]
    said = next((line for line in lines if line and not _FRAMING.match(line)), type(error).__name__)
    instead = "Try --engine openvino" if device == "cpu" else "See featurize selfcheck, or try --device cpu"
    return EngineError(
        f"{device}: TensorFlow could not compute a batch of {n} at {size} × {size} pixels: {said[:200]}. "
        f"{instead}"
    )
