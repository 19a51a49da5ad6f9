"""Accepted and refused origins: headers that browsers and other clients send."""

import socket

import pytest

from classify.deploy.serve.limits import (
    RESPONSE_HEADERS,
    check_request,
    is_cross_site,
    is_loopback,
    is_own_host,
)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.9.10", True),
        ("::1", True),
        ("localhost", True),
        ("LOCALHOST", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.7", False),
        ("studio.example", False),
        ("", False),
    ],
)
def test_loopback_hosts(host, loopback):
    assert is_loopback(host) is loopback


@pytest.mark.parametrize(
    ("host_header", "own"),
    [
        ("127.0.0.1:8765", True),
        ("127.0.0.1", True),
        ("localhost:8765", True),
        ("LocalHost:8765", True),
        ("localhost.:8765", True),  # with the root's dot, as a resolver may have it
        ("[::1]:8765", True),
        ("evil.example:8765", False),  # a name that points here today
        ("localhost.evil.example:8765", False),
        ("127.0.0.1.evil.example", False),
        ("evil.example#@127.0.0.1", False),
        ("192.168.1.7:8765", False),
        ("[::1", False),
        ("", False),
    ],
)
def test_own_hosts_of_a_loopback_server(host_header, own):
    assert is_own_host(host_header, host="127.0.0.1") is own


@pytest.mark.parametrize(
    ("host_header", "own"),
    [
        ("192.168.1.7:8765", True),
        ("[fe80::1]:8765", True),
        ("localhost:8765", True),
        (f"{socket.gethostname()}:8765", True),
        (f"{socket.gethostname().lower()}.local:8765", True),
        ("evil.example:8765", False),
    ],
)
def test_own_hosts_of_a_public_server(host_header, own):
    assert is_own_host(host_header, host="0.0.0.0") is own


def test_own_host_of_a_server_bound_to_a_name():
    assert is_own_host("studio.example:80", host="Studio.example")


@pytest.mark.parametrize(
    ("origin", "fetch_site", "expected"),
    [
        (None, None, False),  # a program
        ("http://localhost:8765", "same-origin", False),
        (None, "none", False),  # typed by hand
        ("http://localhost:8765", None, False),  # a browser that says no more
        ("http://localhost:3000", "same-site", True),  # another program's page on this machine
        ("http://localhost:3000", None, True),
        ("http://evil.example", "cross-site", True),
        ("http://evil.example", None, True),
        (None, "cross-site", True),
        ("null", None, True),  # a file, or a frame without an origin
        ("http://[::1", None, True),
    ],
)
def test_cross_site_requests(origin, fetch_site, expected):
    assert is_cross_site(origin, fetch_site, host_header="localhost:8765") is expected


def test_other_pages_may_link_but_not_send():
    cross = {"host": "localhost:8765", "origin": "http://evil.example", "sec-fetch-site": "cross-site"}
    assert check_request("GET", cross, host="127.0.0.1") is None
    assert check_request("HEAD", cross, host="127.0.0.1") is None
    for method in ("POST", "PUT", "OPTIONS", "DELETE", "whatever"):
        code, reason = check_request(method, cross, host="127.0.0.1")
        assert (code, reason) == (
            403,
            "this request comes from another web page: only the server's own page may send it",
        )
    code, reason = check_request("GET", {"host": "evil.example"}, host="127.0.0.1")
    assert code == 400
    assert reason.startswith("the Host header is not an address of this server")
    assert check_request("GET", {}, host="127.0.0.1") is not None


def test_content_security_policy():
    policy = dict(
        part.strip().split(" ", 1) for part in RESPONSE_HEADERS["Content-Security-Policy"].split(";")
    )
    assert policy["default-src"] == policy["frame-ancestors"] == policy["form-action"] == "'none'"
    assert policy["script-src"] == policy["connect-src"] == "'self'"
    assert "unsafe" not in RESPONSE_HEADERS["Content-Security-Policy"]
    assert (RESPONSE_HEADERS["Cache-Control"], RESPONSE_HEADERS["X-Content-Type-Options"]) == (
        "no-store",
        "nosniff",
    )
