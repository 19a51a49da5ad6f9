"""``manifest.json`` of a bundle: written with a digest, and used only if every field is valid."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from classify.data import JOINS
from classify.errors import BundleError, CompareError
from classify.heads.registry import get_head
from classify.io.results import json_text, printable_json
from featurize.config import config_digest

FORMAT = "folio-bundle"  # a bundle with "parts" is of fused stores
ENSEMBLE_FORMAT = "folio-ensemble"  # its members are bundles in sub-folders
FORMAT_VERSION = 3  # of both; files of versions 1 and 2 contained class paths of Folio
MANIFEST = "manifest.json"
EXAMPLES = "examples.npz"  # example images, if the bundle includes them
WEIGHTS = "weights.h5"  # weights of the backbone, if the bundle includes them
SEAL = "manifest_sha256"  # digest of the canonical JSON of all other fields
Checks = Mapping[
    str, tuple[Callable[[Any], bool], str]
]  # key → (check of the value, expected value in words)


def write_manifest(folder: Path, fields: Mapping[str, Any]) -> None:
    """Write the manifest with its format, its version and the digest of its fields."""
    name = ENSEMBLE_FORMAT if "members" in fields else FORMAT
    manifest = printable_json({"format": name, "format_version": FORMAT_VERSION, **fields})
    sealed = {**manifest, SEAL: config_digest(manifest)}
    (folder / MANIFEST).write_text(json_text(sealed), encoding="utf-8")


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the checked manifest of the bundle in `folder`; "columns" are all columns by default.

    Raises
    ------
    BundleError
        If it is missing, damaged, altered or of another format, or if a field is not valid.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise BundleError(
            f"{folder}: not a bundle ({MANIFEST} is missing). Make one with: classify compare STORE"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{path}: cannot be read ({error}). {make_again(folder)}") from None
    if not isinstance(manifest, dict) or manifest.get("format") not in (FORMAT, ENSEMBLE_FORMAT):
        raise BundleError(f"{path}: not the manifest of a bundle. Make one with: classify compare STORE")
    _check_version(folder, manifest)
    seal = manifest.pop(SEAL, None)
    if seal != config_digest(manifest):
        raise BundleError(
            f"{path}: altered after it was written: {SEAL} does not match. {make_again(folder, manifest)}"
        )
    ensemble = manifest["format"] == ENSEMBLE_FORMAT
    if problem := _check_ensemble(manifest) if ensemble else _check_manifest(manifest):
        raise BundleError(f"{path}: {problem}. {make_again(folder, manifest)}")
    if ensemble:
        return manifest
    return {"columns": [0, manifest["n_features"]], **manifest}


def make_again(folder: Path, manifest: Mapping[str, Any] | None = None) -> str:
    """Return a sentence with the command that makes a bundle again.

    Parameters
    ----------
    folder : Path
        Folder of the bundle.
    manifest : mapping, optional
        Its manifest, which may be damaged.
    """
    from classify.io.provenance import remake_command

    return f"Make the bundle again with: {remake_command(folder, manifest or {})}"


def _check_version(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Raise BundleError unless the manifest has the version that this release reads."""
    version = manifest.get("format_version")
    if version == FORMAT_VERSION:
        return
    found = f"{folder / MANIFEST}: format version {version}, but this Folio reads version {FORMAT_VERSION}"
    if not isinstance(version, int) or not 0 < version < FORMAT_VERSION:
        raise BundleError(f"{found}. Upgrade folio-grader.")
    raise BundleError(f"{found}. {make_again(folder, manifest)}")


def _check_ensemble(manifest: Mapping[str, Any]) -> str:
    """Return the first problem of the fields of an ensemble; "" if they are valid."""
    for key, (is_valid, expected) in _ENSEMBLE.items():
        if key not in manifest:
            return f"lacks {key!r}"
        if not is_valid(manifest[key]):
            return f"{key!r} is {repr(manifest[key])[:60]}; expected {expected}"
    return ""


def _check_manifest(manifest: Mapping[str, Any]) -> str:
    """Return the first problem of the fields of a bundle; "" if they are valid."""
    fused = "parts" in manifest
    for where, part, checks in (("", manifest, _FIELDS), *_parts_to_check(manifest, fused=fused)):
        for key, (is_valid, expected) in checks.items():
            optional = (checks is _WEIGHTS and key != "kind") or (checks is _FIELDS and key in _OPTIONAL)
            if not isinstance(part, dict) or (key not in part and not optional):
                return f"lacks {where + key!r}"
            if key in part and not is_valid(part[key]):
                return f"{where + key!r} is {repr(part[key])[:60]}; expected {expected}"
    if problem := _check_digests(manifest, fused=fused):
        return problem
    try:
        head = get_head(manifest["head"])
    except CompareError as error:
        return str(error).rstrip(".")
    head_file = "head.keras" if head.tensorflow else "head.skops"
    if manifest["head_file"] != head_file:
        return f"'head_file' is {manifest['head_file'][:60]!r}; expected {head_file!r}"
    labels, n_classes = manifest["labels"], len(manifest["classes"])
    if sorted(set(labels)) != labels or labels[0] < 0 or labels[-1] >= n_classes:
        return f"'labels' is {labels}; expected ascending numbers from 0 to {n_classes - 1}"
    columns, n_features = manifest.get("columns", [0, 1]), manifest["n_features"]
    if not (isinstance(columns, list) and len(columns) == 2 and all(map(_whole, columns))):
        return f"'columns' is {repr(columns)[:60]}; expected the first column and the one after the last"
    if not 0 <= columns[0] < columns[1] <= n_features:
        return f"'columns' is {columns}; expected a range of the {n_features} features"
    return ""


