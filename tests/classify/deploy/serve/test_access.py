"""Whose requests are answered: a table of what browsers and programs send."""

import socket

import pytest

from classify.deploy.serve.limits import HEADERS, is_cross_site, is_loopback, known_host, refusal


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
def test_what_only_this_machine_can_reach(host, loopback):
    assert is_loopback(host) is loopback


@pytest.mark.parametrize(
    ("asked", "known"),
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
def test_a_server_of_this_machine_alone_knows_its_names(asked, known):
    assert known_host(asked, host="127.0.0.1") is known


@pytest.mark.parametrize(
    ("asked", "known"),
    [
        ("192.168.1.7:8765", True),
        ("[fe80::1]:8765", True),
        ("localhost:8765", True),
        (f"{socket.gethostname()}:8765", True),
        (f"{socket.gethostname().lower()}.local:8765", True),
        ("evil.example:8765", False),
    ],
)
def test_a_server_for_others_knows_addresses_and_its_own_name(asked, known):
    assert known_host(asked, host="0.0.0.0") is known


def test_a_server_bound_to_a_name_knows_it():
    assert known_host("studio.example:80", host="Studio.example")


@pytest.mark.parametrize(
    ("origin", "site", "expected"),
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
def test_what_another_page_sends_is_told(origin, site, expected):
    assert is_cross_site(origin, site, asked="localhost:8765") is expected


def test_another_page_may_link_but_not_send():
    cross = {"host": "localhost:8765", "origin": "http://evil.example", "sec-fetch-site": "cross-site"}
    assert refusal("GET", cross, host="127.0.0.1") is None
    assert refusal("HEAD", cross, host="127.0.0.1") is None
    for method in ("POST", "PUT", "OPTIONS", "DELETE", "whatever"):
        code, reason = refusal(method, cross, host="127.0.0.1")
        assert (code, reason) == (403, "another web page sent this request: only this server's own page may")
    code, reason = refusal("GET", {"host": "evil.example"}, host="127.0.0.1")
    assert code == 400
    assert reason.startswith("the Host of this request is no name of this server")
    assert refusal("GET", {}, host="127.0.0.1") is not None


def test_pages_may_fetch_from_nowhere_else_and_be_framed_by_nobody():
    policy = dict(part.strip().split(" ", 1) for part in HEADERS["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["form-action"] == "'none'"
    assert policy["script-src"] == policy["connect-src"] == "'self'"
    assert "unsafe" not in HEADERS["Content-Security-Policy"]
    assert (HEADERS["Cache-Control"], HEADERS["X-Content-Type-Options"]) == ("no-store", "nosniff")
