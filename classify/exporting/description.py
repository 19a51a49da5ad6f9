"""What an export says of itself: how a picture becomes its input, and which output is which class."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from classify.bundles.bundle import Bundle

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
    from classify.bundles.writing import packages

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
