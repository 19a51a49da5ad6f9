"""Who may ask a page on this machine: not every web page that happens to be open in its browser."""

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
HEADERS = {
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
    """Tell whether a host, as given to ``--host``, is reached from this machine alone."""
    address = _address(host)
    return address.is_loopback if address is not None else host.lower() in LOOPBACK_NAMES


def known_host(asked: str, *, host: str) -> bool:
    """Tell whether a request was sent to a name of this server.

    A foreign web page can have its own domain name point at this machine (DNS rebinding); the browser then
    takes the server for that page's own, but still names the domain. An address cannot be had that way.

    Parameters
    ----------
    asked : str
        The Host header.
    host : str
        What the server is bound to.
    """
    try:
        name = (urlsplit(f"//{asked}").hostname or "").rstrip(".")
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


def refusal(method: str, headers: Mapping[str, str], *, host: str) -> tuple[int, str] | None:
    """Return status and reason where a request is to be refused for where it comes from, else None.

    Parameters
    ----------
    method : str
        Of the request: GET, POST and so on.
    headers : mapping
        Its headers, by their names in lower case.
    host : str
        What the server is bound to.
    """
    asked = headers.get("host", "")
    if not known_host(asked, host=host):
        return 400, "the Host of this request is no name of this server: open it as it was printed"
    reading = method in ("GET", "HEAD")
    if not reading and is_cross_site(headers.get("origin"), headers.get("sec-fetch-site"), asked=asked):
        return 403, "another web page sent this request: only this server's own page may"
    return None


def is_cross_site(origin: str | None, site: str | None, *, asked: str) -> bool:
    """Tell whether a browser says that another web page sends this request; programs say nothing.

    Parameters
    ----------
    origin, site : str, optional
        The headers Origin and Sec-Fetch-Site.
    asked : str
        The Host header.
    """
    if site not in (None, "same-origin", "none"):
        return True
    try:
        return origin is not None and urlsplit(origin).netloc != asked
    except ValueError:
        return True


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return None


REQUEST_TIME = 600.0  # seconds for a request to arrive whole; time that it had to wait does not count
MOST_DISCARDED = 2_000_000_000  # bytes of a refused body that are read, so that its sender hears the reason

_REASONS = {400: "Bad Request", 403: "Forbidden", 408: "Request Timeout"}


class ByteBudget:
    """How many bytes of requests there are, received or on their way in, over all connections.

    Parameters
    ----------
    n_bytes : int
        Beyond which connections wait until requests have been answered; where none is whole, the one that
        began first goes on.
    """

    def __init__(self, n_bytes: int) -> None:
        self.n_bytes = n_bytes
        self._held: dict[Any, int] = {}  # connection → bytes; those that receive, in the order they began
        self._receiving: dict[Any, None] = {}
        self._lock = threading.Lock()

    def note(self, connection: Any, n_bytes: int, *, receiving: bool) -> None:
        """Note how many bytes a connection holds, and whether a request of it is only partly there."""
        with self._lock:
            self._held[connection] = n_bytes
            if not n_bytes:
                del self._held[connection]
            if receiving:
                self._receiving.setdefault(connection)
            else:
                self._receiving.pop(connection, None)

    def must_wait(self, connection: Any) -> bool:
        """Tell whether a connection is to receive nothing for now."""
        with self._lock:
            if sum(self._held.values()) < self.n_bytes:
                return False
            if self._held.keys() - self._receiving.keys():  # what is whole will be answered, and make room
                return True
            return next(iter(self._receiving), connection) is not connection


class GuardedParser(HTTPRequestParser):
    """A request as it arrives. What is refused is told by its headers, and its body is kept nowhere."""

    expect_continue: bool

    def __init__(self, adj: Any, *, host: str) -> None:
        super().__init__(adj)
        self.host = host
        self.waited = 0.0  # seconds
        self._begun = time.monotonic()
        self._looked_at = False
        self._to_discard = -1  # bytes of the body that are still to come; -1: it is kept

    def received(self, data: bytes) -> int:
        """Take bytes of the request; return how many of them were its own."""
        if time.monotonic() - self._begun - self.waited > REQUEST_TIME:
            self._refuse(408, f"this request did not arrive within {REQUEST_TIME:g} seconds")
            self.completed, self._to_discard = True, -1
            return len(data)
        if self._to_discard >= 0:
            n = min(len(data), self._to_discard)
            self._to_discard -= n
            self.completed = not self._to_discard
            return n
        n = int(super().received(data))
        if self.headers_finished and not self._looked_at:
            self._looked_at = True
            self._look()
        return n

    def _look(self) -> None:
        """Settle, now that the headers are there, what becomes of the body."""
        if self.error is None and not self.empty:
            headers = {name.lower().replace("_", "-"): value for name, value in self.headers.items()}
            refused = refusal(getattr(self, "command", ""), headers, host=self.host)
            if refused is not None:
                self._refuse(*refused)
        if self.error is None:
            return
        # Who asks first (as curl does with what is large) hears it now; who sends anyway, once it has sent.
        sends_anyway = 0 < self.content_length <= MOST_DISCARDED and not self.expect_continue
        self.expect_continue = False  # else it would be asked to go on
        self.completed = not sends_anyway
        self._to_discard = self.content_length if sends_anyway else -1

    def _refuse(self, code: int, reason: str) -> None:
        self.error = Error(reason)
        self.error.code, self.error.reason = code, _REASONS[code]
        self.completed = True


class JsonErrorTask(ErrorTask):
    """What is refused before the application sees it, in the application's own form."""

    def execute(self) -> None:
        """Write the answer."""
        error = self.request.error
        said = error.body
        if isinstance(error, RequestEntityTooLarge):
            said = f"this request is far too large: {self.channel.limits_in_words}"
        body = json.dumps({"error": said}).encode("ascii") + b"\n"
        self.status = f"{error.code} {error.reason}"
        self.response_headers.append(("Content-Type", "application/json"))
        self.response_headers += HEADERS.items()
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body)


class GuardedChannel(HTTPChannel):
    """A connection. Subclasses, one a server, say what it is bound to and what its connections share."""

    error_task_class = JsonErrorTask
    host: str
    room: ByteBudget
    limits_in_words: str

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.parser_class = partial(GuardedParser, host=self.host)
        self._waits_since: float | None = None
        self._noting = threading.RLock()

    def readable(self) -> bool:
        """Tell whether to receive anything now."""
        if not super().readable():
            return False
        waits = self.request is not None and self.room.must_wait(self)
        now = time.monotonic()
        if self._waits_since is not None and self.request is not None:
            self.request.waited += now - self._waits_since
        self._waits_since = now if waits else None
        if waits:
            self.last_activity = time.time()  # its silence is our doing
        return not waits

    def received(self, data: bytes) -> bool:
        """Take bytes."""
        taken = bool(super().received(data))
        self._note()
        return taken

    def service(self) -> None:
        """Answer a request, in one of the server's threads."""
        super().service()
        self._note()

    def handle_close(self) -> None:
        """Close the connection."""
        super().handle_close()
        self._note()

    def _note(self) -> None:
        with self._noting:  # else a thread could note something of a connection that has just been closed
            there = [*self.requests, *filter(None, [self.request])] if self.connected else []
            n_bytes = sum(0 if one.error else one.body_bytes_received for one in there)
            self.room.note(self, n_bytes, receiving=bool(there) and self.request is not None)
