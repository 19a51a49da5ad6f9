"""Bundles that predict by colour, and servers for them in this process or in their own."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from classify.jobs.fit import fit

COLOURED = Path(__file__).parents[2] / "coloured.py"


@pytest.fixture(scope="session")
def store(coloured_store) -> Path:
    """A store of coloured pictures, whose files are there too."""
    return coloured_store


@pytest.fixture(scope="session")
def bundle(coloured_bundle) -> Path:
    """A bundle that grades by colour."""
    return coloured_bundle


@pytest.fixture(scope="session")
def bundle_with_examples(store, tmp_path_factory) -> Path:
    """One that carries what it was fitted on."""
    out = tmp_path_factory.mktemp("bundles") / "with examples"
    return fit(store, head="logreg", params={"C": 0.0001}, out=out, jobs=1, with_examples=True).bundle


@pytest.fixture
def network(coloured, monkeypatch) -> None:
    """Have this process grade by colour."""
    monkeypatch.setattr("featurize.extraction.inference.FeatureReader.prepare", coloured.prepare)


@dataclass
class Reply:
    """What a server answered."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Server:
    """A server in a process of its own."""

    url: str
    process: subprocess.Popen[str]
    temporary: Path  # its folder for temporary files
    said: list[str]  # on stdout, line by line
    errors: Path  # file of its stderr
    gate: Path  # while this file is there, nothing gets graded

    @property
    def address(self) -> tuple[str, int]:
        host, port = re.fullmatch(r"http://(\[.*\]|[^:]*):(\d+)/", self.url).groups()  # type: ignore[union-attr]
        return host.strip("[]"), int(port)

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> Reply:
        connection = http.client.HTTPConnection(*self.address, timeout=120)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body or None, named)
            answer = connection.getresponse()
            return Reply(status=answer.status, headers=dict(answer.getheaders()), body=answer.read())
        finally:
            connection.close()

    def grade(self, *files: tuple[str, bytes], entry: str = "", **headers: str) -> Reply:
        """Send images, each with its name."""
        body, kind = form(files, entry=entry)
        return self.ask("POST", "/grade", body, content_type=kind, **headers)

    def files(self) -> list[str]:
        """Return the names of all files in its folder for temporary ones."""
        return sorted(path.name for path in self.temporary.rglob("*") if path.is_file())

    def left(self) -> list[str]:
        """Return them once no upload is there; an answer may arrive just before its uploads are deleted."""
        until = time.monotonic() + 30
        while self.files() != ["in-use"] and time.monotonic() < until:
            time.sleep(0.02)
        return self.files()

    def end(self, number: int = signal.SIGINT) -> int:
        self.process.send_signal(number)
        return self.process.wait(timeout=60)


def form(files: Sequence[tuple[str | bytes, bytes]], *, entry: str = "") -> tuple[bytes, str]:
    """Return a form with images, and its type; names go as they are, escaped as browsers do."""
    parts = [("image", name if isinstance(name, bytes) else name.encode(), data) for name, data in files]
    body = b""
    for field, name, data in parts:
        for character in b'"\r\n':
            name = name.replace(bytes([character]), b"%%%02X" % character)
        body += b'--folio\r\nContent-Disposition: form-data; name="%s"; filename="%s"\r\n' % (
            field.encode(),
            name,
        )
        body += b"Content-Type: application/octet-stream\r\n\r\n" + data + b"\r\n"
    if entry:
        body += b'--folio\r\nContent-Disposition: form-data; name="entry"\r\n\r\n' + entry.encode() + b"\r\n"
    return body + b"--folio--\r\n", "multipart/form-data; boundary=folio"


@contextmanager
def running(bundle: Path, temporary: Path, *options: str) -> Iterator[Server]:
    temporary.mkdir(exist_ok=True)
    errors = temporary.with_name(f"{temporary.name}.stderr")
    gate = temporary.with_name(f"{temporary.name}.gate")
    with errors.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, str(COLOURED), "serve", str(bundle), "--port", "0", *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stream,
            text=True,
            env={
                **os.environ,
                "PYTHONPATH": str(COLOURED.parents[2]),
                "TMPDIR": str(temporary),
                "COLOURED_GATE": str(gate),
            },
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job ignores it
        )
    assert process.stdout is not None
    try:
        said = [process.stdout.readline() for _ in range(4)]
        found = re.search(r"http://\S+/", said[0])
        assert found, (said, errors.read_text())
        yield Server(found[0], process, temporary, said, errors, gate)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=60)
        finally:
            process.kill()
            process.stdout.close()


@pytest.fixture(scope="session")
def start(tmp_path_factory) -> Iterator[Callable[..., Server]]:
    """Start servers; they end with the tests. ``start(bundle, *options)``."""
    with ExitStack() as stack:
        yield lambda bundle, *options: stack.enter_context(
            running(bundle, tmp_path_factory.mktemp("served") / "tmp", *options)
        )


@pytest.fixture(scope="session")
def server(start, bundle_with_examples) -> Server:
    """A server with examples, for all that changes nothing about it."""
    return start(bundle_with_examples)


@pytest.fixture(scope="session")
def as_form() -> Callable[..., tuple[bytes, str]]:
    return form
