"""The formats of an export, as data; one module each writes it and runs it. Importing this is cheap."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

from classify.errors import ExportError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from classify.io.bundle import Bundle

    Run = Callable[[Mapping[str, npt.NDArray[np.uint8]]], npt.NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True)
class Format:
    """A file or folder that another runtime loads."""

    name: str  # on the command line
    title: str
    suffix: str  # of the file's or folder's name
    module: str  # in this package: `write`, `load`, `RUNTIME`, `require`
    parts: tuple[str, ...] = ()  # what lies in its folder; none: it is one file
    classes: str  # a line of Python that prints the class names that PLACE holds


FORMATS: Mapping[str, Format] = {
    one.name: one
    for one in (
        Format(
            name="keras",
            title="Keras",
            suffix=".keras",
            module="keras_file",
            classes="import json, zipfile; "
            'print(json.loads(zipfile.ZipFile(PLACE).read("folio.json"))["classes"])',
        ),
        Format(
            name="saved_model",
            title="TensorFlow SavedModel",
            suffix=".saved_model",
            module="saved_model",
            parts=("folio.json", "saved_model.pb", "fingerprint.pb", "variables", "assets"),
            classes="import tensorflow as tf; "
            'print(tf.saved_model.load(PLACE).signatures["about"]()["classes"].numpy())',
        ),
        Format(
            name="onnx",
            title="ONNX",
            suffix=".onnx",
            module="onnx_file",
            classes="import onnxruntime; "
            'print(onnxruntime.InferenceSession(PLACE).get_modelmeta().custom_metadata_map["classes"])',
        ),
        Format(
            name="openvino",
            title="OpenVINO",
            suffix=".openvino",
            module="openvino_folder",
            parts=("folio.json", "model.xml", "model.bin"),
            classes="import openvino; "
            'print(openvino.Core().read_model(PLACE + "/model.xml").get_rt_info(["folio", "classes"]).value)',
        ),
    )
}


FOLDER_PARTS = tuple(dict.fromkeys(part for one in FORMATS.values() for part in one.parts))


def format_module(one: Format) -> ModuleType:
    """Return the module that writes and runs a format."""
    return importlib.import_module(f"{__package__}.{one.module}")


def get_format(name: str) -> Format:
    """Return the format of that name.

    Raises
    ------
    ExportError
        If there is none; the message lists the known names.
    """
    if name not in FORMATS:
        raise ExportError(f"--format {name}: unknown. Choose one of: {', '.join(FORMATS)}")
    return FORMATS[name]


FORMAT = "folio-export"
FORMAT_VERSION = 1
FILE = "folio.json"  # in a folder or archive; elsewhere the text is under the key `KEY`
KEY = "folio"


@dataclass(frozen=True, kw_only=True)
class PixelInput:
    """One input: upright RGB squares, uint8, (n, size, size, 3)."""

    name: str
    size: int  # pixels
    resize: str
    resample: str


def pixel_inputs(bundle: Bundle) -> dict[str, PixelInput]:
    """Return the input of each backbone by its config's digest.

    Backbones that are given the same squares share one, "pixels"; of several, such as an ensemble of
    backbones of different sizes has, the name says which squares it takes.
    """
    configs = {
        part.config_digest: part.config for member in bundle.members or (bundle,) for part in member.parts
    }
    kinds = {
        digest: (config["input_size"], config["resize"], config["resample"])
        for digest, config in configs.items()
    }
    several = len(set(kinds.values())) > 1
    return {
        digest: PixelInput(
            name="_".join(map(str, ("pixels", *kind))) if several else "pixels",
            size=kind[0],
            resize=kind[1],
            resample=kind[2],
        )
        for digest, kind in kinds.items()
    }


def describe(bundle: Bundle) -> dict[str, Any]:
    """Return what an export of this bundle says of itself, for JSON."""
    from classify.io.bundle_writer import packages

    members = bundle.members or (bundle,)
    parts = {part.config_digest: part for member in members for part in member.parts}
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "classes": list(bundle.classes),  # in the order of the output's columns
        "ordered": bool(bundle.manifest.get("ordered", False)),
        "inputs": [asdict(one) for one in dict.fromkeys(pixel_inputs(bundle).values())],
        "head": bundle.manifest["head"],
        "heads": [member.manifest["head"] for member in members],
        "join": bundle.join,  # what was averaged over an entry's images; "" where entries had one image
        "dataset": bundle.manifest.get("dataset", ""),
        "backbones": [
            {
                "name": part.config["backbone"],
                "weights_sha256": part.config["weights"].get("sha256"),
                "precision": part.config["precision"],  # of the features that the head was fitted on
            }
            for part in parts.values()
        ],
        "created_with": packages(),
    }


def to_text(description: Mapping[str, Any]) -> str:
    """Return a description as JSON text."""
    return json.dumps(dict(description), indent=2, ensure_ascii=False)


# Squares by the name of the input, (n, size, size, 3), to probabilities, (n, n_classes).
