"""Package versions, digests of our sources, and child processes that run our modules."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[2]  # the folder that contains the packages featurize and classify


def installed_versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the version of each package by its name, without importing it; packages not found are left out.

    TensorFlow and others are also installed under other names, such as ``tensorflow-cpu``.
    """
    versions = {}
    for name in packages:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


@cache
def sources_digest(folder: Path, patterns: tuple[str, ...]) -> str:
    """Return the SHA-256 (hex) of source files: their paths relative to `folder` and their content.

    Parameters
    ----------
    folder : Path
        Usually the folder of a package.
    patterns : tuple of str
        Files to include, as patterns of `pathlib.Path.glob`; each must match at least one file.

    Raises
    ------
    FileNotFoundError
        If a pattern matches no file, so that a renamed module cannot drop out of a cache key unnoticed.
    """
    paths: set[Path] = set()
    for pattern in patterns:
        matches = set(folder.glob(pattern))
        if not matches:
            raise FileNotFoundError(f"no source file matches {folder / pattern}")
        paths |= matches
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def start_module(
    module: str,
    *arguments: str,
    stdin: int = subprocess.PIPE,
    environment: Mapping[str, str] | None = None,
    inherit: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start ``python -m module`` with this interpreter and these sources; its stdout is a pipe.

    Parameters
    ----------
    module : str
        A module of featurize or classify, for example ``featurize.images.worker``.
    *arguments : str
        Command-line arguments.
    stdin : int
        `subprocess.PIPE` or `subprocess.DEVNULL`.
    environment : mapping of str to str, optional
        Environment variables to set in addition to those of this process.
    inherit : sequence of int
        File descriptors that stay open in the child; POSIX only.
    """
    search = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    # A process group of its own: Ctrl-C in the terminal interrupts the parent, which then ends its children.
    options: dict[str, Any] = {} if os.name == "nt" else {"process_group": 0, "pass_fds": tuple(inherit)}
    return subprocess.Popen(
        [sys.executable, "-P", "-m", module, *arguments],
        stdin=stdin,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(search), **(environment or {})},
        **options,
    )


def exit_with_parent(parent: int) -> None:
    """Make Linux kill this process when its parent ends; other systems only close the pipe to it.

    Parameters
    ----------
    parent : int
        Process id of the parent.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            import ctypes

            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:  # the parent ended before the call above
            os._exit(1)
