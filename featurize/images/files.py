"""List the files below a folder, and open and hash regular files only."""

from __future__ import annotations

import hashlib
import io
import os
import stat
from pathlib import Path

from featurize.errors import DatasetError, ImageError

# System files that are ignored, in addition to all names that start with a dot.
_SYSTEM_FILES = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx"})


class UnreadableFile(ImageError):
    """A path that cannot be read as a file; ``reason`` is the skip reason shown to the user."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def open_regular(path: str | os.PathLike[str]) -> io.BufferedReader:
    """Open a regular file for reading, in binary.

    Parameters
    ----------
    path : path-like
        Symbolic links are followed. Pipes, sockets and devices are never opened, so they cannot block.

    Returns
    -------
    io.BufferedReader
        The open file; the caller closes it.

    Raises
    ------
    UnreadableFile
        With the reason "not a regular file", or "unreadable: " and the message of the operating system.
    """
    # The file may be replaced by a pipe after the check: open it without blocking and check again.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise UnreadableFile("not a regular file")
        descriptor = os.open(path, flags)
    except (OSError, ValueError) as error:
        raise UnreadableFile(unreadable(error)) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UnreadableFile("not a regular file")
    return open(descriptor, "rb")


def unreadable(error: OSError | ValueError) -> str:
    """Return the skip reason for an error of the operating system, without the path."""
    detail = error.strerror if isinstance(error, OSError) else str(error)
    return f"unreadable: {detail or type(error).__name__}"


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file's content as 64 hexadecimal digits.

    Raises
    ------
    UnreadableFile
        As `open_regular`, or if reading fails.
    """
    with open_regular(path) as file:
        try:
            return hashlib.file_digest(file, "sha256").hexdigest()  # in blocks of 256 KiB
        except OSError as error:
            raise UnreadableFile(unreadable(error)) from error


def list_folder(root: Path, folder: str) -> tuple[list[str], list[str], int]:
    """List one folder.

    Parameters
    ----------
    root : Path
        Folder that paths are relative to.
    folder : str
        Relative path with "/" between its parts; "" for `root` itself.

    Returns
    -------
    folders : list of str
        Names of the folders in it, including symbolic links to folders, sorted by bytes.
    files : list of str
        Relative paths of everything else in it, sorted by bytes.
    ignored : int
        Number of ignored names: hidden and system files.

    Raises
    ------
    DatasetError
        If the folder cannot be listed, because its files would be missing without notice.
    """
    folders, files, ignored = [], [], 0
    try:
        with os.scandir(root / folder) as listing:
            for item in listing:
                if item.name.startswith(".") or item.name.lower() in _SYSTEM_FILES:
                    ignored += 1
                elif _is_folder(item):
                    folders.append(item.name)
                else:
                    files.append(_join(folder, item.name))
    except OSError as error:
        raise _cannot_list(root, folder, error) from error
    return sorted(folders, key=os.fsencode), sorted(files, key=os.fsencode), ignored


def files_below(root: Path, folder: str) -> tuple[list[str], int]:
    """Return the relative paths of all files below a folder, unsorted, and the number of ignored names.

    Symbolic links to folders are followed, unless they lead back to a folder that contains them. Raises as
    `list_folder`.
    """
    found: list[str] = []
    n_ignored = 0
    parents = [folder[:end] for end, letter in enumerate(folder) if letter == "/"]
    ancestors = frozenset(_identity(root, parent) for parent in ["", *parents] if parent != folder)
    stack = [(folder, ancestors)]  # no recursion: paths may be thousands of folders deep
    while stack:
        current, ancestors = stack.pop()
        identity = _identity(root, current)
        if identity in ancestors:
            continue
        folders, files, ignored = list_folder(root, current)
        found += files
        n_ignored += ignored
        stack += [(_join(current, name), ancestors | {identity}) for name in folders]
    return found, n_ignored


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _is_folder(item: os.DirEntry[str]) -> bool:
    try:
        return item.is_dir()
    except OSError:  # such as a link to itself: listed as a file, which is then unreadable
        return False


def _identity(root: Path, folder: str) -> tuple[int, int]:
    try:
        status = os.stat(root / folder)
    except OSError as error:
        raise _cannot_list(root, folder, error) from error
    return status.st_dev, status.st_ino


def _cannot_list(root: Path, folder: str, error: OSError) -> DatasetError:
    return DatasetError(
        f"{root / folder}: cannot list this folder ({error.strerror}), so its images would be missing. "
        f"Grant read permission, or move it out of {root}"
    )
