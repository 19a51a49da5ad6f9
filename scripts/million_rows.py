"""Time and memory of every head on synthetic stores of up to a million rows: a Markdown table.

``python scripts/million_rows.py [--rows NUMBERS] [--heads NAMES] [--memory 6GB] [--folder DIR] [--out FILE]``

Stores have 1,280 columns. Each fit runs in its own process: one fit on all training rows and one test.
Hyper-parameters are searched on the first store and reused for the others (a search of features on disk uses
at most 10,000 rows), or with ``--search each`` on every store. Times are those reported by the search and the
fit. Memory is the largest sum of the resident sizes of the process and all its children, sampled every 50 ms;
shared pages count in each process, the page cache does not count. Linux only.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent / "benchmark"))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from classify.heads.registry import HEADS

from bench_rows import CLASSES, make_rows_store

ROOT = Path(__file__).resolve().parent.parent
POLL = 0.05  # seconds
_CHILD = """
import json, sys
from classify.jobs.fit import fit

options = json.loads(sys.argv[1])
result = fit(**options, overwrite=True, fresh=True)
print(json.dumps({
    "search": result.tune_seconds, "fit": result.fit_seconds, "n_train": result.n_train,
    "params": dict(result.params),
    "accuracy": result.metrics["accuracy"], "balanced_accuracy": result.metrics["balanced_accuracy"],
    "notes": list(result.notes), "facts": list(result.facts),
}, default=str))
"""


def resident_bytes(process: subprocess.Popen[str]) -> Iterator[int]:
    """Yield the resident bytes of a process and all its children until it ends."""
    while process.poll() is None:
        parents = dict(filter(None, map(_parent_and_size, Path("/proc").iterdir())))
        tree, total = {process.pid}, 0
        while more := {pid for pid, (parent, _) in parents.items() if parent in tree} - tree:
            tree |= more
        total = sum(parents[pid][1] for pid in tree if pid in parents)
        yield total
        time.sleep(POLL)


def _parent_and_size(folder: Path) -> tuple[int, tuple[int, int]] | None:
    if not folder.name.isdigit():
        return None
    try:
        text = (folder / "status").read_text(encoding="utf-8")
    except OSError:  # the process has ended
        return None
    facts = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    if "VmRSS" not in facts:
        return None
    return int(folder.name), (int(facts["PPid"]), 1024 * int(facts["VmRSS"].split()[0]))


def measure(store: Path, head: str, *, memory: str, folder: Path, like: Path | None = None) -> dict[str, Any]:
    """Fit one head on one store; return its result or its error, with seconds and peak memory."""
    options = {
        "like": None if like is None else str(like),
        "store": str(store),
        "head": head,
        "memory": memory,
        "out": str(folder / f"{store.stem}__{head}"),
    }
    start = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-c", _CHILD, json.dumps(options)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        outputs: list[tuple[str, str]] = []
        reader = threading.Thread(target=lambda: outputs.append(process.communicate()))
        reader.start()
        peak = max(resident_bytes(process), default=0)
        reader.join()
    (out, err), seconds = outputs[0], time.perf_counter() - start
    facts: dict[str, Any] = {"head": head, "rows": store.stem, "peak": peak, "seconds": seconds}
    if process.returncode:
        return {**facts, "failed": err.strip().splitlines()[-1].partition(": ")[2]}
    return {**facts, **json.loads(out.strip().splitlines()[-1])}


def table(rows: list[dict[str, Any]]) -> str:
    """Return the measurements as a Markdown table."""
    lines = [
        "| head | images | features | search s | fit s | µs per training image | peak GB | test accuracy |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        if "failed" in row:
            lines.append(
                f"| {row['head']} | {row['n_rows']:,} | | | | | {row['peak'] / 1e9:.2f} | {row['failed']} |"
            )
            continue
        source = "disk" if any("read from disk" in line for line in row["facts"]) else "memory"
        lines.append(
            f"| {row['head']} | {row['n_rows']:,} | {source} | {row['search']:.1f} | {row['fit']:.1f} | "
            f"{1e6 * row['fit'] / row['n_train']:.0f} | {row['peak'] / 1e9:.2f} | {row['accuracy']:.3f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Write missing stores and measure the heads of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", default="3000,10000,100000,1000000", help="images per store, with commas")
    parser.add_argument("--heads", default=",".join(HEADS), help="names, with commas (default: all)")
    parser.add_argument(
        "--search", choices=("first", "each"), default="first", help="stores to search hyper-parameters on"
    )
    parser.add_argument("--memory", default="6GB", help="memory limit (default: 6GB)")
    parser.add_argument("--folder", type=Path, help="folder of the stores (default: a temporary one)")
    parser.add_argument("--out", type=Path, help="also append the measurements as JSON lines")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        measured: list[dict[str, Any]] = []
        searched: dict[str, Path] = {}  # head → bundle with the hyper-parameters to reuse
        for n_rows in map(int, options.rows.split(",")):
            store = folder / f"rows{n_rows}.h5"
            if not store.is_file():
                seconds = make_rows_store(store, n_rows=n_rows)
                size = store.stat().st_size / 1e9
                print(
                    f"{store.name}: {len(CLASSES)} classes, {size:.2f} GB, written in {seconds:.0f} s",
                    flush=True,
                )
            for head in options.heads.split(","):
                like = None if options.search == "each" else searched.get(head)
                found = measure(store, head, memory=options.memory, folder=Path(temporary), like=like)
                found["n_rows"] = n_rows
                if "failed" not in found:
                    searched.setdefault(head, Path(temporary) / f"{store.stem}__{head}")
                measured.append(found)
                print(table([found]).splitlines()[-1], flush=True)
                if options.out is not None:
                    with options.out.open("a", encoding="utf-8") as stream:
                        stream.write(json.dumps(found) + "\n")
        print(f"\n{table(measured)}")


if __name__ == "__main__":
    main()
