"""Responses of the Flask application: predictions, error messages, deleted uploads."""

import io
import json
import struct

import pytest
from PIL import Image

from classify.deploy.serve import Limits
from classify.deploy.serve.app import make_app
from classify.deploy.serve.limits import RESPONSE_HEADERS
from classify.deploy.serve.predictor import PredictionQueue, Predictor
from featurize import FolioError

LIMITS = Limits(max_upload=100_000, max_pixels=1_000_000, rate=1000)


@pytest.fixture
def make_client(bundle, network, tmp_path):
    """Make a client of an application; ``client.folder`` is where its uploads go."""
    opened = []

    def make(*, of=bundle, limits=LIMITS, host="127.0.0.1", predict=None, **options):
        predictor = Predictor(of, workers=1, max_pixels=limits.max_pixels)
        queue = PredictionQueue(predict or predictor.predict, **options)
        opened.append((predictor, queue))
        folder = tmp_path / f"uploads {len(opened)}"
        folder.mkdir()
        app = make_app(predictor, queue, folder=folder, host=host, limits=limits)
        client = app.test_client()
        client.folder = folder
        return client

    yield make
    for predictor, queue in opened:
        queue.close()
        predictor.__exit__()


@pytest.fixture
def client(make_client):
    return make_client()


@pytest.fixture
def grade(as_form):
    def send(client, *files, **headers):
        entry = headers.pop("entry", "")
        body, kind = as_form(files, entry=entry)
        return client.post("/grade", data=body, content_type=kind, headers=headers)

    return send


def test_one_image(client, grade, coloured):
    reply = grade(client, ("poster.png", coloured.picture((230, 20, 20))))
    assert reply.status_code == 200
    (row,) = reply.json
    assert list(row) == ["path", "entry", "n_images", "grade", "confidence", "probabilities", "problem"]
    assert (row["path"], row["entry"], row["n_images"], row["grade"]) == (
        "poster.png",
        "poster.png",
        1,
        "award",
    )
    assert list(row["probabilities"]) == ["award", "low", "middle"]
    assert row["confidence"] == max(row["probabilities"].values())
    assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-9)
    assert list(client.folder.iterdir()) == []


def test_several_images_with_unreadable_ones(client, grade, coloured):
    good = coloured.picture((20, 230, 20))
    reply = grade(
        client,
        ("a.png", good),
        ("b.png", good[:60]),
        ("c.txt", b"hello"),
        ("d.png", b""),
        ("a.png", good),
        ("huge", bytes(100_001)),
    )
    assert reply.status_code == 200
    assert [(row["path"], row["grade"], row["problem"]) for row in reply.json] == [
        ("a.png", "low", ""),
        ("b.png", None, "truncated"),
        ("c.txt", None, "not an image"),
        ("d.png", None, "empty file"),
        ("a.png", "low", ""),
        ("huge", None, "too large: 0.1 MB, the limit is 0.1 MB (--max-upload)"),
    ]
    assert list(client.folder.iterdir()) == []


def test_an_entry_gets_one_prediction(client, grade, coloured):
    files = [
        ("1.png", coloured.picture((230, 20, 20))),
        ("2.png", coloured.picture((20, 230, 20))),
        ("3", b"x"),
    ]
    (row,) = grade(client, *files, entry="Ann's work").json
    single = [one["probabilities"] for one in grade(client, *files[:2]).json]
    assert (row["path"], row["entry"], row["n_images"], row["problem"]) == (
        None,
        "Ann's work",
        2,
        "3: not an image",
    )
    for name, p in row["probabilities"].items():
        assert p == pytest.approx((single[0][name] + single[1][name]) / 2, abs=1e-12)


def test_the_page_always_gets_rows(client, as_form):
    body, kind = as_form([("a", b"x")])
    reply = client.post("/grade?rows", data=body, content_type=kind)
    assert reply.status_code == 200
    assert [(row["path"], row["grade"], row["problem"]) for row in reply.json] == [
        ("a", None, "not an image")
    ]


def gif_of(width, height):
    file = io.BytesIO()
    Image.new("P", (4, 4)).save(file, "GIF")
    data = bytearray(file.getvalue())
    data[6:10] = struct.pack("<HH", width, height)
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "status", "reason"),
    [
        (b"%PDF-1.7 hello", 415, "not an image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>", 415, "not an image"),
        (b"", 422, "empty file"),
        (b"\x89PNG\r\n\x1a\n", 422, "truncated"),
        (bytes(100_001), 413, "too large: 0.1 MB, the limit is 0.1 MB (--max-upload)"),
        (gif_of(60_000, 60_000), 413, "too many pixels: "),
    ],
)
def test_unreadable_files_get_a_status_and_the_reason(client, grade, data, status, reason):
    reply = grade(client, ("name", data))
    assert reply.status_code == status
    assert reply.json["error"].startswith(reason)
    (row,) = reply.json["grades"]
    assert (row["grade"], row["problem"]) == (None, reply.json["error"])
    assert list(client.folder.iterdir()) == []


