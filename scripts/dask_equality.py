"""Check that extraction on Dask workers gives the local store: ``python scripts/dask_equality.py DATA``.

A scheduler and two workers, each a process on this machine, extract a data set three times: undisturbed, with
one worker killed halfway, and with the client killed and resumed. Each store is compared with that of a run
without Dask, dataset by dataset and byte by byte.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

OPTIONS = ("--precision", "float32")  # `auto` would store measured times, which differ


def extract(data: Path, out: Path, *options: str) -> subprocess.Popen[bytes]:
    """Start an extraction in a new process."""
    code = "from featurize.cli.main import main; main()"
    words = ["extract", str(data), "--out", str(out), *OPTIONS, *options]
    return subprocess.Popen([sys.executable, "-c", code, *words], stdout=subprocess.DEVNULL)


def wait_for_success(process: subprocess.Popen[bytes]) -> None:
    """Wait for an extraction; exit if it failed."""
    if process.wait():
        raise SystemExit(f"an extraction ended with {process.returncode}")


@contextmanager
def cluster(folder: Path) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """Start a scheduler and two workers; yield its address and the workers."""
    file, log = folder / "scheduler.json", (folder / "dask.log").open("ab")
    processes: list[subprocess.Popen[bytes]] = []

    def start(kind: str, *words: str) -> subprocess.Popen[bytes]:
        local = ("--host", "127.0.0.1", "--no-dashboard", "--dashboard-address", "127.0.0.1:0")
        command = [sys.executable, "-m", f"distributed.cli.dask_{kind}", *words, *local]
        processes.append(subprocess.Popen(command, stdout=log, stderr=log, cwd=folder))
        return processes[-1]

    try:
        start("scheduler", "--port", "0", "--scheduler-file", str(file))
        wait_until(lambda: file.exists() and file.read_text().endswith("}"))
        address = json.loads(file.read_text())["address"]
        workers = [start("worker", address, "--nthreads", "1", "--no-nanny") for _ in range(2)]
        yield address, workers
    finally:
        for process in processes:
            process.kill()
            process.wait()
        file.unlink(missing_ok=True)
        log.close()


def wait_until(condition: Callable[[], bool], *, seconds: float = 600.0) -> None:
    """Return when the condition is true."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"timeout after {seconds:g} s")
        time.sleep(0.1)


def n_parts(out: Path) -> int:
    """Return the number of finished parts."""
    return len(list(out.glob("*.parts/*.part")))


def store_differences(store: Path, local: Path) -> list[str]:
    """Return the datasets and attributes in which two stores differ."""
    with h5py.File(store) as file, h5py.File(local) as expected:
        names: list[str] = []
        expected.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
        datasets = [
            name
            for name in names
            if name not in file or not np.array_equal(file[name][()], expected[name][()])
        ]
        attributes = [key for key in expected.attrs if str(file.attrs.get(key)) != str(expected.attrs[key])]
        return datasets + attributes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--views", default="1")
    options = parser.parse_args()
    failed = False
    with tempfile.TemporaryDirectory(prefix="folio-dask-") as name:
        work = Path(name)
        started = time.monotonic()
        wait_for_success(extract(options.data, work / "local", "--views", options.views))
        print(f"without Dask: {time.monotonic() - started:.1f} s")
        (local,) = (work / "local").glob("*.h5")
        for case in ("two workers", "one worker killed halfway", "client killed and resumed"):
            out, started = work / case, time.monotonic()
            with cluster(work) as (address, workers):
                words = ("--views", options.views, "--dask", address)
                client = extract(options.data, out, *words)
                if case != "two workers":
                    wait_until(lambda out=out: n_parts(out) >= 3)  # type: ignore[misc]
                if case == "one worker killed halfway":
                    workers[0].kill()
                if case == "client killed and resumed":
                    client.kill()
                    client.wait()
                    client = extract(options.data, out, *words)
                wait_for_success(client)
            store = out / local.name
            different = store_differences(store, local)
            same = "equal bytes" if store.read_bytes() == local.read_bytes() else "DIFFERENT BYTES"
            failed = failed or bool(different) or same == "DIFFERENT BYTES"
            verdict = f"differs in {', '.join(different)}" if different else "all datasets equal"
            print(f"{case}: {verdict}, {same}; {time.monotonic() - started:.1f} s", flush=True)
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
