"""Functions of both command lines: one-line errors, signals, quiet libraries, progress bar."""

from __future__ import annotations

import inspect
import os
import shlex
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

import click

from featurize.base.text import printable, split_names
from featurize.errors import FolioError

if TYPE_CHECKING:
    from rich.console import Console


_ARGUMENTS, _RESUMABLE = "folio.arguments", "folio.resumable"  # keys of click's Context.meta


class FolioGroup(click.Group):
    """A command group that prints library errors as one line on stderr and exits with code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; print a `FolioError` as one line, let other exceptions through."""
        try:
            return super().invoke(ctx)
        except FolioError as error:
            click.echo(f"{ctx.info_name}: {printable(str(error))}", err=True)
            ctx.exit(1)
        except KeyboardInterrupt as stop:
            command = printable(f"{ctx.info_name} {_as_typed(ctx.meta[_ARGUMENTS])}")
            if ctx.meta.get(_RESUMABLE):
                text = f"stopped; finished work is kept. Continue with: {command}"
            else:
                text = f"stopped. Run it again with: {command}"
            click.echo(f"{ctx.info_name}: {text}", err=True)
            ctx.exit(128 + (stop.args[0] if isinstance(stop, StopRequested) else signal.SIGINT))

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Store the arguments as typed, for the message after a stop."""
        typed = list(args)
        context = super().make_context(info_name, args, parent, **extra)
        context.meta[_ARGUMENTS] = typed
        return context


class StopRequested(KeyboardInterrupt):
    """Raised when a signal asks the process to end; the first argument is the signal number."""


@contextmanager
def graceful_stop() -> Iterator[None]:
    """Stop the work cleanly on Ctrl-C or SIGTERM; a second signal ends the process immediately.

    Files on disk are complete at every moment, so an immediate end loses only the work in progress.
    """
    handlers = {
        number: signal.getsignal(number)
        for number in (signal.SIGINT, signal.SIGTERM)
        if signal.getsignal(number) is not signal.SIG_IGN  # set by `nohup` and by shells without job control
    }
    received: list[int] = []

    def stop(number: int, frame: object) -> None:
        if received:
            os._exit(128 + number)
        received.append(number)
        raise StopRequested(number)

    for number in handlers:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def mark_resumable() -> None:
    """Mark the running command as resumable: typed again, it continues where it was stopped."""
    click.get_current_context().meta[_RESUMABLE] = True


def _as_typed(words: list[str]) -> str:
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


class CommaList(click.ParamType):
    """Comma-separated words; with ``multiple=True`` the option may also be repeated."""

    name = "name[,name…]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Split at commas and drop empty words."""
        return split_names(value) if isinstance(value, str) else value


def with_options(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a decorator that adds click options and arguments to a command, shown in this order."""

    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def default_of(function: Callable[..., Any], parameter: str) -> Any:
    """Return the default value of a library function's parameter, so that it is defined only there."""
    return inspect.signature(function).parameters[parameter].default


def silence_libraries(*, verbose: bool) -> None:
    """Hide the messages of native libraries for the rest of the process, unless `verbose`.

    TensorFlow, libtiff and other libraries write directly to file descriptor 2. It is redirected to the null
    device, and Python's ``sys.stderr`` to a copy of the original, so that our own messages are still shown.
    """
    if verbose:
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    warnings.simplefilter("ignore")
    try:
        descriptor = sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):  # stderr is captured or closed
        return
    if descriptor != 2:
        return
    sys.stderr.flush()
    copy = os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    os.close(null)
    sys.stderr = _line_buffered(copy)


def _line_buffered(descriptor: int) -> TextIO:
    encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
    return os.fdopen(descriptor, "w", buffering=1, encoding=encoding, errors="backslashreplace")


def console(*, stderr: bool = False) -> Console:
    """Return a rich console, 100 columns wide if the output is not a terminal, so that tables are not cut."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else 100
    return Console(file=stream, width=width, highlight=False, soft_wrap=False)


@contextmanager
def progress_bar(*, title: str, unit: str) -> Iterator[Callable[..., None]]:
    """Show a progress bar with rate and remaining time on stderr; nothing if stderr is not a terminal.

    Yields ``update(done, total, stage=None)``; a new stage starts a new bar.
    """
    if not sys.stderr.isatty():
        yield lambda done, total, stage=None: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    bars: dict[str, TaskID] = {}
    with Progress(*columns, console=console(stderr=True), transient=True) as progress:

        def update(done: int, total: int, stage: str | None = None) -> None:
            name = stage or title
            if name not in bars:
                for earlier in bars.values():
                    progress.update(earlier, visible=False)
                bars[name] = progress.add_task(name, total=total, rate="")
            task = progress.tasks[list(bars).index(name)]
            speed = task.finished_speed or task.speed
            rate = f"{speed:,.0f} {unit}/s" if speed else ""
            progress.update(bars[name], completed=done, total=total, rate=rate)

        yield update
