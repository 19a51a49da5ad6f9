"""Bytes that are on the disk when we say so."""

from __future__ import annotations

import os
from pathlib import Path


def write_flushed(path: Path, data: bytes) -> None:
    """Write a new file and return when its bytes have reached the disk."""
    with open(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def flush_file(path: Path) -> None:
    """Return when what was written to a closed file has reached the disk."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def flush_folder(path: Path) -> None:
    """Return when names put into a folder have reached the disk; Windows has no such call and needs none."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
