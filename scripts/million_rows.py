"""Every head on stores of made up features, up to a million rows of 1,280 columns: a Markdown table.

``python scripts/million_rows.py [--rows NUMBERS] [--heads NAMES] [--memory 6GB] [--folder DIR] [--out FILE]``

Each fit is a process of its own: one fit on all training rows and one test. Hyper-parameters are searched on
the first store and taken over by the others (a search never looks at more than 10,000 rows of features on
disk), or with ``--search each`` on every store. Time is what the search and the fit say they took. Memory is
the largest sum of the resident sizes of that process and all its children, read every 50 ms: it counts shared
pages in each process and no page cache. Linux only.
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
done = fit(**options, overwrite=True, fresh=True)
print(json.dumps({
    "search": done.tune_seconds, "fit": done.fit_seconds, "n_train": done.n_train,
    "params": dict(done.params),
    "accuracy": done.metrics["accuracy"], "balanced_accuracy": done.metrics["balanced_accuracy"],
    "notes": list(done.notes), "facts": list(done.facts),
}, default=str))
"""


def peak_resident(process: subprocess.Popen[str]) -> Iterator[int]:
    """Yield the resident bytes of a process and all its children until it has ended."""
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
    except OSError:  # ended meanwhile
        return None
    facts = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    if "VmRSS" not in facts:
        return None
    return int(folder.name), (int(facts["PPid"]), 1024 * int(facts["VmRSS"].split()[0]))


def measure(store: Path, head: str, *, memory: str, folder: Path, like: Path | None = None) -> dict[str, Any]:
    """Fit one head on one store; return what `fit` said, or why not, with seconds and peak memory."""
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
        said: list[tuple[str, str]] = []
        reader = threading.Thread(target=lambda: said.append(process.communicate()))
        reader.start()
        peak = max(peak_resident(process), default=0)
        reader.join()
    (out, err), seconds = said[0], time.perf_counter() - start
    facts: dict[str, Any] = {"head": head, "rows": store.stem, "peak": peak, "seconds": seconds}
    if process.returncode:
        return {**facts, "failed": err.strip().splitlines()[-1].partition(": ")[2]}
    return {**facts, **json.loads(out.strip().splitlines()[-1])}


def table(rows: list[dict[str, Any]]) -> str:
    """Return measured fits as Markdown."""
    lines = [
        "| head | images | features | search s | fit s | µs a training image | peak GB | test accuracy |",
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
    """Make the stores that are missing, and measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--rows", default="3000,10000,100000,1000000", help="images of each store, with commas"
    )
    parser.add_argument("--heads", default=",".join(HEADS), help="names, with commas (default: all)")
    parser.add_argument("--search", choices=("first", "each"), default="first", help="stores searched on")
    parser.add_argument("--memory", default="6GB", help="the limit (default: 6GB)")
    parser.add_argument("--folder", type=Path, help="of the stores, kept (default: a temporary one)")
    parser.add_argument("--out", type=Path, help="also write what was measured, as JSON lines")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.folder or Path(temporary)
        measured: list[dict[str, Any]] = []
        searched: dict[str, Path] = {}  # head → the bundle whose hyper-parameters are taken over
        for n_rows in map(int, asked.rows.split(",")):
            store = folder / f"rows{n_rows}.h5"
            if not store.is_file():
                seconds = make_rows_store(store, n_rows=n_rows)
                size = store.stat().st_size / 1e9
                print(
                    f"{store.name}: {len(CLASSES)} classes, {size:.2f} GB, made in {seconds:.0f} s",
                    flush=True,
                )
            for head in asked.heads.split(","):
                like = None if asked.search == "each" else searched.get(head)
                found = measure(store, head, memory=asked.memory, folder=Path(temporary), like=like)
                found["n_rows"] = n_rows
                if "failed" not in found:
                    searched.setdefault(head, Path(temporary) / f"{store.stem}__{head}")
                measured.append(found)
                print(table([found]).splitlines()[-1], flush=True)
                if asked.out is not None:
                    with asked.out.open("a", encoding="utf-8") as stream:
                        stream.write(json.dumps(found) + "\n")
        print(f"\n{table(measured)}")


if __name__ == "__main__":
    main()
