"""Output of the ``featurize`` commands: text for the terminal and JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from featurize.backbones.registry import BACKBONES
from featurize.backbones.weights import WeightsStatus
from featurize.base.terminal import console
from featurize.base.text import human_bytes, plural, printable
from featurize.config import LEAST_COSINE
from featurize.extraction.extract import ExtractResult
from featurize.images.folders import SPLITS
from featurize.images.scan_findings import LEVELS
from featurize.images.skip_reasons import count_skipped

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from featurize.engines.selfcheck import SelfCheck
    from featurize.extraction.preview import Preview
    from featurize.extraction.repair import Repair
    from featurize.extraction.verify import Verification
    from featurize.images.scan import Finding, LengthSummary, ScanReport


SHOWN_SKIPPED = 20  # skipped files in the summary of an extraction
SHOWN_CASES = 10  # cases per finding of a scan
SHOWN_COPIES = 5  # copies per case
SHOWN_FAULTS = 100
PIXELS = (
    "caffe: BGR minus the ImageNet mean; tf: x / 127.5 - 1; torch: x / 255, then standardised with the "
    "ImageNet mean and deviation; lite: (x - 127) / 128; inside: 0 to 255, scaled inside the network."
)
_STYLES = {"error": "bold red", "warning": "bold yellow", "note": "bold"}


def summary_json(result: ExtractResult) -> dict[str, Any]:
    """Return a result as JSON-serialisable data with printable names."""
    facts = dataclasses.asdict(result)
    facts["path"] = printable(str(result.path))
    facts["skipped"] = [
        {
            "path": printable(file.path),
            "split": file.split,
            "class": printable(file.class_name),
            "kind": file.kind,
            "reason": printable(file.reason),
        }
        for file in result.skipped
    ]
    facts["outside"] = [printable(path) for path in result.outside]
    return facts


def print_summary(results: Sequence[ExtractResult]) -> None:
    """Print the stores of a run, skipped files and advice."""
    first = results[0]
    screen = console()
    readable = first.n_images - len(first.skipped)
    screen.print(printable(first.dataset), style="bold", end="", markup=False, soft_wrap=True)
    screen.print(f": {readable} images", markup=False, soft_wrap=True)
    for line in _class_lines(first):
        screen.print(line, markup=False)
    for result in results:
        screen.print(_store_line(result), markup=False, soft_wrap=True)
        for line in (_levels_line(result), _precision_line(result), _workers_line(result)):
            if line:
                screen.print(f"  {line}", markup=False, soft_wrap=True)
        screen.print(f"  {printable(str(result.path))}", markup=False, soft_wrap=True)
    if first.skipped:
        screen.print(count_skipped(file.reason for file in first.skipped), markup=False, soft_wrap=True)
        for file in first.skipped[:SHOWN_SKIPPED]:
            screen.print(f"  {printable(file.path)}: {printable(file.reason)}", markup=False, soft_wrap=True)
        if len(first.skipped) > SHOWN_SKIPPED:
            more = len(first.skipped) - SHOWN_SKIPPED
            screen.print(f"  … and {more} more; write all with: --skipped FILE.csv", markup=False)
    if first.outside:
        shown = ", ".join(printable(path) for path in first.outside[:3])
        screen.print(
            f"{plural(len(first.outside), 'file')} in no class folder, not used: {shown}", markup=False
        )
    if first.suggested_order:
        order = ",".join(first.suggested_order)
        screen.print(
            f"The classes look like grades. To treat them as ordered, add: --order {order}", markup=False
        )


def _class_lines(result: ExtractResult) -> list[str]:
    if not result.classes:
        return ["no classes: every image is ungraded"]
    lines = [_class_order(result)]
    if len(result.classes) == 2:
        lines.append(f"positive class: {printable(result.classes[1])}")
    for split in SPLITS:
        if counts := result.split_counts.get(split):
            each = ", ".join(f"{printable(name) or 'ungraded'} {count}" for name, count in counts.items())
            lines.append(f"{split}: {sum(counts.values())} ({each})")
    return lines


def _class_order(result: ExtractResult | ScanReport) -> str:
    sign = " < " if result.ordered else ", "
    names = sign.join(f"{label} {printable(name)}" for label, name in enumerate(result.classes))
    return f"classes in label order: {names}"


def _store_line(result: ExtractResult) -> str:
    weights = result.config["weights"]["kind"]
    random = " (RANDOM weights)" if weights == "random" else ""
    size = (
        f"{plural(result.n_content, 'distinct image')} × {result.n_features} features, "
        f"{plural(result.n_views, 'view')}"
    )
    if result.state == "up to date":
        tried = f"{plural(result.n_decoded, 'file')} tried again" if result.n_decoded else "nothing decoded"
        return f"{result.backbone}{random}: up to date, {tried}, nothing computed ({size})"
    seconds = result.seconds
    resumed = ""
    if result.n_resumed:
        resumed = f", {plural(result.n_resumed, 'image')} taken from an unfinished run"
    device = f" on {result.device} by {result.engine}" if result.device else ""
    return (
        f"{result.backbone}{random}: {result.state}, {size}, {human_bytes(result.bytes)}; "
        f"{plural(result.n_decoded, 'file')} decoded, {plural(result.n_forward, 'view')} computed{device}"
        f"{resumed}; {seconds['total']:.1f} s in total: {seconds['network']:.1f} s network, "
        f"{seconds['decoding']:.1f} s decoding (summed over workers), {seconds['writing']:.1f} s writing"
    )


def _levels_line(result: ExtractResult) -> str:
    if len(result.level_ends) < 2:
        return ""
    widths = [end - start for start, end in pairwise((0, *result.level_ends))]
    each = ", ".join(f"{name} {width}" for name, width in zip(result.level_names, widths, strict=True))
    return f"levels: {each}"


def _precision_line(result: ExtractResult) -> str:
    """Return how the precision was chosen; "" if it was given, or if nothing was computed."""
    check, precision = result.precision, result.config["precision"]
    if check is None or check["asked"] != "auto" or result.state == "up to date":
        return ""
    if check["tried"] is None:
        why = "no images to test with" if check["images"] == 0 else "this hardware has no faster format"
        return f"computed in float32: {why}"
    agreement = (
        f"smallest cosine similarity with float32 {check['cosine']:.6f} on {plural(check['images'], 'image')}"
    )
    if precision != "float32":
        return f"computed in {precision}, {check['speedup']:.1f} times as fast in the network; {agreement}"
    return (
        f"computed in float32: --precision {check['tried']} would be {check['speedup']:.1f} times as fast in "
        f"the network but change the features ({agreement}; auto requires {LEAST_COSINE})"
    )


def _workers_line(result: ExtractResult) -> str:
    """Return the number of images and the rate of each Dask worker, over the time that it worked."""
    if not result.workers:
        return ""
    each = [
        f"{address} {work['images']:.0f} ({work['images'] / max(work['seconds'], 1e-6):.1f}/s)"
        for address, work in result.workers.items()
    ]
    shown = ", ".join(each[:8]) + (f" and {len(each) - 8} more" if len(each) > 8 else "")
    return f"images by Dask worker: {shown}"


def print_selfcheck(result: SelfCheck) -> None:
    """Print the agreement of an engine with TensorFlow on the CPU, and the speed of both."""
    formats = ", ".join(("float32", *result.formats))
    for line in (
        f"{result.backbone} with {result.engine} on {result.device} in {result.precision}: smallest cosine "
        f"similarity with TensorFlow on the CPU {result.smallest_cosine:.6f} over "
        f"{plural(result.n_images, 'image')} (1 means equal)",
        f"{result.images_per_second:.1f} images/s; TensorFlow on the CPU in float32 "
        f"{result.reference_images_per_second:.1f} images/s",
        f"formats that are fast on {result.device}: {formats}",
        result.note,
    ):
        if line:
            console().print(line, markup=False, soft_wrap=True)


def print_backbones(states: Mapping[str, WeightsStatus]) -> None:
    """Print the table of backbones."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("backbone", no_wrap=True)
    for column in ("input", "features", "M params", "MB", "top-1 %"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("pixels", no_wrap=True)
    table.add_column("weights on disk", no_wrap=True)
    for name, backbone in BACKBONES.items():
        top1 = f"{backbone.top1:.1f}" if backbone.top1 is not None else "-"
        table.add_row(
            name,
            str(backbone.size),
            str(backbone.n_features),
            f"{backbone.parameters / 1e6:.1f}",
            f"{backbone.megabytes:.0f}",
            top1,
            backbone.convention,
            "yes" if states[name].available else "no",
        )
    screen = console()
    screen.print(table)
    screen.print("\npixels: how the input is scaled. " + PIXELS, markup=False)
    missing = [name for name, state in states.items() if not state.available]
    if missing:
        screen.print(
            "\nMissing weights are downloaded at the first extraction. Without network access, put the file "
            "that `featurize backbones --json` names into the Keras cache, or pass one with --weights FILE.",
            markup=False,
        )


def print_facts(facts: Mapping[str, Any]) -> None:
    """Print facts about a store, one per line."""
    screen = console()
    width = max(map(len, facts))
    for name, value in facts.items():
        if isinstance(value, list):
            screen.print(f"{name:<{width}}  {len(value)}", markup=False)
            for item in value:
                screen.print(f"  {item}", markup=False, soft_wrap=True)
        else:
            shown = json.dumps(value) if isinstance(value, dict) else str(value)
            screen.print(f"{name:<{width}}  {shown}", markup=False, soft_wrap=True)


def scan_json(report: ScanReport) -> dict[str, Any]:
    """Return all facts and findings as JSON-serialisable data with printable names."""
    facts = _printable(dataclasses.asdict(report))
    return {**facts, "needs_person": report.needs_person}


def print_scan(report: ScanReport) -> None:
    """Print the facts as a table and a few lines, then the findings: errors, warnings, notes."""
    screen = console()
    for line in _head(report):
        screen.print(line, markup=False, soft_wrap=True)
    screen.print(_table(report))
    for name, value in _facts(report):
        screen.print(f"{name:<9} {value}", markup=False, soft_wrap=True)
    screen.print()
    for finding in report.findings:
        for text in _finding_lines(finding):
            screen.print(text, soft_wrap=True)
    screen.print(_verdict(report), markup=False, soft_wrap=True)


def _head(report: ScanReport) -> Iterator[str]:
    files = plural(report.n_files, "file")
    yield f"{printable(report.name)}: {files}, {report.n_readable} of them readable images"
    if report.classes:
        yield _class_order(report)


def _table(report: ScanReport) -> Table:
    """Return the table of readable images by class and split, with entries if these are not images."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("class", overflow="fold")
    columns: list[Mapping[str, int]] = []
    for split, counts in report.readable.items():
        columns.append(counts)
        table.add_column(split, justify="right")
        if report.entries != report.readable:
            columns.append(report.entries[split])
            table.add_column("entries", justify="right")
    if report.classes:
        columns.append(report.groups)
        table.add_column("groups to fit on", justify="right")
    for name in (*report.classes, *report.readable.get("new", ())):
        cells = [Text(str(column.get(name, "-"))) for column in columns]
        table.add_row(Text(printable(name) or "ungraded"), *cells)
    return table


def _facts(report: ScanReport) -> Iterator[tuple[str, str]]:
    if report.short_side and report.long_side:
        small = report.n_small / report.n_readable
        yield (
            "size",
            f"short side {_span(report.short_side)}, long side {_span(report.long_side)} pixels; "
            f"{small:.0%} with a short side below {report.network_size}",
        )
        yield "format", _listed(report.formats)
        yield "colour", _listed(report.modes)
    if report.ignored:
        yield "ignored", plural(report.ignored, "hidden or system name")


def _span(spread: LengthSummary) -> str:
    if spread.min == spread.max:
        return str(spread.min)
    return f"{spread.min} to {spread.max} (median {spread.median:g})"


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _finding_lines(finding: Finding) -> Iterator[Text]:
    from rich.text import Text

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


def _verdict(report: ScanReport) -> str:
    if not report.findings:
        return "no findings: ready for extraction"
    counts = {level: sum(finding.level == level for finding in report.findings) for level in LEVELS}
    return ", ".join(f"{plural(count, level)} ({LEVELS[level]})" for level, count in counts.items() if count)


def verification_json(verification: Verification) -> dict[str, Any]:
    """Return a verification as JSON-serialisable data with printable names."""
    sampled = verification.sampled
    return {
        "store": printable(str(verification.path)),
        "clean": verification.clean,
        "data": printable(str(verification.data)) if verification.data is not None else None,
        "contents": verification.n_content,
        "images": verification.n_images,
        "computed_again": {
            "contents": sampled.n_contents,
            "views": sampled.n_views,
            "tolerance": sampled.tolerance,
            "largest_difference": sampled.largest_difference,
        }
        if sampled is not None
        else None,
        "faults": [
            {
                "reach": fault.reach,
                "where": printable(fault.where),
                "what": printable(fault.what),
                "contents": list(fault.contents),
            }
            for fault in verification.faults
        ],
        "notes": [printable(note) for note in verification.notes],
        "repair": printable(verification.fix),
    }


def print_verification(verification: Verification) -> None:
    """Print what was checked, the faults, and the command that repairs the store."""
    checked = ["structure", "checksums"]
    if verification.compared:
        checked.append(f"files in {verification.data}")
    sampled = verification.sampled
    if sampled is not None and sampled.n_contents:
        checked.append(
            f"recomputed features of {plural(sampled.n_contents, 'image')} "
            f"({plural(sampled.n_views, 'view')}; largest difference {sampled.largest_difference:.1g} of the "
            f"largest feature, {sampled.tolerance:g} allowed)"
        )
    _line(
        f"{verification.path}: {plural(verification.n_content, 'distinct image')} in "
        f"{plural(verification.n_images, 'file')}; checked {', '.join(checked)}"
    )
    for note in verification.notes:
        _line(f"note: {note}")
    if verification.clean:
        _line("no faults found")
        return
    _print_faults(verification)
    _line(f"Repair it with: {verification.fix}")


def print_repair(repair: Repair) -> None:
    """Print the faults that were found and what was computed again."""
    verification, result = repair.verification, repair.result
    for note in verification.notes:
        _line(f"note: {note}")
    if result is None:
        _line(f"{verification.path}: no faults found, nothing changed")
        return
    _print_faults(verification)
    resumed = ""
    if result.n_resumed:
        resumed = f", {plural(result.n_resumed, 'image')} taken from an unfinished run"
    _line(
        f"{result.path}: repaired; {plural(result.n_decoded, 'file')} decoded, "
        f"{plural(result.n_forward, 'view')} computed{resumed}; "
        f"the store has {plural(result.n_content, 'distinct image')}"
    )


def preview_json(preview: Preview) -> dict[str, Any]:
    """Return a preview as JSON-serialisable data with printable names."""
    facts = dataclasses.asdict(preview)
    return {**_printable(facts), "path": printable(str(preview.path))}


def print_previews(previews: Sequence[Preview]) -> None:
    """Print the work that a run would do for each store."""
    for preview in previews:
        todo = "nothing to do"
        if preview.state != "up to date":
            todo = (
                f"{plural(preview.n_decode, 'distinct image')} to decode, "
                f"{plural(preview.n_views, 'view')} to compute"
            )
        _line(f"{preview.backbone}: {preview.state}, {todo}")
        _line(f"  {preview.path}")
        if preview.state == "changes":
            counts = preview.changes.counts
            changes = ", ".join(f"{kind} {count}" for kind, count in counts.items() if count) or "no change"
            _line(f"  files: {changes}")
        if preview.changes.n_duplicates:
            _line(f"  {preview.changes.n_duplicates} of {preview.n_images} files are copies of other files")
        if preview.n_parts:
            damaged = f", {preview.n_damaged_parts} of them damaged" if preview.n_damaged_parts else ""
            _line(
                f"  an unfinished run left {plural(preview.n_parts, 'part')}{damaged} with "
                f"{plural(preview.n_resumed, 'finished image')}"
            )
        if preview.fits_statistics:
            _line("  first, all training images are decoded once more, to compute the statistics")
        if preview.settles_precision:
            _line("  first, the precision is chosen on at most 32 images")
        if preview.missing_weights:
            _line(f"  weights: {preview.missing_weights}")
    _line("This was a dry run: nothing was written. To run it, leave out --dry-run")


def _print_faults(verification: Verification) -> None:
    for fault in verification.faults[:SHOWN_FAULTS]:
        _line(str(fault))
    if (more := len(verification.faults) - SHOWN_FAULTS) > 0:
        _line(f"… and {more} more; all with: --json")


def _line(text: str) -> None:
    console().print(printable(text), markup=False, soft_wrap=True)


def _printable(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {printable(key): _printable(item) for key, item in value.items()}
    return [_printable(item) for item in value] if isinstance(value, list | tuple) else value
