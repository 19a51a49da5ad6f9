"""Options of the command ``classify`` that several of its commands have, and how they are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from classify.data import JOINS
from classify.jobs.compare import compare
from classify.jobs.options import MAX_SEED, DenseOptions
from featurize.base.terminal import CommaList, default_of

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
            "--join",
            type=click.Choice(JOINS),
            default=default_of(compare, "join"),
            help="Entries of several images: what is averaged over them.",
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
        click.option(
            "--with-examples",
            is_flag=True,
            help="Put a thumbnail, the file name and the features of every fitted image into the bundles, so "
            "that `classify serve` can show which are most like a new one. Whoever has such a bundle has "
            "these pictures.",
        ),
        *device_options(),
        click.option(
            "--memory",
            metavar="SIZE",
            help="As much as may be taken, e.g. 4GB: features that do not fit are read from disk, in blocks.",
        ),
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
        click.option(
            "--device", default=default_of(compare, "device"), help="auto, cpu, gpu, gpu:N, or gpu:0,gpu:2."
        ),
        click.option(
            "--gpu-memory", type=float, metavar="FRACTION", help="Part of the GPU's memory; grows by default."
        ),
    ]


def with_dense(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options by name, those of the dense head as one."""
    names = {field.name for field in fields(DenseOptions)}
    return {
        **{key: value for key, value in options.items() if key not in names},
        "dense": DenseOptions(**{key: value for key, value in options.items() if key in names}),
    }


def parameter(text: str) -> tuple[str, Any]:
    """Return name and value of a hyper-parameter as it is typed."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise click.UsageError(f"--param {text}: expected NAME=VALUE, such as C=0.1. See: classify heads")
    for kind in (int, float):
        try:
            return name, kind(value)
        except ValueError:
            continue
    return name, value
