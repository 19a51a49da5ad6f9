"""Make the files in tests/golden: a store, unfinished parts, bundles of every head, and the record of a run.

Usage: python scripts/make_golden.py [OUT]. Made once for each format: see tests/golden/README.md.
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

import featurize
from classify.data.fusion import fuse
from classify.data.samples import load_samples
from classify.heads.registry import HEADS, all_params, make_head
from classify.io.bundle_writer import save_bundle, save_ensemble
from classify.io.head_file import SavedHead, dump_head
from classify.jobs.compare import compare

ROOT = Path(__file__).resolve().parent.parent
WORK = Path("/tmp/golden")  # the store remembers where its images lay
STORE = "mean+random+levels.h5"
SIZE, CELLS, VIEWS = 32, 4, 2
CLASSES = ("low", "middle", "award")  # from worst to best
FLAT = {
    "train/award/flat.ppm": (200, 30, 40),
    "train/low/flat.ppm": (20, 120, 220),
}  # each view has this mean
SMALL = {"units": (4,), "epochs": 3, "batch_size": 8}
MEMBERS = ("nearest-mean", "baseline")


def picture(label: int, number: int) -> np.ndarray:
    """Return cells of colours, (32, 32, 3) uint8, brighter in the channel of their class."""
    digest = hashlib.sha512(f"{label}-{number}".encode()).digest()[: 3 * CELLS**2]
    cells = np.frombuffer(digest, np.uint8).reshape(CELLS, CELLS, 3) // 2
    cells = cells + 90 * np.eye(3, dtype=np.uint8)[label]
    return cells.repeat(SIZE // CELLS, axis=0).repeat(SIZE // CELLS, axis=1)


def ppm(pixels: np.ndarray) -> bytes:
    return b"P6 %d %d 255\n" % (pixels.shape[1], pixels.shape[0]) + pixels.astype(np.uint8).tobytes()


def pictures() -> dict[bytes, np.ndarray]:
    """Return the pixels of each picture that can be read, by its path."""
    found = {
        b"train/low/\xff\xfe undecodable.ppm": picture(0, 0),
        b"train/low/line\nbreak.ppm": picture(0, 1),
        b"train/middle/portfolio/1.ppm": picture(1, 0),
        b"train/middle/portfolio/2.ppm": picture(1, 1),
        b"train/middle/" + b"x" * 240 + b".ppm": picture(1, 2),
        "train/award/Größe 写真.ppm".encode(): picture(2, 0),
        b"test/low/copy of a training image.ppm": picture(0, 1),
        b"test/middle/1.ppm": picture(1, 3),
        b"test/award/1.ppm": picture(2, 2),
        b"new/unknown.ppm": picture(2, 3),
    }
    return found | {
        os.fsencode(path): np.full((SIZE, SIZE, 3), colour, np.uint8) for path, colour in FLAT.items()
    }


UNREADABLE = {
    b"train/low/empty.ppm": b"",
    b"train/low/text.jpg": b"This is not a picture.",
    b"train/award/broken.ppm": b"P6 32 32 255\n" + bytes(100),
}


def write_portfolio(root: Path, *, some: bool = False) -> Path:
    """Write the files of the store, or those that the killed extraction came to.

    Raises OSError where the file system does not take such names.
    """
    data = {path: ppm(pixels) for path, pixels in pictures().items()} | UNREADABLE
    for path, content in data.items():
        if not some or (path.startswith(b"train/") and os.fsdecode(path) not in FLAT):
            file = Path(os.fsdecode(os.fsencode(root) + b"/" + path))
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
    return root


def extract(data: Path, out: Path, **options) -> featurize.ExtractResult:
    """Extract with the stand-in, which has to be installed."""
    (done,) = featurize.extract(
        data, backbones=["mean"], weights="random", views=VIEWS, levels=True, precision="float32",
        order=CLASSES, out=out, workers=1, **options,
    )  # fmt: skip
    return done


def make_store(out: Path) -> Path:
    """Make the store, and the parts that an extraction leaves that is killed before it is assembled."""

    def kill(stage: str, done: int, total: int) -> None:
        if stage == "extracting" and done == total:
            raise KeyboardInterrupt

    sys.path.insert(0, str(ROOT / "tests" / "featurize"))
    import stand_in

    stand_in.install(part=100)
    try:
        extract(write_portfolio(WORK / "part" / "portfolio", some=True), WORK / "killed", on_progress=kill)
    except KeyboardInterrupt:
        shutil.copytree(WORK / "killed" / f"{STORE}.parts", out / "killed.h5.parts")
    done = extract(write_portfolio(WORK / "portfolio"), WORK / "features")
    with featurize.open_store(done.path) as store:
        views = {store.content.sha256[row]: store.augmented()[k].tolist()
                 for k, row in enumerate(store.augmented_content)}  # fmt: skip
    write_json(out / "views.json", views)
    return Path(shutil.copy(done.path, out / STORE))


def synthetic(name: str, *, width: int, seed: int):
    """Return samples of three classes in a few columns, from a store written for them."""
    generator = np.random.default_rng(seed)
    labels = np.repeat(np.arange(3), 12)
    plain = (2 * np.eye(3, width)[labels] + generator.normal(size=(36, width))).round(3).astype(np.float32)
    names = sorted(hashlib.sha256(f"{number}".encode()).hexdigest() for number in range(36))
    rows = [
        featurize.ContentRow(
            sha256=sha256, width=32, height=32, phash=int(sha256[:15], 16), plain=plain[k], augmented=None,
            thumbnail=np.zeros((32, 32, 3), np.uint8),
        )
        for k, sha256 in enumerate(names)
    ]  # fmt: skip
    paths = [f"train/{CLASSES[label]}/{k:02}.ppm" for k, label in enumerate(labels)]
    order = sorted(range(36), key=lambda k: paths[k])
    images = featurize.ImageTable(
        path=[paths[k] for k in order], sha256=[names[k] for k in order], content=np.array(order),
        label=labels[order].astype(np.int16), split=["train"] * 36, entry=[paths[k] for k in order],
        skipped=[""] * 36,
    )  # fmt: skip
    with featurize.open_store(WORK / "features" / STORE) as store:
        weights = {"kind": "imagenet", "sha256": "0" * 64, "seed": None}
        config = {**store.config, "backbone": name, "levels": False, "weights": weights}
    path = WORK / f"{name}.h5"
    featurize.write_store(
        path, config=config, config_digest=featurize.config_digest(config), rows=rows, n_views=0,
        n_features=width, images=images, classes=CLASSES, ordered=True, created_with={"dataset": "golden"},
    )  # fmt: skip
    return load_samples(path)


def make_bundles(out: Path) -> None:
    """Make a bundle of every head, of fused stores and of an ensemble, and what each says of a few rows."""
    one, two = synthetic("vgg16", width=4, seed=0), synthetic("resnet50", width=3, seed=1)
    published, expected = {"kind": "imagenet"}, {}
    wanted = [(name, name, one) for name in HEADS] + [("fused", "nearest-mean", fuse([one, two]))]
    for folder, name, samples in wanted:
        given = SMALL if HEADS[name].tensorflow else {}
        rows, X = samples.rows(np.arange(36)), samples.plain[::25]
        head = make_head(name, params=given).fit(rows.X, rows.y, groups=rows.groups, image=rows.image)
        save_bundle(
            out / folder, deflated(dump_head(head, name)), head=name, samples=samples, metrics={}, seed=0,
            params=all_params(name, given, class_weight=None),
            weights={part.store: published for part in samples.parts} or published,
        )  # fmt: skip
        expected[folder] = {"X": X.tolist(), "probabilities": head.predict_proba(X).round(9).tolist()}
    save_ensemble(
        out / "ensemble", [out / name for name in MEMBERS], head="ensemble", samples=one, metrics={}
    )
    vote = np.mean([expected[name]["probabilities"] for name in MEMBERS], axis=0)
    expected["ensemble"] = {"X": expected[MEMBERS[0]]["X"], "probabilities": vote.round(9).tolist()}
    write_json(out / "expected.json", expected)


def make_run(store: Path, out: Path) -> None:
    """Make a run on the store; only its record and its predictions are kept."""
    shutil.copy(store, WORK / STORE)
    done = compare([STORE], heads=["logreg"], out="run", jobs=1, report=False)
    out.mkdir()
    for name in ("results.json", "predictions.csv"):
        shutil.copy(done.folder / name, out / name)


def deflated(saved: SavedHead) -> SavedHead:
    """Return a head whose file is compressed, as Keras' are not: only so that the archive stays small."""
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
    os.chdir(WORK)  # the record names its store as it was typed
    out.mkdir(parents=True, exist_ok=True)
    store = make_store(out)
    make_bundles(out / "bundles")
    make_run(store, out / "run")


if __name__ == "__main__":
    main()
