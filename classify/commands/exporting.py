"""Command ``classify export``: a bundle as one network for other runtimes."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from classify.commands.options import PATH
from classify.exporting.formats import FORMATS
from featurize import human_bytes, printable

if TYPE_CHECKING:
    from classify.exporting.checking import Check
    from classify.exporting.export import Exported


@click.command("export")
@click.argument("bundle_or_run", type=PATH)
@click.option("--format", required=True, type=click.Choice(list(FORMATS)), help="What to write.")
@click.option(
    "--out", type=PATH, help="The file or folder.  [default: artifacts/exports/DATASET/STORE__HEAD.…]"
)
@click.option("--weights", type=PATH, help="The backbone's weights, where the bundle does not carry them.")
@click.option(
    "--check",
    multiple=True,
    type=PATH,
    metavar="IMAGE_OR_FOLDER",
    help="Images to compare grades on; may be repeated.  [default: some that are drawn]",
)
@click.option("--overwrite", is_flag=True, help="Replace an earlier export.")
def export_command(bundle_or_run: Path, **options: Any) -> None:
    """Write a bundle, or a run's recommended head, with its backbone as one network: pixels in, grades out.

    \b
    classify export artifacts/runs/DATA --format onnx
    classify export artifacts/runs/DATA/bundles/vgg16__svm-linear --format openvino --check DATA/test
    classify export artifacts/runs/DATA --format keras --out grader.keras

    What is written is run in its own runtime, where that is installed, and kept only if its probabilities
    are those of `classify predict` within 0.0001.
    """  # noqa: D301 - click reads the \b
    from classify.exporting.export import export

    done = export(bundle_or_run, **options)
    for line in _said(done):
        click.echo(line)
    for note in done.notes:
        click.echo(f"Note: {printable(note)}", err=True)
    click.echo("Its classes, from what was written:")
    click.echo(_next_step(done))


def _said(done: Exported) -> list[str]:
    classes = ", ".join(map(printable, done.classes))
    order = ", from worst to best" if done.ordered else ""
    return [
        f"{printable(str(done.path))}: {done.format.title}, {human_bytes(done.n_bytes)}",
        f"  {done.head} on {printable(done.store)}",
        *(
            f"  in: {one.name}, uint8 (n, {one.size}, {one.size}, 3): upright RGB, resized by {one.resize}, "
            f"{one.resample}"
            for one in done.inputs
        ),
        f"  out: probabilities, float32 (n, {len(done.classes)}): {classes}{order}",
        f"  {_compared(done.check, done.format.title)}",
    ]


def _compared(check: Check, title: str) -> str:
    if check.difference is None:
        return f"not compared with classify predict: nothing here runs {title}"
    images = f"{check.n_images} {'drawn pictures' if check.drawn else 'images'}"
    folio = "classify predict" if check.from_as_fitted is None else "classify predict in float32"
    return f"largest difference from {folio} on {images}: {check.difference:.1g} ({check.runtime})"


def _next_step(done: Exported) -> str:
    code = done.format.classes.replace("PLACE", json.dumps(str(done.path), ensure_ascii=False))
    return f"python -c {shlex.quote(code)}"
