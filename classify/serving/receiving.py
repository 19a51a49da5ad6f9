"""Requests on their way in: refused by their headers, and never more in all than there is room for."""

from __future__ import annotations

import json
import threading
import time
from functools import partial
from typing import Any

from waitress.channel import HTTPChannel  # type: ignore[import-untyped]
from waitress.parser import HTTPRequestParser  # type: ignore[import-untyped]
from waitress.task import ErrorTask  # type: ignore[import-untyped]
from waitress.utilities import Error, RequestEntityTooLarge  # type: ignore[import-untyped]

from classify.serving.guard import HEADERS, refusal

REQUEST_TIME = 600.0  # seconds for a request to arrive whole; time that it had to wait does not count
MOST_DISCARDED = 2_000_000_000  # bytes of a refused body that are read, so that its sender hears the reason

_REASONS = {400: "Bad Request", 403: "Forbidden", 408: "Request Timeout"}


class Room:
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
    room: Room
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
