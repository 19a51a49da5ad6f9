"""Output folders that appear whole or not at all, and never replace what somebody else put there."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from classify.errors import CompareError


def refuse_existing(folder: Path, *, mark: str, what: str, overwrite: bool) -> None:
    """Raise unless our output may be written to this folder.

    Parameters
    ----------
    folder : Path
    mark : str
        The file by which our own output is known.
    what : str
        What the output is called.
    overwrite : bool
        Whether earlier output may be replaced.

    Raises
    ------
    CompareError
        If something is there and ``overwrite`` is off, or what is there is not ours.
    """
    try:
        if not folder.exists() and not folder.is_symlink():
            require_place(folder)
            return
    except OSError as error:  # a name too long, a parent that may not be looked into
        raise CompareError(
            f"{folder}: cannot be made ({error.strerror}). Choose another folder with --out"
        ) from None
    if not folder.is_dir():
        raise CompareError(
            f"{folder}: a file, where the {what}'s folder should be. Choose another with --out FOLDER"
        )
    if not any(folder.iterdir()):
        return
    if not (folder / mark).is_file():
        raise CompareError(
            f"{folder}: holds other things than a {what}. Choose another folder with --out FOLDER"
        )
    if not overwrite:
        raise CompareError(
            f"{folder}: a {what} is there already. Replace it with --overwrite, or choose --out FOLDER"
        )


@contextmanager
def new_folder(folder: Path, *, mark: str, parts: Sequence[str]) -> Iterator[Path]:
    """Yield a temporary folder beside ``folder``; put what is written there in place when all went well.

    Of an earlier output the named parts are replaced; anything else in the folder stays. The mark is
    first out and last in, so that a torn folder is never taken for a whole one.

    Raises
    ------
    CompareError
        If no folder can be made there.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name[:100]}.", suffix=".tmp", dir=folder.parent))
    except OSError as error:
        raise CompareError(
            f"{folder}: cannot be made ({error.strerror}: {error.filename}). Choose another folder with --out"
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


def require_place(folder: Path) -> None:
    """Raise unless a folder can be made here: said before the work, not after it."""
    above = next(path for path in folder.absolute().parents if path.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        what = "not writable" if above.is_dir() else "a file"
        raise CompareError(
            f"{folder}: cannot be made: {above} is {what}. Choose another folder with --out FOLDER"
        )


def folder_name(dataset: str) -> str:
    """Return a data set's name as the name of a folder."""
    return dataset.strip().replace(os.sep, "-").lstrip(".") or "dataset"


def place_logs(temporary: Path, folder: Path) -> Path | None:
    """Move TensorBoard logs beside the runs, if the run is in a folder of runs; return where they will be."""
    logs = temporary / "tensorboard"
    if not logs.is_dir():
        return None
    if folder.absolute().parent.name != "runs":
        return folder / "tensorboard"
    target = folder.parent.parent / "tensorboard" / folder.name
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError:  # a finished run is not lost for want of a place for its curves
        return folder / "tensorboard"
    for made in sorted(logs.iterdir()):
        shutil.rmtree(target / made.name, ignore_errors=True)
        shutil.move(made, target / made.name)
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
