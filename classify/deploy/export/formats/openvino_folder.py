"""OpenVINO format: a folder with ``model.xml`` and ``model.bin``, in float32."""

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
# By default OpenVINO computes in bfloat16 or float16 where the processor supports it.
EXACT = {"INFERENCE_PRECISION_HINT": "f32"}


def require() -> None:
    """Raise if OpenVINO cannot be imported here."""
    import_openvino()


def write(network: Any, path: Path, description: Mapping[str, Any]) -> None:
    """Write a network to a new or existing folder; parameters as in `keras_file.write`.

    The model's ``rt_info`` has, under "folio", the "classes", a JSON list in label order, and the
    "description", a JSON object.
    """
    openvino = import_openvino()
    path.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="folio-", ignore_cleanup_errors=True) as folder:
        save(network, Path(folder), {SERVING: serving(network)})
        try:
            model = openvino.Core().read_model(folder)
            model.set_rt_info(json.dumps(description["classes"]), [KEY, "classes"])
            model.set_rt_info(to_text(description), [KEY, "description"])
            openvino.serialize(model, path / "model.xml", path / "model.bin")
        except RuntimeError as error:
            reason = [line.strip() for line in str(error).splitlines() if line.strip()][-1]
            raise ExportError(
                f"--format openvino: OpenVINO cannot convert this network ({reason[:200]}). "
                "Choose another --format"
            ) from None
    (path / FILE).write_text(to_text(description) + "\n", encoding="utf-8")


def load(path: Path) -> Run:
    """Load the folder in OpenVINO, in float32 on the CPU, and return a function that runs it."""
    compiled = import_openvino().Core().compile_model(path / "model.xml", "CPU", EXACT)

    def run(pixels: Mapping[str, npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
        return np.array(compiled(dict(pixels))["probabilities"])

    return run
