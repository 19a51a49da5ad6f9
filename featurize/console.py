"""What the commands of ``featurize`` print; the figures come from the library."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from featurize.backbones.registry import BACKBONES
from featurize.backbones.weights import WeightsStatus
from featurize.base.terminal import console
from featurize.base.text import human_bytes, printable
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


SHOWN_SKIPPED = 20
PIXELS = (
    "caffe: BGR minus the ImageNet mean; tf: x / 127.5 - 1; torch: x / 255, ImageNet mean and deviation; "
    "lite: (x - 127) / 128; inside: 0 to 255, scaled in the network itself."
)


def summary_json(result: ExtractResult) -> dict[str, Any]:
    """Return a result as JSON-able data, names made printable."""
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
    """Print what a run made, what it skipped and what to do next."""
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
            screen.print(f"  … and {more} more; all with: --skipped FILE.csv", markup=False)
    if first.outside:
        shown = ", ".join(printable(path) for path in first.outside[:3])
        screen.print(
            f"{len(first.outside)} files lie in no class folder and were not used: {shown}", markup=False
        )
    if first.suggested_order:
        order = ",".join(first.suggested_order)
        screen.print(f"These look like grades. To treat them as ordered, add: --order {order}", markup=False)


def _class_lines(result: ExtractResult) -> list[str]:
    if not result.classes:
        return ["no classes: every image is ungraded"]
    sign = " < " if result.ordered else ", "
    named = sign.join(f"{label} {printable(name)}" for label, name in enumerate(result.classes))
    lines = [f"classes in label order: {named}"]
    if len(result.classes) == 2:
        lines.append(f"positive class: {printable(result.classes[1])}")
    for split in SPLITS:
        if counts := result.split_counts.get(split):
            each = ", ".join(f"{printable(name) or 'ungraded'} {count}" for name, count in counts.items())
            lines.append(f"{split}: {sum(counts.values())} ({each})")
    return lines


def _store_line(result: ExtractResult) -> str:
    weights = result.config["weights"]["kind"]
    random = " (RANDOM weights)" if weights == "random" else ""
    held = f"{result.n_content} pictures × {result.n_features} features, {result.n_views} views"
    if result.state == "up to date":
        tried = f"{_files(result.n_decoded)} tried again" if result.n_decoded else "nothing decoded"
        return f"{result.backbone}{random}: up to date, {tried}, nothing computed ({held})"
    seconds = result.seconds
    resumed = f", {result.n_resumed} contents were there from an unfinished run" if result.n_resumed else ""
    device = f" on {result.device} by {result.engine}" if result.device else ""
    return (
        f"{result.backbone}{random}: {result.state}, {held}, {human_bytes(result.bytes)}; "
        f"{result.n_decoded} files decoded, {result.n_forward} views computed{device}{resumed}; "
        f"{seconds['total']:.1f} s, of them {seconds['network']:.1f} s in the network, "
        f"{seconds['decoding']:.1f} s decoding (summed over workers), {seconds['writing']:.1f} s writing"
    )


def _levels_line(result: ExtractResult) -> str:
    if len(result.level_ends) < 2:
        return ""
    widths = [end - start for start, end in pairwise((0, *result.level_ends))]
    each = ", ".join(f"{name} {width}" for name, width in zip(result.level_names, widths, strict=True))
    return f"levels: {each}"


def _precision_line(result: ExtractResult) -> str:
    """Return how the precision was settled; of a run that computed nothing there is nothing to tell."""
    proof, settled = result.precision, result.config["precision"]
    if proof is None or proof["asked"] != "auto" or result.state == "up to date":
        return ""
    if proof["tried"] is None:
        why = "no image to try it on" if proof["images"] == 0 else "no faster format in this hardware"
        return f"computed in float32: {why}"
    seen = f"smallest cosine with float32 {proof['cosine']:.6f} on {proof['images']} of the images"
    if settled != "float32":
        return f"computed in {settled}, {proof['speedup']:.1f} times as fast in the network; {seen}"
    return (
        f"computed in float32: --precision {proof['tried']} would be {proof['speedup']:.1f} times as fast in "
        f"the network, and change the features ({seen}; taken by itself from {LEAST_COSINE} on)"
    )


def _workers_line(result: ExtractResult) -> str:
    """Return what each Dask worker did; its rate is that while it worked."""
    if not result.workers:
        return ""
    each = [
        f"{address} {did['pictures']:.0f} ({did['pictures'] / max(did['seconds'], 1e-6):.1f}/s)"
        for address, did in result.workers.items()
    ]
    shown = ", ".join(each[:8]) + (f" and {len(each) - 8} more" if len(each) > 8 else "")
    return f"pictures by Dask worker: {shown}"


def _files(count: int) -> str:
    return f"{count} file" if count == 1 else f"{count} files"


def print_selfcheck(result: SelfCheck) -> None:
    """Print what extraction runs here, how near that is to TensorFlow on the CPU, and both rates."""
    formats = ", ".join(("float32", *result.formats))
    for line in (
        f"{result.backbone} by {result.engine} on {result.device} in {result.precision}: smallest cosine "
        f"with TensorFlow on the CPU {result.smallest_cosine:.6f} over {result.n_images} pictures "
        f"(1 is agreement)",
        f"{result.images_per_second:.1f} images/s; TensorFlow on the CPU in float32 "
        f"{result.reference_images_per_second:.1f} images/s",
        f"{result.device} computes by itself in {formats}",
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
    table.add_column("weights here", no_wrap=True)
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
    screen.print("\npixels: how the network wants them. " + PIXELS, markup=False)
    missing = [name for name, state in states.items() if not state.available]
    if missing:
        screen.print(
            "\nWeights that are not here are downloaded at the first extraction. Without network: put the "
            "file `featurize backbones --json` names into the Keras cache, or give it by --weights FILE.",
            markup=False,
        )


def print_facts(facts: Mapping[str, Any]) -> None:
    """Print facts about a store, one a line."""
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


SHOWN_CASES = 10
SHOWN_COPIES = 5
_STYLES = {"error": "bold red", "warning": "bold yellow", "note": "bold"}


def scan_json(intake: ScanReport) -> dict[str, Any]:
    """Return all facts and findings as JSON-able data, names made printable."""
    facts = _clean(dataclasses.asdict(intake))
    return {**facts, "needs_person": intake.needs_person}


def print_scan(intake: ScanReport) -> None:
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


def _head(intake: ScanReport) -> Iterator[str]:
    yield f"{printable(intake.name)}: {intake.n_files} files, {intake.n_readable} of them pictures"
    if intake.classes:
        sign = " < " if intake.ordered else ", "
        named = sign.join(f"{label} {printable(name)}" for label, name in enumerate(intake.classes))
        yield f"classes in label order: {named}"


def _table(intake: ScanReport) -> Table:
    """Return readable images by class and split; entries too where they are not the images."""
    from rich.table import Table
    from rich.text import Text

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


def _facts(intake: ScanReport) -> Iterator[tuple[str, str]]:
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


def _verdict(intake: ScanReport) -> str:
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


SHOWN = 100  # lines of what is off; all of it with --json


def verification_json(verification: Verification) -> dict[str, Any]:
    """Return a verification as JSON-able data, names made printable."""
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
        "mend": printable(verification.mend),
    }


def print_verification(verification: Verification) -> None:
    """Print what was looked at, what is off, and the command that mends it."""
    looked_at = ["structure", "checksums"]
    if verification.compared:
        looked_at.append(f"the files in {verification.data}")
    sampled = verification.sampled
    if sampled is not None and sampled.n_contents:
        looked_at.append(
            f"{sampled.n_contents} contents computed again ({sampled.n_views} views; largest difference "
            f"{sampled.largest_difference:.1g} of the largest feature, {sampled.tolerance:g} allowed)"
        )
    _line(
        f"{verification.path}: {verification.n_content} contents, {verification.n_images} files; "
        f"looked at {', '.join(looked_at)}"
    )
    for note in verification.notes:
        _line(f"note: {note}")
    if verification.clean:
        _line("nothing is off")
        return
    _print_faults(verification)
    _line(f"Mend it with: {verification.mend}")


def print_repair(repair: Repair) -> None:
    """Print what was off and what was made again."""
    verification, result = repair.verification, repair.result
    for note in verification.notes:
        _line(f"note: {note}")
    if result is None:
        _line(f"{verification.path}: nothing is off, nothing was changed")
        return
    _print_faults(verification)
    resumed = f", {result.n_resumed} contents were there already" if result.n_resumed else ""
    _line(
        f"{result.path}: mended; {result.n_decoded} files decoded, {result.n_forward} views computed"
        f"{resumed}; it has {result.n_content} contents now"
    )


def preview_json(preview: Preview) -> dict[str, Any]:
    """Return a preview as JSON-able data, names made printable."""
    facts = dataclasses.asdict(preview)
    return {**_printable(facts), "path": printable(str(preview.path))}


def print_previews(previews: Sequence[Preview]) -> None:
    """Print what a run would do for each store."""
    for preview in previews:
        todo = "nothing to do"
        if preview.state != "up to date":
            todo = f"{preview.n_decode} contents to decode, {preview.n_views} views to compute"
        _line(f"{preview.backbone}: {preview.state}, {todo}")
        _line(f"  {preview.path}")
        if preview.state == "changes":
            counts = preview.changes.counts
            told = ", ".join(f"{kind} {count}" for kind, count in counts.items() if count) or "no change"
            _line(f"  files: {told}")
        if preview.changes.n_duplicates:
            _line(f"  {preview.changes.n_duplicates} of {preview.n_images} files are copies of another")
        if preview.n_parts:
            damaged = f", {preview.n_damaged_parts} of them damaged" if preview.n_damaged_parts else ""
            _line(
                f"  an unfinished run left {preview.n_parts} parts{damaged}: "
                f"{preview.n_resumed} contents are finished in them"
            )
        if preview.fits_statistics:
            _line("  all training images are decoded once more before, to fit the statistics")
        if preview.settles_precision:
            _line("  the precision is settled before, on 32 of the images at most")
        if preview.missing_weights:
            _line(f"  weights: {preview.missing_weights}")
    _line("This was a dry run: nothing was done. Do it without --dry-run")


def _print_faults(verification: Verification) -> None:
    for fault in verification.faults[:SHOWN]:
        _line(str(fault))
    if (more := len(verification.faults) - SHOWN) > 0:
        _line(f"… and {more} more; all with: --json")


def _line(text: str) -> None:
    console().print(printable(text), markup=False, soft_wrap=True)


def _printable(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {name: _printable(item) for name, item in value.items()}
    return [_printable(item) for item in value] if isinstance(value, list | tuple) else value
