"""Markdown tables of a benchmark's record: ``python scripts/benchmark/bench_tables.py FILE.json``."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def markdown(record: Row) -> str:
    """Return the whole record as a Markdown page."""
    parts = [f"# Benchmark of {record['created']}", _machine(record)]
    for name, rows in record["parts"].items():
        heading, table = PARTS[name]
        parts += [f"## {heading}", table(rows)]
    return "\n\n".join(parts) + "\n"


def _machine(record: Row) -> str:
    machine, options = record["machine"], record["options"]
    packages = ", ".join(f"{name} {number}" for name, number in machine["packages"].items())
    flags = ", ".join(machine["flags"]) or "none of those looked for"
    amx = "AMX" if machine["amx_bf16"] else "no AMX"
    native = ", ".join(machine["native_precisions"]) or "none"
    images = options["images"]
    return "\n".join(
        [
            f"- {machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, {machine['system']}",
            f"- {amx}; processor flags: {flags}; native reduced precisions: {native}",
            f"- Python {machine['python']}, {packages}",
            f"- {images['train']} training and {images['test']} test images of {options['data']}, "
            f"{options['views']} views; weights: "
            + ", ".join(f"{name} {kind}" for name, kind in options["weights"].items()),
            f"- load before and after: {record['load'][0]}, {record['load'][1]} (0: idle machine)",
            "- Medians of runs in turns. Steady: in a running process after a warm-up; whole process: from "
            "its start to its end, with imports, building and compiling.",
        ]
    )


def _network(rows: list[Row]) -> str:
    def cosine(row: Row, name: str) -> str:
        found = row["derived"]["cosine"].get(name)
        return "" if found is None else f"{found:.6f}"

    lines = [
        [row["what"]["backbone"], name, _rate(arm), _speed_up(row, name), cosine(row, name)]
        for row in rows
        for name, arm in row["arms"].items()
    ]
    text = "The forward pass alone, with pixels in memory; for Keras they are preprocessed, too."
    head = ["backbone", "arm", "images/s", "speed-up over keras predict", "smallest cosine with keras"]
    return f"{text}\n\n{_table(head, lines)}"


def _extraction(rows: list[Row]) -> str:
    lines = []
    for row in rows:
        for name, arm in row["arms"].items():
            whole = row["whole"]["arms"].get(name)
            with_setup = row["derived"]["ratios_with_setup"].get(name)
            lines.append(
                [
                    *(row["what"]["backbone"], row["what"]["task"], name, arm["facts"]["precision"]),
                    *(_rate(arm), _speed_up(row, name), "" if with_setup is None else f"{with_setup:.2f}"),
                    *((_rate(whole), _speed_up(row["whole"], name)) if whole else ("", "")),
                ]
            )
    text = (
        "From files to features. keras: `image_dataset_from_directory`, `preprocess_input` and "
        "`model.predict`; each view is another pass over the training images through Keras' random layers. "
        "folio: `featurize.extract` into a new store, with reading, hashing, starting processes, creating "
        "the engine and writing the store. In a steady run Keras' model is built and traced already; the "
        "third ratio counts that time as well."
    )
    head = ["backbone", "task", "arm", "precision", "steady images/s", "speed-up over keras", "with setup"]
    return f"{text}\n\n{_table([*head, 'whole process images/s', 'speed-up over keras'], lines)}"


def _roofline(rows: list[Row]) -> str:
    lines = []
    for row in rows:
        for precision, found in row["derived"].items():
            marginal = found.get("marginal_share")
            rates = [
                row["arms"][name] for name in ("decode", f"network {precision}", f"extraction {precision}")
            ]
            lines.append(
                [
                    *(row["what"]["backbone"], row["what"]["task"], precision, *map(_rate, rates)),
                    f"{1 / found['roofline']:.1f}",
                    _percent(found["share"]),
                    "" if marginal is None else _percent(marginal),
                ]
            )
    text = (
        "Decoding alone and the network alone, each on all cores; the roofline is 1 / (1 / decode + "
        "renderings / network). The share is that of a steady run, without the start of the process; the "
        "marginal share is that of each additional image, without the fixed cost of a run."
    )
    head = ["backbone", "task", "precision", "decode images/s", "network renderings/s", "extraction images/s"]
    return f"{text}\n\n{_table([*head, 'roofline images/s', 'share', 'marginal share'], lines)}"


def _scaling(rows: list[Row]) -> str:
    lines = []
    for row in rows:
        arm, whole = row["arms"]["folio"], row["whole"]["arms"]["folio"]
        renderings = arm["facts"]["renderings"]
        seconds = arm["median"] * arm["units"][0]
        lines.append(
            [
                *(row["what"]["task"], str(arm["units"][0]), str(renderings), f"{seconds:.2f}"),
                f"{1000 * arm['median']:.2f}",
                f"{1000 * seconds / renderings:.2f}",
                f"{whole['median'] * whole['units'][0]:.2f}",
                str(whole["peak_mib"]),
            ]
        )
    largest = next(row["derived"] for row in rows if "marginal_seconds" in row["derived"])
    margins = ", ".join(f"{1000 * seconds:.2f}" for seconds in largest["marginal_seconds"])
    text = (
        f"{rows[0]['what']['backbone']}. From 1 to 16 times the images, each with its views, the largest "
        f"time per image is {largest['largest_over_smallest']:.2f} times the smallest; an additional image "
        f"takes {margins} ms from step to step. Peak memory is that of the process and its children "
        "together, in separate runs."
    )
    head = ["task", "images", "renderings", "s", "ms per image", "ms per rendering"]
    return f"{text}\n\n{_table([*head, 'whole process s', 'peak MiB'], lines)}"


def _dask(rows: list[Row]) -> str:
    lines = []
    for row in rows:
        margins = row["derived"].get("marginal_seconds", {})
        base = margins.get(row["baseline"])
        for name, arm in row["arms"].items():
            margin = margins.get(name)
            lines.append(
                [
                    *(row["what"]["task"], name, str(arm["units"][0]), _rate(arm), _speed_up(row, name)),
                    "" if margin is None else f"{1 / margin:.1f}",
                    "" if margin is None or name == row["baseline"] else f"{base / margin:.2f}",
                ]
            )
    text = (
        f"{rows[0]['what']['backbone']} in float32. The workers are processes that share this machine's "
        "cores, so two are at best as fast as one process; the table shows the overhead of Dask. Each run "
        "starts and stops its cluster; the marginal rate is that of additional images, without that cost."
    )
    head = [
        "task",
        "arm",
        "images",
        "images/s",
        "speed-up over folio",
        "marginal images/s",
        "speed-up over folio",
    ]
    return f"{text}\n\n{_table(head, lines)}"


def _heads(rows: list[Row]) -> str:
    lines = []
    for row in rows:
        derived = row["derived"]
        same = (
            f"{derived['same_test_classes']} of {derived['test_images']}" if "test_images" in derived else ""
        )
        chosen = {True: "yes", False: "no"}.get(derived.get("same_params"), "")
        for name, arm in row["arms"].items():
            equal = [chosen, same] if name == "folio" else ["", ""]
            lines.append([row["what"]["head"], name, f"{arm['median']:.2f}", _speed_up(row, name), *equal])
        for name, arm in row.get("whole", {}).get("arms", {}).items():
            if not arm["facts"].get("summed"):
                lines.append(
                    [
                        *(row["what"]["head"], f"{name}, whole process", f"{arm['median']:.2f}"),
                        *(_speed_up(row["whole"], name), "", ""),
                    ]
                )
    dense = rows[-1]["derived"]["dense"]
    means = "; ".join(
        f"{name} {fits['mean']:.4f} over {len(fits['accuracies'])} seeds" for name, fits in dense.items()
    )
    text = (
        f"Tuning, fitting and testing on the features of {rows[0]['what']['backbone']} with "
        f"{rows[0]['what']['views']} views: `GridSearchCV` over the same folds and grids, and Keras `fit` "
        "with early stopping, against `classify compare`. The plain arm of all heads is the sum of the "
        f"single heads. Mean test accuracy of the dense head: {means}."
    )
    head = [
        "head",
        "arm",
        "s",
        f"speed-up over {rows[0]['baseline']}",
        "same parameters",
        "same test predictions",
    ]
    return f"{text}\n\n{_table(head, lines)}"


def _tutorial(rows: list[Row]) -> str:
    lines = [
        [
            row["what"]["backbone"],
            f"{found['seconds_per_epoch_online']:.1f}",
            f"{found['hours_online']:.2f}",
            f"{found['seconds_extraction']:.1f}",
            f"{found['seconds_fit']:.1f}",
            f"{found['times']:.0f}",
        ]
        for row in rows
        for found in [row["derived"]]
    ]
    text = (
        f"{rows[0]['what']['epochs']} epochs of online augmentation through the backbone (the measured "
        "augmented pass over the training images, times the epochs, without training the head) against one "
        "extraction and a fit with as many epochs, both as whole processes."
    )
    head = ["backbone", "s per epoch online", "hours online", "s extraction", "s fit", "ratio"]
    return f"{text}\n\n{_table(head, lines)}"


PARTS: dict[str, tuple[str, Callable[[list[Row]], str]]] = {
    "network": ("Network only", _network),
    "extraction": ("Whole extraction", _extraction),
    "roofline": ("Roofline", _roofline),
    "scaling": ("Scaling", _scaling),
    "dask": ("Dask workers", _dask),
    "heads": ("Heads", _heads),
    "tutorial": ("Online augmentation", _tutorial),
}


def _rate(arm: Row) -> str:
    return f"{1 / arm['median']:.1f}"


def _speed_up(row: Row, name: str) -> str:
    return f"{row['ratios'][name]:.2f}" if name in row["ratios"] else ""


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _table(head: list[str], lines: Iterable[list[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    print(markdown(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))), end="")
