"""Freezing of a backbone into one TensorFlow graph without variables, which every engine starts from.

Also places a frozen function on a device, and runs it.
"""

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

from featurize.backbones.levels import level_maps
from featurize.backbones.networks import build_network, keras_settings, preprocess_pixels, without_scaling
from featurize.backbones.registry import Backbone
from featurize.backbones.weights import Weights
from featurize.engines.batching import Forward
from featurize.errors import EngineError


@dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """All settings that determine a frozen network in float32; fields as in `factory.create_engine`."""

    backbone: Backbone
    weights: Weights
    input_size: int
    preprocess: str
    statistics: Mapping[str, Sequence[float]] | None
    levels: bool
    batch_size: int  # the graph accepts no other number of images


@dataclass(frozen=True, kw_only=True)
class FrozenForward:
    """The complete forward pass as a TensorFlow function, and the columns of its levels."""

    # Concrete function: uint8 (batch, size, size, 3) to a list of one float32 (batch, n_features).
    function: Any
    level_names: tuple[str, ...]
    level_ends: tuple[int, ...]  # level i is columns level_ends[i - 1] (0 for the first) to level_ends[i]


@dataclass(frozen=True, kw_only=True, eq=False)
class FrozenGraph:
    """The complete forward pass as a graph with one input and one output."""

    graph: bytes  # serialized GraphDef
    level_names: tuple[str, ...]
    level_ends: tuple[int, ...]


def frozen_forward(spec: NetworkSpec, *, precision: str, device_name: str) -> FrozenForward:
    """Build a network and freeze it: preprocessing, network and pooling in one graph without variables.

    Parameters
    ----------
    spec : NetworkSpec
        The network.
    precision : {"float32", "float16", "bfloat16"}
        Format of the network's arithmetic; pixels and pooling stay float32.
    device_name : str
        TensorFlow's name of the device: "/CPU:0", "/GPU:1".

    Returns
    -------
    FrozenForward
        The variables are constants in the function, so that batch norms can be folded into convolutions.

    Raises
    ------
    ConfigError, WeightsError, EngineError
        As in `featurize.backbones.networks.build_network`.
    """
    traced = _traced(spec, precision=precision, device_name=device_name)
    frozen = dataclasses.replace(traced, function=_without_variables(traced.function))
    del traced
    gc.collect()  # the reference cycles of a Keras graph keep a second copy of the weights in memory
    return frozen


def frozen_graph(spec: NetworkSpec) -> FrozenGraph:
    """Build and freeze a network in float32 on the CPU, for another engine; see `frozen_forward`."""
    traced = _traced(spec, precision="float32", device_name="/CPU:0")
    graph = _graph_of_constants(traced.function).SerializeToString()
    frozen = FrozenGraph(graph=graph, level_names=traced.level_names, level_ends=traced.level_ends)
    del traced
    gc.collect()
    return frozen


def _traced(spec: NetworkSpec, *, precision: str, device_name: str) -> FrozenForward:
    """Return the forward pass as a function that still has variables."""
    import tensorflow as tf

    with tf.device(device_name):
        network = build_network(spec.backbone, spec.weights, input_size=spec.input_size, precision=precision)
        if spec.preprocess != "native":
            network = without_scaling(network)
        levels = level_maps(network) if spec.levels else [("final", network.output)]
        names, outputs = zip(*levels, strict=True)
        function = _concrete(
            _pooling(network, outputs),
            lambda pixels: preprocess_pixels(
                spec.backbone, pixels, preprocess=spec.preprocess, statistics=spec.statistics
            ),
            shape=(spec.batch_size, spec.input_size, spec.input_size, 3),
            device_name=device_name,
        )
    ends = tuple(itertools.accumulate(int(maps.shape[-1]) for maps in outputs))
    return FrozenForward(function=function, level_names=names, level_ends=ends)


def _pooling(network: Any, outputs: Sequence[Any]) -> Callable[[Any], Any]:
    """Return a function that maps scaled pixels to the concatenated means over the output maps."""
    import keras
    import tensorflow as tf

    model = keras.Model(network.input, outputs[0] if len(outputs) == 1 else list(outputs))

    def pooled(scaled: Any) -> Any:
        maps = model(scaled, training=False)  # each (n, rows, columns, channels)
        maps = maps if isinstance(maps, list) else [maps]
        means = [tf.reduce_mean(tf.cast(level, tf.float32), axis=(1, 2)) for level in maps]
        return means[0] if len(means) == 1 else tf.concat(means, axis=1)

    return pooled


def _concrete(
    network: Callable[[Any], Any],
    preprocess: Callable[[Any], Any],
    *,
    shape: tuple[int, ...],
    device_name: str,
) -> Any:
    """Return preprocessing and network as a concrete function of one uint8 tensor of the given shape."""
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec(shape, tf.uint8)], autograph=False)
    def forward(images: Any) -> Any:
        with tf.device(device_name):
            return network(preprocess(tf.cast(images, tf.float32)))

    with keras_settings():
        return forward.get_concrete_function()