def test_a_file_of_exactly_the_limit_is_accepted(make_client, grade, coloured):
    data = coloured.picture((230, 20, 20))
    exactly = make_client(limits=Limits(max_upload=len(data)))
    assert grade(exactly, ("a", data)).status_code == 200
    below = make_client(limits=Limits(max_upload=len(data) - 1))
    assert grade(below, ("a", data)).status_code == 413


def test_a_request_larger_than_four_maximum_files_is_refused(client, grade):
    reply = grade(client, *[(str(k), bytes(99_000)) for k in range(5)])
    assert reply.status_code == 413
    assert reply.json == {"error": "more than 0.4 MB in one request, or too many form parts"}
    many = grade(client, *[(str(k), b"x") for k in range(101)])
    assert many.status_code == 413
    assert list(client.folder.iterdir()) == []


@pytest.mark.parametrize(
    ("sent", "kind", "status", "said"),
    [
        (b"x=1", "application/x-www-form-urlencoded", 415, "expected multipart/form-data"),
        (b"{}", "application/json", 415, "expected multipart/form-data"),
        (b"\x89PNG", "image/png", 415, "expected multipart/form-data"),
        (
            b"",
            "multipart/form-data; boundary=b",
            400,
            'no file under "image". Try: curl -F image=@poster.jpg http',
        ),
        (b"--b\r\nnonsense", "multipart/form-data; boundary=b", 400, "the form is truncated or not"),
        (b"nonsense", "multipart/form-data", 400, "the form is truncated or not multipart/form-data"),
        (
            b'--b\r\nContent-Disposition: form-data; name="image"; filename="\xff.png"\r\n\r\nx\r\n--b--\r\n',
            "multipart/form-data; boundary=b",
            400,
            "a file name is not UTF-8. Send another name: curl -F 'image=@FILE;filename=NAME'",
        ),
        (
            b'--b\r\nContent-Disposition: form-data; name="image"\r\n\r\nposter.jpg\r\n--b--\r\n',
            "multipart/form-data; boundary=b",
            400,
            'no file under "image"',
        ),
        (
            b'--b\r\nContent-Disposition: form-data; name="image"; filename=""\r\n\r\n\r\n--b--\r\n',
            "multipart/form-data; boundary=b",
            400,
            'no file under "image"',
        ),
    ],
)
def test_malformed_forms(client, sent, kind, status, said):
    reply = client.post("/grade", data=sent, content_type=kind)
    assert reply.status_code == status
    assert reply.json["error"].startswith(said)
    assert list(client.folder.iterdir()) == []


def test_text_fields_are_limited(client, as_form, coloured):
    body, kind = as_form([("a.png", coloured.picture((1, 2, 3)))], entry="e" * 200_000)
    assert client.post("/grade", data=body, content_type=kind).status_code == 413


def test_unknown_paths_and_methods(client):
    assert client.get("/nowhere").status_code == 404
    assert client.get("/nowhere").json == {"error": "not found. Available: /, /grade, /about, /health"}
    wrong = client.get("/grade")
    assert (wrong.status_code, set(wrong.headers["Allow"].split(", "))) == (405, {"OPTIONS", "POST"})
    assert wrong.json == {"error": "method not allowed: POST images to /grade, GET everything else"}
    assert client.get("/static/../app.py").status_code == 404
    assert client.get("/static/%2e%2e/app.py").status_code == 404
    assert client.get("/health").json == {"status": "ok"}


def test_every_response_has_the_security_headers(client):
    with client.get("/static/page.js") as script:
        script.get_data()
    for reply in (
        script,
        client.get("/"),
        client.get("/about"),
        client.get("/nowhere"),
        client.post("/grade"),
    ):
        named = {name: reply.headers.get(name) for name in RESPONSE_HEADERS}
        cached = {**RESPONSE_HEADERS, "Cache-Control": named["Cache-Control"]}
        assert named == cached
        assert "Access-Control-Allow-Origin" not in reply.headers
        assert "Set-Cookie" not in reply.headers


def test_other_origins_and_hosts_are_refused(client, grade, coloured):
    image = ("a.png", coloured.picture((1, 2, 3)))
    assert grade(client, image, Origin="http://localhost").status_code == 200
    for headers in ({"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": "null"}):
        reply = grade(client, image, **headers)
        assert (reply.status_code, reply.json) == (
            403,
            {"error": "this request comes from another web page: only the server's own page may send it"},
        )
    for path in ("/", "/about", "/examples/0.webp", "/nowhere"):
        reply = client.get(path, headers={"Host": "evil.example"})
        assert reply.status_code == 400
        assert reply.json["error"].startswith("the Host header is not an address of this server")


