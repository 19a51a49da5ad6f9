"""What ``featurize scan`` prints."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from featurize.intake.finding_kinds import LEVELS
from featurize.intake.findings import Finding
from featurize.intake.intake import Intake, Spread
from featurize.terminal import console, printable

SHOWN_CASES = 10
SHOWN_COPIES = 5
_STYLES = {"error": "bold red", "warning": "bold yellow", "note": "bold"}


def intake_json(intake: Intake) -> dict[str, Any]:
    """Return all facts and findings as JSON-able data, names made printable."""
    facts = _clean(dataclasses.asdict(intake))
    return {**facts, "needs_person": intake.needs_person}


def print_intake(intake: Intake) -> None:
    """Print the facts as a table and a few lines, then the findings, the worst first."""
    screen = console()
    for line in _head(intake):
        screen.print(line, markup=False, soft_wrap=True)
    screen.print(_table(intake))
    for name, value in _facts(intake):
        screen.print(f"{name:<9} {value}", markup=False, soft_wrap=True)
    screen.print()
    for finding in intake.findings:
        for text in _finding_lines(finding):
            screen.print(text, soft_wrap=True)
    screen.print(_verdict(intake), markup=False, soft_wrap=True)


def _head(intake: Intake) -> Iterator[str]:
    yield f"{printable(intake.name)}: {intake.n_files} files, {intake.n_readable} of them pictures"
    if intake.classes:
        sign = " < " if intake.ordered else ", "
        named = sign.join(f"{label} {printable(name)}" for label, name in enumerate(intake.classes))
        yield f"classes in label order: {named}"


def _table(intake: Intake) -> Table:
    """Return readable images by class and split; entries too where they are not the images."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("class", overflow="fold")
    columns: list[Mapping[str, int]] = []
    for split, counts in intake.readable.items():
        columns.append(counts)
        table.add_column(split, justify="right")
        if intake.entries != intake.readable:
            columns.append(intake.entries[split])
            table.add_column("entries", justify="right")
    if intake.classes:
        columns.append(intake.groups)
        table.add_column("groups to fit on", justify="right")
    for name in (*intake.classes, *intake.readable.get("new", ())):
        cells = [Text(str(column.get(name, "-"))) for column in columns]
        table.add_row(Text(printable(name) or "ungraded"), *cells)
    return table


def _facts(intake: Intake) -> Iterator[tuple[str, str]]:
    if intake.short_side and intake.long_side:
        small = intake.n_small / intake.n_readable
        yield (
            "size",
            f"short side {_span(intake.short_side)}, long side {_span(intake.long_side)} pixels; "
            f"{small:.0%} shorter than {intake.network_size}",
        )
        yield "format", _listed(intake.formats)
        yield "colour", _listed(intake.modes)
    if intake.ignored:
        yield "ignored", f"{intake.ignored} hidden or system names"


def _span(spread: Spread) -> str:
    if spread.min == spread.max:
        return str(spread.min)
    return f"{spread.min} to {spread.max} (median {spread.median:g})"


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _finding_lines(finding: Finding) -> Iterator[Text]:
    yield Text.assemble((f"{finding.level:<9} ", _STYLES[finding.level]), printable(finding.text))
    for line in (finding.advice, *_case_lines(finding)):
        yield Text(f"{'':<9} {line}")


def _case_lines(finding: Finding) -> Iterator[str]:
    for case in finding.cases[:SHOWN_CASES]:
        first, *others = map(printable, case)
        if finding.sign == ":":
            yield f"  {': '.join([first, *others])}"
            continue
        yield f"  {first}"
        yield from (f"  {finding.sign} {other}" for other in others[:SHOWN_COPIES])
        if (more := len(others) - SHOWN_COPIES) > 0:
            yield f"  {finding.sign} {more} more"
    if (more := len(finding.cases) - SHOWN_CASES) > 0:
        yield f"  … and {more} more; all with --json"


def _verdict(intake: Intake) -> str:
    if not intake.findings:
        return "nothing found: ready to extract"
    counts = {level: sum(finding.level == level for finding in intake.findings) for level in LEVELS}
    return ", ".join(
        f"{count} {level if count == 1 else level + 's'} ({LEVELS[level]})"
        for level, count in counts.items()
        if count
    )


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {printable(key): _clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(item) for item in value]
    return value
