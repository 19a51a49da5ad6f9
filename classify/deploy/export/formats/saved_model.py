"""A TensorFlow SavedModel: a serving signature, and another that says what it is of."""

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
    """Raise unless this format can be written here; it always can."""


def write(network: Any, place: Path, description: Mapping[str, Any]) -> None:
    """Write a network to a folder, made where it is missing; arguments as `keras_file.write`.

    Signature "serving_default" takes the inputs by name and returns "probabilities"; "about" takes nothing
    and returns "classes", text in label order, and "description", JSON.
    """
    import tensorflow as tf

    @tf.function(input_signature=[], autograph=False)
    def about() -> dict[str, Any]:
        return {
            "classes": tf.constant(list(description["classes"])),
            "description": tf.constant(to_text(description)),
        }

    save(network, place, {SERVING: serving(network), "about": about})
    (place / FILE).write_text(to_text(description) + "\n", encoding="utf-8")


def save(network: Any, place: Path, signatures: Mapping[str, Any]) -> None:
    """Write functions of a network as a SavedModel.

    Raises
    ------
    OSError
        If there is no room for it, as other formats do.
    """
    import tensorflow as tf

    place.mkdir(parents=True, exist_ok=True)
    module = tf.Module()
    module.kept = [variable.value for variable in network.variables]
    try:
        tf.saved_model.save(module, str(place), signatures=dict(signatures))
    except tf.errors.OpError as error:
        raise OSError((error.message.splitlines() or ["TensorFlow cannot write it"])[0][:200]) from error


def serving(network: Any) -> Any:
    """Return a network as a function of its inputs, in their order, with a free batch dimension."""
    import tensorflow as tf

    takes = [tf.TensorSpec(one.shape, one.dtype, name=one.name) for one in network.inputs]

    @tf.function(input_signature=takes, autograph=False)
    def grade(*pixels: Any) -> dict[str, Any]:
        return {"probabilities": network(list(pixels), training=False)}

    return grade


def load(place: Path) -> Run:
    """Return what runs the folder in TensorFlow."""
    import tensorflow as tf

    loaded = tf.saved_model.load(str(place))
    grade = loaded.signatures[SERVING]

    def run(pixels: Mapping[str, npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
        assert loaded is not None  # its variables live as long as it does
        return grade(**{name: tf.constant(one) for name, one in pixels.items()})["probabilities"].numpy()

    return run
