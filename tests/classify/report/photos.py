"""A small data set of real picture files with a store that knows their hashes, sizes and thumbnails."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

import numpy as np
from PIL import Image

from featurize import ContentRow, ImageTable, config_digest, write_store

HOSTILE = "<img src=x onerror=alert(1)>.jpg"
CLASSES = ("award", "low")


def picture(seed: int, *, size: tuple[int, int] = (320, 240)) -> Image.Image:
    """Draw soft blobs of colour: no two seeds look alike."""
    cells = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(cells).resize(size, Image.Resampling.BICUBIC)


def photo_folder(root: Path) -> Path:
    """Six training and three test pictures a class, a copy, a picture without a grade, a broken file."""
    for label, name in enumerate(CLASSES):
        for split, count in (("train", 6), ("test", 3)):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                seed = 100 * label + 10 * (split == "test") + number
                picture(seed).save(folder / f"{number}.jpg", quality=90)
    picture(7, size=(100, 400)).save(root / "train" / "low" / HOSTILE, "JPEG")
    (root / "train/award/copy.jpg").write_bytes((root / "train/award/0.jpg").read_bytes())
    (root / "new").mkdir()
    picture(8).save(root / "new" / "unknown.jpg")
    (root / "train/low/broken.jpg").write_text("no picture")
    return root


def write_photo_store(path: Path, root: Path, *, n_features: int = 6, per_entry: bool = False) -> Path:
    """Write the store that extraction would make of such a folder, with features that are drawn."""
    names = sorted(file.relative_to(root).as_posix() for file in root.rglob("*") if file.is_file())
    data = {name: (root / name).read_bytes() for name in names}
    sha256 = {name: hashlib.sha256(content).hexdigest() for name, content in data.items()}
    good = {sha256[name]: root / name for name in names if "broken" not in name}
    contents = sorted(good)
    rows = [_row(content, good[content], n_features=n_features) for content in contents]
    parts = [name.split("/") for name in names]
    images = ImageTable(
        path=names,
        sha256=[sha256[name] for name in names],
        content=np.array(
            [contents.index(sha256[n]) if sha256[n] in good else -1 for n in names], dtype=np.int64
        ),
        label=np.array([-1 if p[0] == "new" else CLASSES.index(p[1]) for p in parts], dtype=np.int16),
        split=[p[0] for p in parts],
        entry=[
            f"{p[0]}/{p[1]}/pair {int(p[-1][0]) // 2}" if per_entry and p[-1][0].isdigit() else n
            for n, p in zip(names, parts, strict=True)
        ],
        skipped=["" if sha256[name] in good else "not an image" for name in names],
    )
    settled = {**_config(), "input_size": 224}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_store(
        path,
        config=settled,
        config_digest=config_digest(settled),
        rows=rows,
        n_views=0,
        n_features=n_features,
        images=images,
        classes=CLASSES,
        ordered=False,
        created_with={"dataset": "photos", "data": str(root)},
    )
    return path


def _row(sha256: str, path: Path, *, n_features: int) -> ContentRow:
    generator = np.random.default_rng(int(sha256[:12], 16))
    with Image.open(path) as image:
        return ContentRow(
            sha256=sha256,
            width=image.width,
            height=image.height,
            phash=int(generator.integers(2**63)),
            thumbnail=np.asarray(image.convert("RGB").resize((32, 32), Image.Resampling.BOX)),
            plain=generator.normal(size=n_features).astype(np.float32),
            augmented=None,
        )


def _config() -> dict:
    """Return the config of the synthetic stores, from the file that writes them."""
    place = Path(__file__).parents[1] / "conftest.py"
    specification = importlib.util.spec_from_file_location("synthetic_stores", place)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return dict(module.CONFIG)
