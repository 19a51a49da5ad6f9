"""Server behind ``classify serve``: load a bundle, bind a port, answer requests."""

from __future__ import annotations

import errno
import ipaddress
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from classify.deploy.serve import Limits
from featurize.engines.device import check_device
from featurize.errors import ConfigError

if TYPE_CHECKING:
    from flask import Flask

HOST, PORT = "127.0.0.1", 8765
PAGE_THREADS = 16  # in addition to one per queued request, so that the page loads while requests wait
MAX_CONNECTIONS = 256
IDLE_TIMEOUT = 60  # seconds after which a connection without a request is closed
SHUTDOWN_TIMEOUT = 2.0  # seconds for the threads to send the responses that are ready


@dataclass(frozen=True, kw_only=True)
class Server:
    """A listening server."""

    url: str  # to open on this machine
    bundle: Path
    about: dict[str, Any]  # content of /about
    limits: Limits
    is_public: bool  # other machines can reach it
    notes: tuple[str, ...]  # messages for the user
    _sockets: dict[int, Any]

    def run(self) -> None:
        """Answer requests until a signal raises an exception, such as KeyboardInterrupt."""
        from waitress import wasyncore  # type: ignore[import-untyped]

        wasyncore.loop(timeout=1.0, map=self._sockets, use_poll=True)


def serve(
    bundle_or_run: str | os.PathLike[str],
    *,
    host: str = HOST,
    port: int = PORT,
    weights: str | os.PathLike[str] | None = None,
    device: str = "auto",
    gpu_memory: float | None = None,
    max_upload: float = Limits.max_upload / 1e6,
    max_pixels: int = Limits.max_pixels,
    rate: int = Limits.rate,
    on_ready: Callable[[Server], None] | None = None,
) -> None:
    """Serve a web page and a JSON endpoint that predict grades; return after Ctrl-C.

    Parameters
    ----------
    bundle_or_run : path-like
        A bundle, or a run folder: its recommended head.
    host : str
        Address to listen on. Any but a loopback address lets other machines in, without a password.
    port : int
        0 takes a free port.
    weights : path-like, optional
        The backbone's weights, if the bundle does not contain them.
    device : str
        ``auto``, ``cpu``, ``gpu``, ``gpu:N``, or several as in ``gpu:0,gpu:2``.
    gpu_memory : float, optional
        Fraction of the GPU's memory to take; grows on demand by default.
    max_upload : float
        Megabytes (millions of bytes) per file; a request may hold four times as much.
    max_pixels : int
        Pixels per image; a JPEG counts at the scale at which it is decoded.
    rate : int
        Requests per minute and client address.
    on_ready : callable, optional
        Called once with the `Server` when it accepts requests; ``server.url`` is the page's address.

    Raises
    ------
    BundleError
        If the bundle cannot be used.
    ConfigError
        If the port is taken, or the address is not one of this machine.
    """
    limits = Limits(max_upload=int(max_upload * 1e6), max_pixels=max_pixels, rate=rate)
    with running_server(
        bundle_or_run,
        host=host,
        port=port,
        limits=limits,
        weights=weights,
        device=device,
        gpu_memory=gpu_memory,
    ) as server:
        if on_ready is not None:
            on_ready(server)
        with suppress(KeyboardInterrupt):
            server.run()


