"""The job behind `classify export`: a bundle as one network, written, run, and put in place if it agrees."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from classify.deploy.export.check import TOLERANCE, Check, compare_outputs, expected_grades, is_installed
from classify.deploy.export.formats import (
    FILE,
    FOLDER_PARTS,
    Format,
    PixelInput,
    describe,
    format_module,
    get_format,
    pixel_inputs,
)
from classify.deploy.predict import bundle_folder
from classify.errors import ExportError
from classify.io.folder import folder_name, new_folder, refuse_existing, require_place

if TYPE_CHECKING:
    from classify.io.bundle import Bundle


EXPORTS = Path("artifacts") / "exports"


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What `export` wrote."""

    path: Path
    format: Format
    n_bytes: int
    bundle: Path
    head: str
    store: str
    classes: tuple[str, ...]
    ordered: bool
    inputs: tuple[PixelInput, ...]
    check: Check
    notes: tuple[str, ...]


def export(
    bundle_or_run: str | os.PathLike[str],
    *,
    format: str,
    out: str | os.PathLike[str] | None = None,
    weights: str | os.PathLike[str] | None = None,
    check: Sequence[str | os.PathLike[str]] = (),
    overwrite: bool = False,
) -> Exported:
    """Write a fitted head and its backbone as one network that another runtime loads.

    Parameters
    ----------
    bundle_or_run : path-like
        A bundle, or a run folder, which means its recommended head.
    format : {"keras", "saved_model", "onnx", "openvino"}
    out : path-like, optional
        The file or folder; ``artifacts/exports/<dataset>/<store>__<head><suffix>`` by default.
    weights : path-like, optional
        The backbone's weights, where they did not come along with the bundle.
    check : sequence of path-like
        Images to compare grades on, and folders of them; by default some are drawn.
    overwrite : bool, default=False
        Whether an earlier export there may be replaced.

    Returns
    -------
    Exported
        From uint8 squares to float32 probabilities; see `classify.deploy.export.network.grading_network`.

    Raises
    ------
    ExportError
        If the head is too large, the format cannot be written here, or its grades are further than
        `check.TOLERANCE` from those of `classify.predict` in float32: then nothing is written.
    BundleError, WeightsError
        If the bundle cannot be used, or the weights of its backbone are missing.
    CompareError
        If the place is taken.
    """
    from classify.deploy.export.network import grading_network
    from classify.io.bundle import load_bundle
    from featurize.engines.device import use_device

    kind = get_format(format)
    module = format_module(kind)
    module.require()
    bundle = load_bundle(bundle_folder(bundle_or_run))
    place = Path(out) if out is not None else _default_place(bundle, kind)
    _refuse_taken(place, kind, overwrite=overwrite)
    use_device("cpu")
    network = grading_network(bundle, weights=weights)
    expected = expected_grades(bundle, check, weights=weights)
    with _new_place(place, kind) as temporary:
        module.write(network, temporary, describe(bundle))
        run = module.load(temporary) if is_installed(module.RUNTIME) else None
        compared = compare_outputs(run, expected, runtime=module.RUNTIME)
        _require_equal(compared, bundle, kind)
        n_bytes = _size(temporary)
    return Exported(
        path=place,
        format=kind,
        n_bytes=n_bytes,
        bundle=bundle.path,
        head=str(bundle.manifest["head"]),
        store=str(bundle.manifest.get("store", "")),
        classes=bundle.classes,
        ordered=bool(bundle.manifest.get("ordered", False)),
        inputs=tuple(dict.fromkeys(pixel_inputs(bundle).values())),
        check=compared,
        notes=(*expected.problems, *export_notes(bundle, kind, compared)),
    )


def _default_place(bundle: Bundle, kind: Format) -> Path:
    manifest = bundle.manifest
    dataset = folder_name(str(manifest.get("dataset") or "bundle"))
    name = folder_name(f"{manifest.get('store', 'store').replace(', ', '+')}__{manifest['head']}")
    return EXPORTS / dataset / f"{name}{kind.suffix}"


def _refuse_taken(place: Path, kind: Format, *, overwrite: bool) -> None:
    """Raise unless the export may be written there."""
    if kind.parts:
        refuse_existing(place, mark=FILE, what=f"{kind.title} export", overwrite=overwrite)
        return
    if place.suffix != kind.suffix:
        raise ExportError(
            f"--out {place}: expected a name that ends in {kind.suffix}, as {kind.title} files do"
        )
    try:
        if place.is_dir():
            raise ExportError(
                f"{place}: a folder, where the {kind.title} file should be. Choose another with --out FILE"
            )
        if place.exists() and not overwrite:
            raise ExportError(
                f"{place}: a file is there already. Replace it with --overwrite, or choose --out FILE"
            )
        require_place(place)
    except OSError as error:  # a name too long, a parent that may not be looked into
        raise ExportError(
            f"{place}: cannot be made ({error.strerror}). Choose another file with --out"
        ) from None


@contextmanager
def _new_place(place: Path, kind: Format) -> Iterator[Path]:
    """Yield a temporary file or folder beside the place, and put it there when all went well."""
    try:
        if kind.parts:
            with new_folder(place, mark=FILE, parts=FOLDER_PARTS) as folder:
                yield folder
            return
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{place.name[:100]}.", dir=place.parent) as name:
            temporary = Path(name) / f"export{kind.suffix}"
            yield temporary
            os.replace(temporary, place)
    except OSError as error:
        raise ExportError(
            f"{place}: cannot be written ({error.strerror or error}). Make room, or choose another --out"
        ) from None


def _require_equal(check: Check, bundle: Bundle, kind: Format) -> None:
    if check.difference is None or check.difference <= TOLERANCE:  # which no NaN is
        return
    hint = (
        "OpenVINO computes the head in float32; the other formats do in float64"
        if kind.name == "openvino"
        else "Please report it, with the bundle"
    )
    raise ExportError(
        f"{bundle.path}: not exported: in {check.runtime} its probabilities differ by up to "
        f"{check.difference:.1g} from those of classify predict on {check.n_images} images, more than "
        f"{TOLERANCE:g}. {hint}"
    )


def _size(place: Path) -> int:
    files = [place] if place.is_file() else [one for one in place.rglob("*") if one.is_file()]
    return sum(one.stat().st_size for one in files)


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