def test_the_rate_is_limited_per_real_address(make_client, grade, coloured):
    client, image = make_client(limits=Limits(rate=3)), ("a.png", coloured.picture((1, 2, 3)))
    statuses = [grade(client, image, **{"X-Forwarded-For": f"10.0.0.{k}"}).status_code for k in range(5)]
    assert statuses == [200, 200, 200, 429, 429]
    reply = grade(client, image)
    assert reply.json == {"error": "more than 3 requests in a minute (--rate): try again later"}
    assert 1 <= int(reply.headers["Retry-After"]) <= 60
    assert client.get("/about").status_code == 200
    body, kind = b"", "multipart/form-data; boundary=b"
    other = client.post("/grade", data=body, content_type=kind, environ_base={"REMOTE_ADDR": "10.0.0.9"})
    assert other.status_code == 400  # another address has its own counter


def test_a_full_queue_returns_retry_after(make_client, grade, coloured):
    reply = grade(make_client(max_requests=0), ("a.png", coloured.picture((1, 2, 3))))
    assert (reply.status_code, reply.headers["Retry-After"]) == (503, "5")
    assert reply.json == {"error": "0 requests are in progress already: try again in a moment"}


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (FolioError("/home/ann/bundle: the network is gone"), 503, "the server cannot predict at the moment"),
        (ZeroDivisionError("of /home/ann"), 500, "internal error (ZeroDivisionError)"),
    ],
)
def test_errors_contain_no_path(make_client, grade, coloured, caplog, error, status, said):
    def fail(files, entry_keys):
        raise error

    client = make_client(predict=fail)
    reply = grade(client, ("a.png", coloured.picture((1, 2, 3))))
    assert reply.status_code == status
    assert reply.json["error"].startswith(said)
    assert "/home" not in reply.text
    assert str(client.folder) not in caplog.text
    assert caplog.records
    assert list(client.folder.iterdir()) == []


def test_responses_contain_no_path(make_client, grade, coloured, bundle_with_examples, store):
    client = make_client(of=bundle_with_examples)
    good = coloured.picture((230, 20, 20))
    told = [
        client.get("/"),
        client.get("/about"),
        grade(client, ("a", good)),
        grade(client, ("b", good[:50])),
    ]
    told.append(grade(client, ("/etc/passwd", good), ("../../x", good)))
    for reply in told:
        for folder in (client.folder, bundle_with_examples.parent, store.parent.parent):
            assert str(folder) not in reply.text


def test_bundle_without_examples(client, grade, coloured):
    assert client.get("/examples/0.webp").status_code == 404
    assert client.get("/about").json["examples"] is None
    assert "nearest" not in grade(client, ("a", coloured.picture((1, 2, 3)))).json[0]
    assert 'id="nearest-about"' not in client.get("/").text


def test_bundle_with_examples(make_client, grade, coloured, bundle_with_examples):
    client = make_client(of=bundle_with_examples)
    assert client.get("/about").json["examples"] == 24
    (row,) = grade(client, ("a", coloured.picture(coloured.colour("low", 3)))).json
    assert len(row["nearest"]) == 5
    assert {near["grade"] for near in row["nearest"]} == {"low"}
    first = row["nearest"][0]
    assert first["name"].startswith("low ")
    assert first["similarity"] == pytest.approx(1, abs=2e-3)
    reply = client.get(first["picture"])
    assert reply.mimetype == "image/webp"
    red, green, blue = Image.open(io.BytesIO(reply.data)).convert("RGB").resize((1, 1)).getpixel((0, 0))
    number = int(first["name"].removeprefix("low ").removesuffix(".png"))
    assert (red, green, blue) == pytest.approx(coloured.colour("low", number), abs=6)
    assert client.get("/examples/24.webp").status_code == 404
    assert client.get("/examples/99999999999999999999.webp").status_code == 404
    assert client.get("/examples/-1.webp").status_code == 404
    assert grade(client, ("a", b"x")).json["grades"][0]["nearest"] == []


def test_the_page_escapes_names_of_the_bundle(make_client, bundle, tmp_path):
    hostile = "<img src=x onerror=alert(1)>"
    manifest = json.loads((bundle / "manifest.json").read_text())
    client = make_client()
    about = client.application.config["ABOUT"]
    assert about["classes"] == manifest["classes"]
    about |= {"dataset": hostile, "bundle": hostile, "classes": [hostile, "b"]}
    page = client.get("/").text
    assert hostile not in page
    assert "&lt;img src=x onerror=alert(1)&gt;" in page
