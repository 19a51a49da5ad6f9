"""Uploaded files: written once under names of our own, told to be images or not by nobody here, deleted."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout
from flask import Request
from werkzeug.exceptions import BadRequest
from werkzeug.formparser import FormDataParser

from classify.deploy.predict import InputFile
from featurize.base.text import printable

FIELD = "image"  # of the form
LONGEST_NAME = 300  # characters of a file's name that are sent back


class UploadRequest(Request):
    """A request whose files go straight to one private folder, under names that nobody chose.

    The application puts that folder's path into its config as ``UPLOAD_FOLDER``.
    """

    @property
    def written(self) -> list[tuple[Path, IO[bytes]]]:
        """Every file of the request that has been begun."""
        found: list[tuple[Path, IO[bytes]]] = self.environ.setdefault("folio.written", [])
        return found

    def make_form_data_parser(self) -> FormDataParser:
        """Return a parser that says when it does not understand a form, rather than find nothing in it."""
        parser = super().make_form_data_parser()
        parser.silent = False
        return parser

    def _get_file_stream(
        self,
        total_content_length: int | None,
        content_type: str | None,
        filename: str | None = None,
        content_length: int | None = None,
    ) -> IO[bytes]:
        from flask import current_app

        path = Path(current_app.config["UPLOAD_FOLDER"]) / secrets.token_hex(16)
        file = path.open("x+b")
        self.written.append((path, file))
        return file

    def forget(self) -> None:
        """Delete every file of the request."""
        while self.written:
            path, file = self.written.pop()
            with contextlib.suppress(OSError):
                file.close()
            path.unlink(missing_ok=True)


def upload_files(request: UploadRequest, *, most_bytes: int) -> tuple[list[InputFile], str]:
    """Return the files of a request as files to grade, and what all of them together are called, or "".

    Parameters
    ----------
    request : UploadRequest
    most_bytes : int
        Of one file; a larger one has that as its problem.

    Raises
    ------
    BadRequest
        If the form is not understood.
    """
    try:
        files, entry = request.files.getlist(FIELD), printable(request.form.get("entry", "")[:LONGEST_NAME])
    except UnicodeDecodeError:
        raise BadRequest(
            f"the name of a file is not UTF-8. Give it another one: curl -F '{FIELD}=@FILE;filename=NAME'"
        ) from None
    except ValueError:
        raise BadRequest(
            "this form is cut short, or not the multipart/form-data that it says it is"
        ) from None
    found = []
    for sent in files:
        stream: Any = sent.stream
        n_bytes = stream.seek(0, 2)
        stream.close()  # what is still buffered is on disk now
        if not n_bytes and not sent.filename:
            continue  # a form that was sent without choosing a file
        problem = ""
        if n_bytes > most_bytes:
            problem = f"too large: {megabytes(n_bytes)}, the limit is {megabytes(most_bytes)} (--max-upload)"
        name = printable((sent.filename or "image")[:LONGEST_NAME])
        found.append(
            InputFile(
                file=Path(stream.name),
                path=name,
                entry=entry or name,
                problem=problem,
            )
        )
    return found, entry


def megabytes(n_bytes: int) -> str:
    """Return a count of bytes in millions, as ``--max-upload`` is typed."""
    return f"{n_bytes / 1e6:,.4g} MB"


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
