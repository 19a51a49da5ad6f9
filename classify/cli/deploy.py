"""Commands ``classify predict``, ``serve`` and ``export``."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from classify.cli.options import DEVICE_OPTIONS, PATH
from classify.data import ENTRIES
from classify.deploy.export.formats import FORMATS
from classify.deploy.serve.server import Server, serve
from featurize.base.terminal import default_of, progress_bar, with_options
from featurize.base.text import human_bytes, printable

if TYPE_CHECKING:
    from classify.deploy.export.check import OutputCheck
    from classify.deploy.export.export import ExportResult

WEIGHTS = click.option(
    "--weights", type=PATH, help="File with the backbone's weights, if they are not in the bundle."
)


@click.command("predict")
@click.argument("bundle_or_run", type=PATH)
@click.argument("images", nargs=-1, required=True, type=PATH, metavar="IMAGE_OR_FOLDER...")
@click.option("--out", type=PATH, help="Write the predictions to this CSV file, for spreadsheets.")
@click.option("--json", "as_json", is_flag=True, help="Print the predictions as JSON.")
@WEIGHTS
@click.option(
    "--entries",
    type=click.Choice(ENTRIES),
    help="One prediction per image, or per sub-folder of a given folder.  [default: as the head was fitted]",
)
@with_options(*DEVICE_OPTIONS)
def predict_command(
    bundle_or_run: Path, images: tuple[Path, ...], out: Path | None, as_json: bool, **options: Any
) -> None:
    """Predict the grades of new images.

    Uses the head of a bundle, or the recommended head of a run. Each image gets one row; if the head was
    fitted on entries of several images, each folder gets one row. Images that cannot be read are listed with
    the reason. The exit code is 1 if no grade could be predicted.

    \b
    Examples:
      classify predict artifacts/runs/DATA new_images --out grades.csv
      classify predict artifacts/runs/DATA/bundles/vgg16__logreg poster.jpg --json
    """  # noqa: D301 - \b keeps the line breaks in the help
    from classify.deploy.predict import predict
    from classify.io.grades import check_output, grades_json, write_grades

    if out is not None and as_json:
        raise click.UsageError("--json and --out cannot be combined. Use one of them")
    if out is not None:
        check_output(out)
    with progress_bar(title="predicting", unit="images") as bar:
        result = predict(bundle_or_run, images, on_progress=bar, **options)
    for note in result.notes:
        click.echo(f"Note: {printable(note)}", err=True)
    if as_json:
        click.echo(json.dumps(grades_json(result), indent=2))
    elif out is not None:
        write_grades(out, result)
        n_predicted = len(result.grades) - result.n_failed
        click.echo(f"{n_predicted} predicted, {result.n_failed} failed: {printable(str(out))}")
    else:
        from classify.report.console import print_grades

        print_grades(result)
    if result.n_failed == len(result.grades):
        click.echo("classify: no image could be read, so no grade was predicted", err=True)
        click.get_current_context().exit(1)


@click.command("serve")
@click.argument("bundle_or_run", type=PATH)
@click.option("--host", default=default_of(serve, "host"), help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=default_of(serve, "port"),
    help="Port to listen on; 0 selects a free port.",
)
@WEIGHTS
@click.option(
    "--max-upload",
    type=click.FloatRange(0.001, 2000),
    default=default_of(serve, "max_upload"),
    metavar="MB",
    help="Maximum size of a file, in millions of bytes.",
)
@click.option(
    "--max-pixels",
    type=click.IntRange(min=1),
    default=default_of(serve, "max_pixels"),
    metavar="N",
    help="Maximum number of pixels of an image.",
)
@click.option(
    "--rate",
    type=click.IntRange(min=1),
    default=default_of(serve, "rate"),
    help="Maximum number of requests per minute from one address.",
)
@with_options(*DEVICE_OPTIONS)
@click.option("--open", "open_page", is_flag=True, help="Open the page in the browser.")
def serve_command(bundle_or_run: Path, open_page: bool, **options: Any) -> None:
    """Predict grades in the browser, on a local web page.

    Uses the head of a bundle, or the recommended head of a run. Only this machine can reach the page, unless
    --host names another address. Images are not kept. Stop the server with Ctrl-C.

    \b
    Examples:
      classify serve artifacts/runs/DATA --open
      classify serve artifacts/runs/DATA/bundles/vgg16__logreg --port 9000
      curl -F image=@poster.jpg http://127.0.0.1:8765/grade
    """  # noqa: D301 - \b keeps the line breaks in the help

    def show(server: Server) -> None:
        for line in _server_summary(server):
            click.echo(line)
        for note in server.notes:
            click.echo(f"Note: {printable(note)}", err=True)
        if server.is_public:
            examples = " and see the examples" if server.about["examples"] else ""
            click.echo(
                f"Warning: {options['host']} can be reached from other machines without a password: anyone "
                f"who can reach it can send images{examples}.",
                err=True,
            )
        if open_page:
            click.launch(server.url)

    serve(bundle_or_run, on_ready=show, **options)
    click.echo("Stopped.", err=True)


def _server_summary(server: Server) -> list[str]:
    about, limits = server.about, server.limits
    classes = ", ".join(printable(name) for name in about["classes"])
    examples = f", with {about['examples']} examples" if about["examples"] else ""
    return [
        f"Serving at {server.url}   (stop with Ctrl-C)",
        f"  {printable(str(server.bundle))}: {about['head']} on {' + '.join(about['backbones'])}{examples}",
        f"  classes: {classes}",
        f"  limits: {limits.max_upload / 1e6:,g} MB per file, {limits.max_pixels / 1e6:,g} megapixels per "
        f"image, {limits.rate} requests per minute",
    ]


@click.command("export")
@click.argument("bundle_or_run", type=PATH)
@click.option("--format", required=True, type=click.Choice(list(FORMATS)), help="Format to write.")
@click.option(
    "--out", type=PATH, help="File or folder to write.  [default: artifacts/exports/DATASET/STORE__HEAD.…]"
)
@WEIGHTS
@click.option(
    "--check",
    multiple=True,
    type=PATH,
    metavar="IMAGE_OR_FOLDER",
    help="Images to compare predictions on; can be repeated.  [default: synthetic images]",
)
@click.option("--overwrite", is_flag=True, help="Replace an earlier export.")
def export_command(bundle_or_run: Path, **options: Any) -> None:
    """Export a head and its backbone as one network.

    Uses the head of a bundle, or the recommended head of a run. The network runs in another runtime, without
    Folio: it takes pixels and returns probabilities. If the runtime is installed, the network is tested
    there, and written only if its probabilities differ by at most 0.0001 from those of `classify predict`.

    \b
    Examples:
      classify export artifacts/runs/DATA --format onnx
      classify export artifacts/runs/DATA/bundles/vgg16__svm-linear --format openvino --check DATA/test
      classify export artifacts/runs/DATA --format keras --out network.keras
    """  # noqa: D301 - \b keeps the line breaks in the help
    from classify.deploy.export.export import export

    result = export(bundle_or_run, **options)
    for line in _export_summary(result):
        click.echo(line)
    for note in result.notes:
        click.echo(f"Note: {printable(note)}", err=True)
    click.echo("To print its classes:")
    click.echo(_print_classes_command(result))


def _export_summary(result: ExportResult) -> list[str]:
    classes = ", ".join(map(printable, result.classes))
    order = ", from worst to best" if result.ordered else ""
    return [
        f"{printable(str(result.path))}: {result.format.title}, {human_bytes(result.n_bytes)}",
        f"  {result.head} on {printable(result.store)}",
        *(
            f"  input: {each.name}, uint8 (n, {each.size}, {each.size}, 3), upright RGB, resized by "
            f"{each.resize}, {each.resample}"
            for each in result.inputs
        ),
        f"  output: probabilities, float32 (n, {len(result.classes)}): {classes}{order}",
        f"  {_check_summary(result.check, result.format.title)}",
    ]


def _check_summary(check: OutputCheck, title: str) -> str:
    if check.difference is None:
        return f"not compared with classify predict: the runtime of {title} is not installed"
    images = f"{check.n_images} {'synthetic ' if check.is_synthetic else ''}images"
    reference = "classify predict" + ("" if check.difference_as_fitted is None else " in float32")
    return f"largest difference from {reference} on {images}: {check.difference:.1g} ({check.runtime})"


def _print_classes_command(result: ExportResult) -> str:
    path = json.dumps(str(result.path), ensure_ascii=False)
    return f"python -c {shlex.quote(result.format.print_classes.replace('PATH', path))}"
