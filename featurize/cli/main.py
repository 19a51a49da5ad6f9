"""The command ``featurize`` with ``extract``, ``scan``, ``backbones`` and ``selfcheck``."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import click

from featurize.backbones.registry import BACKBONES
from featurize.base.terminal import (
    FolioGroup,
    default_of,
    graceful_stop,
    mark_resumable,
    progress_bar,
    silence_libraries,
)
from featurize.base.text import flatten, printable
from featurize.cli.maintenance import info_command, repair_command, verify_command
from featurize.cli.options import ENTRIES, ORDER, WORKERS, extract_options
from featurize.console import print_backbones, print_selfcheck, print_summary, summary_json
from featurize.extraction.extract import DEFAULT_BACKBONE, extract
from featurize.extraction.options import ExtractOptions
from featurize.images.augment import ViewRanges

CONTEXT = {"help_option_names": ["-h", "--help"], "show_default": True}


@click.group("featurize", cls=FolioGroup, context_settings=CONTEXT)
@click.version_option(package_name="folio-grader", prog_name="featurize")
@click.option("--verbose", is_flag=True, help="Show messages of TensorFlow and image libraries.")
def cli(verbose: bool) -> None:
    """Compute image features with frozen CNN backbones, once, and keep them in HDF5 stores.

    \b
    Example:
      featurize scan DATA
      featurize extract DATA --backbone efficientnet_lite0 --views 4
      featurize info artifacts/features/DATA/efficientnet_lite0.h5

    Each command has examples: featurize COMMAND --help
    """  # noqa: D301 - \b keeps the line breaks in the help
    silence_libraries(verbose=verbose)


@cli.command("extract")
@extract_options
def extract_command(
    data: Path,
    backbones: tuple[tuple[str, ...], ...],
    order: tuple[tuple[str, ...], ...],
    batch_size: str,
    skipped_csv: Path | None,
    dry_run: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Compute features of images, one store per backbone.

    \b
    Layouts of DATA, for the class "award":
      DATA/train/award/*.jpg, DATA/test/award/*.jpg   with splits (award_train, award_test also work)
      DATA/award/*.jpg                                without splits: heads will be cross-validated
      DATA/new/*.jpg                                  ungraded images: features only

    When run again, the command computes only what is missing, and continues an interrupted run.

    \b
    Examples:
      featurize extract DATA
      featurize extract DATA --backbone resnet50,vgg16 --views 4
      featurize extract DATA --dry-run
    """  # noqa: D301 - \b keeps the line breaks in the help
    options["order"] = flatten(order) or None
    ranges = ViewRanges(**{field.name: options.pop(field.name) for field in dataclasses.fields(ViewRanges)})
    if dry_run:
        if skipped_csv is not None:
            raise click.UsageError("--skipped needs a run, and --dry-run does not run. Leave out one of them")
        values = {**options, "backbones": flatten(backbones) or (DEFAULT_BACKBONE,), "ranges": ranges}
        names = [field.name for field in dataclasses.fields(ExtractOptions)]
        _dry_run(data, ExtractOptions(**{name: values[name] for name in names}), as_json)
        return
    mark_resumable()
    with progress_bar(title="reading", unit="images") as bar:
        results = extract(
            data,
            backbones=flatten(backbones) or (DEFAULT_BACKBONE,),
            ranges=ranges,
            batch_size=_batch_size(batch_size),
            on_note=lambda text: click.echo(printable(text), err=True),
            on_progress=lambda stage, done, total: bar(done, total, stage),
            **options,
        )
    if skipped_csv is not None:
        from featurize.images.skip_reasons import write_skipped

        write_skipped(skipped_csv, dict.fromkeys(file for result in results for file in result.skipped))
    if as_json:
        click.echo(json.dumps({"stores": [summary_json(result) for result in results]}, indent=2))
    else:
        print_summary(results)


