"""The commands ``featurize info``, ``featurize verify`` and ``featurize repair``."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import click

from featurize.base.terminal import default_of, mark_resumable, progress_bar, with_options
from featurize.base.text import printable
from featurize.extraction.extract import extract
from featurize.extraction.options import SAMPLE_SEED, SAMPLE_SIZE

STORE = click.argument("store", type=click.Path(path_type=Path))
check_options = with_options(
    click.option(
        "--data",
        type=click.Path(path_type=Path),
        help="Folder of the images.  [default: the one from which the store was created]",
    ),
    click.option(
        "--sample",
        type=click.IntRange(0),
        metavar="N",
        default=SAMPLE_SIZE,
        help="Number of images whose features are computed again; 0 for none.",
    ),
    click.option(
        "--seed", type=click.IntRange(0), default=SAMPLE_SEED, help="Seed that selects these images."
    ),
    click.option("--weights", help="Path of the weights file.  [default: the one recorded in the store]"),
    click.option("--device", default="auto", help="auto, cpu, gpu or gpu:N."),
    click.option(
        "--workers", type=click.IntRange(1), help="Number of decode processes.  [default: one per core]"
    ),
    click.option("--json", "as_json", is_flag=True, help="Print the result as JSON."),
)


@click.command("info")
@STORE
@click.option("--json", "as_json", is_flag=True, help="Print the facts as JSON.")
def info_command(store: Path, as_json: bool) -> None:
    """Print the content of a store.

    Prints the data set, its classes and splits, the features, the config and the skipped files.

    \b
    Example:
      featurize info artifacts/features/DATA/resnet50.h5
    """  # noqa: D301 - \b keeps the line breaks in the help
    from featurize.console import print_facts

    facts = store_facts(store)
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    print_facts(facts)


@click.command("verify")
@STORE
@check_options
@click.pass_context
def verify_command(ctx: click.Context, store: Path, as_json: bool, **options: Any) -> None:
    """Check a store for faults.

    Checks the structure and the checksums of the store, compares it with the image files, and computes a
    sample of its features again. Nothing is written. If there are faults, the exit code is 1 and the last
    line is the command that repairs the store.

    \b
    Example:
      featurize verify artifacts/features/DATA/resnet50.h5
    """  # noqa: D301 - \b keeps the line breaks in the help
    from featurize.console import print_verification, verification_json
    from featurize.extraction.verify import verify

    with progress_bar(title="checksums", unit="chunks") as bar:
        found = verify(
            store,
            on_progress=lambda stage, done, total: bar(done, total, stage),
            **options,
        )
    if as_json:
        click.echo(json.dumps(verification_json(found), indent=2))
    else:
        print_verification(found)
    ctx.exit(0 if found.clean else 1)


@click.command("repair")
@STORE
@check_options
@click.option("--replace", is_flag=True, help="Continue even if most images of the store are not in DATA.")
@click.option(
    "--image-timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=default_of(extract, "image_timeout"),
    metavar="SECONDS",
    help="Skip a file that takes longer to decode; the next run tries it again.",
)
def repair_command(store: Path, as_json: bool, **options: Any) -> None:
    """Verify a store and recompute its wrong parts.

    All other parts keep their bytes. All settings come from the config of the store. Damaged features are
    computed again; added, changed, moved and removed image files are treated as in `featurize extract`.

    \b
    Example:
      featurize repair artifacts/features/DATA/resnet50.h5
    """  # noqa: D301 - \b keeps the line breaks in the help
    from featurize.console import print_repair, summary_json, verification_json
    from featurize.extraction.repair import repair

    mark_resumable()
    with progress_bar(title="checksums", unit="chunks") as bar:
        done = repair(
            store,
            on_note=lambda text: click.echo(printable(text), err=True),
            on_progress=lambda stage, done, total: bar(done, total, stage),
            **options,
        )
    if as_json:
        result = summary_json(done.result) if done.result is not None else None
        click.echo(json.dumps({"before": verification_json(done.verification), "result": result}, indent=2))
    else:
        print_repair(done)


def store_facts(path: Path) -> dict[str, Any]:
    """Return facts about a store as JSON-serialisable data with printable names.

    Raises
    ------
    StoreError
        If the file is not a store or is damaged.
    """
    from featurize.store.reader import open_store

    with open_store(path) as store, store.report_damage("the metadata"):
        images = store.images
        splits: dict[str, Counter[str]] = {}
        for split, label, row in zip(images.split, images.label, images.content, strict=True):
            if row >= 0:
                name = printable(store.classes[label]) if label >= 0 else "ungraded"
                splits.setdefault(split, Counter())[name] += 1
        weights = store.config["weights"]
        precision_check = store.created_with.get("precision") or {}
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
            "precision": {"format": store.config.get("precision"), **precision_check},
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
