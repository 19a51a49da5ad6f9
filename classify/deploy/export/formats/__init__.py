"""Formats of an export, as data. One module per format writes and runs it and is imported on use."""

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

    # Images by input name, (n, size, size, 3), to probabilities, (n, n_classes).
    Run = Callable[[Mapping[str, npt.NDArray[np.uint8]]], npt.NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True)
class Format:
    """File or folder format of another runtime."""

    name: str  # on the command line
    title: str
    suffix: str  # of the file or folder name
    module: str  # in this package, with `write`, `load`, `RUNTIME` and `require`
    parts: tuple[str, ...] = ()  # names in its folder; empty for a single file
    print_classes: str  # Python code that prints the class names of the export at PATH


FORMATS: Mapping[str, Format] = {
    export_format.name: export_format
    for export_format in (
        Format(
            name="keras",
            title="Keras",
            suffix=".keras",
            module="keras_file",
            print_classes="import json, zipfile; "
            'print(json.loads(zipfile.ZipFile(PATH).read("folio.json"))["classes"])',
        ),
        Format(
            name="saved_model",
            title="TensorFlow SavedModel",
            suffix=".saved_model",
            module="saved_model",
            parts=("folio.json", "saved_model.pb", "fingerprint.pb", "variables", "assets"),
            print_classes="import tensorflow as tf; "
            'print(tf.saved_model.load(PATH).signatures["about"]()["classes"].numpy())',
        ),
        Format(
            name="onnx",
            title="ONNX",
            suffix=".onnx",
            module="onnx_file",
            print_classes="import onnxruntime; "
            'print(onnxruntime.InferenceSession(PATH).get_modelmeta().custom_metadata_map["classes"])',
        ),
        Format(
            name="openvino",
            title="OpenVINO",
            suffix=".openvino",
            module="openvino_folder",
            parts=("folio.json", "model.xml", "model.bin"),
            print_classes="import openvino; "
            'print(openvino.Core().read_model(PATH + "/model.xml").get_rt_info(["folio", "classes"]).value)',
        ),
    )
}


FOLDER_PARTS = tuple(dict.fromkeys(part for each in FORMATS.values() for part in each.parts))


def format_module(export_format: Format) -> ModuleType:
    """Return the module that writes and runs a format."""
    return importlib.import_module(f"{__package__}.{export_format.module}")


def get_format(name: str) -> Format:
    """Return a format by name.

    Raises
    ------
    ExportError
        If the name is unknown; the message lists the known ones.
    """
    if name not in FORMATS:
        raise ExportError(f"--format {name}: unknown. Choose one of: {', '.join(FORMATS)}")
    return FORMATS[name]


FORMAT = "folio-export"
FORMAT_VERSION = 1
FILE = "folio.json"  # description in a folder or archive
KEY = "folio"  # metadata key of the description in a single file


@dataclass(frozen=True, kw_only=True)
class PixelInput:
    """An input of the network: upright RGB images, uint8, (n, size, size, 3)."""

    name: str
    size: int  # pixels
    resize: str
    resample: str


def pixel_inputs(bundle: Bundle) -> dict[str, PixelInput]:
    """Return the input of each backbone by config digest.

    Backbones with the same image size, resize mode and filter share one input. A single input is named
    "pixels". The names of several inputs, as in an ensemble of backbones of different sizes, contain the
    size, resize mode and filter.
    """
    from classify.deploy.features import bundle_parts

    configs = {digest: part.config for digest, part in bundle_parts(bundle).items()}
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
    """Return the description of a bundle's export as a JSON object."""
    from classify.deploy.features import bundle_parts
    from classify.io.bundle_writer import packages

    members = bundle.members or (bundle,)
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "classes": list(bundle.classes),  # in the order of the output's columns
        "ordered": bool(bundle.manifest.get("ordered", False)),
        "inputs": [asdict(pixel_input) for pixel_input in dict.fromkeys(pixel_inputs(bundle).values())],
        "head": bundle.manifest["head"],
        "heads": [member.manifest["head"] for member in members],
        "join": bundle.join,  # averaged over an entry's images; "" if entries have one image
        "dataset": bundle.manifest.get("dataset", ""),
        "backbones": [
            {
                "name": part.config["backbone"],
                "weights_sha256": part.config["weights"].get("sha256"),
                "precision": part.config["precision"],  # of the features for fitting
            }
            for part in bundle_parts(bundle).values()
        ],
        "created_with": packages(),
    }


def to_text(description: Mapping[str, Any]) -> str:
    """Return a description as JSON text."""
    return json.dumps(dict(description), indent=2, ensure_ascii=False)
