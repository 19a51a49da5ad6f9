"""The user's cache: its folders, and files in them that are read completely or not at all.

A cache file is one line of JSON (metadata, the length of each part, a SHA-256 of everything) followed by the
bytes of the parts. It is written atomically, also while other processes write; a damaged file counts as
missing; and if the folder cannot be written, nothing is cached and no error is raised.
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

CACHE = "FOLIO_CACHE"  # environment variable: a folder to use instead of the system's cache folder
_UNFINISHED = ".unfinished-"
_ABANDONED = 3600.0  # seconds after which an unfinished file is removed


@dataclass(frozen=True, kw_only=True, eq=False)
class CacheEntry:
    """A cached value that can be computed again if it is lost."""

    about: Mapping[str, Any]  # JSON-serialisable metadata
    parts: Mapping[str, bytes] = field(default_factory=dict)


def cache_folder(kind: str) -> Path:
    """Return the folder for one kind of cached files; it may not exist yet.

    Parameters
    ----------
    kind : str
        Name of the folder: "models", "tuning" or "thumbnails".

    Returns
    -------
    Path
        A subfolder of the environment variable FOLIO_CACHE if it is set, else of the user's cache folder:
        ``~/.cache/folio`` on Linux, ``~/Library/Caches/folio`` on macOS.
    """
    base = os.environ.get(CACHE)
    if base:
        return Path(base).expanduser() / kind
    import platformdirs

    return Path(platformdirs.user_cache_dir("folio", appauthor=False)) / kind


def read_cache_entry(path: Path) -> CacheEntry | None:
    """Return the entry in this file, or None if it is missing or damaged."""
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
        os.utime(path)  # mark as recently used: `trim_cache` removes the least recently used files
    return CacheEntry(about=about, parts=parts)


def write_cache_entry(path: Path, entry: CacheEntry, *, limit: int | None = None) -> bool:
    """Write an entry, replacing an earlier one in this file; return whether it was written.

    Parameters
    ----------
    path : Path
        The file; its folder is created if needed.
    entry : CacheEntry
        What to write.
    limit : int, optional
        Largest total size, in bytes, of the files in this folder with the same suffix. Other files are
        removed first, as `trim_cache` does.
    """
    unfinished = None
    try:
        facts = {
            "sha256": _digest(path.name, entry.about, entry.parts),
            "parts": {name: len(data) for name, data in entry.parts.items()},
            "about": entry.about,
        }
        blocks = (json.dumps(facts, allow_nan=False).encode("ascii") + b"\n", *entry.parts.values())
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
    except (OSError, ValueError):  # ValueError: a number that is not finite
        if unfinished is not None:
            _remove(unfinished)
        return False
    return True


def trim_cache(folder: Path, *, ending: str, limit: int) -> None:
    """Remove the least recently used files until the rest fits, and unfinished files of killed processes.

    Parameters
    ----------
    folder : Path
        May be missing.
    ending : str
        Suffix of the files to count and remove, with its dot.
    limit : int
        Largest total size in bytes.
    """
    files: list[tuple[float, int, Path]] = []
    for path, status in _statuses(folder):
        if path.name.startswith(_UNFINISHED) and time.time() - status.st_mtime > _ABANDONED:
            _remove(path)
        elif path.suffix == ending:
            files.append((status.st_mtime, status.st_size, path))
    total = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
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
    with contextlib.suppress(OSError):  # removed already, or in use on Windows
        path.unlink()
