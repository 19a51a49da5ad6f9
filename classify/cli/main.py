"""The command ``classify`` with its subcommands."""

from __future__ import annotations

import click

from classify.cli.compare import compare_command, fit_command, heads_command, report_command
from classify.cli.deploy import export_command, predict_command, serve_command
from featurize.base.terminal import FolioGroup, graceful_stop, silence_libraries


@click.group(cls=FolioGroup, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(package_name="folio-grader", prog_name="classify")
@click.option("--verbose", is_flag=True, help="Show messages of TensorFlow and other libraries.")
def cli(verbose: bool) -> None:
    """Fit and compare classifier heads on stored features, and predict the grades of new images.

    \b
    Example:
      classify compare artifacts/features/DATA/*.h5
      classify predict artifacts/runs/DATA IMAGES --out grades.csv
      classify serve artifacts/runs/DATA --open

    Each command has examples: classify COMMAND --help
    """  # noqa: D301 - \b keeps the line breaks in the help
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
