"""Keras format: one ``.keras`` file of standard layers that any Keras 3 loads in safe mode."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from classify.deploy.export.formats import FILE, to_text

if TYPE_CHECKING:
    from classify.deploy.export.formats import Run

RUNTIME = "keras"  # package that runs the export


def require() -> None:
    """Raise if this format cannot be written here; it always can."""


def write(network: Any, path: Path, description: Mapping[str, Any]) -> None:
    """Write a network to a file.

    Parameters
    ----------
    network : keras.Model
        Result of `classify.deploy.export.network.export_network`.
    path : Path
        File name ending in ``.keras``.
    description : mapping
        Stored in the archive as ``folio.json``, which Keras ignores.
    """
    with warnings.catch_warnings():
        # raised by Keras when it converts its variables to NumPy 2 arrays
        warnings.filterwarnings("ignore", message="__array__ implementation", category=DeprecationWarning)
        network.save(path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(FILE, to_text(description))


def load(path: Path) -> Run:
    """Load the file in Keras, in safe mode, and return a function that runs it."""
    import keras

    network = keras.models.load_model(path, compile=False, safe_mode=True)

    def run(pixels: Mapping[str, npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
        return network.predict_on_batch([pixels[tensor.name] for tensor in network.inputs])

    return run
