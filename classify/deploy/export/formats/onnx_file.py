"""ONNX format: one file with the description in its metadata."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from classify.deploy.export.formats import KEY, to_text
from classify.deploy.export.formats.saved_model import serving
from classify.errors import ExportError

if TYPE_CHECKING:
    from classify.deploy.export.formats import Run

RUNTIME = "onnxruntime"
OPSET = 18  # released in 2022; the newest that tf2onnx writes
MAX_BYTES = 2**31 - 2**20  # limit of a protobuf message, less 1 MiB for the graph itself


def require() -> None:
    """Raise if the packages that write ONNX are not installed."""
    missing = [name for name in ("tf2onnx", "onnx") if find_spec(name) is None]
    if missing:
        raise ExportError(
            f"--format onnx: {' and '.join(missing)} cannot be imported here. "
            'Install the packages with: pip install ".[onnx]"'
        )


def write(network: Any, path: Path, description: Mapping[str, Any]) -> None:
    """Write a network to a file; parameters as in `keras_file.write`.

    The metadata has "classes", a JSON list in label order, and the whole description under "folio".

    Raises
    ------
    ExportError
        If the network is too large for an ONNX file, or has an operation that ONNX does not support.
    """
    import onnx

    size = sum(np.dtype(each.dtype).itemsize * int(np.prod(each.shape)) for each in network.variables)
    if size > MAX_BYTES:
        raise ExportError(
            f"--format onnx: {size / 1e9:.1f} GB of weights, but an ONNX file holds at most 2.1 GB. "
            "Choose another --format"
        )
    with _without_logging():
        model = _to_onnx(network)
    onnx.helper.set_model_props(
        model, {"classes": json.dumps(description["classes"]), KEY: to_text(description)}
    )
    _check(model, names=[tensor.name for tensor in network.inputs])
    path.write_bytes(model.SerializeToString())


def load(path: Path) -> Run:
    """Load the file in ONNX Runtime, on the CPU, and return a function that runs it."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(pixels: Mapping[str, npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
        return session.run(["probabilities"], dict(pixels))[0]

    return run


def _to_onnx(network: Any) -> Any:
    """Return a network as an ONNX model.

    The graph is frozen first: tf2onnx's conversion of functions would turn every tensor that a function has
    captured, such as the means of preprocessing and normalization layers, into an input of the model.
    """
    import tf2onnx
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    frozen = convert_variables_to_constants_v2(_traced(network), lower_control_flow=False)
    input_names = {f"{tensor.name}:0": tensor.name for tensor in network.inputs}
    (output,) = (tensor.name for tensor in frozen.outputs)
    model, _ = tf2onnx.convert.from_graph_def(
        frozen.graph.as_graph_def(),
        input_names=list(input_names),
        output_names=[output],
        opset=OPSET,
        custom_op_handlers={"Erfc": (_replace_erfc, [])},
        tensors_to_rename={**input_names, output: "probabilities"},
    )
    return model


def _traced(network: Any) -> Any:
    """Return a network as one graph without function calls.

    Keras compiles grouped convolutions, such as ConvNeXt's, with XLA. tf2onnx does not inline those function
    calls, so functions run eagerly while the graph is traced.
    """
    import tensorflow as tf

    predict = serving(network)
    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        return tf.compat.v1.wrap_function(predict.python_function, list(predict.input_signature))
    finally:
        tf.config.run_functions_eagerly(before)


def _replace_erfc(graph: Any, node: Any, name: str, _: Any) -> None:
    """Replace TensorFlow's Erfc, part of Keras' GELU, by 1 - Erf: ONNX has no Erfc."""
    import tf2onnx

    shape, kind = graph.get_shape(node.output[0]), graph.get_dtype(node.output[0])
    dtype = tf2onnx.utils.map_onnx_to_numpy_type(kind)
    erf = graph.make_node("Erf", [node.input[0]], shapes=[shape], dtypes=[kind])
    one = graph.make_const(tf2onnx.utils.make_name("one"), np.array(1, dtype))
    graph.remove_node(node.name)
    operands = [one.output[0], erf.output[0]]
    graph.make_node("Sub", operands, name=name, outputs=node.output, shapes=[shape], dtypes=[kind])


def _check(model: Any, *, names: list[str]) -> None:
    """Raise if tf2onnx has left an unsupported operation or another input; it only logs a warning."""
    import onnx

    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise ExportError(
            f"--format onnx: this network cannot be converted ({str(error).splitlines()[0][:200]}). "
            "Choose another --format"
        ) from None
    found = [tensor.name for tensor in model.graph.input]
    if sorted(found) != sorted(names):
        raise ExportError(
            f"--format onnx: the model has the inputs {', '.join(found)[:200]}; expected {', '.join(names)}. "
            "Choose another --format"
        )


@contextmanager
def _without_logging() -> Iterator[None]:
    """Suppress the log messages of tf2onnx about its graph rewriting."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)
