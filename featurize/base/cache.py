"""A user's caches: where they lie, and files there that come back whole or not at all.

What is kept is a line of JSON (what it is about, the length of each part, the SHA-256 of it all) and the
bytes of the parts. Such a file is put in place at once, whoever else writes; one that is broken in any way is
as good as none; and a folder that cannot be written only costs time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CACHE = "FOLIO_CACHE"  # environment: a folder that stands in for the system's own
_UNFINISHED = ".unfinished-"
_ABANDONED = 3600.0  # seconds after which an unfinished file belongs to nobody


@dataclass(frozen=True, kw_only=True, eq=False)
class CacheEntry:
    """What can be made again, and is only slower to have without."""

    about: Mapping[str, Any]  # JSON
    parts: Mapping[str, bytes] = field(default_factory=dict)


def cache_folder(kind: str) -> Path:
    """Return the folder of one kind of cache; it need not exist.

    Parameters
    ----------
    kind : str
        "models", "tuning" or "thumbnails": the folder's name.

    Returns
    -------
    Path
        In the folder that the environment variable FOLIO_CACHE names, else where the system keeps a user's
        caches: ``~/.cache/folio`` on Linux, ``~/Library/Caches/folio`` on macOS.
    """
    base = os.environ.get(CACHE)
    if base:
        return Path(base).expanduser() / kind
    import platformdirs

    return Path(platformdirs.user_cache_dir("folio", appauthor=False)) / kind


def read_cache_entry(path: Path) -> CacheEntry | None:
    """Return the entry of this name, or None where it is missing or damaged."""
    try:
        with path.open("rb") as file:
            head = file.readline()
            facts = json.loads(head)
            about, lengths = facts["about"], facts["parts"]
            if len(head) + sum(lengths.values()) != os.fstat(file.fileno()).st_size:
                return None
            parts = {name: file.read(length) for name, length in lengths.items()}
        if facts["sha256"] != _digest(path.name, about, parts):
            return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    with contextlib.suppress(OSError):
        os.utime(path)  # used now: what was used longest ago is removed first
    return CacheEntry(about=about, parts=parts)


def write_cache_entry(path: Path, kept: CacheEntry, *, limit: int | None = None) -> bool:
    """Keep something under this name, in place of what was there; say whether that worked out.

    Parameters
    ----------
    path : Path
        Its folder is made where it is missing.
    kept : CacheEntry
    limit : int, optional
        Bytes that all files of this ending may have together: first room is made, as by `trim_cache`.
    """
    unfinished = None
    try:
        facts = {
            "sha256": _digest(path.name, kept.about, kept.parts),
            "parts": {name: len(data) for name, data in kept.parts.items()},
            "about": kept.about,
        }
        blocks = (json.dumps(facts, allow_nan=False).encode("ascii") + b"\n", *kept.parts.values())
        if limit is not None:
            size = sum(map(len, blocks))
            if size > limit:
                return False
            trim_cache(path.parent, ending=path.suffix, limit=limit - size)
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=_UNFINISHED, delete=False) as file:
            unfinished = Path(file.name)
            file.writelines(blocks)
        os.replace(unfinished, path)
    except (OSError, ValueError):  # ValueError: a figure that is not finite
        if unfinished is not None:
            _remove(unfinished)
        return False
    return True


def trim_cache(folder: Path, *, ending: str, limit: int) -> None:
    """Remove what was used longest ago until the rest fits, and what a killed run left behind.

    Parameters
    ----------
    folder : Path
    ending : str
        Of the files that are meant.
    limit : int
        Bytes that they may have together.
    """
    there: list[tuple[float, int, Path]] = []
    for path, status in _statuses(folder):
        if path.name.startswith(_UNFINISHED) and time.time() - status.st_mtime > _ABANDONED:
            _remove(path)
        elif path.suffix == ending:
            there.append((status.st_mtime, status.st_size, path))
    total = sum(size for _, size, _ in there)
    for _, size, path in sorted(there):
        if total <= limit:
            break
        _remove(path)
        total -= size


def _digest(name: str, about: Mapping[str, Any], parts: Mapping[str, bytes]) -> str:
    lengths = {part: len(data) for part, data in parts.items()}
    digest = hashlib.sha256(json.dumps([name, about, lengths], allow_nan=False).encode("ascii"))
    for data in parts.values():
        digest.update(data)
    return digest.hexdigest()


def _statuses(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    try:
        paths = list(folder.iterdir())
    except OSError:
        return
    for path in paths:
        with contextlib.suppress(OSError):  # another process may have removed it
            yield path, path.stat()


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # gone already, or in use on Windows
        path.unlink()
