"""What exports of a run's heads say and cost, beside `classify predict`: Markdown tables.

``python scripts/export_check.py RUN_OR_BUNDLE IMAGES... [--formats onnx,keras] [--all] [--rounds 5]``

Every format is written to a temporary folder and loaded by its own runtime. Differences are the largest of
any probability on any of the images. Times are milliseconds an image, from squares of pixels to
probabilities, the median round after one to warm up, at the runtime's own number of threads. Those of
`classify predict` begin at files, with processes and network ready; the row below it is what decoding takes
of that, on one core. Its engine computes batches of one fixed size, so one image costs it as much as a batch.
Leave the machine alone meanwhile.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from classify.deploy.export.check import (
    ExpectedOutputs,
    compare_outputs,
    expected_outputs,
    image_files,
)
from classify.deploy.export.formats import FORMATS, Run, describe, format_module
from classify.deploy.export.network import export_network
from classify.deploy.features import PartReaders, bundle_features
from classify.deploy.predict import InputFile, bundle_folder, predict_files
from classify.io.bundle import Bundle, load_bundle
from featurize import FolioError
from featurize.base.cores import available_cores
from featurize.base.terminal import silence_libraries
from featurize.engines.device import use_device

BATCHES = (1, 32)
Row = tuple[str, str, str, str]


def main() -> int:
    options = parsed()
    silence_libraries(verbose=False)
    use_device("cpu")
    chosen = bundle_folder(options.run)
    folders = (
        sorted(path.parent for path in chosen.parent.glob("*/manifest.json")) if options.all else [chosen]
    )
    try:
        for folder in folders:
            bundle = load_bundle(folder)
            expected = expected_outputs(bundle, options.images)
            rows = export_rows(bundle, expected, options.formats, rounds=options.rounds)
            if folder == chosen:
                rows += folio_rows(bundle, image_files(options.images), rounds=options.rounds)
            show(bundle, expected, rows)
    except FolioError as error:
        print(f"export_check: {error}", file=sys.stderr)
        return 1
    return 0


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="a run, whose recommended head is taken, or a bundle")
    parser.add_argument("images", type=Path, nargs="+", help="image files, and folders of them")
    parser.add_argument(
        "--formats", type=lambda text: text.split(","), default=list(FORMATS), help="with commas"
    )
    parser.add_argument("--all", action="store_true", help="differences of every bundle beside it, too")
    parser.add_argument("--rounds", type=int, default=5, help="of which times are the median")
    return parser.parse_args()


def export_rows(
    bundle: Bundle, expected: ExpectedOutputs, formats: Sequence[str], *, rounds: int
) -> list[Row]:
    """Return format, difference, and milliseconds an image in each batch."""
    network = export_network(bundle)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for one in (FORMATS[key] for key in formats):
            module, place = format_module(one), Path(name) / f"export{one.suffix}"
            module.require()
            module.write(network, place, describe(bundle))
            run = module.load(place)
            check = compare_outputs(run, expected, runtime=module.RUNTIME)
            times = [f"{milliseconds(run, expected, batch, rounds=rounds):.1f}" for batch in BATCHES]
            rows.append((f"{one.name} ({check.runtime})", f"{check.difference:.1e}", *times))
    return rows


def milliseconds(run: Run, expected: ExpectedOutputs, batch: int, *, rounds: int) -> float:
    pixels = {
        name: np.ascontiguousarray(np.resize(one, (batch, *one.shape[1:])))
        for name, one in expected.pixels.items()
    }
    return median_time(lambda: run(pixels), rounds=rounds) / batch


def folio_rows(bundle: Bundle, files: Sequence[Path], *, rounds: int) -> list[Row]:
    """Return what `classify predict` takes from files, and what decoding takes of that."""
    predicted, decoded = [], []
    config = (bundle.members or (bundle,))[0].parts[0].config
    for batch in BATCHES:
        some = [files[k % len(files)] for k in range(batch)]
        with PartReaders(device="cpu", gpu_memory=None) as readers:
            seconds = median_time(
                lambda some=some, readers=readers: grade(bundle, some, readers), rounds=rounds
            )
            predicted.append(f"{seconds / batch:.1f}")
        decoded.append(f"{decode_time(some, config, rounds=rounds) / batch:.1f}")
    return [("classify predict, from files", "", *predicted), ("decoding alone", "", *decoded)]


def grade(bundle: Bundle, files: Sequence[Path], readers: PartReaders) -> None:
    found = bundle_features(
        bundle.members or (bundle,),
        files,
        weights=None,
        device="cpu",
        gpu_memory=None,
        on_progress=None,
        readers=readers,
    )
    listed = [InputFile(file=file, path=str(file), entry=str(file)) for file in files]
    predict_files(bundle, listed, found, entry_keys=[str(k) for k in range(len(files))])


def decode_time(files: Sequence[Path], config, *, rounds: int) -> float:
    """Return milliseconds, in this process and on one core."""
    from featurize.images.decode import read_image

    def read() -> None:
        for file in files:
            read_image(file, size=config["input_size"], resize=config["resize"], resample=config["resample"])

    return median_time(read, rounds=rounds)


def median_time(call: Callable[[], object], *, rounds: int) -> float:
    """Return the median milliseconds of a call, after one that is not counted."""
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
    print("| what | largest difference | " + " | ".join(f"ms an image, {n} at once" for n in BATCHES) + " |")
    print("|---|---|" + "---|" * len(BATCHES))
    for row in rows:
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    sys.exit(main())