def _parts_to_check(manifest: Mapping[str, Any], *, fused: bool) -> list[tuple[str, Any, Checks]]:
    """Return (key prefix, object, checks of its fields) for the backbone or backbones of a bundle."""
    if not fused:
        return [("", manifest, _PART), *_configs("", manifest)]
    parts = manifest.get("parts")
    found: list[tuple[str, Any, Checks]] = [
        ("", manifest, {"parts": (_parts, "a list of two or more objects")})
    ]
    for k, part in enumerate(parts if isinstance(parts, list) and _parts(parts) else []):
        found += [(f"parts[{k}].", part, {**_PART, **_OF_SEVERAL}), *_configs(f"parts[{k}].", part)]
    return found


def _configs(where: str, part: Mapping[str, Any]) -> list[tuple[str, Any, Checks]]:
    return [
        (f"{where}config.", part.get("config"), _CONFIG),
        (f"{where}weights.", part.get("weights"), _WEIGHTS),
    ]


def _check_digests(manifest: Mapping[str, Any], *, fused: bool) -> str:
    parts = manifest["parts"] if fused else [manifest]
    for k, part in enumerate(parts):
        where = f"parts[{k}]." if fused else ""
        if config_digest(part["config"]) != part["config_digest"]:
            return f"'{where}config_digest' does not match '{where}config'"
        if part["weights"].get("file") and "file_sha256" not in part["weights"]:
            return f"lacks '{where}weights.file_sha256'"
    if fused:
        if config_digest({"parts": [part["config_digest"] for part in parts]}) != manifest["config_digest"]:
            return "'config_digest' does not match 'parts'"
        widths = [part["level_ends"][-1] for part in parts]
        if sum(widths) != manifest["n_features"]:
            return f"'n_features' is {manifest['n_features']}; expected {sum(widths)}, the sum over all parts"
    return ""


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _digest(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _positive(value: Any) -> bool:
    return _whole(value) and value > 0


def _labels(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_whole, value))


def _classes(value: Any) -> bool:
    return isinstance(value, list) and all(map(_text, value)) and len(set(value)) == len(value) > 1


def _parts(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 1 and all(map(_mapping, value))


def _ends(value: Any) -> bool:
    """Return whether these are end columns of levels: ascending positive numbers."""
    if not isinstance(value, list) or not value or not all(map(_positive, value)):
        return False
    return sorted(set(value)) == value


def _folders(value: Any) -> bool:
    named = isinstance(value, list) and all(map(_text, value)) and len(set(value)) == len(value) > 1
    return named and all(Path(name).name == name for name in value)


def _examples(value: Any) -> bool:
    named = isinstance(value, dict) and value.get("file") == EXAMPLES
    if not named or not _digest(value.get("sha256")) or not _digest(value.get("config_digest")):
        return False
    columns = value.get("columns")
    return isinstance(columns, list) and len(columns) == 2 and all(map(_whole, columns))


def _above_zero(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def _mapping(value: Any) -> bool:
    return isinstance(value, dict)


def _views(value: Any) -> bool:
    return isinstance(value, dict) and _whole(value.get("seed"))


def _source(value: Any) -> bool:
    return isinstance(value, dict) and _text(value.get("kind"))


_TEXT = (_text, "text")
_DIGEST = (_digest, "a SHA-256 in hex")
_FIELDS: Checks = {
    "head": _TEXT,
    "head_file": _TEXT,
    "head_sha256": _DIGEST,
    "labels": (_labels, "a list of whole numbers"),
    "config_digest": _DIGEST,
    "classes": (_classes, "a list of two or more different names"),
    "ordered": (lambda value: isinstance(value, bool), "true or false"),
    "n_features": (_positive, "a positive whole number"),
    "store": _TEXT,
    "join": (lambda value: value in JOINS, " or ".join(JOINS)),
    "temperature": (_above_zero, "a number above 0"),
    "examples": (_examples, f"an object with the digest of {EXAMPLES}"),
}
_OPTIONAL = ("join", "temperature", "examples")
_ENSEMBLE: Checks = {
    "head": _TEXT,
    "store": _TEXT,
    "classes": _FIELDS["classes"],
    "members": (_folders, "a list of two or more different names of folders"),
}
_PART: Checks = {
    "config": (_mapping, "an object"),
    "weights": (_source, "an object with a 'kind'"),
}
_OF_SEVERAL: Checks = {
    "store": _TEXT,
    "config_digest": _DIGEST,
    "level_ends": (_ends, "ascending whole numbers"),
}
_CONFIG: Checks = {
    **dict.fromkeys(("backbone", "resize", "resample", "preprocess", "precision", "store_dtype"), _TEXT),
    "input_size": (_positive, "a positive whole number"),
    "weights": (_source, "an object with a 'kind'"),
    "views": (_views, "an object with a 'seed'"),
}
_WEIGHTS: Checks = {
    "kind": _TEXT,
    "file": (lambda value: value is None or _text(value), "a file name"),
    "file_sha256": _DIGEST,
    "missing": (lambda value: value is None or _text(value), "text"),
}
