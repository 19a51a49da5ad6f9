"""The record of a benchmark as Markdown: ``python scripts/bench_tables.py FILE.json``."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def markdown(record: Row) -> str:
    """Return the whole record as one page."""
    parts = [f"# Benchmark of {record['created']}", _machine(record)]
    for name, rows in record["parts"].items():
        heading, table = PARTS[name]
        parts += [f"## {heading}", table(rows)]
    return "\n\n".join(parts) + "\n"


def _machine(record: Row) -> str:
    machine, options = record["machine"], record["options"]
    packages = ", ".join(f"{name} {number}" for name, number in machine["packages"].items())
    flags = ", ".join(machine["flags"]) or "none of those asked for"
    amx = "AMX" if machine["amx_bf16"] else "no AMX"
    native = ", ".join(machine["native_precisions"]) or "none"
    pictures = options["pictures"]
    return "\n".join(
        [
            f"- {machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, {machine['system']}",
            f"- {amx}; processor flags: {flags}; shorter formats computed natively: {native}",
            f"- Python {machine['python']}, {packages}",
            f"- {pictures['train']} training and {pictures['test']} test pictures of {options['data']}, "
            f"{options['views']} views; weights: "
            + ", ".join(f"{name} {kind}" for name, kind in options["weights"].items()),
            f"- load before and after: {record['load'][0]}, {record['load'][1]} (0 is a quiet machine)",
            "- Medians of runs in turns. Steady: in a process that is warm; whole process: from its start to "
            "its end, imports, building and compiling inside.",
        ]
    )


def _network(rows: list[Row]) -> str:
    def cosine(row: Row, name: str) -> str:
        found = row["derived"]["cosine"].get(name)
        return "" if found is None else f"{found:.6f}"

    lines = [
        [row["what"]["backbone"], name, _rate(arm), _times(row, name), cosine(row, name)]
        for row in rows
        for name, arm in row["arms"].items()
    ]
    text = "The forward pass alone, pixels ready in memory; for Keras preprocessed as well."
    head = ["backbone", "arm", "images/s", "times keras predict", "smallest cosine with keras"]
    return f"{text}\n\n{_table(head, lines)}"


def _extraction(rows: list[Row]) -> str:
    lines = []
    for row in rows:
        for name, arm in row["arms"].items():
            whole = row["whole"]["arms"].get(name)
            making = row["derived"]["ratios_with_making"].get(name)
            lines.append(
                [
                    *(row["what"]["backbone"], row["what"]["task"], name, arm["facts"]["precision"]),
                    *(_rate(arm), _times(row, name), "" if making is None else f"{making:.2f}"),
                    *((_rate(whole), _times(row["whole"], name)) if whole else ("", "")),
                ]
            )
    text = (
        "From files to features. keras: `image_dataset_from_directory` + `preprocess_input` + "
        "`model.predict`, with views a pass more for each over the training pictures through Keras' random "
        "layers. folio: `featurize.extract` into a new store; reading, hashing, starting its processes, "
        "making the engine and writing the store are inside. Keras' model is ready and traced in a steady "
        "run; the third ratio counts making it as well."
    )
    head = ["backbone", "task", "arm", "precision", "steady images/s", "times keras", "making inside"]
    return f"{text}\n\n{_table([*head, 'whole process images/s', 'times keras'], lines)}"


def _roofline(rows: list[Row]) -> str:
    lines = []
    for row in rows:
        for precision, found in row["derived"].items():
            margin = found.get("share_at_the_margin")
            rates = [
                row["arms"][name] for name in ("decode", f"network {precision}", f"extraction {precision}")
            ]
            lines.append(
                [
                    *(row["what"]["backbone"], row["what"]["task"], precision, *map(_rate, rates)),
                    f"{1 / found['roofline']:.1f}",
                    _percent(found["share"]),
                    "" if margin is None else _percent(margin),
                ]
            )
    text = (
        "Decoding alone and the network alone, each on all cores; the roofline is 1 / (1 / decode + "
        "renderings / network). The share is that of a warm run, everything but the start of the process "
        "inside; at the margin: of each image more, so without what a run costs once."
    )
    head = ["backbone", "task", "precision", "decode images/s", "network renderings/s", "extraction images/s"]
    return f"{text}\n\n{_table([*head, 'roofline images/s', 'share', 'share at the margin'], lines)}"


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
    largest = next(row["derived"] for row in rows if "seconds_at_the_margin" in row["derived"])
    margins = ", ".join(f"{1000 * seconds:.2f}" for seconds in largest["seconds_at_the_margin"])
    text = (
        f"{rows[0]['what']['backbone']}. From 1 to 16 times the images, views and all, the largest time an "
        f"image is {largest['largest_over_smallest']:.2f} times the smallest; an image more costs "
        f"{margins} ms from step to step. Peak memory is that of the process and its children together, "
        "in processes of their own."
    )
    head = ["task", "images", "renderings", "s", "ms an image", "ms a rendering"]
    return f"{text}\n\n{_table([*head, 'whole process s', 'peak MiB'], lines)}"


def _dask(rows: list[Row]) -> str:
    lines = []
    for row in rows:
        margins = row["derived"].get("seconds_at_the_margin", {})
        base = margins.get(row["baseline"])
        for name, arm in row["arms"].items():
            margin = margins.get(name)
            lines.append(
                [
                    *(row["what"]["task"], name, str(arm["units"][0]), _rate(arm), _times(row, name)),
                    "" if margin is None else f"{1 / margin:.1f}",
                    "" if margin is None or name == row["baseline"] else f"{base / margin:.2f}",
                ]
            )
    text = (
        f"{rows[0]['what']['backbone']} in float32. Workers are processes that share this machine's cores, "
        "so two can at best do what one process does; what is to be seen is what spreading costs. Each run "
        "starts and ends its cluster; the rate at the margin is that of each picture more, without that."
    )
    head = ["task", "arm", "images", "images/s", "times folio", "images/s at the margin", "times folio"]
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
            lines.append([row["what"]["head"], name, f"{arm['median']:.2f}", _times(row, name), *equal])
        for name, arm in row.get("whole", {}).get("arms", {}).items():
            if not arm["facts"].get("added_up"):
                lines.append(
                    [
                        *(row["what"]["head"], f"{name}, whole process", f"{arm['median']:.2f}"),
                        *(_times(row["whole"], name), "", ""),
                    ]
                )
    dense = rows[-1]["derived"]["dense"]
    means = "; ".join(
        f"{name} {one['mean']:.4f} over {len(one['accuracies'])} seeds" for name, one in dense.items()
    )
    text = (
        f"Tuning, fitting and testing on the features of {rows[0]['what']['backbone']} with "
        f"{rows[0]['what']['views']} views: `GridSearchCV` over the same folds and grids, and Keras `fit` "
        "with early stopping, against `classify compare`. The plain arm of all heads is the sum of theirs. "
        f"Mean test accuracy of the dense head: {means}."
    )
    head = ["head", "arm", "s", f"times {rows[0]['baseline']}", "same parameters chosen", "same test classes"]
    return f"{text}\n\n{_table(head, lines)}"


def _tutorial(rows: list[Row]) -> str:
    lines = [
        [
            row["what"]["backbone"],
            f"{found['seconds_an_epoch_online']:.1f}",
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
        "augmented pass over the training pictures, times the epochs; the head's own training is not "
        "counted) against one extraction and a fit of as many epochs, both as whole processes."
    )
    head = ["backbone", "s an epoch online", "hours online", "s extraction", "s fit", "times"]
    return f"{text}\n\n{_table(head, lines)}"


PARTS: dict[str, tuple[str, Callable[[list[Row]], str]]] = {
    "network": ("Network only", _network),
    "extraction": ("Whole extraction", _extraction),
    "roofline": ("Roofline", _roofline),
    "scaling": ("Scaling", _scaling),
    "dask": ("Dask workers", _dask),
    "heads": ("Heads", _heads),
    "tutorial": ("The tutorial's regime", _tutorial),
}


def _rate(arm: Row) -> str:
    return f"{1 / arm['median']:.1f}"


def _times(row: Row, name: str) -> str:
    return f"{row['ratios'][name]:.2f}" if name in row["ratios"] else ""


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _table(head: list[str], lines: Iterable[list[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    print(markdown(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))), end="")
