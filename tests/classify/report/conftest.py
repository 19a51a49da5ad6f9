"""Runs of a small data set of real picture files, some of them with names that want to be markup."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from classify.compare import DenseOptions, compare
from featurize import ContentRow, ImageTable, config_digest, write_store

CLASSES = ("low", "middle", "award")
COUNTS = {"train": 12, "test": 8}
# Of the first test picture of each class, which is made to look like another class: it is a mistake.
HOSTILE = {
    "low": "<img src=x onerror=alert(1)>.jpg",
    "middle": "\"'><script>alert(2)<&amp;.jpg",
    "award": "line\nbreak \u202egpj.jpg",
}
DATASET = "photos <svg onload=alert(3)>"


def picture(seed: int, *, size: tuple[int, int] = (320, 240)) -> Image.Image:
    """Draw soft blobs of colour: no two seeds look alike."""
    cells = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(cells).resize(size, Image.Resampling.BICUBIC)


def write_photos(root: Path) -> Path:
    """Write pictures of three classes, a copy, one without a grade, and a file that is none."""
    seed = 0
    for name in CLASSES:
        for split, count in COUNTS.items():
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                seed += 1
                file = HOSTILE[name] if split == "test" and number == 0 else f"{number:02}.jpg"
                size = (100, 400) if number == 1 else (320, 240)
                picture(seed, size=size).save(folder / file, "JPEG", quality=90)
    (root / "train/award/copy.jpg").write_bytes((root / "train/award/00.jpg").read_bytes())
    (root / "new").mkdir()
    picture(1000).save(root / "new" / "unknown.jpg")
    (root / "train/low/broken.jpg").write_text("no picture")
    return root


def write_photo_store(path: Path, root: Path, config: dict[str, Any], *, seed: int) -> Path:
    """Write the store that extraction would make of such a folder, with features that are drawn.

    A class has a direction of its own; what has a hostile name has that of the next class.
    """
    names = sorted(
        (file.relative_to(root).as_posix() for file in root.rglob("*") if file.is_file()), key=os.fsencode
    )
    sha256 = {name: hashlib.sha256((root / name).read_bytes()).hexdigest() for name in names}
    good = {sha256[name]: name for name in names if "broken" not in name}
    contents = sorted(good)
    images = ImageTable(
        path=names,
        sha256=[sha256[name] for name in names],
        content=np.array(
            [contents.index(sha256[name]) if sha256[name] in good else -1 for name in names], dtype=np.int64
        ),
        label=np.array([_label(name) for name in names], dtype=np.int16),
        split=[name.split("/")[0] for name in names],
        entry=names,
        skipped=["" if sha256[name] in good else "not an image" for name in names],
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_store(
        path,
        config=config,
        config_digest=config_digest(config),
        rows=[_row(content, root / good[content], good[content], seed=seed) for content in contents],
        n_views=0,
        n_features=6,
        images=images,
        classes=CLASSES,
        ordered=True,
        created_with={"dataset": DATASET, "data": str(root)},
    )
    return path


def _label(name: str) -> int:
    parts = name.split("/")
    return CLASSES.index(parts[1]) if parts[0] in COUNTS else -1


def _row(sha256: str, path: Path, name: str, *, seed: int) -> ContentRow:
    generator = np.random.default_rng([seed, int(sha256[:12], 16)])
    features = generator.normal(size=6)
    seems = _label(name) + (path.name in HOSTILE.values())
    features[seems % len(CLASSES)] += 3.5
    with Image.open(path) as image:
        return ContentRow(
            sha256=sha256,
            width=image.width,
            height=image.height,
            phash=int(generator.integers(2**63)),
            thumbnail=np.asarray(image.convert("RGB").resize((32, 32), Image.Resampling.BOX)),
            plain=features.astype(np.float32),
            augmented=None,
        )


@dataclass(frozen=True, kw_only=True)
class PhotoRun:
    """A comparison of two stores of the pictures, with its report."""

    folder: Path
    data: Path
    stores: tuple[Path, Path]
    record: dict[str, Any]

    @property
    def page(self) -> Path:
        return self.folder / "report.html"


@pytest.fixture(scope="session")
def photo_run(tmp_path_factory, store_config) -> PhotoRun:
    """Made once for all tests: none of them may change what is in its folders."""
    base = tmp_path_factory.mktemp("photos")
    data = write_photos(base / "data")
    stores = tuple(
        write_photo_store(base / f"{name}.h5", data, {**store_config, "backbone": name}, seed=seed)
        for seed, name in enumerate(("efficientnet_lite0", "vgg16"))
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FOLIO_CACHE", str(base / "cache"))
        done = compare(
            stores,
            heads=("logreg", "knn", "dense"),
            order=CLASSES,
            dense=DenseOptions(units=(8,), epochs=12, patience=12),
            study=("labels", "learning"),
            out=base / "run",
            jobs=1,
        )
    assert done.notes == ()
    return PhotoRun(folder=done.folder, data=data, stores=stores, record=dict(done.record))
