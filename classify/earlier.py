"""Hyper-parameters that an earlier run has chosen, or a bundle was fitted with."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from classify.bundles.manifest import MANIFEST, read_manifest
from classify.entries import JOINS
from classify.results import RESULTS, read_record
from featurize import CompareError


def earlier_params(
    path: str | os.PathLike[str], head: str, *, store: str
) -> tuple[dict[str, Any], str | None]:
    """Return the hyper-parameters and the class weight that a head was fitted with.

    Parameters
    ----------
    path : path-like
        A run, or a bundle.
    head : str
        Which head of it.
    store : str
        Of a run on several stores, the one to look at; another where the head was compared on one only.

    Raises
    ------
    CompareError
        If there is no such run or bundle, or it does not say which hyper-parameters the head had.
    BundleError
        If the bundle is damaged.
    """
    folder = Path(path)
    if (folder / MANIFEST).is_file():
        manifest = read_manifest(folder)
        if manifest["head"] != head:
            raise CompareError(
                f"{folder}: the bundle of a {manifest['head']!r}, not of a {head!r}. Name a run or a bundle "
                "of that head with --like"
            )
        params, weight = manifest.get("params"), None
        what = f"{folder / MANIFEST}: 'params'"
    elif (folder / RESULTS).is_file():
        record = read_record(folder)
        params, weight = _of_run(record, head, folder=folder, store=store), record.get("class_weight")
        what = f"{folder / RESULTS}: 'bundle_params' of {head}"
    else:
        raise CompareError(
            f"{folder}: neither a run ({RESULTS}) nor a bundle ({MANIFEST}). Make a run with: "
            "classify compare STORE"
        )
    if not isinstance(params, dict):
        raise CompareError(f"{what} is not an object. Make it anew, or give each with --param")
    weight = params.get("class_weight") or weight
    return {key: value for key, value in params.items() if key != "class_weight"}, weight


def earlier_join(path: str | os.PathLike[str] | None) -> str:
    """Return what an earlier run or bundle averaged over the images of an entry; without one the default."""
    if path is None:
        return JOINS[0]
    folder = Path(path)
    known = read_manifest(folder) if (folder / MANIFEST).is_file() else read_record(folder)
    return str(known.get("join") or JOINS[0])


def _of_run(record: Mapping[str, Any], head: str, *, folder: Path, store: str) -> Any:
    results = record.get("results")
    known = [result for result in results if isinstance(result, dict)] if isinstance(results, list) else []
    mine = [result for result in known if result.get("head") == head]
    if not mine:
        heads = ", ".join(dict.fromkeys(str(result.get("head")) for result in known)) or "none"
        raise CompareError(f"{folder}: this run has no {head!r}: its heads are {heads}. Choose one of them")
    fitted = [result for result in mine if result.get("bundle_params") is not None]
    if not fitted:
        raise CompareError(f"{folder}: {head!r} {mine[0].get('status')}. Give each value with --param")
    same = [result for result in fitted if result.get("store") == store] or fitted
    if len(same) > 1:
        stores = ", ".join(str(result.get("store")) for result in same)
        raise CompareError(
            f"{folder}: {head!r} was compared on {stores}, but not on {store}. Name one of its bundles: "
            f"--like {folder / str(same[0].get('bundle'))}"
        )
    return same[0]["bundle_params"]