@cli.command("scan")
@click.argument("data", type=click.Path(path_type=Path))
@ORDER
@ENTRIES
@WORKERS
@click.option(
    "--strict",
    is_flag=True,
    help="Exit with code 1 if there is an error (results would be wrong, or a comparison would fail) or a "
    "warning (a person should check). Notes do not count.",
)
@click.option("--json", "as_json", is_flag=True, help="Print all facts and findings as JSON.")
@click.pass_context
def scan_command(
    ctx: click.Context,
    data: Path,
    order: tuple[tuple[str, ...], ...],
    strict: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Check images before extraction.

    Every file in DATA is hashed, decoded and compared with all others. Prints counts, duplicates and
    unreadable files; errors come first, for example the same image under two grades. Nothing is written.

    \b
    Example:
      featurize scan DATA --order low,middle,award --strict
    """  # noqa: D301 - \b keeps the line breaks in the help
    from featurize.console import print_scan, scan_json
    from featurize.images.scan import scan

    with progress_bar(title="hashing", unit="images") as bar:
        report = scan(
            data,
            order=flatten(order) or None,
            **options,
            on_progress=lambda stage, done, total: bar(done, total, stage),
        )
    if as_json:
        click.echo(json.dumps(scan_json(report), indent=2))
    else:
        print_scan(report)
    if strict and report.needs_person:
        ctx.exit(1)


@cli.command("backbones")
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON.")
def backbones_command(as_json: bool) -> None:
    """List the available backbones.

    Prints the input size, the number of features, the size and ImageNet accuracy of the network, the scaling
    of its input, and whether its weights are on disk.

    \b
    Example:
      featurize backbones
    """  # noqa: D301 - \b keeps the line breaks in the help
    from featurize.backbones.weights import weights_status

    states = {name: weights_status(backbone) for name, backbone in BACKBONES.items()}
    if as_json:
        rows = [
            {
                **dataclasses.asdict(backbone),
                "weights_available": states[name].available,
                "hint": states[name].hint,
            }
            for name, backbone in BACKBONES.items()
        ]
        click.echo(json.dumps(rows, indent=2))
        return
    print_backbones(states)


@cli.command("selfcheck")
@click.option("--backbone", default=DEFAULT_BACKBONE, help="A name from `featurize backbones`.")
@click.option(
    "--weights",
    default=default_of(extract, "weights"),
    help="imagenet, random, or the path of a weights file.",
)
@click.option(
    "--engine", type=click.Choice(["auto", "tensorflow", "openvino"]), default="auto", help="Engine to check."
)
@click.option("--device", default="auto", help="Device of the engine: auto, cpu, gpu or gpu:N.")
@click.option(
    "--precision",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    default="float32",
    help="Arithmetic of the engine.",
)
def selfcheck_command(backbone: str, weights: str, engine: str, device: str, precision: str) -> None:
    """Compare an engine with TensorFlow on the CPU.

    Prints the agreement of the features and the speed of both.

    \b
    Example:
      featurize selfcheck --engine openvino --precision bfloat16
    """  # noqa: D301 - \b keeps the line breaks in the help
    from featurize.backbones.registry import get_backbone
    from featurize.backbones.weights import find_weights
    from featurize.engines.selfcheck import selfcheck

    found = get_backbone(backbone)
    result = selfcheck(found, find_weights(found, weights), engine=engine, device=device, precision=precision)
    print_selfcheck(result)


cli.add_command(info_command)
cli.add_command(verify_command)
cli.add_command(repair_command)


def main() -> None:
    """Run the command line."""
    with graceful_stop():
        cli(prog_name="featurize")


def _dry_run(data: Path, options: ExtractOptions, as_json: bool) -> None:
    from featurize.console import preview_json, print_previews
    from featurize.extraction.preview import preview

    with progress_bar(title="reading", unit="images") as bar:
        previews = preview(data, options, on_progress=lambda stage, done, total: bar(done, total, stage))
    if as_json:
        click.echo(json.dumps({"stores": [preview_json(item) for item in previews]}, indent=2))
    else:
        print_previews(previews)


def _batch_size(text: str) -> int | str:
    if text == "auto":
        return text
    if not text.isdecimal() or int(text) < 1:
        raise click.BadParameter(
            f"{text!r}: expected a number of at least 1, or auto", param_hint="--batch-size"
        )
    return int(text)
