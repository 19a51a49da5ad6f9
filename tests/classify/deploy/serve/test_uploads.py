"""Uploaded files: random names on disk, deleted with the request, the client's names only for display."""

import pytest
from flask import Flask, request

from classify.deploy.serve.uploads import UploadRequest, megabytes, uploaded_files


@pytest.fixture
def receive(tmp_path, as_form):
    """Send files to an application that reads them; return what it read."""

    def send(files, *, entry="", max_bytes=1000):
        app, seen = Flask(__name__), []
        app.request_class = UploadRequest
        app.config["UPLOAD_FOLDER"] = tmp_path

        @app.post("/")
        def look():
            for one in uploaded_files(request, max_bytes=max_bytes)[0]:
                seen.append((one, one.file.read_bytes(), one.file.stat().st_mode & 0o777))
            request.delete_uploads()
            return ""

        body, kind = as_form(files, entry=entry)
        assert app.test_client().post("/", data=body, content_type=kind).status_code == 200
        return seen

    return send


HOSTILE = [
    ("<img src=x onerror=alert(1)>.jpg", "<img src=x onerror=alert(1)>.jpg"),
    ("../../../etc/passwd", "../../../etc/passwd"),
    ("/etc/passwd", "/etc/passwd"),
    ("C:\\Windows\\system32\\cmd.exe", "C:Windowssystem32cmd.exe"),  # a backslash quotes what follows
    ("nul\x00byte.png", "nul\\x00byte.png"),
    ("a\nb\r.png", "a%0Ab%0D.png"),  # as browsers send them
    ("\x1b[2J\x1b[31mred.png", "\\x1b[2J\\x1b[31mred.png"),
    ("photo\u202egnp.exe", "photo\\u202egnp.exe"),
    ("line\u2028end", "line\\u2028end"),
    ("Ärger 🎨 图.png", "Ärger 🎨 图.png"),
    ("x" * 5000, "x" * 300),
]


def test_names_are_only_displayed(receive, tmp_path):
    seen = receive([(sent, b"%d" % k) for k, (sent, _) in enumerate(HOSTILE)])
    assert [one.path for one, _, _ in seen] == [shown for _, shown in HOSTILE]
    assert [one.entry for one, _, _ in seen] == [shown for _, shown in HOSTILE]
    assert [data for _, data, _ in seen] == [b"%d" % k for k in range(len(HOSTILE))]
    for one, _, _ in seen:
        assert one.file.parent == tmp_path
        assert len(one.file.name) == 32
        assert set(one.file.name) <= set("0123456789abcdef")
    assert list(tmp_path.iterdir()) == []  # deleted


def test_the_size_limit_is_exact(receive):
    seen = receive([("a", bytes(1000)), ("b", bytes(1001)), ("c", b"")])
    assert [one.problem for one, _, _ in seen] == [
        "",
        "too large: 0.001001 MB, the limit is 0.001 MB (--max-upload)",
        "",
    ]


def test_an_entry_has_the_name_of_the_form(receive):
    seen = receive([("a", b"1"), ("b", b"2")], entry="Ann\x1b")
    assert [(one.path, one.entry) for one, _, _ in seen] == [("a", "Ann\\x1b"), ("b", "Ann\\x1b")]


def test_megabytes_are_millions_of_bytes():
    assert [megabytes(n) for n in (25_000_000, 1_500_000, 100, 2_000_000_000)] == [
        "25 MB",
        "1.5 MB",
        "0.0001 MB",
        "2,000 MB",
    ]
