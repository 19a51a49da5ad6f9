"""One ``.keras`` file of standard layers, which any Keras 3 loads in safe mode."""

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

RUNTIME = "keras"  # the package that runs it


def require() -> None:
    """Raise unless this format can be written here; it always can."""


def write(network: Any, place: Path, description: Mapping[str, Any]) -> None:
    """Write a network to a file.

    Parameters
    ----------
    network : keras.Model
        Of `classify.deploy.export.network.grading_network`.
    place : Path
        Ends in ``.keras``.
    description : mapping
        Kept in the archive as ``folio.json``, which Keras does not look at.
    """
    with warnings.catch_warnings():
        # Keras' own conversion of its variables to NumPy 2 arrays.
        warnings.filterwarnings("ignore", message="__array__ implementation", category=DeprecationWarning)
        network.save(place)
    with zipfile.ZipFile(place, "a") as archive:
        archive.writestr(FILE, to_text(description))


def load(place: Path) -> Run:
    """Return what runs the file in Keras, loaded in safe mode."""
    import keras

    network = keras.models.load_model(place, compile=False, safe_mode=True)

    def run(pixels: Mapping[str, npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
        return network.predict_on_batch([pixels[one.name] for one in network.inputs])

    return run
