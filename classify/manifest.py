"""``manifest.json`` of a bundle: written with a seal, and believed only when every field is sound."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from classify.heads import get_head
from classify.results import plain_json
from featurize import BundleError, CompareError, config_digest

FORMAT = "folio-bundle"
FORMAT_VERSION = 1
MANIFEST = "manifest.json"
SEAL = "manifest_sha256"  # over the canonical JSON of all the rest


def write_manifest(folder: Path, fields: Mapping[str, Any]) -> None:
    """Write the manifest as plain JSON with its format, its version and its seal."""
    manifest = plain_json({"format": FORMAT, "format_version": FORMAT_VERSION, **fields})
    sealed = {**manifest, SEAL: config_digest(manifest)}
    text = json.dumps(sealed, indent=2, allow_nan=False, ensure_ascii=False)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of the bundle in ``folder``; one that names no columns means all of them.

    Raises
    ------
    BundleError
        If it is missing, damaged, altered, of another format, or a field is not what a bundle needs.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise BundleError(
            f"{folder}: no bundle there ({MANIFEST} is missing). Make one with: classify compare STORE"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{path}: cannot be read ({error}). Make the bundle anew.") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise BundleError(f"{path}: not the manifest of a bundle. Make one with: classify compare STORE")
    if manifest.get("format_version") != FORMAT_VERSION:
        raise BundleError(
            f"{path}: format version {manifest.get('format_version')}, but this Folio reads version "
            f"{FORMAT_VERSION}. Upgrade folio-grader."
        )
    seal = manifest.pop(SEAL, None)
    if seal != config_digest(manifest):
        raise BundleError(f"{path}: altered after it was written: {SEAL} does not fit. Make the bundle anew.")
    if problem := _check_manifest(manifest):
        raise BundleError(f"{path}: {problem}. Make the bundle anew.")
    return {"columns": [0, manifest["n_features"]], **manifest}


def _check_manifest(manifest: Mapping[str, Any]) -> str:
    """Return what is wrong with the fields that are used, "" when nothing is."""
    for where, part, checks in (
        ("", manifest, _FIELDS),
        ("config.", manifest.get("config"), _CONFIG),
        ("weights.", manifest.get("weights"), _WEIGHTS),
    ):
        for key, (sound, expected) in checks.items():
            optional = part is manifest.get("weights") and key != "kind"
            if not isinstance(part, dict) or (key not in part and not optional):
                return f"lacks {where + key!r}"
            if key in part and not sound(part[key]):
                return f"{where + key!r} is {repr(part[key])[:60]}; expected {expected}"
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
        return f"'columns' is {columns}; expected a part of the {n_features} features"
    if config_digest(manifest["config"]) != manifest["config_digest"]:
        return "'config_digest' does not fit 'config'"
    if manifest["weights"].get("file") and "file_sha256" not in manifest["weights"]:
        return "lacks 'weights.file_sha256'"
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


def _mapping(value: Any) -> bool:
    return isinstance(value, dict)


def _views(value: Any) -> bool:
    return isinstance(value, dict) and _whole(value.get("seed"))


def _source(value: Any) -> bool:
    return isinstance(value, dict) and _text(value.get("kind"))


Checks = Mapping[str, tuple[Callable[[Any], bool], str]]
_TEXT = (_text, "text")
_DIGEST = (_digest, "a SHA-256 in hex")
_FIELDS: Checks = {
    "head": _TEXT,
    "head_file": _TEXT,
    "head_sha256": _DIGEST,
    "labels": (_labels, "a list of whole numbers"),
    "config": (_mapping, "an object"),
    "config_digest": _DIGEST,
    "classes": (_classes, "a list of two or more different names"),
    "ordered": (lambda value: isinstance(value, bool), "true or false"),
    "n_features": (_positive, "a positive whole number"),
    "store": _TEXT,
    "weights": (_source, "an object with a 'kind'"),
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
