"""The backbone's weights in a bundle, where nobody could download them again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from classify.bundles.head_file import file_digest
from featurize import printable

WEIGHTS = "weights.h5"  # files are told apart by content


def carry_weights(
    folder: Path, *, store: str, config: Mapping[str, Any], created_with: Mapping[str, Any]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Keep the backbone's weights for the bundles of a store, unless they are the published ones.

    Parameters
    ----------
    folder : Path
        Where to keep them, once a store.
    store : str
        The store's name.
    config, created_with : mapping
        Of the store.

    Returns
    -------
    weights : dict
        For `classify.bundles.writing.save_bundle`.
    notes : tuple of str
        What could not be carried, and what it means.
    """
    from featurize import FolioError, find_weights, get_backbone, save_weights

    wanted = dict(config["weights"])
    if wanted["kind"] == "imagenet":
        return wanted, ()
    source = "random" if wanted["kind"] == "random" else created_with.get("weights_path")
    try:
        backbone = get_backbone(config["backbone"])
        if source is None:
            raise FolioError("the store does not say which file they came from")
        found = find_weights(backbone, source, seed=wanted.get("seed") or 0)
        if found.sha256 != wanted["sha256"]:
            raise FolioError(f"{source} holds other weights now than the features were made with")
        folder.mkdir(parents=True, exist_ok=True)
        kept = save_weights(backbone, found, folder / f"{store}.{WEIGHTS}")
    except (FolioError, OSError) as error:
        note = (
            f"{store}: the backbone's weights could not be put into its bundles ({printable(str(error))}); "
            "they grade stored features, not images"
        )
        return {**wanted, "missing": printable(str(error))}, (note,)
    return {**wanted, "path": kept, "file_sha256": file_digest(kept)}, ()


def place_weights(folder: Path, weights: Mapping[str, Any], *, name: str = WEIGHTS) -> dict[str, Any]:
    """Put carried weights into a bundle's folder; return what its manifest says of them."""
    carried = dict(weights)
    source = carried.pop("path", None)
    if source is not None:
        link_or_copy(Path(source), folder / name)
        carried["file"] = name
    return carried


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name, or a copy where the file system has no such names."""
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)
