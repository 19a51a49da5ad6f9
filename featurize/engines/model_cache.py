"""Converted networks kept on disk, so that a second start need not convert: files named by a digest.

A file is a line of JSON (what the network gives, the lengths of the parts, the SHA-256 of it all), the
network's structure, its numbers. One that is broken in any way is as good as none, and a cache that cannot be
written only means slower starts.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import featurize

LIMIT = 4 << 30  # bytes of all files together
_ENDING = ".model"
_ABANDONED = 3600.0  # seconds after which an unfinished file belongs to nobody
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
    path = folder / f"{key}{_ENDING}"
    try:
        with path.open("rb") as file:
            head = file.readline(1 << 16)
            facts = json.loads(head)
            lengths = (facts["structure"], facts["numbers"])
            if len(head) + sum(lengths) != os.fstat(file.fileno()).st_size:
                return None
            structure, numbers = (file.read(length) for length in lengths)
        if facts["sha256"] != _digest(facts["about"], structure, numbers):
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    with contextlib.suppress(OSError):
        os.utime(path)  # used now: what was used longest ago is removed first
    return StoredModel(about=facts["about"], structure=structure, numbers=numbers)


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
    body = (model.structure, model.numbers)
    facts: dict[str, Any] = {
        "sha256": _digest(model.about, *body),
        "structure": len(model.structure),
        "numbers": len(model.numbers),
        "about": model.about,
    }
    head = json.dumps(facts).encode() + b"\n"
    size = len(head) + facts["structure"] + facts["numbers"]
    if size > limit:
        return False
    unfinished = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _make_room(folder, limit - size)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".unfinished-", delete=False) as file:
            unfinished = Path(file.name)
            file.writelines((head, *body))
        os.replace(unfinished, folder / f"{key}{_ENDING}")
    except OSError:
        if unfinished is not None:
            with contextlib.suppress(OSError):
                unfinished.unlink()
        return False
    return True


def _digest(about: dict[str, Any], *parts: bytes) -> str:
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _make_room(folder: Path, limit: int) -> None:
    """Remove the files used longest ago until those left fit the limit, and what a killed run left behind."""
    kept: list[tuple[float, int, Path]] = []
    for path, status in _statuses(folder):
        if path.name.startswith(".unfinished-") and time.time() - status.st_mtime > _ABANDONED:
            _remove(path)
        elif path.suffix == _ENDING:
            kept.append((status.st_mtime, status.st_size, path))
    total = sum(size for _, size, _ in kept)
    for _, size, path in sorted(kept):
        if total <= limit:
            break
        _remove(path)
        total -= size


def _statuses(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for path in folder.iterdir():
        with contextlib.suppress(OSError):  # another process may have removed it
            yield path, path.stat()


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # gone already, or in use on Windows
        path.unlink()


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
