"""What both command lines share: one-line errors, quiet libraries, lists with commas, a progress bar."""

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

from featurize.base.text import printable
from featurize.errors import FolioError

if TYPE_CHECKING:
    from rich.console import Console


_ARGUMENTS, _KEEPS = "folio.arguments", "folio.keeps"  # in the context's shared notes


class FolioGroup(click.Group):
    """A command group whose library errors are one line on stderr and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a `FolioError` becomes a line, anything else stays a traceback."""
        try:
            return super().invoke(ctx)
        except FolioError as error:
            click.echo(f"{ctx.info_name}: {printable(str(error))}", err=True)
            ctx.exit(1)
        except KeyboardInterrupt as stop:
            go_on = f"Go on with: {ctx.info_name} {_as_typed(ctx.meta[_ARGUMENTS])}"
            kept = "stopped; what is finished is kept." if ctx.meta.get(_KEEPS) else "stopped."
            click.echo(f"{ctx.info_name}: {kept} {printable(go_on)}", err=True)
            ctx.exit(128 + (stop.args[0] if isinstance(stop, StopRequested) else signal.SIGINT))

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Keep what was typed, for the line that says how to go on."""
        typed = list(args)
        context = super().make_context(info_name, args, parent, **extra)
        context.meta[_ARGUMENTS] = typed
        return context


class StopRequested(KeyboardInterrupt):
    """A signal asked the process to end; its first argument is the signal's number."""


@contextmanager
def graceful_stop() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM stop the work in order, and a second one end the process at once.

    What is in place is whole at any instant, so that ending at once costs only the work under way.
    """
    before = {
        number: signal.getsignal(number)
        for number in (signal.SIGINT, signal.SIGTERM)
        if signal.getsignal(number) is not signal.SIG_IGN  # as `nohup` and shells without job control set it
    }
    asked: list[int] = []

    def stop(number: int, frame: object) -> None:
        if asked:
            os._exit(128 + number)
        asked.append(number)
        raise StopRequested(number)

    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def mark_resumable() -> None:
    """Say of the command under way that the same command goes on where it was stopped."""
    click.get_current_context().meta[_KEEPS] = True


def _as_typed(words: list[str]) -> str:
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


class CommaList(click.ParamType):
    """Words given with commas; together with ``multiple=True`` also by repeating the option."""

    name = "name[,name…]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Split at commas, drop what is empty."""
        if not isinstance(value, str):
            return value
        return tuple(word.strip() for word in value.split(",") if word.strip())


def default_of(function: Callable[..., Any], parameter: str) -> Any:
    """Return the default in the library function's signature: it lives there and nowhere else."""
    return inspect.signature(function).parameters[parameter].default


def silence_libraries(*, verbose: bool) -> None:
    """Keep the chatter of native libraries off the user's screen, for the rest of the process.

    TensorFlow, libtiff and friends write straight to file descriptor 2. The descriptor is pointed at the null
    device and Python's own ``sys.stderr`` moved to a copy of the real one, so that our lines still show.
    """
    if verbose:
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    warnings.simplefilter("ignore")
    try:
        descriptor = sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):  # a captured or closed stderr has nothing to move
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
    """Return a rich console; width 100 where the output is not a terminal, so that tables are not cut."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else 100
    return Console(file=stream, width=width, highlight=False, soft_wrap=False)


@contextmanager
def progress_bar(*, title: str, unit: str) -> Iterator[Callable[..., None]]:
    """Show a bar with rate and time left on stderr; silent where that is not a terminal.

    Yields ``update(done, total, stage=None)``; a new stage starts a bar of its own.
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
