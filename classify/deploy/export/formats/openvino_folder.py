"""OpenVINO's own format: two files in a folder, in float32."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from classify.deploy.export.formats import FILE, KEY, to_text
from classify.deploy.export.formats.saved_model import SERVING, save, serving
from classify.errors import ExportError
from featurize.engines.openvino import import_openvino

if TYPE_CHECKING:
    from classify.deploy.export.formats import Run

RUNTIME = "openvino"
# Left to itself OpenVINO rounds to bfloat16 or float16 where the processor has it.
EXACT = {"INFERENCE_PRECISION_HINT": "f32"}


def require() -> None:
    """Raise unless OpenVINO is to be had here."""
    import_openvino()


def write(network: Any, place: Path, description: Mapping[str, Any]) -> None:
    """Write a network to a folder, made where it is missing; arguments as `keras_file.write`.

    Under "folio" the model's ``rt_info`` has "classes", a JSON list in label order, and the "description".
    """
    openvino = import_openvino()
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="folio-", ignore_cleanup_errors=True) as folder:
        save(network, Path(folder), {SERVING: serving(network)})
        try:
            model = openvino.Core().read_model(folder)
            model.set_rt_info(json.dumps(description["classes"]), [KEY, "classes"])
            model.set_rt_info(to_text(description), [KEY, "description"])
            openvino.serialize(model, place / "model.xml", place / "model.bin")
        except RuntimeError as error:
            reason = [line.strip() for line in str(error).splitlines() if line.strip()][-1]
            raise ExportError(
                f"--format openvino: OpenVINO cannot convert this network ({reason[:200]}). "
                "Choose another --format"
            ) from None
    (place / FILE).write_text(to_text(description) + "\n", encoding="utf-8")


def load(place: Path) -> Run:
    """Return what runs the folder in OpenVINO, in float32 on the CPU."""
    compiled = import_openvino().Core().compile_model(place / "model.xml", "CPU", EXACT)

    def run(pixels: Mapping[str, npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
        return np.array(compiled(dict(pixels))["probabilities"])

    return run
