"""Commands ``featurize verify`` and ``featurize repair``: parse, call one library function, print."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from featurize.base.terminal import default_of, mark_resumable, progress_bar
from featurize.base.text import printable
from featurize.extraction.extract import extract

STORE = click.argument("store", type=click.Path(path_type=Path))
LOOKING: tuple[Callable[..., Any], ...] = (
    click.option(
        "--data",
        type=click.Path(path_type=Path),
        help="The folder of images.  [default: the one the store was made from]",
    ),
    click.option(
        "--sample",
        type=click.IntRange(0),
        metavar="N",
        help="Contents whose features are computed again; 0 for none.  [default: 8]",
    ),
    click.option("--seed", type=click.IntRange(0), default=0, help="Decides which."),
    click.option("--weights", help="The weights file.  [default: what the store names]"),
    click.option("--device", default="auto", help="auto, cpu or gpu:N."),
    click.option("--workers", type=click.IntRange(1), help="Decoding processes.  [default: one a core]"),
    click.option("--json", "as_json", is_flag=True, help="Print everything as JSON."),
)


def _looking(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(LOOKING):
        command = option(command)
    return command


@click.command("verify")
@STORE
@_looking
@click.pass_context
def verify_command(
    ctx: click.Context, store: Path, sample: int | None, as_json: bool, **options: Any
) -> None:
    """Check a store: structure, checksums, the files on disk, and a sample of its features.

    Nothing is written. Exit code 1 when anything is off; the last line is then the command that mends it.
    """
    from featurize.console import print_verification, verification_json
    from featurize.extraction.recompute import SAMPLE
    from featurize.extraction.verify import verify

    with progress_bar(title="checksums", unit="chunks") as bar:
        found = verify(
            store,
            sample=SAMPLE if sample is None else sample,
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
@_looking
@click.option("--replace", is_flag=True, help="Go on although most stored images are not in DATA.")
@click.option(
    "--image-timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=default_of(extract, "image_timeout"),
    metavar="SECONDS",
    help="Give up a file that takes longer; the next run tries it again.",
)
def repair_command(store: Path, sample: int | None, as_json: bool, **options: Any) -> None:
    """Verify a store and compute again just what is off; the rest keeps its bytes.

    The store's own config decides every option. Damaged features are computed again, and files that were
    added, changed, moved or removed are treated as `featurize extract` does.
    """
    from featurize.console import print_repair, summary_json, verification_json
    from featurize.extraction.recompute import SAMPLE
    from featurize.extraction.repair import repair

    mark_resumable()
    with progress_bar(title="checksums", unit="chunks") as bar:
        done = repair(
            store,
            sample=SAMPLE if sample is None else sample,
            on_note=lambda text: click.echo(printable(text), err=True),
            on_progress=lambda stage, done, total: bar(done, total, stage),
            **options,
        )
    if as_json:
        result = summary_json(done.result) if done.result is not None else None
        click.echo(json.dumps({"before": verification_json(done.verification), "result": result}, indent=2))
    else:
        print_repair(done)
