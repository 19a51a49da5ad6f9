"""Server processes: predictions of `classify predict`, errors at the start, clean shutdown."""

import json
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed

import pytest
from click.testing import CliRunner

from classify.cli.main import cli
from classify.deploy.serve.server import Server, _url, running_server
from classify.errors import BundleError
from classify.jobs.compare import compare
from featurize import ConfigError
from featurize._version import __version__


def test_predictions_are_those_of_predict(server, coloured, bundle_with_examples, tmp_path):
    files = [
        (f"{grade} {k}.png", coloured.picture(coloured.colour(grade, k)))
        for grade in coloured.CLASSES
        for k in (2, 5)
    ]
    files += [("cut.png", files[0][1][:50]), ("note.txt", b"hello")]
    reply = server.grade(*files)
    assert reply.status == 200
    for name, data in files:
        (tmp_path / name).write_bytes(data)
    words = [coloured.__file__, "predict", str(bundle_with_examples), "--json", *[name for name, _ in files]]
    done = subprocess.run([sys.executable, *words], cwd=tmp_path, capture_output=True, text=True, check=True)
    said = json.loads(done.stdout)
    assert [{k: v for k, v in row.items() if k != "nearest"} for row in reply.json] == said
    assert [row["grade"] for row in said] == ["award"] * 2 + ["low"] * 2 + ["middle"] * 2 + [None] * 2


def test_printed_summary_and_about(server, bundle_with_examples):
    assert server.said == [
        f"Serving at {server.url}   (stop with Ctrl-C)\n",
        f"  {bundle_with_examples}: logreg on efficientnet_lite0, with 24 examples\n",
        "  classes: award, low, middle\n",
        "  limits: 25 MB per file, 200 megapixels per image, 1200 requests per minute\n",
    ]
    about = server.ask("GET", "/about").json
    assert (about["dataset"], about["bundle"], about["version"]) == ("colours", "with examples", __version__)
    assert about["limits"] == {
        "max_upload": 25_000_000,
        "max_request": 100_000_000,
        "max_pixels": 200_000_000,
        "rate": 1200,
    }


def test_ctrl_c_stops_it_and_leaves_no_file(start, bundle, coloured):
    server = start(bundle)
    assert server.grade(("a.png", coloured.picture((1, 2, 3)))).status == 200
    assert server.end(signal.SIGINT) == 0
    assert list(server.temporary.iterdir()) == []
    assert server.errors.read_text() == "Stopped.\n"


def test_queued_requests_get_an_answer_at_shutdown(start, bundle, coloured):
    server, image = start(bundle), ("a.png", coloured.picture((230, 20, 20)))
    server.gate.touch()
    with ThreadPoolExecutor(24) as clients:
        asked = [clients.submit(server.grade, image) for _ in range(24)]
        while len(server.files()) < 1 + len(asked):  # until all are there
            time.sleep(0.02)
        server.process.send_signal(signal.SIGTERM)
        first = next(as_completed(asked))
        assert first.result().status == 503
        server.gate.unlink()
        replies = [one.result(60) for one in asked]
    assert server.process.wait(60) == 0
    assert {reply.status for reply in replies} == {200, 503}  # what was under way has been graded
    for reply in replies:
        if reply.status == 503:
            assert reply.json == {"error": "the server is shutting down"}
            assert reply.headers["Retry-After"] == "5"
        else:
            assert reply.json[0]["grade"] == "award"
    assert list(server.temporary.iterdir()) == []
    assert server.errors.read_text() == "Stopped.\n"


def test_silent_connections_block_nobody(server, coloured):
    silent = [socket.create_connection(server.address) for _ in range(100)]
    for one in silent[::2]:
        one.sendall(b"POST /grade HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\nhalf of it")
    try:
        assert server.grade(("a.png", coloured.picture((1, 2, 3)))).status == 200
        assert server.ask("GET", "/").status == 200
    finally:
        for one in silent:
            one.close()
    assert server.left() == ["in-use"]


