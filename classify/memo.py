"""Outcomes of earlier work on disk, each named by the digest of all it depends on: JSON, and files behind it.

An entry is a line of JSON (the outcome, the length of each file, the SHA-256 of all that) and the bytes of
the files. It appears whole or not at all, whoever else writes; one that is broken in any way is as good as
none, and a folder that cannot be written only costs time.
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

LIMIT = 1 << 30  # bytes of all entries together
_ENDING = ".memo"
_UNFINISHED = ".unfinished-"
_ABANDONED = 3600.0  # seconds after which an unfinished entry belongs to nobody
_BLOCK = 4096  # bytes that the smallest file takes on most disks


@dataclass(frozen=True, kw_only=True, eq=False)
class Entry:
    """What one piece of work brought."""

    outcome: Mapping[str, Any]  # JSON
    files: Mapping[str, bytes] = field(default_factory=dict)


def load_entry(folder: Path, key: str) -> Entry | None:
    """Return what is kept under this key, or None where nothing is, or not what was written."""
    path = folder / f"{key}{_ENDING}"
    try:
        head, _, body = path.read_bytes().partition(b"\n")
        facts = json.loads(head)
        outcome, lengths = facts["outcome"], facts["files"]
        if facts["sha256"] != _digest(key, outcome, lengths, body) or sum(lengths.values()) != len(body):
            return None
        files, start = {}, 0
        for name, length in lengths.items():
            files[name] = body[start : start + length]
            start += length
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    with contextlib.suppress(OSError):
        os.utime(path)  # used now: what was used longest ago is removed first
    return Entry(outcome=outcome, files=files)


def keep_entry(folder: Path, key: str, entry: Entry) -> bool:
    """Keep an outcome, in place of what was kept under this key; say whether that worked out."""
    lengths = {name: len(data) for name, data in entry.files.items()}
    body = b"".join(entry.files.values())
    unfinished = None
    try:
        sha256 = _digest(key, entry.outcome, lengths, body)
        head = json.dumps({"sha256": sha256, "outcome": entry.outcome, "files": lengths}, allow_nan=False)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=_UNFINISHED, delete=False) as file:
            unfinished = Path(file.name)
            file.writelines((head.encode("ascii"), b"\n", body))
        os.replace(unfinished, folder / f"{key}{_ENDING}")
    except (OSError, ValueError):  # ValueError: a figure that is not finite
        if unfinished is not None:
            _remove(unfinished)
        return False
    return True


def make_room(folder: Path, *, limit: int = LIMIT) -> None:
    """Remove entries used longest ago until the rest fits the limit, and what a killed run left behind."""
    kept: list[tuple[float, int, Path]] = []
    for path, status in _statuses(folder):
        if path.name.startswith(_UNFINISHED) and time.time() - status.st_mtime > _ABANDONED:
            _remove(path)
        elif path.suffix == _ENDING:
            kept.append((status.st_mtime, max(status.st_size, _BLOCK), path))
    total = sum(size for _, size, _ in kept)
    for _, size, path in sorted(kept):
        if total <= limit:
            break
        _remove(path)
        total -= size


def _digest(key: str, outcome: Mapping[str, Any], lengths: Mapping[str, int], body: bytes) -> str:
    text = json.dumps([key, outcome, lengths], allow_nan=False)
    return hashlib.sha256(text.encode("ascii") + b"\n" + body).hexdigest()


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