def _without_variables(function: Any) -> Any:
    """Return a function with its variables as constants; it maps one tensor to a list of one tensor."""
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    graph = _graph_of_constants(function)
    if graph.library.function:  # importing a graph does not register the functions it calls (ConvNeXt)
        return convert_variables_to_constants_v2(function)
    return graph_function(graph, like=function)


def _graph_of_constants(function: Any) -> Any:
    """Return a function's graph with its variables as constants.

    This is the first half of `convert_variables_to_constants_v2`. The second half builds a function from the
    graph node by node, which takes seconds and seven times the memory of the weights. The halves are private
    functions; if a TensorFlow version does not have them, the public function is used.
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
    """Remove the nodes that the output does not depend on; other engines would treat them as outputs."""
    sources = {node.name: [name.lstrip("^").partition(":")[0] for name in node.input] for node in graph.node}
    needed: set[str] = set()
    pending = [output]
    while pending:
        name = pending.pop()
        if name not in needed:
            needed.add(name)
            pending += sources[name]
    for index in reversed(range(len(graph.node))):
        if graph.node[index].name not in needed:
            del graph.node[index]


HOST = "/CPU:0"
_NO_MEMORY = ("out of memory", "alloc_failed", "failed to allocate")  # in messages of TensorFlow and cuDNN
# Lines before the one with the reason, in a TensorFlow error message.
_PREAMBLE = re.compile(r'Graph execution error|Detected at node|File "|<stack traces|\d+ root error')


class OutOfMemoryError(EngineError):
    """A batch does not fit in the memory of a device."""


def place_on_device(function: Any, name: str) -> Any:
    """Return a copy of a function that runs completely on another device, constants included.

    Parameters
    ----------
    function : ConcreteFunction
        A `FrozenForward.function`.
    name : str
        TensorFlow's name of the device: "/GPU:1".

    Returns
    -------
    ConcreteFunction
        Maps a tensor on any device to a list of one tensor on that device.
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
        Without variables; it is modified.
    like : ConcreteFunction
        The function that the graph was created from. Its input and its output become those of the result.
    device : str, optional
        TensorFlow's name of the device for all operations.

    Returns
    -------
    ConcreteFunction
        Maps a uint8 tensor to a list of one tensor.
    """
    import tensorflow as tf

    source, result = like.inputs[0].name, like.outputs[0].name
    # The input node is replaced by the argument of the new function.
    del graph.node[[f"{node.name}:0" for node in graph.node].index(source)]

    @tf.function(input_signature=[tf.TensorSpec(like.inputs[0].shape, tf.uint8)], autograph=False)
    def forward(images: Any) -> Any:
        with tf.device(device):
            return tf.graph_util.import_graph_def(
                graph, input_map={source: images}, return_elements=[result], name=""
            )

    return forward.get_concrete_function()


def forward_function(function: Any, name: str, *, device: str) -> Forward:
    """Return a function that maps up to a full batch of images to features, both NumPy arrays.

    It may be called from several threads, and releases Python's lock while it transfers, computes or waits.

    Parameters
    ----------
    function : ConcreteFunction
        Maps uint8 (batch, size, size, 3) to a list of one float32 (batch, n_features).
    name : str
        TensorFlow's name of the device: "/GPU:1".
    device : str
        Name of the device for error messages: "gpu:1".

    Raises
    ------
    OutOfMemoryError
        On call, if the batch does not fit in the device's memory.
    EngineError
        On call, if the computation fails.
    """
    import tensorflow as tf

    shape = tuple(function.inputs[0].shape)

    def forward(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        batch = images
        if len(images) < shape[0]:
            batch = np.zeros(shape, dtype=np.uint8)
            batch[: len(images)] = images
        try:
            # Both transfers are operations because these wait without holding Python's lock.
            with tf.device(HOST):
                pixels = tf.constant(batch)
            with tf.device(name):
                (features,) = function(pixels)
            with tf.device(HOST):
                fetched = tf.identity(features)
        except tf.errors.OpError as error:
            raise _engine_error(error, shape, device=device) from error
        return fetched.numpy()[: len(images)].copy()

    return forward


def _engine_error(error: Exception, shape: tuple[int, ...], *, device: str) -> EngineError:
    """Return a TensorFlow error as one line that names the next step."""
    import tensorflow as tf

    n, size = shape[:2]
    text = str(error)
    exhausted = isinstance(error, tf.errors.ResourceExhaustedError)
    if exhausted or any(words in text.lower() for words in _NO_MEMORY):
        smaller = "a smaller --input-size" if device == "cpu" else "--device cpu"
        return OutOfMemoryError(
            f"{device} has not enough memory for a batch of {n} at {size} × {size} pixels. "
            f"Try {f'--batch-size {n // 2}' if n > 1 else smaller}"
        )
    lines = [line.strip() for line in text.splitlines()]
    reason = next((line for line in lines if line and not _PREAMBLE.match(line)), type(error).__name__)
    advice = "Try --engine openvino" if device == "cpu" else "See featurize selfcheck, or try --device cpu"
    return EngineError(
        f"{device}: TensorFlow could not compute a batch of {n} at {size} × {size} pixels: {reason[:200]}. "
        f"{advice}"
    )
