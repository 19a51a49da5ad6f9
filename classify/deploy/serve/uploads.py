"""Uploaded files: written to a private folder under random names, deleted after the request.

File names and media types sent by the client are never trusted; decoding decides what is an image.
"""

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

FIELD = "image"  # form field with the files
MAX_NAME = 300  # characters of a file name that are returned


class UploadRequest(Request):
    """A request whose files are written to one private folder under random names.

    The application sets the folder's path as ``UPLOAD_FOLDER`` in its config.
    """

    @property
    def written(self) -> list[tuple[Path, IO[bytes]]]:
        """Files of the request so far, complete or not."""
        written: list[tuple[Path, IO[bytes]]] = self.environ.setdefault("folio.written", [])
        return written

    def make_form_data_parser(self) -> FormDataParser:
        """Return a form parser that raises on a malformed form; Flask's default returns an empty one."""
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

    def delete_uploads(self) -> None:
        """Delete every file of the request."""
        while self.written:
            path, file = self.written.pop()
            with contextlib.suppress(OSError):
                file.close()
            path.unlink(missing_ok=True)


def uploaded_files(request: UploadRequest, *, max_bytes: int) -> tuple[list[InputFile], str]:
    """Return the uploaded files, and the name of the entry that they form together, or "".

    Parameters
    ----------
    request : UploadRequest
    max_bytes : int
        Limit per file; a larger file gets a problem.

    Raises
    ------
    BadRequest
        If the form is malformed.
    """
    try:
        uploads = request.files.getlist(FIELD)
        entry = printable(request.form.get("entry", "")[:MAX_NAME])
    except UnicodeDecodeError:
        raise BadRequest(
            f"a file name is not UTF-8. Send another name: curl -F '{FIELD}=@FILE;filename=NAME'"
        ) from None
    except ValueError:
        raise BadRequest("the form is truncated or not multipart/form-data, as its header claims") from None
    files = []
    for upload in uploads:
        stream: Any = upload.stream
        n_bytes = stream.seek(0, 2)
        stream.close()  # flushes the buffer to disk
        if not n_bytes and not upload.filename:
            continue  # a form submitted without a file
        problem = ""
        if n_bytes > max_bytes:
            problem = f"too large: {megabytes(n_bytes)}, the limit is {megabytes(max_bytes)} (--max-upload)"
        name = printable((upload.filename or "image")[:MAX_NAME])
        files.append(InputFile(file=Path(stream.name), path=name, entry=entry or name, problem=problem))
    return files, entry


def megabytes(n_bytes: int) -> str:
    """Return a byte count in megabytes (millions of bytes), the unit of ``--max-upload``."""
    return f"{n_bytes / 1e6:,.4g} MB"


PREFIX = "folio-serve-"
LOCK = "in-use"  # locked while the server runs; the system unlocks it when the process ends


@contextmanager
def private_folder() -> Iterator[Path]:
    """Yield a new folder that other users cannot read; delete it at the end.

    Folders of servers that ended without deleting theirs are deleted first.
    """
    parent = Path(tempfile.gettempdir())
    for folder in parent.glob(f"{PREFIX}*"):
        _delete_if_abandoned(folder)
    with tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        with FileLock(folder / LOCK):
            (folder / "files").mkdir(mode=0o700)
            yield folder / "files"


def _delete_if_abandoned(folder: Path) -> None:
    """Delete a folder of this user if no running server holds its lock; links are never followed."""
    with contextlib.suppress(OSError):
        status = folder.lstat()
        own = not hasattr(os, "getuid") or status.st_uid == os.getuid()
        if not stat.S_ISDIR(status.st_mode) or not own or not (folder / LOCK).is_file():
            return
        with contextlib.suppress(Timeout), FileLock(folder / LOCK, timeout=0):
            shutil.rmtree(folder / "files", ignore_errors=True)
            shutil.rmtree(folder, ignore_errors=True)
