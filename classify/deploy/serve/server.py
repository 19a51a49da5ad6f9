"""The job of ``classify serve``: a bundle made ready, a port bound, requests answered until it is ended."""

from __future__ import annotations

import errno
import ipaddress
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurize.engines.device import check_device
from featurize.errors import ConfigError

if TYPE_CHECKING:
    from flask import Flask

    from classify.deploy.serve.app import Limits


PAGE_THREADS = 16  # beside those of requests to grade, so that the page itself is there while they wait
CONNECTIONS = 256
SILENCE = 60  # seconds after which a connection without a request is closed
GOODBYE = 2.0  # seconds for the threads to send off, at the end, what has been answered


@dataclass(frozen=True, kw_only=True)
class Server:
    """A server that listens."""

    url: str  # on this machine
    bundle: Path
    about: dict[str, Any]  # as under /about
    limits: Limits
    open_to_others: bool  # more than this machine can reach it
    notes: tuple[str, ...]  # what the user should know
    _sockets: dict[int, Any]

    def run(self) -> None:
        """Answer requests until the process is asked to end, which is raised."""
        from waitress import wasyncore  # type: ignore[import-untyped]

        wasyncore.loop(timeout=1.0, map=self._sockets, use_poll=True)


@contextmanager
def running_server(
    bundle_or_run: str | os.PathLike[str],
    *,
    host: str = "127.0.0.1",
    port: int = 8765,
    weights: str | os.PathLike[str] | None = None,
    device: str = "auto",
    gpu_memory: float | None = None,
    max_upload: float = 25.0,
    max_pixels: int = 200_000_000,
    rate: int = 1200,
) -> Iterator[Server]:
    """Load a bundle, bind a port and yield the server; ends all it has started.

    Parameters
    ----------
    bundle_or_run, weights, device, gpu_memory
        As in `classify.deploy.predict.predict`.
    host : str
        Address to listen at. Any but a loopback one lets others in, and there is no password.
    port : int
        0 takes a free one.
    max_upload : float
        Megabytes (a million bytes) of one file; a request may hold four times as much in all.
    max_pixels : int
        Of one picture; a JPEG counts as it is decoded.
    rate : int
        Requests a minute from one address.

    Yields
    ------
    Server

    Raises
    ------
    BundleError
        If the bundle cannot be used.
    ConfigError
        If the port is taken, or the address is not one of this machine.
    """
    from classify.deploy.serve.app import Limits, make_app
    from classify.deploy.serve.grader import Grader, GradingQueue
    from classify.deploy.serve.limits import is_loopback
    from classify.deploy.serve.uploads import private_folder

    check_device(device, gpu_memory=gpu_memory)
    limits = Limits(max_upload=int(max_upload * 1e6), max_pixels=max_pixels, rate=rate)
    grader = Grader(
        bundle_or_run,
        weights=weights,
        device=device,
        gpu_memory=gpu_memory,
        max_pixels=limits.max_pixels,
    )
    with grader, private_folder() as folder:
        sockets: dict[int, Any] = {}
        with GradingQueue(lambda listed, together: grader.grade(listed, together=together)) as queue:
            app = make_app(grader, queue, folder=folder, host=host, limits=limits)
            server = _bound(app, host=host, port=port, limits=limits, sockets=sockets)
            try:
                grader.warm_up(folder)
                yield Server(
                    url=_url(host, _port(server)),
                    bundle=grader.bundle.path,
                    about=app.config["ABOUT"],
                    limits=limits,
                    open_to_others=not is_loopback(host),
                    notes=grader.notes,
                    _sockets=sockets,
                )
            finally:
                _stop_listening(sockets)
                queue.close()  # those who wait hear of it
                server.task_dispatcher.shutdown(cancel_pending=True, timeout=GOODBYE)
                _close(sockets)


def _bound(app: Flask, *, host: str, port: int, limits: Limits, sockets: dict[int, Any]) -> Any:
    """Return waitress' server of this application, listening."""
    from waitress import create_server

    from classify.deploy.serve.grader import MOST_REQUESTS

    logging.getLogger("waitress").setLevel(logging.ERROR)  # that requests wait is no news: they may
    try:
        server = create_server(
            app,
            map=sockets,
            host=host,
            port=port,
            threads=MOST_REQUESTS + PAGE_THREADS,
            connection_limit=CONNECTIONS,
            backlog=CONNECTIONS,
            channel_timeout=SILENCE,
            # What is larger is not even kept; up to there the application says what the limit is.
            max_request_body_size=limits.max_request + limits.max_upload,
            ident=None,
        )
    except ValueError:
        raise ConfigError(f"--host {host}: no address of this machine. Try --host 127.0.0.1") from None
    except OSError as error:
        _close(sockets)
        reason = (error.strerror or str(error)).lower()
        if error.errno == errno.EADDRINUSE:
            reason = "taken by another program"
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            raise ConfigError(f"port {port} of {host}: {reason}. Choose another with --port") from None
        raise ConfigError(f"--host {host}: cannot be listened at ({reason}). Try --host 127.0.0.1") from None
    channel = _channel_class(host=host, limits=limits)
    for one in list(sockets.values()):
        one.channel_class = channel
    return server


def _channel_class(*, host: str, limits: Limits) -> type:
    from classify.deploy.serve.limits import ByteBudget, GuardedChannel
    from classify.deploy.serve.uploads import megabytes

    said = f"one may have {megabytes(limits.max_request)}, a file {megabytes(limits.max_upload)}"
    shared = {"host": host, "room": ByteBudget(limits.most_held), "limits_in_words": said}
    return type("Channel", (GuardedChannel,), shared)


def _url(host: str, port: int) -> str:
    """Return what to open on this machine: where every address is listened at, the loopback one."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return f"http://{host}:{port}/"
    if address.is_unspecified:
        address = ipaddress.ip_address("127.0.0.1" if address.version == 4 else "::1")
    return f"http://{address if address.version == 4 else f'[{address}]'}:{port}/"


def _port(server: Any) -> int:
    """Return the port that was bound; a name of several addresses has one of each."""
    if hasattr(server, "effective_listen"):
        return int(server.effective_listen[0][1])
    return int(server.effective_port)


def _stop_listening(sockets: dict[int, Any]) -> None:
    """Take no further connection; those that are open stay open."""
    from waitress import wasyncore

    for one in list(sockets.values()):
        if getattr(one, "accepting", False):
            wasyncore.dispatcher.close(one)  # not what wakes the loop up, which its own `close` ends too


def _close(sockets: dict[int, Any]) -> None:
    from waitress import wasyncore

    wasyncore.close_all(sockets, ignore_all=True)
