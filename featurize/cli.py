"""Command ``featurize``: parse, call one library function, print."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import click

from featurize.backbones import BACKBONES
from featurize.extraction import DEFAULT_BACKBONE, VIEWS_FOR, Asked, extract
from featurize.screens import print_backbones, print_facts, print_selfcheck, print_summary, summary_json
from featurize.terminal import (
    CommaList,
    FolioGroup,
    default_of,
    flatten,
    keeps_what_is_finished,
    orderly_stop,
    printable,
    progress_bar,
    quiet_libraries,
)
from featurize.upkeep.upkeep_cli import repair_command, verify_command
from featurize.views import ViewRanges

RANGES = ViewRanges()
CONTEXT = {"help_option_names": ["-h", "--help"], "show_default": True}


def _default(parameter: str) -> Any:
    return default_of(extract, parameter)


# What `extract` and `scan` mean the same by.
ORDER = click.option(
    "--order",
    multiple=True,
    type=CommaList(),
    help="The classes from worst to best, e.g. low,middle,award; or repeated.",
)
ENTRIES = click.option(
    "--entries",
    type=click.Choice(["folder", "image"]),
    default=_default("entries"),
    help="Whether a folder below a class is one entry.",
)
WORKERS = click.option("--workers", type=click.IntRange(1), help="Decoding processes.  [default: one a core]")


@click.group("featurize", cls=FolioGroup, context_settings=CONTEXT)
@click.version_option(package_name="folio-grader", prog_name="featurize")
@click.option("--verbose", is_flag=True, help="Show what TensorFlow and image libraries write to stderr.")
def cli(verbose: bool) -> None:
    """Run frozen CNN backbones once over a folder of images and keep the features.

    \b
    featurize scan DATA
    featurize extract DATA --backbone efficientnet_lite0 --views 4
    featurize info artifacts/features/DATA/efficientnet_lite0.h5
    featurize verify artifacts/features/DATA/efficientnet_lite0.h5
    featurize backbones
    """  # noqa: D301 - click reads the \b
    quiet_libraries(verbose=verbose)


@cli.command("extract")
@click.argument("data", type=click.Path(path_type=Path))
@click.option(
    "--backbone",
    "backbones",
    multiple=True,
    type=CommaList(),
    help=f"Names from `featurize backbones`; with commas or repeated.  [default: {DEFAULT_BACKBONE}]",
)
@click.option("--views", default=_default("views"), help="Augmented views of each image; 0 for none.")
@click.option(
    "--views-for", type=click.Choice(VIEWS_FOR), default=_default("views_for"), help="Whose images get views."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder of the stores.  [default: artifacts/features/DATASET]",
)
@click.option("--weights", default=_default("weights"), help="imagenet, random, or a weights file.")
@ORDER
@ENTRIES
@click.option(
    "--input-size",
    type=click.IntRange(1),
    help="Side of the network's input.  [default: the backbone's own]",
)
@click.option(
    "--resize",
    type=click.Choice(["squash", "crop", "pad"]),
    default=_default("resize"),
    help="How a picture becomes a square.",
)
@click.option(
    "--resample",
    type=click.Choice(["nearest", "bilinear", "bicubic", "lanczos"]),
    default=_default("resample"),
    help="Antialiased filter of the one resize.",
)
@click.option(
    "--preprocess",
    type=click.Choice(["native", "rescale", "featurewise"]),
    default=_default("preprocess"),
    help="The backbone's own; or, for comparison, 1/255; or 1/255 with fitted mean and deviation.",
)
@click.option("--rotation", default=RANGES.rotation, help="Degrees, either way.")
@click.option("--width-shift", default=RANGES.width_shift, help="Fraction of the width, either way.")
@click.option("--height-shift", default=RANGES.height_shift, help="Fraction of the height, either way.")
@click.option("--shear", default=RANGES.shear, help="Degrees, as in Keras: 0.2 is nearly nothing.")
@click.option("--zoom-low", default=RANGES.zoom_low, help="Smallest zoom factor, drawn for each axis.")
@click.option("--zoom-high", default=RANGES.zoom_high, help="Largest zoom factor.")
@click.option(
    "--horizontal-flip/--no-horizontal-flip", default=RANGES.horizontal_flip, help="Mirror half of the views."
)
@click.option(
    "--vertical-flip/--no-vertical-flip", default=RANGES.vertical_flip, help="Turn half of them upside down."
)
@click.option(
    "--seed", type=click.IntRange(0), default=_default("seed"), help="Seeds the views and random weights."
)
@click.option(
    "--precision",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    default=_default("precision"),
    help="The network's arithmetic.",
)
@click.option(
    "--store-dtype",
    type=click.Choice(["float32", "float16"]),
    default=_default("store_dtype"),
    help="float16 halves the store.",
)
@click.option(
    "--max-pixels",
    type=click.IntRange(1),
    default=_default("max_pixels"),
    help="Skip larger pictures before decoding; JPEGs count after their own scaling.",
)
@click.option(
    "--strict", is_flag=True, help="Stop at the first file that cannot be used, instead of skipping it."
)
@click.option("--replace", is_flag=True, help="Go on although most stored images are not in DATA.")
@click.option("--device", default=_default("device"), help="auto, cpu or gpu:N.")
@click.option(
    "--gpu-memory", type=float, metavar="FRACTION", help="Part of the GPU's memory; grows by default."
)
@click.option("--batch-size", default=_default("batch_size"), help="Views in one forward pass, or auto.")
@WORKERS
@click.option(
    "--image-timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=_default("image_timeout"),
    metavar="SECONDS",
    help="Skip a file that takes longer; the next run tries it again.",
)
@click.option(
    "--skipped",
    "skipped_csv",
    type=click.Path(path_type=Path),
    metavar="FILE.csv",
    help="Write all skipped files with their reasons.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
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
    """Make one feature store a backbone from the images in DATA.

    \b
    DATA/train/award/*.jpg  DATA/test/award/*.jpg     a split (award_train, award_test are fine too)
    DATA/award/*.jpg                                  no split: cross-validation decides later
    DATA/new/*.jpg                                    not graded yet: features only

    A second run computes only what is missing; one that was stopped or killed goes on where it was.
    """  # noqa: D301 - click reads the \b
    options["order"] = flatten(order) or None
    ranges = ViewRanges(**{field.name: options.pop(field.name) for field in dataclasses.fields(ViewRanges)})
    if dry_run:
        if skipped_csv is not None:
            raise click.UsageError("--skipped lists what a run skipped, and --dry-run runs nothing")
        asked = {**options, "backbones": flatten(backbones) or (DEFAULT_BACKBONE,), "ranges": ranges}
        _dry_run(
            data, Asked(**{field.name: asked[field.name] for field in dataclasses.fields(Asked)}), as_json
        )
        return
    keeps_what_is_finished()
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
        from featurize.making.skipping import write_skipped

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
    help="Exit with 1 if anything needs a person: an error (results would be wrong, or a comparison would "
    "refuse) or a warning (Folio cannot decide it). Notes never do.",
)
@click.option("--json", "as_json", is_flag=True, help="Print every fact and finding as JSON.")
@click.pass_context
def scan_command(
    ctx: click.Context,
    data: Path,
    order: tuple[tuple[str, ...], ...],
    strict: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Look at the images in DATA before any compute: what is there, and what is wrong with it.

    Every file is hashed, decoded small and compared with all others. Shown first: the same picture under two
    grades. Nothing is written.
    """
    from featurize.intake.intake import inspect
    from featurize.intake.intake_screen import intake_json, print_intake

    with progress_bar(title="hashing", unit="images") as bar:
        intake = inspect(
            data,
            order=flatten(order) or None,
            **options,
            on_progress=lambda stage, done, total: bar(done, total, stage),
        )
    if as_json:
        click.echo(json.dumps(intake_json(intake), indent=2))
    else:
        print_intake(intake)
    if strict and intake.needs_person:
        ctx.exit(1)


@cli.command("backbones")
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON.")
def backbones_command(as_json: bool) -> None:
    """List every backbone: sizes, cost, accuracy, and whether its weights are here."""
    from featurize.weights import weights_status

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


@cli.command("info")
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def info_command(store: Path, as_json: bool) -> None:
    """Print what a store holds."""
    from featurize.info import store_facts

    facts = store_facts(store)
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    print_facts(facts)


@cli.command("selfcheck")
@click.option("--backbone", default=DEFAULT_BACKBONE, help="A name from `featurize backbones`.")
@click.option("--weights", default=_default("weights"), help="imagenet, random, or a weights file.")
@click.option("--device", default="gpu:0", help="The GPU to compare with the CPU.")
@click.option(
    "--precision",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    default="float32",
    help="The GPU's arithmetic.",
)
def selfcheck_command(backbone: str, weights: str, device: str, precision: str) -> None:
    """Compare a backbone's features on the GPU with those on the CPU, and the two rates."""
    from featurize.backbones import get_backbone
    from featurize.selfcheck import selfcheck
    from featurize.weights import find_weights

    found = get_backbone(backbone)
    result = selfcheck(found, find_weights(found, weights), device=device, precision=precision)
    print_selfcheck(result)


cli.add_command(verify_command)
cli.add_command(repair_command)


def main() -> None:
    """Run the command line."""
    with orderly_stop():
        cli(prog_name="featurize")


def _dry_run(data: Path, asked: Asked, as_json: bool) -> None:
    from featurize.upkeep.preview import preview
    from featurize.upkeep.upkeep_screen import preview_json, print_previews

    with progress_bar(title="reading", unit="images") as bar:
        previews = preview(data, asked, on_progress=lambda stage, done, total: bar(done, total, stage))
    if as_json:
        click.echo(json.dumps({"stores": [preview_json(each) for each in previews]}, indent=2))
    else:
        print_previews(previews)


def _batch_size(text: str) -> int | str:
    if text == "auto":
        return text
    if not text.isdecimal() or int(text) < 1:
        raise click.BadParameter(f"{text!r}: expected a number from 1 on, or auto", param_hint="--batch-size")
    return int(text)
