"""A private folder for uploaded files; what a killed server left behind is deleted by the next one."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

PREFIX = "folio-serve-"
LOCK = "in-use"  # held as long as the server lives; the system lets go of it when the process ends


@contextmanager
def private_folder() -> Iterator[Path]:
    """Yield a new folder that nobody else can look into, and delete it at the end."""
    parent = Path(tempfile.gettempdir())
    for left in parent.glob(f"{PREFIX}*"):
        _delete_if_left(left)
    with tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        with FileLock(folder / LOCK):
            (folder / "files").mkdir(mode=0o700)
            yield folder / "files"


def _delete_if_left(folder: Path) -> None:
    """Delete the folder of a server that has ended without doing so itself; no other's, and no link."""
    with contextlib.suppress(OSError):
        found = folder.lstat()
        own = not hasattr(os, "getuid") or found.st_uid == os.getuid()
        if not stat.S_ISDIR(found.st_mode) or not own or not (folder / LOCK).is_file():
            return
        with contextlib.suppress(Timeout), FileLock(folder / LOCK, timeout=0):
            shutil.rmtree(folder / "files", ignore_errors=True)
            shutil.rmtree(folder, ignore_errors=True)
