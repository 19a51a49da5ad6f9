"""Command ``featurize``: parse, call one library function, print."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
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
from featurize.cli.maintenance import repair_command, verify_command
from featurize.cli.options import ENTRIES, ORDER, WORKERS, extract_options
from featurize.console import print_backbones, print_facts, print_selfcheck, print_summary, summary_json
from featurize.extraction.extract import DEFAULT_BACKBONE, extract
from featurize.extraction.options import ExtractOptions
from featurize.images.augment import ViewRanges

CONTEXT = {"help_option_names": ["-h", "--help"], "show_default": True}


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
            data,
            ExtractOptions(**{field.name: asked[field.name] for field in dataclasses.fields(ExtractOptions)}),
            as_json,
        )
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
    from featurize.console import print_scan, scan_json
    from featurize.images.scan import scan

    with progress_bar(title="hashing", unit="images") as bar:
        intake = scan(
            data,
            order=flatten(order) or None,
            **options,
            on_progress=lambda stage, done, total: bar(done, total, stage),
        )
    if as_json:
        click.echo(json.dumps(scan_json(intake), indent=2))
    else:
        print_scan(intake)
    if strict and intake.needs_person:
        ctx.exit(1)


@cli.command("backbones")
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON.")
def backbones_command(as_json: bool) -> None:
    """List every backbone: sizes, cost, accuracy, and whether its weights are here."""
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


@cli.command("info")
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def info_command(store: Path, as_json: bool) -> None:
    """Print what a store holds."""
    facts = store_facts(store)
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    print_facts(facts)


@cli.command("selfcheck")
@click.option("--backbone", default=DEFAULT_BACKBONE, help="A name from `featurize backbones`.")
@click.option(
    "--weights", default=default_of(extract, "weights"), help="imagenet, random, or a weights file."
)
@click.option(
    "--engine", type=click.Choice(["auto", "tensorflow", "openvino"]), default="auto", help="What is checked."
)
@click.option("--device", default="auto", help="Where it is checked: auto, cpu, gpu or gpu:N.")
@click.option(
    "--precision",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    default="float32",
    help="The arithmetic that is checked.",
)
def selfcheck_command(backbone: str, weights: str, engine: str, device: str, precision: str) -> None:
    """Compare what extraction runs here with TensorFlow on the CPU: features, and rates."""
    from featurize.backbones.registry import get_backbone
    from featurize.backbones.weights import find_weights
    from featurize.engines.selfcheck import selfcheck

    found = get_backbone(backbone)
    result = selfcheck(found, find_weights(found, weights), engine=engine, device=device, precision=precision)
    print_selfcheck(result)


cli.add_command(verify_command)
cli.add_command(repair_command)


def main() -> None:
    """Run the command line."""
    with graceful_stop():
        cli(prog_name="featurize")


def _dry_run(data: Path, asked: ExtractOptions, as_json: bool) -> None:
    from featurize.console import preview_json, print_previews
    from featurize.extraction.preview import preview

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


def store_facts(path: Path) -> dict[str, Any]:
    """Return what a store holds, JSON-able; names are made printable.

    Raises
    ------
    StoreError
        If the file is no store, or is damaged.
    """
    from featurize.store.reader import open_store

    with open_store(path) as store, store.damage_named("what it says of itself"):
        images = store.images
        splits: dict[str, Counter[str]] = {}
        for split, label, row in zip(images.split, images.label, images.content, strict=True):
            if row >= 0:
                name = printable(store.classes[label]) if label >= 0 else "ungraded"
                splits.setdefault(split, Counter())[name] += 1
        weights = store.config["weights"]
        proof = store.created_with.get("precision") or {}
        return {
            "store": printable(str(path)),
            "dataset": printable(store.dataset),
            "data": printable(str(store.created_with.get("data", ""))),
            "backbone": store.backbone,
            "weights": f"{weights['kind']} (SHA-256 {weights['sha256'][:12]}…)",
            "classes": " < ".join(map(printable, store.classes))
            if store.ordered
            else ", ".join(map(printable, store.classes)),
            "ordered": store.ordered,
            "images": store.n_images,
            "contents": store.n_content,
            "splits": {split: dict(counts) for split, counts in splits.items()},
            "entries": len(set(images.entry)),
            "features": store.n_features,
            "views": store.n_views,
            "contents with views": store.n_augmented,
            "levels": dict(zip(store.level_names, store.level_ends, strict=True)),
            "engine": store.created_with.get("engine", ""),
            "precision": {"format": store.config.get("precision"), **proof},  # and how that was settled
            "bytes": Path(path).stat().st_size,
            "config": store.config,
            "config digest": store.config_digest,
            "made with": {
                key: store.created_with.get(key) for key in ("engine", "device", "folio", "packages")
            },
            "skipped": [
                f"{printable(name)}: {printable(reason)}"
                for name, reason in zip(images.path, images.skipped, strict=True)
                if reason
            ],
        }
