"""Benchmark of Folio against Keras, scikit-learn and other packages: see ``scripts/bench --help``."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from featurize.backbones.registry import get_backbone
from featurize.errors import FolioError

import bench_dask
import bench_extraction
import bench_heads
import bench_limits
import bench_tutorial
from bench_arms import BenchError, log
from bench_machine import describe_machine, load_average
from bench_setting import FULL, QUICK, Effort, Setting, make_setting
from bench_tables import PARTS, markdown

OUT = Path("artifacts") / "bench"
BACKBONES = ("efficientnet_lite0", "resnet50", "vgg16")


def measure(setting: Setting, parts: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Run the parts in order; "tutorial" uses the rates of "extraction" from the same run."""
    done: dict[str, list[dict[str, Any]]] = {}
    jobs: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "network": lambda: bench_extraction.network(setting),
        "extraction": lambda: bench_extraction.extraction(setting),
        "roofline": lambda: bench_limits.roofline(setting),
        "scaling": lambda: bench_limits.scaling(setting),
        "dask": lambda: bench_dask.dask(setting),
        "heads": lambda: bench_heads.heads(setting),
        "tutorial": lambda: bench_tutorial.tutorial(setting, done.get("extraction")),
    }
    for name in jobs:
        if name in parts:
            log(f"{name}:")
            done[name] = jobs[name]()
    return done


def make_record(setting: Setting, parts: Sequence[str], *, data: str, quick: bool) -> dict[str, Any]:
    """Run the parts and return the record to write."""
    created, before = datetime.now(UTC).isoformat(timespec="seconds"), load_average()
    found = measure(setting, parts)
    return {
        "format": "folio-bench",
        "format_version": 1,
        "created": created,
        "machine": describe_machine(),
        "load": [before, load_average()],
        "options": {
            "data": data,
            "quick": quick,
            "images": {**setting.images.counts, "left_out": setting.images.left_out},
            "views": setting.views,
            "backbones": list(setting.backbones),
            "weights": setting.weights,
            "engines": list(setting.engines),
            "repeats": setting.effort.repeats,
            "peers": sorted(setting.peers),
        },
        "parts": found,
    }


def write_record(record: dict[str, Any], out: Path) -> None:
    """Write ``out.json`` and ``out.md``."""
    out.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False)
    out.with_name(f"{out.name}.json").write_text(text + "\n", encoding="utf-8")
    out.with_name(f"{out.name}.md").write_text(markdown(record), encoding="utf-8")


def _names(known: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    def parse(text: str) -> tuple[str, ...]:
        names = tuple(name.strip() for name in text.split(",") if name.strip())
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is unknown: expected some of {', '.join(known)}")
        return names

    return parse


def _backbones(text: str) -> tuple[str, ...]:
    return tuple(get_backbone(name.strip()).name for name in text.split(",") if name.strip())


def _jobs(text: str) -> tuple[int | None, ...]:
    return tuple(None if word == "none" else int(word) for word in text.split(","))


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="Benchmark Folio against Keras, scikit-learn and other packages on this machine.",
    )
    parser.add_argument("--data", type=Path, help="graded images (default: a generated sample)")
    parser.add_argument("--quick", action="store_true", help="few images and one backbone: some minutes")
    parser.add_argument(
        "--only", type=_names(tuple(PARTS)), default=tuple(PARTS), metavar="PARTS", help=", ".join(PARTS)
    )
    parser.add_argument(
        "--backbones",
        type=_backbones,
        metavar="NAMES",
        help="the first one is used for scaling, dask and heads "
        f"(default: {','.join(BACKBONES)}; quick: {BACKBONES[0]})",
    )
    parser.add_argument(
        "--engines",
        type=_names(("auto", "tensorflow", "openvino")),
        default=("auto",),
        metavar="NAMES",
        help="engines to measure whole extraction with, in addition to the automatic choice",
    )
    parser.add_argument("--views", type=int, default=4, help="augmented views (default: 4)")
    parser.add_argument(
        "--jobs",
        type=_jobs,
        metavar="N",
        help="n_jobs of the plain grid search; the first is the baseline (default: none,2; quick: none)",
    )
    parser.add_argument(
        "--peers", default=sys.executable, metavar="PYTHON", help="a Python with timm or thingsvision"
    )
    parser.add_argument("--out", type=Path, help="writes OUT.json and OUT.md (default: artifacts/bench/DATE)")
    return parser.parse_args(arguments)


def main() -> None:
    options = parse_options()
    effort: Effort = QUICK if options.quick else FULL
    out = options.out or OUT / datetime.now().strftime("%Y-%m-%d_%H%M")
    try:
        with tempfile.TemporaryDirectory(prefix="folio-bench-") as work:
            setting = make_setting(
                Path(work),
                data=options.data,
                backbones=options.backbones or (BACKBONES[:1] if options.quick else BACKBONES),
                engines=tuple(name for name in options.engines if name != "auto"),
                views=options.views,
                jobs=options.jobs or ((None,) if options.quick else (None, 2)),
                effort=effort,
                peers=options.peers,
            )
            data = str(options.data) if options.data else "the sample"
            record = make_record(setting, options.only, data=data, quick=options.quick)
    except (BenchError, FolioError) as error:
        raise SystemExit(f"bench: {error}") from error
    write_record(record, out)
    print(markdown(record), end="")
    log(f"Written: {out}.json, {out}.md")


if __name__ == "__main__":
    main()
