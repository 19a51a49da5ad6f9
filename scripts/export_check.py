"""Differences and speed of a bundle's exports, compared with `classify predict`: Markdown tables.

``python scripts/export_check.py RUN_OR_BUNDLE IMAGES... [--formats onnx,keras] [--all] [--rounds 5]``

Every format is written to a temporary folder and loaded by its own runtime. A difference is the largest of
any probability on any of the images. Times are milliseconds per image from pixels to probabilities, the
median of the rounds after a warm-up, with the runtime's default number of threads. Times of `classify
predict` start from files, with processes and network loaded; the row below it is the time of decoding alone,
on one core. Its engine computes batches of a fixed size, so that one image takes as long as a batch. Do not
use the machine meanwhile.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from classify.deploy.export.check import (
    ExpectedOutputs,
    compare_outputs,
    expected_outputs,
    image_files,
)
from classify.deploy.export.formats import FORMATS, describe, format_module
from classify.deploy.export.network import export_network
from classify.deploy.features import PartReaders, bundle_features
from classify.deploy.predict import InputFile, bundle_folder, predict_files
from classify.io.bundle import Bundle, load_bundle
from featurize import FolioError
from featurize.base.cores import available_cores
from featurize.base.terminal import silence_libraries
from featurize.engines.device import use_device

if TYPE_CHECKING:
    from classify.deploy.export.formats import Run

BATCHES = (1, 32)
Row = tuple[str, str, str, str]


def main() -> int:
    options = parse_options()
    silence_libraries(verbose=False)
    use_device("cpu")
    images = [Path(path) for path in options.images]
    chosen = bundle_folder(options.run)
    folders = (
        sorted(path.parent for path in chosen.parent.glob("*/manifest.json")) if options.all else [chosen]
    )
    try:
        for folder in folders:
            bundle = load_bundle(folder)
            expected = expected_outputs(bundle, images)
            rows = export_rows(bundle, expected, options.formats, rounds=options.rounds)
            if folder == chosen:
                rows += folio_rows(bundle, image_files(images), rounds=options.rounds)
            show(bundle, expected, rows)
    except FolioError as error:
        print(f"export_check: {error}", file=sys.stderr)
        return 1
    return 0


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="a bundle, or a run: its recommended head")
    parser.add_argument("images", type=Path, nargs="+", help="image files and folders")
    parser.add_argument(
        "--formats", type=lambda text: text.split(","), default=list(FORMATS), help="with commas"
    )
    parser.add_argument(
        "--all", action="store_true", help="also the differences of all other bundles in the same folder"
    )
    parser.add_argument("--rounds", type=int, default=5, help="runs per time; the median counts")
    return parser.parse_args()


def export_rows(
    bundle: Bundle, expected: ExpectedOutputs, formats: Sequence[str], *, rounds: int
) -> list[Row]:
    """Return format, difference, and milliseconds per image for each batch size."""
    network = export_network(bundle)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for export_format in (FORMATS[key] for key in formats):
            module, path = format_module(export_format), Path(name) / f"export{export_format.suffix}"
            module.require()
            module.write(network, path, describe(bundle))
            run = module.load(path)
            check = compare_outputs(run, expected, runtime=module.RUNTIME)
            times = [f"{milliseconds(run, expected, batch, rounds=rounds):.1f}" for batch in BATCHES]
            rows.append((f"{export_format.name} ({check.runtime})", f"{check.difference:.1e}", *times))
    return rows


def milliseconds(run: Run, expected: ExpectedOutputs, batch: int, *, rounds: int) -> float:
    pixels = {
        name: np.ascontiguousarray(np.resize(images, (batch, *images.shape[1:])))
        for name, images in expected.pixels.items()
    }
    return median_time(lambda: run(pixels), rounds=rounds) / batch


def folio_rows(bundle: Bundle, files: Sequence[Path], *, rounds: int) -> list[Row]:
    """Return the times of `classify predict` from files, and of decoding alone."""
    predicted, decoded = [], []
    config = (bundle.members or (bundle,))[0].parts[0].config
    for batch in BATCHES:
        batch_files = [files[k % len(files)] for k in range(batch)]
        with PartReaders(device="cpu", gpu_memory=None) as readers:
            seconds = median_time(
                lambda files=batch_files, readers=readers: predict_batch(bundle, files, readers),
                rounds=rounds,
            )
            predicted.append(f"{seconds / batch:.1f}")
        decoded.append(f"{decode_time(batch_files, config, rounds=rounds) / batch:.1f}")
    return [("classify predict, from files", "", *predicted), ("decoding alone", "", *decoded)]


def predict_batch(bundle: Bundle, files: Sequence[Path], readers: PartReaders) -> None:
    features = bundle_features(
        bundle.members or (bundle,),
        files,
        weights=None,
        device="cpu",
        gpu_memory=None,
        on_progress=None,
        readers=readers,
    )
    inputs = [InputFile(file=file, path=str(file), entry=str(file)) for file in files]
    predict_files(bundle, inputs, features, entry_keys=[str(k) for k in range(len(files))])


def decode_time(files: Sequence[Path], config, *, rounds: int) -> float:
    """Return the milliseconds of decoding in this process, on one core."""
    from featurize.images.decode import read_image

    def read() -> None:
        for file in files:
            read_image(file, size=config["input_size"], resize=config["resize"], resample=config["resample"])

    return median_time(read, rounds=rounds)


def median_time(call: Callable[[], object], *, rounds: int) -> float:
    """Return the median milliseconds of a call, after one warm-up call."""
    call()
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return 1000 * float(np.median(seconds))


def show(bundle: Bundle, expected: ExpectedOutputs, rows: Sequence[Row]) -> None:
    stores = bundle.manifest.get("store", "")
    print(
        f"\n{bundle.manifest['head']} on {stores}, {len(expected.probabilities)} images, "
        f"{available_cores()} cores\n"
    )
    print(
        "| runtime | largest difference | " + " | ".join(f"ms per image, batch {n}" for n in BATCHES) + " |"
    )
    print("|---|---|" + "---|" * len(BATCHES))
    for row in rows:
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    sys.exit(main())
