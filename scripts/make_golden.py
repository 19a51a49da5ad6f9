"""Write the files in tests/golden: a store, unfinished parts, bundles of every head, and a run's record.

Usage: python scripts/make_golden.py [OUT]. Run once per format version: see tests/golden/README.md.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np

from classify.data.fusion import fuse
from classify.data.samples import load_samples
from classify.heads.registry import HEADS, all_params, make_head
from classify.io.bundle_writer import save_bundle, save_ensemble
from classify.io.head_file import SavedHead, dump_head
from classify.jobs.compare import compare
from featurize.config import config_digest
from featurize.extraction.extract import ExtractResult, extract
from featurize.store.reader import ContentRow, ImageTable, open_store
from featurize.store.writer import write_store

ROOT = Path(__file__).resolve().parent.parent
WORK = Path("/tmp/golden")  # a fixed path: the store contains the path of its images
STORE = "mean+random+levels.h5"
SIZE, CELLS, VIEWS = 32, 4, 2
CLASSES = ("low", "middle", "award")  # from worst to best
FLAT = {
    "train/award/flat.ppm": (200, 30, 40),
    "train/low/flat.ppm": (20, 120, 220),
}  # every view has this mean
SMALL = {"units": (4,), "epochs": 3, "batch_size": 8}
MEMBERS = ("nearest-mean", "baseline")


def image(label: int, number: int) -> np.ndarray:
    """Return an image of coloured cells, (32, 32, 3) uint8, brighter in the channel of its class."""
    digest = hashlib.sha512(f"{label}-{number}".encode()).digest()[: 3 * CELLS**2]
    cells = np.frombuffer(digest, np.uint8).reshape(CELLS, CELLS, 3) // 2
    cells = cells + 90 * np.eye(3, dtype=np.uint8)[label]
    return cells.repeat(SIZE // CELLS, axis=0).repeat(SIZE // CELLS, axis=1)


def ppm(pixels: np.ndarray) -> bytes:
    return b"P6 %d %d 255\n" % (pixels.shape[1], pixels.shape[0]) + pixels.astype(np.uint8).tobytes()


def images() -> dict[bytes, np.ndarray]:
    """Return the pixels of each readable image by path."""
    found = {
        b"train/low/\xff\xfe undecodable.ppm": image(0, 0),
        b"train/low/line\nbreak.ppm": image(0, 1),
        b"train/middle/portfolio/1.ppm": image(1, 0),
        b"train/middle/portfolio/2.ppm": image(1, 1),
        b"train/middle/" + b"x" * 240 + b".ppm": image(1, 2),
        "train/award/Größe 写真.ppm".encode(): image(2, 0),
        b"test/low/copy of a training image.ppm": image(0, 1),
        b"test/middle/1.ppm": image(1, 3),
        b"test/award/1.ppm": image(2, 2),
        b"new/unknown.ppm": image(2, 3),
    }
    return found | {
        os.fsencode(path): np.full((SIZE, SIZE, 3), colour, np.uint8) for path, colour in FLAT.items()
    }


UNREADABLE = {
    b"train/low/empty.ppm": b"",
    b"train/low/text.jpg": b"This is not a picture.",
    b"train/award/broken.ppm": b"P6 32 32 255\n" + bytes(100),
}


def write_portfolio(root: Path, *, partial: bool = False) -> Path:
    """Write the files of the store, or only those of the killed extraction.

    Raises OSError if the file system does not support the names.
    """
    data = {path: ppm(pixels) for path, pixels in images().items()} | UNREADABLE
    for path, content in data.items():
        if not partial or (path.startswith(b"train/") and os.fsdecode(path) not in FLAT):
            file = Path(os.fsdecode(os.fsencode(root) + b"/" + path))
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
    return root


def extract_means(data: Path, out: Path, **options) -> ExtractResult:
    """Extract with the stand-in backbone, which must be installed."""
    (result,) = extract(
        data, backbones=["mean"], weights="random", views=VIEWS, levels=True, precision="float32",
        order=CLASSES, out=out, workers=1, **options,
    )  # fmt: skip
    return result


def make_store(out: Path) -> Path:
    """Write the store, and the parts of an extraction that is killed before assembly."""

    def kill(stage: str, done: int, total: int) -> None:
        if stage == "extracting" and done == total:
            raise KeyboardInterrupt

    sys.path.insert(0, str(ROOT / "tests" / "featurize"))
    import stand_in

    stand_in.install(part=100)
    try:
        extract_means(
            write_portfolio(WORK / "part" / "portfolio", partial=True), WORK / "killed", on_progress=kill
        )
    except KeyboardInterrupt:
        shutil.copytree(WORK / "killed" / f"{STORE}.parts", out / "killed.h5.parts")
    result = extract_means(write_portfolio(WORK / "portfolio"), WORK / "features")
    with open_store(result.path) as store:
        views = {store.content.sha256[row]: store.augmented()[k].tolist()
                 for k, row in enumerate(store.augmented_content)}  # fmt: skip
    write_json(out / "views.json", views)
    return Path(shutil.copy(result.path, out / STORE))


def synthetic(name: str, *, width: int, seed: int):
    """Return samples of three classes with a few columns, from a store written for them."""
    generator = np.random.default_rng(seed)
    labels = np.repeat(np.arange(3), 12)
    plain = (2 * np.eye(3, width)[labels] + generator.normal(size=(36, width))).round(3).astype(np.float32)
    names = sorted(hashlib.sha256(f"{number}".encode()).hexdigest() for number in range(36))
    rows = [
        ContentRow(
            sha256=sha256, width=32, height=32, phash=int(sha256[:15], 16), plain=plain[k], augmented=None,
            thumbnail=np.zeros((32, 32, 3), np.uint8),
        )
        for k, sha256 in enumerate(names)
    ]  # fmt: skip
    paths = [f"train/{CLASSES[label]}/{k:02}.ppm" for k, label in enumerate(labels)]
    order = sorted(range(36), key=lambda k: paths[k])
    images = ImageTable(
        path=[paths[k] for k in order], sha256=[names[k] for k in order], content=np.array(order),
        label=labels[order].astype(np.int16), split=["train"] * 36, entry=[paths[k] for k in order],
        skipped=[""] * 36,
    )  # fmt: skip
    with open_store(WORK / "features" / STORE) as store:
        weights = {"kind": "imagenet", "sha256": "0" * 64, "seed": None}
        config = {**store.config, "backbone": name, "levels": False, "weights": weights}
    path = WORK / f"{name}.h5"
    write_store(
        path, config=config, config_digest=config_digest(config), rows=rows, n_views=0,
        n_features=width, images=images, classes=CLASSES, ordered=True, created_with={"dataset": "golden"},
    )  # fmt: skip
    return load_samples(path)


def make_bundles(out: Path) -> None:
    """Write a bundle of every head, of fused stores and of an ensemble, with predictions for a few rows."""
    first, second = synthetic("vgg16", width=4, seed=0), synthetic("resnet50", width=3, seed=1)
    published, expected = {"kind": "imagenet"}, {}
    bundles = [(name, name, first) for name in HEADS] + [("fused", "nearest-mean", fuse([first, second]))]
    for folder, name, samples in bundles:
        params = SMALL if HEADS[name].tensorflow else {}
        rows, X = samples.rows(np.arange(36)), samples.plain[::25]
        head = make_head(name, params=params).fit(rows.X, rows.y, groups=rows.groups, image=rows.image)
        save_bundle(
            out / folder, deflated(dump_head(head, name)), head=name, samples=samples, metrics={}, seed=0,
            params=all_params(name, params, class_weight=None),
            weights={part.store: published for part in samples.parts} or published,
        )  # fmt: skip
        expected[folder] = {"X": X.tolist(), "probabilities": head.predict_proba(X).round(9).tolist()}
    save_ensemble(
        out / "ensemble", [out / name for name in MEMBERS], head="ensemble", samples=first, metrics={}
    )
    mean = np.mean([expected[name]["probabilities"] for name in MEMBERS], axis=0)
    expected["ensemble"] = {"X": expected[MEMBERS[0]]["X"], "probabilities": mean.round(9).tolist()}
    write_json(out / "expected.json", expected)


def make_run(store: Path, out: Path) -> None:
    """Write the record and the predictions of a run on the store."""
    shutil.copy(store, WORK / STORE)
    run = compare([STORE], heads=["logreg"], out="run", jobs=1, report=False)
    out.mkdir()
    for name in ("results.json", "predictions.csv"):
        shutil.copy(run.folder / name, out / name)


def deflated(saved: SavedHead) -> SavedHead:
    """Return a head with a compressed file, to keep the archive small; Keras does not compress."""
    file = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(saved.data)) as old,
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    return SavedHead(data=file.getvalue(), labels=saved.labels)


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value) + "\n", encoding="ascii")


def main() -> None:
    out = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "tests" / "golden").resolve()
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir()
    os.environ["FOLIO_CACHE"] = str(WORK / "cache")
    os.chdir(WORK)  # the record contains the store's path as given
    out.mkdir(parents=True, exist_ok=True)
    store = make_store(out)
    make_bundles(out / "bundles")
    make_run(store, out / "run")


if __name__ == "__main__":
    main()
