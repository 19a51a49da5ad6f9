"""Output folders that are written completely or not at all, and that never replace other content."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from classify.errors import CompareError


def refuse_existing(folder: Path, *, mark: str, what: str, overwrite: bool) -> None:
    """Check that output may be written to this folder.

    Parameters
    ----------
    folder : Path
    mark : str
        Name of the file that every output folder of this kind contains.
    what : str
        Kind of the output, for messages: "run" or "bundle".
    overwrite : bool
        Whether earlier output may be replaced.

    Raises
    ------
    CompareError
        If the folder contains earlier output and `overwrite` is not set, or if it contains something else.
    """
    try:
        if not folder.exists() and not folder.is_symlink():
            check_can_create(folder)
            return
    except OSError as error:  # for example a name that is too long, or a parent that must not be read
        raise CompareError(
            f"{folder}: cannot be created ({error.strerror}). Choose another folder with --out FOLDER"
        ) from None
    if not folder.is_dir():
        raise CompareError(
            f"{folder}: is a file, expected a folder for the {what}. Choose another one with --out FOLDER"
        )
    if not any(folder.iterdir()):
        return
    if not (folder / mark).is_file():
        raise CompareError(
            f"{folder}: contains something other than a {what}. Choose another folder with --out FOLDER"
        )
    if not overwrite:
        raise CompareError(
            f"{folder}: already contains a {what}. Replace it with --overwrite, or choose --out FOLDER"
        )


@contextmanager
def new_folder(folder: Path, *, mark: str, parts: Sequence[str]) -> Iterator[Path]:
    """Yield a temporary folder next to `folder` and rename it to `folder` if the body succeeds.

    If `folder` exists, its parts are replaced one by one, and other files in it stay. The file `mark` is
    removed first and put back last, so that an incomplete folder is never mistaken for a complete one.

    Parameters
    ----------
    folder : Path
    mark : str
        As in `refuse_existing`.
    parts : sequence of str
        Names of the files and folders that the output can have.

    Raises
    ------
    CompareError
        If no folder can be created there.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name[:100]}.", suffix=".tmp", dir=folder.parent))
    except OSError as error:
        raise CompareError(
            f"{folder}: cannot be created ({error.strerror}: {error.filename}). Choose another folder with "
            "--out FOLDER"
        ) from None
    temporary.chmod(0o777 & ~_umask())
    try:
        yield temporary
        if not folder.exists():
            os.replace(temporary, folder)
            return
        (folder / mark).unlink(missing_ok=True)
        for name in (*(part for part in parts if part != mark), mark):
            _remove(folder / name)
            if (temporary / name).exists():
                os.replace(temporary / name, folder / name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_can_create(folder: Path) -> None:
    """Raise CompareError, before the work starts, if this folder cannot be created."""
    parent = next(path for path in folder.absolute().parents if path.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        what = "not writable" if parent.is_dir() else "a file"
        raise CompareError(
            f"{folder}: cannot be created, because {parent} is {what}. Choose another one with --out FOLDER"
        )


def folder_name(dataset: str) -> str:
    """Return the name of the folder for a data set."""
    return dataset.strip().replace(os.sep, "-").lstrip(".") or "dataset"


def move_logs(temporary: Path, folder: Path) -> Path | None:
    """Move the TensorBoard logs of a run that is in a folder called ``runs`` to the folder next to that one.

    Returns the final log folder; None if there are no logs.
    """
    logs = temporary / "tensorboard"
    if not logs.is_dir():
        return None
    if folder.absolute().parent.name != "runs":
        return folder / "tensorboard"
    target = folder.parent.parent / "tensorboard" / folder.name
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError:  # then the logs stay in the run: a finished run must not be lost because of them
        return folder / "tensorboard"
    for source in sorted(logs.iterdir()):
        shutil.rmtree(target / source.name, ignore_errors=True)
        shutil.move(source, target / source.name)
    logs.rmdir()
    return target


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
