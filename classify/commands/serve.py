"""Command ``classify serve``: a local page to drop images on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from classify.commands.options import PATH, device_options
from classify.serving.server import Serving, serving
from featurize import default_of, printable


@click.command("serve")
@click.argument("bundle_or_run", type=PATH)
@click.option("--host", default=default_of(serving, "host"), help="Address to listen at.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=default_of(serving, "port"), help="0: any free one."
)
@click.option("--weights", type=PATH, help="The backbone's weights, where the bundle does not carry them.")
@click.option(
    "--max-upload",
    type=click.FloatRange(0.001, 2000),
    default=default_of(serving, "max_upload"),
    metavar="MB",
    help="Of one file, in millions of bytes.",
)
@click.option(
    "--max-pixels",
    type=click.IntRange(min=1),
    default=default_of(serving, "max_pixels"),
    metavar="N",
    help="Of one picture.",
)
@click.option(
    "--rate",
    type=click.IntRange(min=1),
    default=default_of(serving, "rate"),
    help="Requests a minute from one address.",
)
@device_options()[0]
@device_options()[1]
@click.option("--open", "open_page", is_flag=True, help="Open the page in the browser.")
def serve_command(bundle_or_run: Path, open_page: bool, **options: Any) -> None:
    """Show a page to drop images on, and grade them with a bundle or the recommended head of a run.

    \b
    classify serve artifacts/runs/DATA --open
    classify serve artifacts/runs/DATA/bundles/vgg16__logreg --port 9000
    curl -F image=@poster.jpg http://127.0.0.1:8765/grade

    Only this machine can reach the page unless --host says otherwise. Images are graded and forgotten.
    Ctrl-C ends it.
    """  # noqa: D301 - click reads the \b
    with serving(bundle_or_run, **options) as server:
        for line in _said(server):
            click.echo(line)
        for note in server.notes:
            click.echo(f"Note: {printable(note)}", err=True)
        if server.open_to_others:
            also = " and look at the examples" if server.about["examples"] else ""
            click.echo(
                f"Warning: {options['host']} can be reached from other machines, and there is no password: "
                f"whoever can reach it can have images graded{also}.",
                err=True,
            )
        if open_page:
            click.launch(server.url)
        try:
            server.run()
        except KeyboardInterrupt:  # the way to end it
            click.echo("Ended.", err=True)


def _said(server: Serving) -> list[str]:
    about, limits = server.about, server.limits
    classes = ", ".join(printable(name) for name in about["classes"])
    examples = f", with {about['examples']} examples" if about["examples"] else ""
    return [
        f"Grading at {server.url}   (Ctrl-C ends it)",
        f"  {printable(str(server.bundle))}: {about['head']} on {' + '.join(about['backbones'])}{examples}",
        f"  classes: {classes}",
        f"  limits: {limits.max_upload / 1e6:,g} MB a file, {limits.max_pixels / 1e6:,g} megapixels, "
        f"{limits.rate} requests a minute",
    ]
