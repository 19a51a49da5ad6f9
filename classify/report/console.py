"""What the command line shows of a comparison and of grades."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

import click

from classify.evaluation.studies import study_lines
from classify.heads.select import BASELINE
from classify.report.leaderboard import columns, has_ordinal_metrics, make_tables
from classify.report.names import NAMES, label_lines, store_labels
from classify.report.verdict_text import verdict_lines
from featurize.base.terminal import console
from featurize.base.text import printable

if TYPE_CHECKING:
    from pathlib import Path

    from classify.io.grades import PredictResult
    from classify.io.results import Comparison, FitResult


def print_comparison(done: Comparison) -> None:
    """Print facts, leaderboard, what it means and what to type next."""
    record = done.record
    for line in record["facts"]:
        click.echo(printable(line))
    click.echo(_classes(record))
    for line in label_lines(record):
        click.echo(printable(line))
    for table in make_tables(record):
        console().print(table)
    for line in [*_explained(record), *verdict_lines(record)]:
        click.echo(printable(line))
    for line in study_lines(record):
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
        asked = any(result["head"] != BASELINE for result in record["results"])
        click.echo(
            "No head could be fitted, so there is nothing to grade new images with."
            if asked
            else "The baseline alone was compared: it looks at no image, so it is not recommended for any."
        )
        return
    best = record["recommended"]
    click.echo(f"Recommended: {best['head']} on {best['store']}. Grade new images with:")
    click.echo(_predict_line(done.folder))


def print_fit(done: FitResult) -> None:
    """Print what was left out, the head, how good it is, where it is and what to type next."""
    for line in done.facts:
        click.echo(printable(line))
    for note in done.notes:
        click.echo(f"Note: {printable(note)}")
    seconds = f"fitted in {done.fit_seconds:.1f} s"
    if done.from_cache:
        seconds = f"{seconds} by an earlier run, read from the cache (fit again with --fresh)"
    click.echo(f"{done.head} on {done.n_train} {done.fitted_on} of {done.store}: {seconds}")
    shown = ", ".join(f"{key}={value}" for key, value in done.params.items()) or "none"
    origin = done.chosen
    if done.cv_balanced_accuracy is not None:
        origin = f"{origin}, balanced accuracy {done.cv_balanced_accuracy:.3f}"
    click.echo(f"Hyper-parameters ({printable(origin)}): {shown}")
    if done.metrics is not None:
        click.echo(f"Test accuracy: {done.metrics['accuracy']:.3f} on {done.n_test} {done.tested_on}")
    click.echo(f"Bundle: {printable(str(done.bundle))}")
    click.echo(f"Grade new images with:\n{_predict_line(done.bundle)}")


def print_grades(graded: PredictResult) -> None:
    """Print one line a file, or an entry of several."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(f"Grades by {graded.head} on {graded.store}"))
    table.add_column("path", overflow="fold")
    table.add_column("grade")
    table.add_column("confidence", justify="right")
    table.add_column("problem", overflow="fold")
    for grade in graded.grades:
        path = grade.path or f"{grade.entry} ({grade.n_images} images)"
        shown = "" if grade.confidence is None else f"{grade.confidence:.3f}"
        table.add_row(*(escape(printable(text)) for text in (path, grade.grade, shown, grade.problem)))
    console().print(table)


def _predict_line(folder: Path) -> str:
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


def _explained(record: Any) -> list[str]:
    n_test, one, many = max(result["n_test"] for result in record["results"]), "image", "images"
    if record.get("join"):  # figures are of entries
        n_test, one, many = record["statistics"]["n_entries"] or n_test, "entry", "entries"
    protocol = record["protocol"]
    if protocol["kind"] == "test split":
        where = f"the {n_test} test {many}"
        on_val = protocol["tuning"] == "val split"
        score = "on the val split" if on_val else "in folds of the training images"
        lines = [
            f"CV: balanced accuracy {score}; it chose hyper-parameters and the recommended head (*).",
            f"The other figures are on {where}, used once: one {one} is {100 / n_test:.1f} %.",
        ]
    else:
        lines = [
            f"All figures are out of fold, over {n_test} {many}: one {one} is {100 / n_test:.1f} %.",
            "CV: balanced accuracy; it chose the recommended head (*).",
        ]
    lines += _intervals(record)
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


def _intervals(record: Any) -> list[str]:
    statistics = record["statistics"]
    if statistics["primary_metric"] is None:
        return []
    about = f", approximate ({statistics['why']})" if statistics["approximate"] else ""
    lines = [f"In brackets: 95 % intervals{about}; those of all other figures are in results.json."]
    if has_ordinal_metrics(record):
        name = NAMES["quadratic_kappa"].long
        lines += [
            f"kappa: {name}, 1 at best, 0 by chance. MAE: mean absolute error, in grades. off by 2: or more.",
            "Grades: the share of each that was given another one. ECE: expected calibration error.",
        ]
    return lines
