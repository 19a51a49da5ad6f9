"""Files that appear whole or not at all, fsync, and the lock of a store."""

from __future__ import annotations

import json
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from featurize.errors import StoreError


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; what was written there then takes the place of ``path``.

    The bytes are on the disk before the file gets its name. If the body raises, nothing is left and the old
    file stays.

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
    """Write a file that appears whole or not at all, text as UTF-8; see `atomic_path`."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.encode("utf-8") if isinstance(data, str) else data)


def write_synced(path: Path, data: bytes) -> None:
    """Write a new file and return when its bytes have reached the disk."""
    with open(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def fsync_file(path: Path) -> None:
    """Return when what was written to a closed file has reached the disk."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def fsync_folder(path: Path) -> None:
    """Return when names put into a folder have reached the disk; Windows has no such call and needs none."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def write_lock(store: Path) -> Iterator[None]:
    """Hold the right to write one store; the system takes it back from a process that dies.

    Raises
    ------
    StoreError
        If another process holds it, naming host, process and since when; or the folder cannot be written to.
    """
    lock = store.with_name(f".{store.name}.lock")
    note = store.with_name(f".{store.name}.lock.json")
    try:
        store.parent.mkdir(parents=True, exist_ok=True)
        held = FileLock(lock, timeout=0)
        held.acquire()
    except Timeout:
        raise StoreError(
            f"{store}: {_holder(note)} is writing it. Wait until that has ended, or stop it"
        ) from None
    except OSError as error:
        raise write_error(store, error) from error
    try:
        _write_note(note)
        yield
    finally:
        note.unlink(missing_ok=True)  # while the lock is held, so that it is never another's note
        held.release()  # the empty lock file stays: removing it would let two processes lock two files


def _write_note(note: Path) -> None:
    holder = {
        "host": socket.gethostname(),
        "process": os.getpid(),
        "since": datetime.now().astimezone().isoformat(timespec="seconds"),
    }
    with suppress(OSError):  # the lock holds without it
        note.write_text(json.dumps(holder))


def _holder(note: Path) -> str:
    try:
        holder = json.loads(note.read_text())
        return f"process {holder['process']} on {holder['host']} (since {holder['since']})"
    except (OSError, ValueError, KeyError):
        return "another process"


def write_error(path: Path, error: OSError) -> StoreError:
    """Return the error for a disk that does not take what is to be written."""
    return StoreError(
        f"{path.parent}: cannot write here ({error.strerror or error}). Nothing that was finished is lost. "
        "Make room or give write permission, then run the same command again: it goes on from there"
    )
