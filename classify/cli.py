"""Command ``classify``: parse, call one library function, print."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from classify.compare import BASELINE, DEFAULT_HEADS, MAX_SEED, DenseOptions, compare
from classify.heads import HEADS
from featurize import (
    CommaList,
    FolioGroup,
    default_of,
    flatten,
    orderly_stop,
    printable,
    progress_bar,
    quiet_libraries,
)

DENSE = DenseOptions()
PATH = click.Path(path_type=Path)


class Units(click.ParamType):
    """Widths of layers, with commas."""

    name = "n[,n…]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return whole numbers."""
        if not isinstance(value, str):
            return value
        try:
            return tuple(int(word) for word in value.split(",") if word.strip())
        except ValueError:
            self.fail(f"{value!r}: expected whole numbers with commas, such as 512,128,64", param, ctx)


def fit_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add what `compare` and `fit` share."""
    shared = [
        click.option(
            "--order", type=CommaList(), help="The classes from worst to best, e.g. low,middle,award."
        ),
        click.option(
            "--class-weight",
            type=click.Choice(["balanced"]),
            help="balanced: each class weighs the same whatever its number of images.",
        ),
        click.option(
            "--units", type=Units(), default=",".join(map(str, DENSE.units)), help="Dense head: widths."
        ),
        click.option("--dropout", default=DENSE.dropout, help="Dense head: share of units dropped."),
        click.option("--learning-rate", default=DENSE.learning_rate, help="Dense head: Adam's."),
        click.option("--epochs", default=DENSE.epochs, help="Dense head: at most."),
        click.option("--batch-size", default=DENSE.batch_size, help="Dense head: images a step."),
        click.option("--patience", default=DENSE.patience, help="Dense head: epochs without improvement."),
        click.option(
            "--seed",
            type=click.IntRange(0, MAX_SEED),
            default=default_of(compare, "seed"),
            help="Of folds and heads.",
        ),
        click.option(
            "--jobs", type=click.IntRange(min=1), help="Processes.  [default: one a core, if it pays]"
        ),
        *device_options(),
        click.option(
            "--fresh", is_flag=True, help="Compute all, also what an earlier run did on equal data."
        ),
        click.option("--overwrite", is_flag=True, help="Replace what an earlier run wrote there."),
    ]
    for option in reversed(shared):
        command = option(command)
    return command


def device_options() -> list[Callable[..., Any]]:
    """Return the options of what runs in TensorFlow."""
    return [
        click.option("--device", default=default_of(compare, "device"), help="auto, cpu or gpu:N."),
        click.option(
            "--gpu-memory", type=float, metavar="FRACTION", help="Part of the GPU's memory; grows by default."
        ),
    ]


@click.group(cls=FolioGroup, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(package_name="folio-grader", prog_name="classify")
@click.option("--verbose", is_flag=True, help="Show what TensorFlow and other libraries write to stderr.")
def cli(verbose: bool) -> None:
    """Fit heads on cached features, compare them without leaks, and grade new images.

    \b
    classify compare artifacts/features/DATA/*.h5
    classify predict artifacts/runs/DATA IMAGES --out grades.csv
    classify heads
    """  # noqa: D301 - click reads the \b
    quiet_libraries(verbose=verbose)


@cli.command("compare")
@click.argument("stores", nargs=-1, required=True, type=PATH, metavar="STORE...")
@click.option(
    "--heads",
    multiple=True,
    type=CommaList(),
    help=f"Names from `classify heads`; with commas or repeated.  [default: {','.join(DEFAULT_HEADS)}]",
)
@click.option("--out", type=PATH, help="The run folder.  [default: artifacts/runs/DATASET]")
@fit_options
@click.option("--json", "as_json", is_flag=True, help="Print the record as JSON.")
def compare_command(
    stores: tuple[Path, ...], heads: tuple[tuple[str, ...], ...], as_json: bool, **options: Any
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
        done = compare(stores, heads=flatten(heads) or DEFAULT_HEADS, on_progress=bar, **_with_dense(options))
    if as_json:
        click.echo(json.dumps(done.record, indent=2))
    else:
        from classify.printing import print_comparison

        print_comparison(done)
    if done.recommended is None and any(result["head"] != BASELINE for result in done.record["results"]):
        click.echo("classify: no head could be fitted", err=True)
        click.get_current_context().exit(1)


@cli.command("fit")
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
    from classify.fitting import fit
    from classify.printing import print_fit

    given = dict(_parameter(text) for text in params)
    if options["like"] is not None and HEADS[head].tensorflow:  # what is typed wins over what is taken over
        typed = {
            name for name in options if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        }
        given = {
            **{field.name: options[field.name] for field in fields(DENSE) if field.name in typed},
            **given,
        }
    with progress_bar(title="fitting", unit="fits") as bar:
        done = fit(store, head=head, params=given or None, on_progress=bar, **_with_dense(options))
    print_fit(done)


@cli.command("heads")
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
        if head.name == "dense":
            given = ", ".join(f"--{field.name.replace('_', '-')}" for field in fields(DenseOptions))
            click.echo(f"  given: {given}")


@cli.command("predict")
@click.argument("bundle_or_run", type=PATH)
@click.argument("images", nargs=-1, required=True, type=PATH, metavar="IMAGE_OR_FOLDER...")
@click.option("--out", type=PATH, help="Write the grades as CSV, for spreadsheets.")
@click.option("--json", "as_json", is_flag=True, help="Print the grades as JSON.")
@click.option("--weights", type=PATH, help="The backbone's weights, where the bundle does not carry them.")
@device_options()[0]
@device_options()[1]
def predict_command(
    bundle_or_run: Path, images: tuple[Path, ...], out: Path | None, as_json: bool, **options: Any
) -> None:
    """Grade images with a bundle, or with the recommended head of a run.

    \b
    classify predict artifacts/runs/DATA new_work --out grades.csv
    classify predict artifacts/runs/DATA/bundles/vgg16__logreg poster.jpg --json

    Every file has its row; one that cannot be read has no grade but the reason. The exit code is 1 when no
    file could be graded.
    """  # noqa: D301 - click reads the \b
    from classify.predict import check_output, grades_json, predict, write_grades

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
        from classify.printing import print_grades

        print_grades(graded)
    if graded.n_failed == len(graded.grades):
        click.echo("classify: none of the files could be graded", err=True)
        click.get_current_context().exit(1)


def _with_dense(options: Mapping[str, Any]) -> dict[str, Any]:
    names = {field.name for field in fields(DenseOptions)}
    return {
        **{key: value for key, value in options.items() if key not in names},
        "dense": DenseOptions(**{key: value for key, value in options.items() if key in names}),
    }


def _parameter(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise click.UsageError(f"--param {text}: expected NAME=VALUE, such as C=0.1. See: classify heads")
    for kind in (int, float):
        try:
            return name, kind(value)
        except ValueError:
            continue
    return name, value


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def main() -> None:
    """Run the command line."""
    with orderly_stop():
        cli(prog_name="classify")
