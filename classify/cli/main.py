"""Command ``classify``: parse, call one library function, print."""

from __future__ import annotations

import click

from classify.cli.compare import compare_command, fit_command, heads_command, report_command
from classify.cli.deploy import export_command, predict_command, serve_command
from featurize.base.terminal import FolioGroup, graceful_stop, silence_libraries


@click.group(cls=FolioGroup, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(package_name="folio-grader", prog_name="classify")
@click.option("--verbose", is_flag=True, help="Show what TensorFlow and other libraries write to stderr.")
def cli(verbose: bool) -> None:
    """Fit heads on cached features, compare them without leaks, and grade new images.

    \b
    classify compare artifacts/features/DATA/*.h5
    classify report artifacts/runs/DATA
    classify predict artifacts/runs/DATA IMAGES --out grades.csv
    classify heads
    """  # noqa: D301 - click reads the \b
    silence_libraries(verbose=verbose)


for command in (
    compare_command,
    report_command,
    fit_command,
    heads_command,
    predict_command,
    serve_command,
    export_command,
):
    cli.add_command(command)


def main() -> None:
    """Run the command line."""
    with graceful_stop():
        cli(prog_name="classify")
