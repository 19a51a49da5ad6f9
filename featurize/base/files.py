"""Atomic file writes, fsync, and the write lock of a store."""

from __future__ import annotations

import json
import os
import secrets
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from featurize.errors import StoreError


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; when the body ends, that file replaces ``path``.

    The content is synced to disk before the file is renamed. If the body raises, the temporary file is
    removed and an existing file is left unchanged.

    Raises
    ------
    OSError
        If the folder cannot be written to.
    """
    temporary = path.with_name(f".{path.name[:80]}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        fsync_file(temporary)
        os.replace(temporary, path)
        fsync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a file completely or not at all; text is encoded as UTF-8. See `atomic_path`."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.encode("utf-8") if isinstance(data, str) else data)


def write_synced(path: Path, data: bytes) -> None:
    """Write a new file and sync it to disk."""
    with open(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def fsync_file(path: Path) -> None:
    """Sync a closed file to disk."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def fsync_folder(path: Path) -> None:
    """Sync the names in a folder to disk; does nothing on Windows, where it is not needed."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def write_lock(store: Path) -> Iterator[None]:
    """Hold the lock for writing one store; the operating system releases it if the process dies.

    Raises
    ------
    StoreError
        If another process holds the lock (the message gives its host, process id and start time), or if the
        folder cannot be written to.
    """
    lock = store.with_name(f".{store.name}.lock")
    note = store.with_name(f".{store.name}.lock.json")
    try:
        store.parent.mkdir(parents=True, exist_ok=True)
        file_lock = FileLock(lock, timeout=0)
        file_lock.acquire()
    except Timeout:
        raise StoreError(
            f"{store}: {_holder(note)} is writing this store. Wait until it has finished, or stop it"
        ) from None
    except OSError as error:
        raise write_error(store, error) from error
    try:
        _write_note(note)
        yield
    finally:
        note.unlink(missing_ok=True)  # before the release: afterwards it may be the next holder's note
        file_lock.release()  # the empty lock file stays: removing it would let two processes lock two files


def _write_note(note: Path) -> None:
    holder = {
        "host": socket.gethostname(),
        "process": os.getpid(),
        "since": datetime.now().astimezone().isoformat(timespec="seconds"),
    }
    with suppress(OSError):  # the note is only for the error message of other processes
        note.write_text(json.dumps(holder))


def _holder(note: Path) -> str:
    try:
        holder = json.loads(note.read_text())
        return f"process {holder['process']} on {holder['host']} (since {holder['since']})"
    except (OSError, ValueError, KeyError):
        return "another process"


def write_error(path: Path, error: OSError) -> StoreError:
    """Return the error for a file that cannot be written, for example on a full disk."""
    return StoreError(
        f"{path.parent}: cannot write to this folder ({error.strerror or error}). Finished work is kept. "
        "Free disk space or grant write permission, then run the same command again to continue"
    )


def as_paths(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Return paths as a list; a single ``str`` or path is one path, never a sequence of characters."""
    return [Path(paths)] if isinstance(paths, str | os.PathLike) else [Path(path) for path in paths]
