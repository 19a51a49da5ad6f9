"""Options that several commands of ``classify`` share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from classify.data import JOINS
from classify.jobs.compare import compare
from classify.jobs.options import MAX_SEED, DenseOptions
from featurize.base.terminal import CommaList, default_of, with_options

DENSE = DenseOptions()
PATH = click.Path(path_type=Path)


class Units(click.ParamType):
    """Comma-separated layer widths."""

    name = "n[,n…]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the widths as whole numbers."""
        if not isinstance(value, str):
            return value
        try:
            return tuple(int(word) for word in value.split(",") if word.strip())
        except ValueError:
            self.fail(f"{value!r}: expected comma-separated whole numbers, such as 512,128,64", param, ctx)


def fit_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that `compare` and `fit` share."""
    return with_options(
        click.option(
            "--order",
            type=CommaList(),
            help="All classes from worst to best, e.g. low,middle,award; the classes are then ordered.",
        ),
        click.option(
            "--class-weight",
            type=click.Choice(["balanced"]),
            help="balanced: give all classes the same weight, whatever their number of images.",
        ),
        click.option(
            "--join",
            type=click.Choice(JOINS),
            default=default_of(compare, "join"),
            help="What is averaged over the images of an entry that has several.",
        ),
        click.option(
            "--units",
            type=Units(),
            default=",".join(map(str, DENSE.units)),
            help="Dense head: widths of the hidden layers.",
        ),
        click.option("--dropout", default=DENSE.dropout, help="Dense head: dropout rate."),
        click.option(
            "--learning-rate", default=DENSE.learning_rate, help="Dense head: learning rate of Adam."
        ),
        click.option("--epochs", default=DENSE.epochs, help="Dense head: maximum number of epochs."),
        click.option("--batch-size", default=DENSE.batch_size, help="Dense head: images per step."),
        click.option(
            "--patience",
            default=DENSE.patience,
            help="Dense head: stop after this number of epochs without improvement.",
        ),
        click.option(
            "--seed",
            type=click.IntRange(0, MAX_SEED),
            default=default_of(compare, "seed"),
            help="Seed of the folds and the heads.",
        ),
        click.option(
            "--jobs",
            type=click.IntRange(min=1),
            help="Number of processes.  [default: one per core, or 1 for small data]",
        ),
        click.option(
            "--with-examples",
            is_flag=True,
            help="Add thumbnail, file name and features of every fitted image to the bundles, so that "
            "`classify serve` can show the most similar ones. Anyone who has the bundle can see the images.",
        ),
        *DEVICE_OPTIONS,
        click.option(
            "--memory",
            metavar="SIZE",
            help="Memory limit, e.g. 4GB: features that do not fit are read from disk in blocks.",
        ),
        click.option(
            "--fresh", is_flag=True, help="Compute everything, without cached results of earlier runs."
        ),
        click.option("--overwrite", is_flag=True, help="Replace the output of an earlier run."),
    )(command)


DEVICE_OPTIONS = (
    click.option(
        "--device",
        default=default_of(compare, "device"),
        help="Device of TensorFlow: auto, cpu, gpu, gpu:N, or several GPUs such as gpu:0,gpu:2.",
    ),
    click.option(
        "--gpu-memory",
        type=float,
        metavar="FRACTION",
        help="Fraction of the GPU's memory to reserve.  [default: grows on demand]",
    ),
)


def with_dense(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options with those of the dense head combined as `dense`."""
    names = {field.name for field in fields(DenseOptions)}
    return {
        **{key: value for key, value in options.items() if key not in names},
        "dense": DenseOptions(**{key: value for key, value in options.items() if key in names}),
    }


def parameter(text: str) -> tuple[str, Any]:
    """Return name and value of a hyper-parameter given as NAME=VALUE."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise click.UsageError(f"--param {text}: expected NAME=VALUE, such as C=0.1. See: classify heads")
    for kind in (int, float):
        try:
            return name, kind(value)
        except ValueError:
            continue
    return name, value
