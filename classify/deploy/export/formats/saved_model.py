"""TensorFlow SavedModel format: one signature for predictions, one with the description."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from classify.deploy.export.formats import FILE, to_text

if TYPE_CHECKING:
    from classify.deploy.export.formats import Run

RUNTIME = "tensorflow"
SERVING = "serving_default"


def require() -> None:
    """Raise if this format cannot be written here; it always can."""


def write(network: Any, path: Path, description: Mapping[str, Any]) -> None:
    """Write a network to a new or existing folder; parameters as in `keras_file.write`.

    Signature "serving_default" takes the inputs by name and returns "probabilities". Signature "about" takes
    no input and returns "classes", strings in label order, and "description", JSON.
    """
    import tensorflow as tf

    @tf.function(input_signature=[], autograph=False)
    def about() -> dict[str, Any]:
        return {
            "classes": tf.constant(list(description["classes"])),
            "description": tf.constant(to_text(description)),
        }

    save(network, path, {SERVING: serving(network), "about": about})
    (path / FILE).write_text(to_text(description) + "\n", encoding="utf-8")


def save(network: Any, path: Path, signatures: Mapping[str, Any]) -> None:
    """Write a SavedModel with these signatures.

    Raises
    ------
    OSError
        If TensorFlow cannot write the files, such as on a full disk.
    """
    import tensorflow as tf

    path.mkdir(parents=True, exist_ok=True)
    module = tf.Module()
    module.tracked_variables = [variable.value for variable in network.variables]
    try:
        tf.saved_model.save(module, str(path), signatures=dict(signatures))
    except tf.errors.OpError as error:
        raise OSError((error.message.splitlines() or ["TensorFlow cannot write it"])[0][:200]) from error


def serving(network: Any) -> Any:
    """Return a network as a TensorFlow function of its inputs, in their order, for any batch size."""
    import tensorflow as tf

    signature = [tf.TensorSpec(tensor.shape, tensor.dtype, name=tensor.name) for tensor in network.inputs]

    @tf.function(input_signature=signature, autograph=False)
    def predict(*pixels: Any) -> dict[str, Any]:
        return {"probabilities": network(list(pixels), training=False)}

    return predict


def load(path: Path) -> Run:
    """Load the folder in TensorFlow and return a function that runs it."""
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))
    predict = loaded.signatures[SERVING]

    def run(pixels: Mapping[str, npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
        assert loaded is not None  # keeps a reference: its variables are deleted with it
        inputs = {name: tf.constant(images) for name, images in pixels.items()}
        return predict(**inputs)["probabilities"].numpy()

    return run
