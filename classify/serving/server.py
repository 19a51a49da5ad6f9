"""The job of ``classify serve``: a bundle made ready, a port bound, requests answered until it is ended."""

from __future__ import annotations

import errno
import json
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from classify.compare import check_device
from classify.serving.guard import HEADERS, is_loopback
from featurize import ConfigError

if TYPE_CHECKING:
    from flask import Flask

    from classify.serving.app import Limits

THREADS = 80  # more than requests may wait, so that the page itself is there while they do
CONNECTIONS = 256


@dataclass(frozen=True, kw_only=True)
class Serving:
    """A server that listens."""

    url: str
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
def serving(
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
) -> Iterator[Serving]:
    """Load a bundle, bind a port and yield the server; ends all it has started.

    Parameters
    ----------
    bundle_or_run, weights, device, gpu_memory
        As in `classify.predict.predict`.
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
    Serving

    Raises
    ------
    BundleError
        If the bundle cannot be used.
    ConfigError
        If the port is taken, or the address is not one of this machine.
    """
    from classify.serving.app import Limits, make_app
    from classify.serving.batches import GradingQueue
    from classify.serving.grader import Grader

    check_device(device, gpu_memory=gpu_memory)
    limits = Limits(max_upload=int(max_upload * 1e6), max_pixels=max_pixels, rate=rate)
    grader = Grader(
        bundle_or_run,
        weights=weights,
        device=device,
        gpu_memory=gpu_memory,
        max_pixels=limits.max_pixels,
    )
    with grader, tempfile.TemporaryDirectory(prefix="folio-serve-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        sockets: dict[int, Any] = {}
        with GradingQueue(lambda listed, together: grader.grade(listed, together=together)) as queue:
            app = make_app(grader, queue, folder=folder, host=host, limits=limits)
            server = _bound(app, host=host, port=port, limits=limits, sockets=sockets)
            try:
                grader.warm_up(folder)
                yield Serving(
                    url=f"http://{f'[{host}]' if ':' in host else host}:{_port(server)}/",
                    bundle=grader.bundle.path,
                    about=app.config["ABOUT"],
                    limits=limits,
                    open_to_others=not is_loopback(host),
                    notes=grader.notes,
                    _sockets=sockets,
                )
            finally:
                queue.close()  # those who wait hear of it
                server.task_dispatcher.shutdown(cancel_pending=True, timeout=2)
                _close(sockets)


def _bound(app: Flask, *, host: str, port: int, limits: Limits, sockets: dict[int, Any]) -> Any:
    """Return waitress' server of this application, listening."""
    from waitress import create_server

    logging.getLogger("waitress").setLevel(logging.ERROR)  # that requests wait is no news: they may
    try:
        server = create_server(
            app,
            map=sockets,
            host=host,
            port=port,
            threads=THREADS,
            connection_limit=CONNECTIONS,
            backlog=CONNECTIONS,
            # What is larger is not even received; up to there the application says what the limit is.
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
    for one in list(sockets.values()):
        one.channel_class = json_channel()
    return server


def json_channel() -> type:
    """Return waitress' channel with its own refusals as JSON, like those of the application."""
    from waitress.channel import HTTPChannel  # type: ignore[import-untyped]
    from waitress.task import ErrorTask  # type: ignore[import-untyped]

    class JsonErrorTask(ErrorTask):
        """What waitress refuses before the application sees it."""

        def execute(self) -> None:
            error = self.request.error
            said = "this request is far too large" if error.code == 413 else error.reason.lower()
            body = json.dumps({"error": said}).encode("ascii") + b"\n"
            self.status = f"{error.code} {error.reason}"
            self.response_headers.append(("Content-Type", "application/json"))
            self.response_headers += HEADERS.items()
            self.set_close_on_finish()
            self.content_length = len(body)
            self.write(body)

    class JsonChannel(HTTPChannel):
        """A connection."""

        error_task_class = JsonErrorTask

    return JsonChannel


def _port(server: Any) -> int:
    """Return the port that was bound; a name of several addresses has one of each."""
    if hasattr(server, "effective_listen"):
        return int(server.effective_listen[0][1])
    return int(server.effective_port)


def _close(sockets: dict[int, Any]) -> None:
    from waitress import wasyncore

    wasyncore.close_all(sockets, ignore_all=True)
