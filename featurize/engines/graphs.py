"""A frozen graph on one device: put there, run there, its errors in our words."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import numpy.typing as npt

from featurize.engines.lanes import Forward
from featurize.errors import EngineError

HOST = "/CPU:0"
_NO_MEMORY = ("out of memory", "alloc_failed", "failed to allocate")  # TensorFlow's and cuDNN's words for it
# Lines that come before the one that says what went wrong.
_FRAMING = re.compile(r'Graph execution error|Detected at node|File "|<stack traces|\d+ root error')


class OutOfMemoryError(EngineError):
    """A batch does not fit into a device's memory."""


def place(function: Any, name: str) -> Any:
    """Return the same function with all of it, constants included, on another device.

    Parameters
    ----------
    function : ConcreteFunction
        Without variables, of one tensor to one tensor; from `featurize.engines.frozen`.
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
    return function_of(graph, like=function, device=name)


def function_of(graph: Any, *, like: Any, device: str | None = None) -> Any:
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


def forward_on(function: Any, name: str, *, device: str) -> Forward:
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
