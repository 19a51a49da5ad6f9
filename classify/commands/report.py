"""Command ``classify report``: a run as one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from classify.commands.options import PATH
from classify.report.making import FORMATS, make_report
from featurize import default_of, printable, progress_bar


@click.command("report")
@click.argument("run", type=PATH)
@click.option(
    "--store",
    "stores",
    multiple=True,
    type=PATH,
    help="Where a store of the run is, if not where it was; may be repeated.",
)
@click.option(
    "--data", type=PATH, help="Where the images lie, if not where they lay when features were extracted."
)
@click.option(
    "--pictures/--no-pictures",
    default=default_of(make_report, "pictures"),
    help="Whether images are shown: without, the file can be handed on where they may not.",
)
@click.option(
    "--figures",
    type=click.Choice(FORMATS),
    default=default_of(make_report, "figures"),
    help="What the charts are written as, for a paper.",
)
@click.option("--open", "open_page", is_flag=True, help="Open the report in the browser.")
def report_command(run: Path, open_page: bool, **options: Any) -> None:
    """Write report.html, leaderboard.md and figures/ of a RUN into its folder, again.

    \b
    classify report artifacts/runs/DATA --open
    classify report artifacts/runs/DATA --no-pictures --figures png
    classify report artifacts/runs/DATA --data /mnt/portfolio --store moved/vgg16.h5

    `classify compare` has written them already: this is for when the images have moved, or should not be
    shown. The report is one file that needs no network.
    """  # noqa: D301 - click reads the \b
    with progress_bar(title="pictures", unit="images") as bar:
        made = make_report(run, on_progress=bar, **options)
    for note in made.notes:
        click.echo(f"Note: {printable(note)}", err=True)
    click.echo(f"Report: {printable(str(made.path))}")
    click.echo(f"Table: {printable(str(made.table))}")
    if made.figures is not None:
        click.echo(f"Figures: {printable(str(made.figures))}")
    if open_page:
        click.launch(str(made.path))
