"""One ONNX file, with what it says of itself in its metadata."""

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
OPSET = 18  # of 2022: the newest that tf2onnx writes
MOST_BYTES = 2**31 - 2**20  # of a protobuf message, with room for the graph itself


def require() -> None:
    """Raise unless the packages that write ONNX are here."""
    missing = [name for name in ("tf2onnx", "onnx") if find_spec(name) is None]
    if missing:
        raise ExportError(
            f"--format onnx: {' and '.join(missing)} cannot be imported here. "
            'Install what it needs with: pip install ".[onnx]"'
        )


def write(network: Any, place: Path, description: Mapping[str, Any]) -> None:
    """Write a network to a file; arguments as `keras_file.write`.

    The metadata has "classes", a JSON list in label order, and all of the description under "folio".

    Raises
    ------
    ExportError
        If it is larger than ONNX's format allows, or has an operation that ONNX lacks.
    """
    import onnx

    size = sum(np.dtype(one.dtype).itemsize * int(np.prod(one.shape)) for one in network.variables)
    if size > MOST_BYTES:
        raise ExportError(
            f"--format onnx: {size / 1e9:.1f} GB of weights, and one ONNX file holds 2.1 GB. "
            "Choose another --format"
        )
    with _quiet():
        made = _converted(network)
    onnx.helper.set_model_props(
        made, {"classes": json.dumps(description["classes"]), KEY: to_text(description)}
    )
    _check(made, names=[one.name for one in network.inputs])
    place.write_bytes(made.SerializeToString())


def load(place: Path) -> Run:
    """Return what runs the file in ONNX Runtime, on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(place), providers=["CPUExecutionProvider"])

    def run(pixels: Mapping[str, npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
        return session.run(["probabilities"], dict(pixels))[0]

    return run


def _converted(network: Any) -> Any:
    """Return a network as an ONNX model.

    tf2onnx's own way from functions takes every tensor that a function has caught for one of its inputs: the
    means of preprocessing and of normalising layers. In the frozen graph they are constants.
    """
    import tf2onnx
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    frozen = convert_variables_to_constants_v2(_traced(network), lower_control_flow=False)
    takes = {f"{one.name}:0": one.name for one in network.inputs}
    (output,) = (one.name for one in frozen.outputs)
    made, _ = tf2onnx.convert.from_graph_def(
        frozen.graph.as_graph_def(),
        input_names=list(takes),
        output_names=[output],
        opset=OPSET,
        custom_op_handlers={"Erfc": (_one_less_erf, [])},
        tensors_to_rename={**takes, output: "probabilities"},
    )
    return made


def _traced(network: Any) -> Any:
    """Return a network as one graph without calls of functions.

    Keras has XLA compile grouped convolutions, as ConvNeXt's are; such a call is never written out, unless
    functions run as the Python that they are.
    """
    import tensorflow as tf

    grade = serving(network)
    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        return tf.compat.v1.wrap_function(grade.python_function, list(grade.input_signature))
    finally:
        tf.config.run_functions_eagerly(before)


def _one_less_erf(graph: Any, node: Any, name: str, _: Any) -> None:
    """Put 1 - erf in the place of TensorFlow's erfc, of which Keras makes gelu and which ONNX lacks."""
    import tf2onnx

    shape, kind = graph.get_shape(node.output[0]), graph.get_dtype(node.output[0])
    dtype = tf2onnx.utils.map_onnx_to_numpy_type(kind)
    erf = graph.make_node("Erf", [node.input[0]], shapes=[shape], dtypes=[kind])
    one = graph.make_const(tf2onnx.utils.make_name("one"), np.array(1, dtype))
    graph.remove_node(node.name)
    operands = [one.output[0], erf.output[0]]
    graph.make_node("Sub", operands, name=name, outputs=node.output, shapes=[shape], dtypes=[kind])


def _check(model: Any, *, names: list[str]) -> None:
    """Raise where tf2onnx has left something that no runtime knows: it only logs that."""
    import onnx

    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise ExportError(
            f"--format onnx: this network has no ONNX form ({str(error).splitlines()[0][:200]}). "
            "Choose another --format"
        ) from None
    found = [one.name for one in model.graph.input]
    if sorted(found) != sorted(names):
        raise ExportError(
            f"--format onnx: the network would take {', '.join(found)[:200]}, not just {', '.join(names)}. "
            "Choose another --format"
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep tf2onnx's remarks on its own rewriting from the user."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)
