"""Parsing, refusing and buffering of requests: the parser alone, and a server with real connections."""

import hashlib
import http.client
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from waitress import wasyncore
from waitress.adjustments import Adjustments

from classify.deploy.serve import Limits, limits as limits_module, server as server_module
from classify.deploy.serve.limits import BodyBudget, GuardedChannel, GuardedParser

OWN = b"Host: 127.0.0.1\r\n"


def parser(**options):
    return GuardedParser(Adjustments(**{"max_request_body_size": 1000, **options}), host="127.0.0.1")


def post(length: int, headers: bytes = OWN) -> bytes:
    return b"POST /grade HTTP/1.1\r\n" + headers + b"Content-Length: %d\r\n\r\n" % length


def test_a_request_of_the_own_page_is_stored():
    one = parser()
    assert one.received(post(5)) == len(post(5))
    assert not one.completed
    assert one.received(b"he") == 2
    assert one.received(b"lloGET") == 3  # the rest belongs to the next request
    assert one.completed
    assert one.error is None
    assert one.get_body_stream().read() == b"hello"


@pytest.mark.parametrize(
    ("headers", "length", "code"),
    [
        (b"Host: evil.example\r\n", 10, 400),
        (b"", 10, 400),
        (OWN + b"Origin: http://evil.example\r\n", 10, 403),
        (OWN + b"Sec-Fetch-Site: cross-site\r\n", 10, 403),
        (OWN, 1000, 413),
        (OWN, 10**9, 413),
    ],
)
def test_the_body_of_a_refused_request_is_read_but_not_stored(headers, length, code):
    one = parser()
    one.received(post(length, headers))
    assert one.error.code == code
    assert not one.completed  # otherwise the connection would close before the client got the reason
    for _ in range(2):
        one.received(bytes(length // 2))
    assert one.completed
    assert one.get_body_stream().read() == b""


@pytest.mark.parametrize(("length", "code"), [(10, 400), (10**15, 413)])
def test_expect_100_continue_is_refused_at_once(length, code):
    one = parser()
    one.received(post(length, b"Host: evil.example\r\nExpect: 100-continue\r\n"))
    assert (one.completed, one.expect_continue, one.error.code) == (True, False, code)


def test_an_endless_body_is_not_read():
    one = parser()
    one.received(post(10**15))
    assert (one.completed, one.error.code) == (True, 413)


def test_a_chunked_body_is_limited():
    one = parser()
    one.received(b"POST /grade HTTP/1.1\r\n" + OWN + b"Transfer-Encoding: chunked\r\n\r\n")
    assert not one.completed
    for _ in range(9):
        one.received(b"80\r\n" + bytes(128) + b"\r\n")
    assert (one.completed, one.error.code) == (True, 413)


def test_a_slow_request_times_out(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(limits_module.time, "monotonic", lambda: now[0])
    one = parser()
    for second in range(590):
        now[0] = float(second)
        one.received(b"G" if second == 0 else b"x")
    assert not one.completed
    one.waited, now[0] = 100.0, 690.0  # 100 seconds of waiting for the budget
    one.received(b"x")
    assert not one.completed
    now[0] = 701.0
    assert one.received(b"xyz") == 3
    assert (one.completed, one.error.code) == (True, 408)
    assert one.error.body == "the request did not arrive within 600 seconds"


def test_connections_wait_above_the_budget_unless_no_request_is_complete():
    budget, connections = BodyBudget(100), [object() for _ in range(3)]
    a, b, _ = connections
    budget.update(a, 60, receiving=True)
    budget.update(b, 30, receiving=True)
    assert [budget.must_wait(one) for one in connections] == [False, False, False]
    budget.update(b, 40, receiving=True)
    assert [budget.must_wait(one) for one in connections] == [False, True, True]
    budget.update(a, 500, receiving=False)  # complete, and not answered yet
    assert [budget.must_wait(one) for one in connections] == [True, True, True]
    budget.update(a, 0, receiving=False)
    assert [budget.must_wait(one) for one in connections] == [False, False, False]
    budget.update(b, 0, receiving=False)
    assert budget._bytes == budget._receiving == {}


@pytest.fixture(scope="module")
def small(start, bundle):
    """A server with limits of 100 kB per file, 400 kB per request and 3.2 MB of buffers."""
    return start(bundle, "--max-upload", "0.1")


def talk(server, data: bytes) -> bytes:
    """Send bytes; return everything received until the server closes the connection."""
    with socket.create_connection(server.address, timeout=60) as connection:
        connection.sendall(data)
        found = b""
        while more := connection.recv(65536):
            found += more
        return found


def test_a_client_that_expects_100_continue_is_refused_before_its_body(small):
    said = talk(small, post(10**7, OWN + b"Expect: 100-continue\r\n"))
    assert said.startswith(b"HTTP/1.1 413 ")
    assert b'{"error": "request too large: at most 0.4 MB per request and 0.1 MB per file"}' in said


def test_a_client_gets_the_reason_after_its_body(small, as_form):
    body, kind = as_form([("huge.jpg", bytes(20_000_000))])
    reply = small.ask("POST", "/grade", body, content_type=kind)
    assert reply.status == 413
    assert reply.json == {"error": "request too large: at most 0.4 MB per request and 0.1 MB per file"}
    assert reply.headers["Content-Type"] == "application/json"
    assert reply.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    ("data", "status", "said"),
    [
        (b"nonsense\r\n\r\n", b"HTTP/1.0 400 ", b'{"error": '),
        (
            b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n",
            b"HTTP/1.1 400 ",
            b"is not an address of this server",
        ),
        (b"GET / HTTP/1.1\r\n\r\n", b"HTTP/1.1 400 ", b"is not an address of this server"),
        (b"POST /grade HTTP/1.1\r\n" + OWN + b"Content-Length: -5\r\n\r\n", b"HTTP/1.1 400 ", b'{"error": '),
        ((b"GET / HTTP/1.1\r\n" + OWN + b"X: ").ljust(2**18, b"y"), b"HTTP/1.0 431 ", b'{"error": '),
    ],
)
def test_malformed_requests_are_refused_as_json(small, data, status, said):
    found = talk(small, data)
    assert found.startswith(status)
    assert said in found
    assert found.endswith(b"}\n")


def test_above_the_budget_requests_arrive_one_by_one_and_complete(as_form):
    """30 requests of 0.39 MB; while none is answered, the server buffers 3.2 MB and one more request."""
    limits, gate, sockets = Limits(max_upload=100_000), threading.Event(), {}

    def answer(environ, start_response):
        gate.wait(60)
        body = environ["wsgi.input"].read()
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [hashlib.sha256(body).hexdigest().encode()]

    server = server_module._listening_server(answer, host="127.0.0.1", port=0, limits=limits, sockets=sockets)
    options = {"timeout": 0.05, "map": sockets, "use_poll": True}
    loop = threading.Thread(target=wasyncore.loop, kwargs=options, daemon=True)
    loop.start()

    def send(number: int) -> tuple[str, str]:
        body, kind = as_form([("a", bytes([number]) * 390_000)])
        connection = http.client.HTTPConnection("127.0.0.1", server.effective_port, timeout=60)
        connection.request("POST", "/", body, {"Content-Type": kind})
        said = connection.getresponse().read().decode()
        connection.close()
        return said, hashlib.sha256(body).hexdigest()

    def received() -> int:
        channels = [one for one in list(sockets.values()) if isinstance(one, GuardedChannel)]
        there = [request for one in channels for request in [*one.requests, one.request] if request]
        return sum(request.body_bytes_received for request in there)

    with ThreadPoolExecutor(30) as clients:
        asked = [clients.submit(send, number) for number in range(30)]
        most, quiet = 0, 0
        while quiet < 10:  # until nothing has arrived for half a second
            time.sleep(0.05)
            quiet = quiet + 1 if most and received() == most else 0
            most = received()
        gate.set()
        replies = [one.result(60) for one in asked]
    server.task_dispatcher.shutdown()
    wasyncore.close_all(sockets)
    at_a_time = 30 * 8192  # bytes that all connections may receive in one iteration of the loop
    assert limits.max_buffered <= most <= limits.max_buffered + limits.max_request + at_a_time
    assert all(said == sent for said, sent in replies)
