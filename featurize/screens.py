"""What the commands of ``featurize`` print; the figures come from the library."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from featurize.backbones import BACKBONES
from featurize.config import LEAST_COSINE
from featurize.dataset import SPLITS
from featurize.making.skipping import count_skipped
from featurize.results import ExtractResult
from featurize.terminal import console, human_bytes, printable
from featurize.weights import WeightsStatus

if TYPE_CHECKING:
    from featurize.selfcheck import SelfCheck

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
