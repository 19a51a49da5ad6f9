"""Command ``classify predict``: grades for new images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from classify.commands.options import PATH, device_options
from classify.entries import ENTRIES
from featurize import printable, progress_bar


@click.command("predict")
@click.argument("bundle_or_run", type=PATH)
@click.argument("images", nargs=-1, required=True, type=PATH, metavar="IMAGE_OR_FOLDER...")
@click.option("--out", type=PATH, help="Write the grades as CSV, for spreadsheets.")
@click.option("--json", "as_json", is_flag=True, help="Print the grades as JSON.")
@click.option("--weights", type=PATH, help="The backbone's weights, where the bundle does not carry them.")
@click.option(
    "--entries",
    type=click.Choice(ENTRIES),
    help="What is graded: each sub-folder of a given folder, or each image.  [default: as it was fitted]",
)
@device_options()[0]
@device_options()[1]
def predict_command(
    bundle_or_run: Path, images: tuple[Path, ...], out: Path | None, as_json: bool, **options: Any
) -> None:
    """Grade images with a bundle, or with the recommended head of a run.

    \b
    classify predict artifacts/runs/DATA new_work --out grades.csv
    classify predict artifacts/runs/DATA/bundles/vgg16__logreg poster.jpg --json

    Every file has its row, or every folder of an entry where the head was fitted on entries of several
    images; what cannot be read is named with the reason. The exit code is 1 when nothing could be graded.
    """  # noqa: D301 - click reads the \b
    from classify.grades import check_output, grades_json, write_grades
    from classify.predict import predict

    if out is not None and as_json:
        raise click.UsageError("--json and --out: choose one")
    if out is not None:
        check_output(out)
    with progress_bar(title="grading", unit="images") as bar:
        graded = predict(bundle_or_run, images, on_progress=bar, **options)
    for note in graded.notes:
        click.echo(f"Note: {printable(note)}", err=True)
    if as_json:
        click.echo(json.dumps(grades_json(graded), indent=2))
    elif out is not None:
        write_grades(out, graded)
        click.echo(
            f"{len(graded.grades) - graded.n_failed} graded, {graded.n_failed} not: {printable(str(out))}"
        )
    else:
        from classify.showing.printing import print_grades

        print_grades(graded)
    if graded.n_failed == len(graded.grades):
        click.echo("classify: none of the files could be graded", err=True)
        click.get_current_context().exit(1)
