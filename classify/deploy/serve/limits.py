"""Checks of requests before the application: origin, arrival time, buffered bytes.

A web page of any other site that is open in a browser on this machine could send requests to the server;
`check_request` refuses them.
"""

from __future__ import annotations

import ipaddress
import json
import socket
import threading
import time
from collections.abc import Mapping
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from waitress.channel import HTTPChannel  # type: ignore[import-untyped]
from waitress.parser import HTTPRequestParser  # type: ignore[import-untyped]
from waitress.task import ErrorTask  # type: ignore[import-untyped]
from waitress.utilities import Error, RequestEntityTooLarge  # type: ignore[import-untyped]

LOOPBACK_NAMES = ("localhost", "localhost.localdomain", "ip6-localhost")
RESPONSE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def is_loopback(host: str) -> bool:
    """Return whether a host, as given to ``--host``, can be reached from this machine only."""
    address = _address(host)
    return address.is_loopback if address is not None else host.lower() in LOOPBACK_NAMES


def is_own_host(host_header: str, *, host: str) -> bool:
    """Return whether a request was sent to a name or address of this server.

    A foreign web page can let its own domain name point to this machine (DNS rebinding). The browser then
    treats the server as that page's own, but still sends the domain name. Addresses cannot be faked that way.

    Parameters
    ----------
    host_header : str
        The Host header.
    host : str
        Host that the server is bound to.
    """
    try:
        name = (urlsplit(f"//{host_header}").hostname or "").rstrip(".")
    except ValueError:
        return False
    address = _address(name)
    if is_loopback(host):
        return name == host.lower() or (name in LOOPBACK_NAMES if address is None else address.is_loopback)
    return address is not None or name in {
        host.lower(),
        *LOOPBACK_NAMES,
        socket.gethostname().lower(),
        f"{socket.gethostname().lower()}.local",
    }


def check_request(method: str, headers: Mapping[str, str], *, host: str) -> tuple[int, str] | None:
    """Return status and reason if a request must be refused because of its origin, else None.

    Parameters
    ----------
    method : str
        GET, POST and so on.
    headers : mapping
        Request headers; the keys are lower case.
    host : str
        Host that the server is bound to.
    """
    host_header = headers.get("host", "")
    if not is_own_host(host_header, host=host):
        return 400, "the Host header is not an address of this server: open the page at the printed URL"
    if method not in ("GET", "HEAD") and is_cross_site(
        headers.get("origin"), headers.get("sec-fetch-site"), host_header=host_header
    ):
        return 403, "this request comes from another web page: only the server's own page may send it"
    return None


def is_cross_site(origin: str | None, fetch_site: str | None, *, host_header: str) -> bool:
    """Return whether a browser marks a request as sent by another web page; other clients set no marks.

    Parameters
    ----------
    origin, fetch_site : str, optional
        The headers Origin and Sec-Fetch-Site.
    host_header : str
        The Host header.
    """
    if fetch_site not in (None, "same-origin", "none"):
        return True
    try:
        return origin is not None and urlsplit(origin).netloc != host_header
    except ValueError:
        return True


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return None


REQUEST_TIMEOUT = 600.0  # seconds for a request to arrive; time in which it had to wait does not count
MAX_DISCARDED = 2_000_000_000  # bytes of a refused body that are read, so that the client gets the reason

_REASONS = {400: "Bad Request", 403: "Forbidden", 408: "Request Timeout"}


class BodyBudget:
    """Buffered bytes of request bodies, over all connections.

    Parameters
    ----------
    n_bytes : int
        Limit; above it, connections stop receiving until requests have been answered. If no request is
        complete, the connection that began first goes on.
    """

    def __init__(self, n_bytes: int) -> None:
        self.n_bytes = n_bytes
        self._bytes: dict[Any, int] = {}  # connection → buffered bytes
        self._receiving: dict[Any, None] = {}  # connections with an incomplete request, oldest first
        self._lock = threading.Lock()

    def update(self, connection: Any, n_bytes: int, *, receiving: bool) -> None:
        """Set a connection's buffered bytes, and whether it has an incomplete request."""
        with self._lock:
            self._bytes[connection] = n_bytes
            if not n_bytes:
                del self._bytes[connection]
            if receiving:
                self._receiving.setdefault(connection)
            else:
                self._receiving.pop(connection, None)

    def must_wait(self, connection: Any) -> bool:
        """Return whether a connection must not receive now."""
        with self._lock:
            if sum(self._bytes.values()) < self.n_bytes:
                return False
            if self._bytes.keys() - self._receiving.keys():  # complete requests: answering them frees buffers
                return True
            return next(iter(self._receiving), connection) is not connection


