"""Commands ``classify compare``, ``fit``, ``heads`` and ``report``."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from classify.cli.options import PATH, fit_options, parameter, with_dense
from classify.data.levels import LEVELS
from classify.evaluation.studies import ALL, STUDIES
from classify.heads.registry import HEADS
from classify.heads.select import BASELINE, DEFAULT_HEADS, ENSEMBLE
from classify.jobs.compare import compare
from classify.jobs.options import CALIBRATIONS, DenseOptions
from classify.report.report import FORMATS, make_report
from featurize.base.terminal import CommaList, default_of, progress_bar
from featurize.base.text import flatten, printable


@click.command("compare")
@click.argument("stores", nargs=-1, required=True, type=PATH, metavar="STORE...")
@click.option(
    "--heads",
    multiple=True,
    type=CommaList(),
    help="Heads to compare, comma-separated; see `classify heads`. all: all heads; ensemble: also the soft "
    f"vote of the best.  [default: {','.join(DEFAULT_HEADS)}; ordinal heads too if the classes are ordered]",
)
@click.option("--out", type=PATH, help="Folder for the run.  [default: artifacts/runs/DATASET]")
@click.option(
    "--study",
    multiple=True,
    type=CommaList(),
    help=f"Additional studies on the training images, comma-separated: {', '.join((*STUDIES, ALL))}.",
)
@click.option(
    "--calibrate",
    type=click.Choice(CALIBRATIONS),
    default=default_of(compare, "calibrate"),
    help="temperature: calibrate the probabilities of each head on held-out training images.",
)
@click.option(
    "--report/--no-report",
    default=default_of(compare, "report"),
    help="Also write report.html, leaderboard.md and figures/.",
)
@click.option(
    "--dask",
    metavar="ADDRESS|local[:N]",
    help="Run the tasks on Dask workers: those of the scheduler at ADDRESS, or N on this machine.",
)
@click.option(
    "--fuse", is_flag=True, help="Also compare the concatenated features of all stores, as one more store."
)
@fit_options
@click.option("--json", "as_json", is_flag=True, help="Print the content of results.json.")
def compare_command(
    stores: tuple[Path, ...],
    heads: tuple[tuple[str, ...], ...],
    study: tuple[tuple[str, ...], ...],
    as_json: bool,
    **options: Any,
) -> None:
    """Compare heads on one or several stores.

    Every head is tuned, fitted and tested on every STORE and written as a bundle. Hyper-parameters are chosen
    on grouped folds of the training images, and the test split is used once. If there is no test split, all
    metrics are out of fold.

    \b
    Examples:
      classify compare artifacts/features/DATA/efficientnet_lite0.h5
      classify compare a/vgg16.h5 a/resnet50.h5 --heads logreg,svm-linear --out artifacts/runs/both
      classify compare artifacts/features/DATA/vgg16.h5 --order low,middle,award --overwrite
    """  # noqa: D301 - \b keeps the line breaks in the help
    with progress_bar(title="fitting", unit="fits") as bar:
        done = compare(
            stores,
            heads=flatten(heads) or None,
            study=flatten(study),
            on_progress=bar,
            on_note=lambda text: click.echo(printable(text), err=True),
            **with_dense(options),
        )
    if as_json:
        from classify.io.results import printable_json

        click.echo(json.dumps(printable_json(done.record), indent=2))
    else:
        from classify.report.console import print_comparison

        print_comparison(done)
    if done.recommended is None and any(result["head"] != BASELINE for result in done.record["results"]):
        click.echo("classify: no head could be fitted", err=True)
        click.get_current_context().exit(1)


@click.command("fit")
@click.argument("store", type=PATH)
@click.option("--head", required=True, type=click.Choice(list(HEADS)), help="The head to fit.")
@click.option("--like", type=PATH, metavar="RUN", help="Run or bundle to take the hyper-parameters from.")
@click.option(
    "--param",
    "params",
    multiple=True,
    metavar="NAME=VALUE",
    help="Value of a hyper-parameter; can be repeated. If any is given, nothing is searched.",
)
@click.option(
    "--out", type=PATH, help="Folder for the bundle.  [default: artifacts/bundles/DATASET/STORE__HEAD]"
)
@fit_options
@click.pass_context
def fit_command(
    context: click.Context, store: Path, head: str, params: tuple[str, ...], **options: Any
) -> None:
    """Fit one head on a store and write it as a bundle.

    The head is fitted on the train and val images of STORE, and tested once if there is a test split. Without
    --like and --param the hyper-parameters are searched, or read from the cache if an earlier run has
    searched them.

    \b
    Examples:
      classify fit artifacts/features/DATA/vgg16.h5 --head logreg
      classify fit artifacts/features/DATA/vgg16.h5 --head dense --like artifacts/runs/DATA
      classify fit artifacts/features/DATA/vgg16.h5 --head svm-rbf --param C=10 --param gamma_factor=0.1
    """  # noqa: D301 - \b keeps the line breaks in the help
    from classify.jobs.fit import fit
    from classify.report.console import print_fit

    given = dict(parameter(text) for text in params)
    if context.get_parameter_source("join") is not ParameterSource.COMMANDLINE:
        options["join"] = None  # then the value of --like is used
    if options["like"] is not None and HEADS[head].tensorflow:  # typed options take precedence
        typed = {
            name for name in options if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        }
        given = {
            **{field.name: options[field.name] for field in fields(DenseOptions) if field.name in typed},
            **given,
        }
    with progress_bar(title="fitting", unit="fits") as bar:
        done = fit(store, head=head, params=given or None, on_progress=bar, **with_dense(options))
    print_fit(done)


@click.command("heads")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def heads_command(as_json: bool) -> None:
    """List the available heads.

    For each head, its hyper-parameters and the values that a search tries.

    \b
    Examples:
      classify heads
      classify heads --json
    """  # noqa: D301 - \b keeps the line breaks in the help
    if as_json:
        listed = [
            {
                "name": head.name,
                "title": head.title,
                "about": head.about,
                "grid": [{key: list(values) for key, values in part.items()} for part in head.grid],
            }
            for head in HEADS.values()
        ]
        click.echo(json.dumps(listed, indent=2))
        return
    for head in HEADS.values():
        click.echo(f"{head.name}: {head.title}\n  {head.about}")
        for part in head.grid:
            for key, values in part.items():
                click.echo(f"  searched: {key} = {', '.join(map(_shown, values))}")
        if head.tensorflow:
            names = ", ".join(f"--{field.name.replace('_', '-')}" for field in fields(DenseOptions))
            click.echo(f"  set by options: {names}")
    click.echo(
        f"{ENSEMBLE}: soft vote of the three best heads, chosen on training folds; only in `classify compare`"
    )
    click.echo(
        "For stores with several levels (`featurize extract --levels`), searched too: "
        f"levels = {', '.join(LEVELS)}"
    )


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


@click.command("report")
@click.argument("run", type=PATH)
@click.option(
    "--store",
    "stores",
    multiple=True,
    type=PATH,
    help="New path of a store of the run, if it was moved; can be repeated.",
)
@click.option("--data", type=PATH, help="Folder of the images, if they were moved after the extraction.")
@click.option(
    "--pictures/--no-pictures",
    default=default_of(make_report, "pictures"),
    help="Show images. Without them, the report can be shared with people who must not see the images.",
)
@click.option(
    "--figures",
    type=click.Choice(FORMATS),
    default=default_of(make_report, "figures"),
    help="Also write each chart as a file of this format, for example for a paper.",
)
@click.option("--open", "open_page", is_flag=True, help="Open the report in the browser.")
def report_command(run: Path, open_page: bool, **options: Any) -> None:
    """Write the report of a run again.

    Writes report.html, leaderboard.md and figures/ into the folder of RUN, as `classify compare` does. Use it
    if stores or images were moved, or to write a report without images. The report is a single file that
    works offline.

    \b
    Examples:
      classify report artifacts/runs/DATA --open
      classify report artifacts/runs/DATA --no-pictures --figures png
      classify report artifacts/runs/DATA --data /mnt/portfolio --store moved/vgg16.h5
    """  # noqa: D301 - \b keeps the line breaks in the help
    with progress_bar(title="thumbnails", unit="images") as bar:
        written = make_report(run, on_progress=bar, **options)
    for note in written.notes:
        click.echo(f"Note: {printable(note)}", err=True)
    click.echo(f"Report: {printable(str(written.path))}")
    click.echo(f"Table: {printable(str(written.table))}")
    if written.figures is not None:
        click.echo(f"Figures: {printable(str(written.figures))}")
    if open_page:
        click.launch(str(written.path))
