"""Export of a bundle as one network for another runtime.

The export is written to a temporary place and run in its own runtime; it is kept only if its probabilities
agree with those of `classify predict`.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from classify.deploy.export.check import (
    TOLERANCE,
    OutputCheck,
    compare_outputs,
    expected_outputs,
    is_installed,
)
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
from classify.deploy.features import bundle_parts
from classify.deploy.predict import bundle_folder
from classify.errors import ExportError
from classify.io.folder import check_can_create, folder_name, new_folder, refuse_existing
from featurize.base.files import as_paths

if TYPE_CHECKING:
    from classify.io.bundle import Bundle


EXPORTS = Path("artifacts") / "exports"


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """Result of `export`."""

    path: Path
    format: Format
    n_bytes: int
    bundle: Path
    head: str
    store: str
    classes: tuple[str, ...]
    ordered: bool
    inputs: tuple[PixelInput, ...]
    check: OutputCheck
    notes: tuple[str, ...]  # messages for the user


def export(
    bundle_or_run: str | os.PathLike[str],
    *,
    format: str,
    out: str | os.PathLike[str] | None = None,
    weights: str | os.PathLike[str] | None = None,
    check: str | os.PathLike[str] | Iterable[str | os.PathLike[str]] = (),
    overwrite: bool = False,
) -> ExportResult:
    """Write a fitted head with its backbone as one network for another runtime.

    Parameters
    ----------
    bundle_or_run : path-like
        A bundle, or a run folder: its recommended head.
    format : {"keras", "saved_model", "onnx", "openvino"}
    out : path-like, optional
        The file or folder; ``artifacts/exports/<dataset>/<store>__<head><suffix>`` by default.
    weights : path-like, optional
        The backbone's weights, if the bundle does not contain them.
    check : path-like or iterable of path-like
        Image files, and folders of images, to compare probabilities on; synthetic images by default.
    overwrite : bool, default=False
        Replace an earlier export.

    Returns
    -------
    ExportResult
        The network takes uint8 images and returns float32 probabilities; see
        `classify.deploy.export.network.export_network`.

    Raises
    ------
    ExportError
        If the head is too large, the format cannot be written here, or the probabilities differ by more than
        `check.TOLERANCE` from those of `classify.predict` in float32. Nothing is written then.
    BundleError, WeightsError
        If the bundle cannot be used, or the weights of its backbone are missing.
    CompareError
        If the output folder exists and cannot be replaced.
    """
    from classify.deploy.export.network import export_network
    from classify.io.bundle import load_bundle
    from featurize.engines.device import use_device

    target = get_format(format)
    module = format_module(target)
    module.require()
    bundle = load_bundle(bundle_folder(bundle_or_run))
    path = Path(out) if out is not None else _default_path(bundle, target)
    _require_free(path, target, overwrite=overwrite)
    use_device("cpu")
    network = export_network(bundle, weights=weights)
    expected = expected_outputs(bundle, as_paths(check), weights=weights)
    with _new_output(path, target) as temporary:
        module.write(network, temporary, describe(bundle))
        run = module.load(temporary) if is_installed(module.RUNTIME) else None
        result = compare_outputs(run, expected, runtime=module.RUNTIME)
        _require_equal(result, bundle, target)
        n_bytes = _size(temporary)
    return ExportResult(
        path=path,
        format=target,
        n_bytes=n_bytes,
        bundle=bundle.path,
        head=str(bundle.manifest["head"]),
        store=str(bundle.manifest.get("store", "")),
        classes=bundle.classes,
        ordered=bool(bundle.manifest.get("ordered", False)),
        inputs=tuple(dict.fromkeys(pixel_inputs(bundle).values())),
        check=result,
        notes=(*expected.problems, *export_notes(bundle, target, result)),
    )


def _default_path(bundle: Bundle, target: Format) -> Path:
    manifest = bundle.manifest
    dataset = folder_name(str(manifest.get("dataset") or "bundle"))
    name = folder_name(f"{manifest.get('store', 'store').replace(', ', '+')}__{manifest['head']}")
    return EXPORTS / dataset / f"{name}{target.suffix}"


def _require_free(path: Path, target: Format, *, overwrite: bool) -> None:
    """Raise unless the export may be written to this path."""
    if target.parts:
        refuse_existing(path, mark=FILE, what=f"{target.title} export", overwrite=overwrite)
        return
    if path.suffix != target.suffix:
        raise ExportError(f"--out {path}: expected a name ending in {target.suffix} for {target.title}")
    try:
        if path.is_dir():
            raise ExportError(
                f"{path}: a folder; expected a {target.title} file. Choose another with --out FILE"
            )
        if path.exists() and not overwrite:
            raise ExportError(f"{path}: exists already. Replace it with --overwrite, or choose --out FILE")
        check_can_create(path)
    except OSError as error:  # the name is too long, or a parent folder cannot be read
        raise ExportError(
            f"{path}: cannot be created ({error.strerror}). Choose another file with --out"
        ) from None


@contextmanager
def _new_output(path: Path, target: Format) -> Iterator[Path]:
    """Yield a temporary file or folder in the same folder; rename it to ``path`` if the body succeeds."""
    try:
        if target.parts:
            with new_folder(path, mark=FILE, parts=FOLDER_PARTS) as folder:
                yield folder
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name[:100]}.", dir=path.parent) as name:
            temporary = Path(name) / f"export{target.suffix}"
            yield temporary
            os.replace(temporary, path)
    except OSError as error:
        raise ExportError(
            f"{path}: cannot be written ({error.strerror or error}). Free disk space, or choose another --out"
        ) from None


def _require_equal(check: OutputCheck, bundle: Bundle, target: Format) -> None:
    if check.difference is None or check.difference <= TOLERANCE:  # False for NaN
        return
    hint = (
        "OpenVINO computes the head in float32, the other formats in float64"
        if target.name == "openvino"
        else "Please report it, with the bundle"
    )
    raise ExportError(
        f"{bundle.path}: not exported: in {check.runtime} its probabilities differ by up to "
        f"{check.difference:.1g} from those of classify predict on {check.n_images} images, more than "
        f"{TOLERANCE:g}. {hint}"
    )


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


_ENTRY_NOTES = {
    "probabilities": "for an entry, average the probabilities of its images",
    "features": "classify predict averages the features of an entry's images, which averaging their "
    "probabilities only approximates",
}


def export_notes(bundle: Bundle, target: Format, check: OutputCheck) -> tuple[str, ...]:
    """Return one note per difference between the export and `classify predict`."""
    notes = []
    if bundle.join:
        notes.append(
            "the head was fitted on entries of several images, and the export predicts one image: "
            + _ENTRY_NOTES[bundle.join]
        )
    if precisions := _reduced_precisions(bundle):
        note = (
            f"the head was fitted on features in {precisions}; the export computes in float32, as classify "
            "predict does on machines without that precision"
        )
        if check.difference_as_fitted is not None:
            note += (
                f"; on this machine classify predict computes in {precisions}, and its probabilities differ "
                f"by up to {check.difference_as_fitted:.1g}"
            )
        notes.append(note)
    if target.name == "openvino":
        notes.append(
            'compile it with {"INFERENCE_PRECISION_HINT": "f32"}: by default, OpenVINO computes in bfloat16 '
            "or float16 where the processor supports it"
        )
    return tuple(notes)


def _reduced_precisions(bundle: Bundle) -> str:
    parts = bundle_parts(bundle).values()
    return " and ".join(sorted({part.config["precision"] for part in parts} - {"float32"}))
