"""The formats of an export, as data; one module each writes it and runs it. Importing this is cheap."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType

from featurize import ExportError


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