class GuardedParser(HTTPRequestParser):
    """An arriving request. It is checked once its headers are complete; a refused body is not stored."""

    expect_continue: bool

    def __init__(self, adj: Any, *, host: str) -> None:
        super().__init__(adj)
        self.host = host
        self.waited = 0.0  # seconds in which the budget stopped it
        self._started = time.monotonic()
        self._headers_checked = False
        self._to_discard = -1  # bytes of a refused body still to come; -1 if the body is stored

    def received(self, data: bytes) -> int:
        """Parse received bytes; return how many of them belong to this request."""
        if time.monotonic() - self._started - self.waited > REQUEST_TIMEOUT:
            self._refuse(408, f"the request did not arrive within {REQUEST_TIMEOUT:g} seconds")
            self.completed, self._to_discard = True, -1
            return len(data)
        if self._to_discard >= 0:
            n = min(len(data), self._to_discard)
            self._to_discard -= n
            self.completed = not self._to_discard
            return n
        n = int(super().received(data))
        if self.headers_finished and not self._headers_checked:
            self._headers_checked = True
            self._check_headers()
        return n

    def _check_headers(self) -> None:
        """Decide, when the headers are complete, whether the body is stored, discarded or not read."""
        if self.error is None and not self.empty:
            headers = {name.lower().replace("_", "-"): value for name, value in self.headers.items()}
            refused = check_request(getattr(self, "command", ""), headers, host=self.host)
            if refused is not None:
                self._refuse(*refused)
        if self.error is None:
            return
        # A client that sends "Expect: 100-continue" (curl, for large bodies) gets the error now; every other
        # client gets it after its body, because many ignore a response while they are still sending.
        read_body = 0 < self.content_length <= MAX_DISCARDED and not self.expect_continue
        self.expect_continue = False  # otherwise Waitress would answer "100 Continue"
        self.completed = not read_body
        self._to_discard = self.content_length if read_body else -1

    def _refuse(self, code: int, reason: str) -> None:
        self.error = Error(reason)
        self.error.code, self.error.reason = code, _REASONS[code]
        self.completed = True


class JsonErrorTask(ErrorTask):
    """Response to a request that is refused before the application, in the application's JSON form."""

    def execute(self) -> None:
        """Write the response."""
        error = self.request.error
        message = error.body
        if isinstance(error, RequestEntityTooLarge):
            message = f"request too large: {self.channel.size_limits}"
        body = json.dumps({"error": message}).encode("ascii") + b"\n"
        self.status = f"{error.code} {error.reason}"
        self.response_headers.append(("Content-Type", "application/json"))
        self.response_headers += RESPONSE_HEADERS.items()
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body)


class GuardedChannel(HTTPChannel):
    """A connection. Each server has a subclass with these class attributes."""

    error_task_class = JsonErrorTask
    host: str  # host that the server is bound to
    budget: BodyBudget  # shared by all connections
    size_limits: str  # text for error messages

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.parser_class = partial(GuardedParser, host=self.host)
        self._waiting_since: float | None = None
        self._update_lock = threading.RLock()

    def readable(self) -> bool:
        """Return whether to receive data now."""
        if not super().readable():
            return False
        waits = self.request is not None and self.budget.must_wait(self)
        now = time.monotonic()
        if self._waiting_since is not None and self.request is not None:
            self.request.waited += now - self._waiting_since
        self._waiting_since = now if waits else None
        if waits:
            self.last_activity = time.time()  # no idle timeout while the server makes it wait
        return not waits

    def received(self, data: bytes) -> bool:
        """Parse received bytes."""
        parsed = bool(super().received(data))
        self._update_budget()
        return parsed

    def service(self) -> None:
        """Answer a request in a worker thread."""
        super().service()
        self._update_budget()

    def handle_close(self) -> None:
        """Close the connection."""
        super().handle_close()
        self._update_budget()

    def _update_budget(self) -> None:
        with self._update_lock:  # otherwise a thread could add a connection that has just been closed
            requests = [*self.requests, *filter(None, [self.request])] if self.connected else []
            n_bytes = sum(0 if request.error else request.body_bytes_received for request in requests)
            receiving = bool(requests) and self.request is not None
            self.budget.update(self, n_bytes, receiving=receiving)
