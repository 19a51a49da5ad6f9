"""Who may ask a page on this machine: not every web page that happens to be open in its browser."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Mapping
from urllib.parse import urlsplit

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
    if not reading and foreign(headers.get("origin"), headers.get("sec-fetch-site"), asked=asked):
        return 403, "another web page sent this request: only this server's own page may"
    return None


def foreign(origin: str | None, site: str | None, *, asked: str) -> bool:
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