@contextmanager
def running_server(
    bundle_or_run: str | os.PathLike[str],
    *,
    host: str = HOST,
    port: int = PORT,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    weights: str | os.PathLike[str] | None = None,
    device: str = "auto",
    gpu_memory: float | None = None,
) -> Iterator[Server]:
    """Yield a listening server with its bundle loaded; stop its threads and processes at the end.

    Other parameters and errors are those of `serve`.

    Parameters
    ----------
    limits : Limits
    """
    from classify.deploy.serve.app import make_app
    from classify.deploy.serve.limits import is_loopback
    from classify.deploy.serve.predictor import PredictionQueue, Predictor
    from classify.deploy.serve.uploads import private_folder

    check_device(device, gpu_memory=gpu_memory)
    predictor = Predictor(
        bundle_or_run,
        weights=weights,
        device=device,
        gpu_memory=gpu_memory,
        max_pixels=limits.max_pixels,
    )
    with predictor, private_folder() as folder:
        sockets: dict[int, Any] = {}
        with PredictionQueue(predictor.predict) as queue:
            app = make_app(predictor, queue, folder=folder, host=host, limits=limits)
            server = _listening_server(app, host=host, port=port, limits=limits, sockets=sockets)
            try:
                predictor.warm_up(folder)
                yield Server(
                    url=_url(host, _port(server)),
                    bundle=predictor.bundle.path,
                    about=app.config["ABOUT"],
                    limits=limits,
                    is_public=not is_loopback(host),
                    notes=predictor.notes,
                    _sockets=sockets,
                )
            finally:
                _stop_listening(sockets)
                queue.close()  # waiting requests get an answer
                server.task_dispatcher.shutdown(cancel_pending=True, timeout=SHUTDOWN_TIMEOUT)
                _close(sockets)


def _listening_server(app: Flask, *, host: str, port: int, limits: Limits, sockets: dict[int, Any]) -> Any:
    """Return a listening Waitress server for an application."""
    from waitress import create_server

    from classify.deploy.serve.predictor import MAX_REQUESTS

    logging.getLogger("waitress").setLevel(logging.ERROR)  # no warning per queued request
    try:
        server = create_server(
            app,
            map=sockets,
            host=host,
            port=port,
            threads=MAX_REQUESTS + PAGE_THREADS,
            connection_limit=MAX_CONNECTIONS,
            backlog=MAX_CONNECTIONS,
            channel_timeout=IDLE_TIMEOUT,
            # Waitress does not store larger bodies; for smaller ones the application names the limit.
            max_request_body_size=limits.max_request + limits.max_upload,
            ident=None,
        )
    except ValueError:
        raise ConfigError(f"--host {host}: not an address of this machine. Try --host 127.0.0.1") from None
    except OSError as error:
        _close(sockets)
        reason = (error.strerror or str(error)).lower()
        if error.errno == errno.EADDRINUSE:
            reason = "taken by another program"
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            raise ConfigError(f"port {port} of {host}: {reason}. Choose another with --port") from None
        raise ConfigError(f"--host {host}: cannot listen on it ({reason}). Try --host 127.0.0.1") from None
    channel_class = _channel_class(host=host, limits=limits)
    for channel in list(sockets.values()):
        channel.channel_class = channel_class
    return server


def _channel_class(*, host: str, limits: Limits) -> type:
    from classify.deploy.serve.limits import BodyBudget, GuardedChannel
    from classify.deploy.serve.uploads import megabytes

    size_limits = (
        f"at most {megabytes(limits.max_request)} per request and {megabytes(limits.max_upload)} per file"
    )
    attributes = {"host": host, "budget": BodyBudget(limits.max_buffered), "size_limits": size_limits}
    return type("Channel", (GuardedChannel,), attributes)


def _url(host: str, port: int) -> str:
    """Return the URL to open on this machine: a loopback address if the server listens on all addresses."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return f"http://{host}:{port}/"
    if address.is_unspecified:
        address = ipaddress.ip_address("127.0.0.1" if address.version == 4 else "::1")
    return f"http://{address if address.version == 4 else f'[{address}]'}:{port}/"


def _port(server: Any) -> int:
    """Return the bound port; a host name with several addresses has one listening socket for each."""
    if hasattr(server, "effective_listen"):
        return int(server.effective_listen[0][1])
    return int(server.effective_port)


def _stop_listening(sockets: dict[int, Any]) -> None:
    """Accept no further connection; open ones stay open."""
    from waitress import wasyncore

    for dispatcher in list(sockets.values()):
        if getattr(dispatcher, "accepting", False):
            # Only the socket: the server's own `close` would also close the trigger that wakes the loop.
            wasyncore.dispatcher.close(dispatcher)


def _close(sockets: dict[int, Any]) -> None:
    from waitress import wasyncore

    wasyncore.close_all(sockets, ignore_all=True)