def test_a_client_that_disconnects_leaves_no_file(server, coloured, as_form):
    body, kind = as_form([("a.png", coloured.picture((1, 2, 3), size=(3000, 3000)))])
    for end in (len(body) // 2, len(body)):
        with socket.create_connection(server.address) as connection:
            head = f"POST /grade HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\n"
            length = f"Content-Length: {len(body)}\r\n\r\n"
            connection.sendall((head + length).encode() + body[:end])
    assert server.grade(("a.png", coloured.picture((1, 2, 3)))).status == 200
    assert server.left() == ["in-use"]


@pytest.mark.parametrize(
    ("host", "said"),
    [
        ("203.0.113.7", r"--host 203\.0\.113\.7: cannot listen on it \(.*\)\. Try --host 127\.0\.0\.1$"),
        ("no such host", r"--host no such host: not an address of this machine\. Try --host 127\.0\.0\.1$"),
    ],
)
def test_an_address_of_another_machine_is_refused(bundle, network, host, said):
    with pytest.raises(ConfigError, match=said), running_server(bundle, port=0, host=host):
        pass


def test_a_taken_port_is_refused(server, bundle, network):
    _, port = server.address
    said = f"port {port} of 127.0.0.1: taken by another program. Choose another with --port"
    with pytest.raises(ConfigError, match=said), running_server(bundle, port=port):
        pass


def test_a_missing_bundle_is_refused(tmp_path):
    with (
        pytest.raises(BundleError, match="no such folder; expected a bundle"),
        running_server(tmp_path / "nothing"),
    ):
        pass


def test_a_run_stands_for_its_recommended_head(store, network, tmp_path):
    run = compare([store], heads=("logreg",), out=tmp_path / "run", jobs=1, with_examples=True)
    with running_server(run.folder, port=0) as server:
        assert server.bundle == run.folder / run.recommended["bundle"]
        assert server.about["examples"] == 24


def test_missing_weights_are_reported_at_the_start(make_store, network, tmp_path):
    from classify.jobs.fit import fit

    config = {"weights": {"kind": "file", "sha256": "1" * 64, "seed": None}}
    bundle = fit(make_store(config=config), head="logreg", params={"C": 1.0}, out=tmp_path / "b").bundle
    with (
        pytest.raises(BundleError, match=r"lacks the weights of its backbone.*--weights FILE"),
        running_server(bundle, port=0),
    ):
        pass


def test_an_unknown_device_is_refused(bundle):
    with pytest.raises(ConfigError), running_server(bundle, port=0, device="toaster"):
        pass


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:80/"),
        ("::1", "http://[::1]:80/"),
        ("localhost", "http://localhost:80/"),
        ("0.0.0.0", "http://127.0.0.1:80/"),
        ("::", "http://[::1]:80/"),
        ("192.168.1.7", "http://192.168.1.7:80/"),
    ],
)
def test_url(host, url):
    assert _url(host, 80) == url


def test_public_hosts_are_warned_about(bundle, bundle_with_examples, network, monkeypatch):
    def asked_to_end(server):
        raise KeyboardInterrupt

    monkeypatch.setattr(Server, "run", asked_to_end)
    warned = "can be reached from other machines without a password: anyone who can reach it can send images"
    for of, host, said in [
        (bundle, "0.0.0.0", f"Warning: 0.0.0.0 {warned}.\nStopped.\n"),
        (
            bundle_with_examples,
            "::",
            f"Warning: :: {warned} and see the examples.\nStopped.\n",
        ),
        (bundle, "127.0.0.1", "Stopped.\n"),
    ]:
        done = CliRunner().invoke(cli, ["serve", str(of), "--host", host, "--port", "0"])
        assert (done.exit_code, done.stderr) == (0, said)
        assert done.stdout.startswith("Serving at http://")


def has_ipv6():
    try:
        with socket.socket(socket.AF_INET6) as one:
            one.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback")
def test_ipv6(start, bundle, coloured):
    server = start(bundle, "--host", "::1")
    assert server.url.startswith("http://[::1]:")
    assert server.grade(("a.png", coloured.picture((1, 2, 3)))).status == 200
