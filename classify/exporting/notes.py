"""What the user of an export should know of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from classify.bundles.bundle import Bundle
    from classify.exporting.checking import Check
    from classify.exporting.formats import Format

_JOINS = {
    "probabilities": "for an entry, take the mean of its images' probabilities",
    "features": "classify predict takes the mean of an entry's features, which the mean of its images' "
    "probabilities only comes near",
}


def export_notes(bundle: Bundle, kind: Format, check: Check) -> tuple[str, ...]:
    """Return one line for each way in which an export is not simply `classify predict`."""
    found = []
    if bundle.join:
        found.append(
            "the head was fitted on entries of several images, and the export grades one image: "
            + _JOINS[bundle.join]
        )
    if made_in := _short_formats(bundle):
        note = (
            f"the head was fitted on features in {made_in}; the export computes in float32, as classify "
            "predict does where that is not to be had"
        )
        if check.from_as_fitted is not None:
            note += f"; here it grades in {made_in}, and differs by up to {check.from_as_fitted:.1g}"
        found.append(note)
    if kind.name == "openvino":
        found.append(
            'compile it with {"INFERENCE_PRECISION_HINT": "f32"}: left to itself, OpenVINO rounds to '
            "bfloat16 where the processor has it"
        )
    return tuple(found)


def _short_formats(bundle: Bundle) -> str:
    parts = [part for member in bundle.members or (bundle,) for part in member.parts]
    return " and ".join(sorted({part.config["precision"] for part in parts} - {"float32"}))
