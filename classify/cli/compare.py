"""Commands ``classify compare``, ``classify fit``, and ``classify heads``, which lists them."""

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
    help="Names from `classify heads`, with commas or repeated; all of them: all; the vote of the best: "
    f"ensemble.  [default: {','.join(DEFAULT_HEADS)}, and their ordinal siblings where classes are ordered]",
)
@click.option("--out", type=PATH, help="The run folder.  [default: artifacts/runs/DATASET]")
@click.option(
    "--study",
    multiple=True,
    type=CommaList(),
    help=f"What else to find out from the training images: {', '.join((*STUDIES, ALL))}; with commas.",
)
@click.option(
    "--calibrate",
    type=click.Choice(CALIBRATIONS),
    default=default_of(compare, "calibrate"),
    help="temperature: scale each head's probabilities as held out training images call for.",
)
@click.option(
    "--report/--no-report",
    default=default_of(compare, "report"),
    help="Write report.html, leaderboard.md and figures/ too.",
)
@click.option(
    "--dask",
    metavar="ADDRESS|local[:N]",
    help="Have Dask workers do the work: those of a scheduler, or N started here.",
)
@click.option("--fuse", is_flag=True, help="Compare all stores side by side, too, as one more store.")
@fit_options
@click.option("--json", "as_json", is_flag=True, help="Print the record as JSON.")
def compare_command(
    stores: tuple[Path, ...],
    heads: tuple[tuple[str, ...], ...],
    study: tuple[tuple[str, ...], ...],
    as_json: bool,
    **options: Any,
) -> None:
    """Tune, fit and test every head on every STORE; keep each as a bundle.

    \b
    classify compare artifacts/features/DATA/efficientnet_lite0.h5
    classify compare a/vgg16.h5 a/resnet50.h5 --heads logreg,svm-linear --out artifacts/runs/both
    classify compare artifacts/features/DATA/vgg16.h5 --order low,middle,award --overwrite

    Hyper-parameters come from grouped folds of the training images; the test split is used once. Without a
    test split every figure is out of fold.
    """  # noqa: D301 - click reads the \b
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
@click.option("--head", required=True, type=click.Choice(list(HEADS)), help="Which head.")
@click.option("--like", type=PATH, metavar="RUN", help="A run or bundle to take the hyper-parameters from.")
@click.option(
    "--param",
    "params",
    multiple=True,
    metavar="NAME=VALUE",
    help="A hyper-parameter; may be repeated. With any given, nothing is searched.",
)
@click.option(
    "--out", type=PATH, help="The bundle's folder.  [default: artifacts/bundles/DATASET/STORE__HEAD]"
)
@fit_options
@click.pass_context
def fit_command(
    context: click.Context, store: Path, head: str, params: tuple[str, ...], **options: Any
) -> None:
    """Fit one head on the train and val images of STORE and write it as a bundle.

    \b
    classify fit artifacts/features/DATA/vgg16.h5 --head logreg
    classify fit artifacts/features/DATA/vgg16.h5 --head dense --like artifacts/runs/DATA
    classify fit artifacts/features/DATA/vgg16.h5 --head svm-rbf --param C=10 --param gamma_factor=0.1

    Without --like and --param the hyper-parameters are searched, unless an earlier run has done that for
    this STORE. Where there is a test split the head is tested on it, once.
    """  # noqa: D301 - click reads the \b
    from classify.jobs.fit import fit
    from classify.report.console import print_fit

    given = dict(parameter(text) for text in params)
    if context.get_parameter_source("join") is not ParameterSource.COMMANDLINE:
        options["join"] = None  # then it is that of --like
    if options["like"] is not None and HEADS[head].tensorflow:  # what is typed wins over what is taken over
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
    """List the heads with their hyper-parameters and the values searched.

    \b
    classify heads
    classify heads --json
    """  # noqa: D301 - click reads the \b
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
            given = ", ".join(f"--{field.name.replace('_', '-')}" for field in fields(DenseOptions))
            click.echo(f"  given: {given}")
    click.echo(
        f"{ENSEMBLE}: the vote of the three best heads, chosen on training folds; for `classify compare`"
    )
    click.echo(
        f"On stores made with `featurize extract --levels` also searched: levels = {', '.join(LEVELS)}"
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
