"""Converted networks in the user's cache, so that a second start need not convert; named by a digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import featurize
from featurize.cache import Kept, keep, load_kept

LIMIT = 4 << 30  # bytes of all files together
_ENDING = ".model"
_PACKAGES = ("openvino", "tensorflow", "keras")  # who converts; each may change the outcome


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredModel:
    """A converted network as bytes."""

    about: dict[str, Any]  # JSON: what the engine wants to know of it
    structure: bytes
    numbers: bytes


def model_key(facts: Mapping[str, Any]) -> str:
    """Return the digest under which a network is kept.

    Parameters
    ----------
    facts : mapping
        JSON-able: all that the caller knows to change the network.

    Returns
    -------
    str
        64 hex digits, of these facts, of the versions of what converts, and of our own sources.
    """
    everything = {**facts, "versions": [_version(name) for name in _PACKAGES], "sources": _sources_digest()}
    return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()


def load_model(folder: Path, key: str) -> StoredModel | None:
    """Return a network that was kept, or None where there is none or its file is not what was written."""
    kept = load_kept(folder / f"{key}{_ENDING}")
    if kept is None or set(kept.parts) != {"structure", "numbers"}:
        return None
    return StoredModel(about=dict(kept.about), **kept.parts)


def keep_model(folder: Path, key: str, model: StoredModel, *, limit: int = LIMIT) -> bool:
    """Keep a network; say whether that worked out.

    Parameters
    ----------
    folder : Path
        Made where it is missing.
    key : str
        From `model_key`.
    model : StoredModel
        What to keep.
    limit : int
        Bytes that all files may have together; those used longest ago make room.
    """
    parts = {"structure": model.structure, "numbers": model.numbers}
    return keep(folder / f"{key}{_ENDING}", Kept(about=model.about, parts=parts), limit=limit)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # TensorFlow also comes under other names
        return ""


@cache
def _sources_digest() -> str:
    """Return the digest of all of our code that shapes a network."""
    root = Path(featurize.__file__).parent
    shaping = ("backbones.py", "engines/frozen.py", "engines/conversion.py")
    digest = hashlib.sha256(featurize.__version__.encode())
    for path in (*sorted((root / "nets").glob("*.py")), *(root / name for name in shaping)):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
