"""Console output of comparisons, fits and predictions."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

import click

from classify.evaluation.studies import study_lines
from classify.heads.select import BASELINE
from classify.report.leaderboard import columns, make_tables
from classify.report.names import NAMES, has_ordinal_metrics, has_test_split, label_lines, store_labels
from classify.report.verdict_text import verdict_lines
from featurize.base.terminal import console
from featurize.base.text import printable

if TYPE_CHECKING:
    from pathlib import Path

    from classify.io.grades import PredictResult
    from classify.io.results import Comparison, FitResult


def print_comparison(done: Comparison) -> None:
    """Print facts about the images, the leaderboard, verdicts, studies, notes and the next command."""
    from classify.io.results import printable_json

    record = printable_json(done.record)
    for line in record["facts"]:
        click.echo(printable(line))
    click.echo(_classes(record))
    for line in label_lines(record):
        click.echo(printable(line))
    for table in make_tables(record):
        console().print(table)
    for line in [*_explanations(record), *verdict_lines(record), *study_lines(record)]:
        click.echo(printable(line))
    if line := _from_cache(record):
        click.echo(line)
    for note in done.notes:
        click.echo(f"Note: {printable(note)}")
    click.echo(f"Written to: {printable(str(done.folder))}")
    if done.report is not None:
        click.echo(f"Report: {printable(str(done.report))}")
    if done.tensorboard is not None:
        click.echo(f"Training curves: {shlex.join(['tensorboard', '--logdir', str(done.tensorboard)])}")
    if record["recommended"] is None:
        only_baseline = all(result["head"] == BASELINE for result in record["results"])
        click.echo(
            "Only the baseline was compared. It ignores the images, so it is not recommended."
            if only_baseline
            else "No head could be fitted, so none is recommended."
        )
        return
    best = record["recommended"]
    click.echo(f"Recommended: {best['head']} on {best['store']}. Predict the grades of new images with:")
    click.echo(_predict_command(done.folder))


def print_fit(done: FitResult) -> None:
    """Print facts about the images, the hyper-parameters, accuracy and path of the head, the next command."""
    for line in done.facts:
        click.echo(printable(line))
    for note in done.notes:
        click.echo(f"Note: {printable(note)}")
    seconds = f"fitted in {done.fit_seconds:.1f} s"
    if done.from_cache:
        seconds = f"{seconds} by an earlier run, read from the cache (fit again with --fresh)"
    click.echo(f"{done.head} on {done.n_train} {done.fitted_on} of {done.store}: {seconds}")
    params = ", ".join(f"{key}={value}" for key, value in done.params.items()) or "none"
    origin = done.chosen
    if done.cv_balanced_accuracy is not None:
        origin = f"{origin}, balanced accuracy {done.cv_balanced_accuracy:.3f}"
    click.echo(f"Hyper-parameters ({printable(origin)}): {params}")
    if done.metrics is not None:
        click.echo(f"Test accuracy: {done.metrics['accuracy']:.3f} on {done.n_test} {done.tested_on}")
    click.echo(f"Bundle: {printable(str(done.bundle))}")
    click.echo(f"Predict the grades of new images with:\n{_predict_command(done.bundle)}")


def print_grades(predictions: PredictResult) -> None:
    """Print one line per file, or per entry of several images."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(f"Grades predicted by {predictions.head} on {predictions.store}"))
    table.add_column("path", overflow="fold")
    table.add_column("grade")
    table.add_column("confidence", justify="right")
    table.add_column("problem", overflow="fold")
    for grade in predictions.grades:
        path = grade.path or f"{grade.entry} ({grade.n_images} images)"
        confidence = "" if grade.confidence is None else f"{grade.confidence:.3f}"
        table.add_row(*(escape(printable(text)) for text in (path, grade.grade, confidence, grade.problem)))
    console().print(table)


def _predict_command(folder: Path) -> str:
    return shlex.join(["classify", "predict", str(folder), "IMAGES", "--out", "grades.csv"])


def _classes(record: Any) -> str:
    order = " < " if record["ordered"] else ", "
    text = f"Classes: {order.join(record['classes'])}"
    return text if record["positive_class"] is None else f"{text} (positive: {record['positive_class']})"


def _from_cache(record: Any) -> str:
    """Return a line about results of earlier runs that were read from the cache; "" if there are none."""
    tried = [result for result in record["results"] if result["head"] != BASELINE]
    whole = sum(result["n_remembered"] == result["n_tasks"] for result in tried)
    if not any(result["n_remembered"] for result in tried):
        return ""
    part = sum(0 < result["n_remembered"] < result["n_tasks"] for result in tried)
    heads = "1 head" if whole == 1 else f"{whole} heads"
    in_part = f" ({part} of them partly from the cache)" if part else ""
    return (
        f"{heads} from the cache of earlier runs on equal data, with the seconds measured then; "
        f"{len(tried) - whole} fitted{in_part}. Compute all again with --fresh."
    )


def _explanations(record: Any) -> list[str]:
    """Return lines that explain the leaderboard, and the notes, failures and undefined metrics of heads."""
    n_test, singular, plural = max(result["n_test"] for result in record["results"]), "image", "images"
    if record.get("join"):  # metrics are computed over entries
        n_test, singular, plural = record["statistics"]["n_entries"] or n_test, "entry", "entries"
    percent = f"one {singular} is {100 / n_test:.1f} %"
    protocol = record["protocol"]
    if has_test_split(record):
        on_val = protocol["tuning"] == "val split"
        score = "on the val split" if on_val else "in folds of the training images"
        lines = [
            f"CV: balanced accuracy {score}; selects hyper-parameters and the recommended head (*).",
            f"All other metrics: on the {n_test} test {plural}, which were used once; {percent}.",
        ]
    else:
        lines = [
            f"All metrics: out of fold, over {n_test} {plural}; {percent}.",
            "CV: balanced accuracy; selects the recommended head (*).",
        ]
    lines += _interval_lines(record)
    lines += [f"Note: {note}" for note in protocol["notes"]]
    labels = store_labels(record)
    for result in record["results"]:
        name = f"{result['head']} on {labels.get(result['store'], result['store'])}"
        if result["status"] != "ok":
            lines.append(f"{name} {result['status']}")
        lines += [f"{name}: {note}" for note in result["notes"]]
    undefined = {
        f"{metric}: {reason}"
        for result in record["results"]
        if result["status"] == "ok"
        for metric, reason in result["undefined"].items()
        if metric in {key for _, key in columns(record)}
    }
    return lines + [f"Undefined (–): {text}" for text in sorted(undefined)]


def _interval_lines(record: Any) -> list[str]:
    statistics = record["statistics"]
    if statistics["primary_metric"] is None:
        return []
    approximate = f", approximate ({statistics['why']})" if statistics["approximate"] else ""
    lines = [f"In brackets: 95 % intervals{approximate}; results.json has the intervals of all metrics."]
    if has_ordinal_metrics(record):
        name = NAMES["quadratic_kappa"].long
        lines += [
            f"kappa: {name} (1: perfect, 0: chance level). MAE: mean absolute error, in grades.",
            "off by 2: proportion two or more grades off. ECE: expected calibration error.",
            "Columns named after a grade: proportion of its images predicted as another grade.",
        ]
    return lines
