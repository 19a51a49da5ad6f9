"""Write a data set of drawn images with one fault of each kind.

python tests/featurize/dirty_folder.py OUT
"""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance

CLASSES = ("low", "middle", "award")
HOSTILE = "line one\n[red]two[/red] \udcff.jpg"


def draw(seed: int, *, size: tuple[int, int] = (320, 240)) -> Image.Image:
    """Draw soft blobs of colour; seeds differ clearly, and copies of one seed look the same."""
    cells = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(cells).resize(size, Image.Resampling.BICUBIC)


def save(image: Image.Image, path: Path, kind: str = "JPEG", **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        image.save(file, kind, **options)
    return path


def clean_folder(root: Path, *, train: int = 6, test: int = 2) -> Path:
    """Write three classes without faults."""
    for label, name in enumerate(CLASSES):
        for split, count in (("train", train), ("test", test)):
            for number in range(count):
                seed = 1000 * label + 100 * (split == "test") + number
                save(draw(seed), root / split / name / f"{number}.jpg")
    return root


def dirty_folder(root: Path) -> Path:
    """Write a clean folder, then add the faults that are common in practice."""
    train, test = clean_folder(root) / "train", root / "test"
    _copy(train / "low/0.jpg", train / "middle/also low.jpg")  # under two grades
    brighter = ImageEnhance.Brightness(_open(train / "award/1.jpg")).enhance(1.08)
    save(brighter, train / "low/brighter.jpg", quality=60)
    _copy(train / "low/2.jpg", test / "low/seen in train.jpg")  # in two splits
    save(_open(test / "award/0.jpg").resize((250, 230)), train / "award/shrunk.png", "PNG")
    _copy(train / "middle/3.jpg", train / "middle/3 (copy).jpg")
    _copy(test / "middle/1.jpg", test / "middle" / HOSTILE)
    save(_open(train / "award/4.jpg"), train / "award/4 small.jpg", quality=40)
    _copy(train / "award/5.jpg", root / "new/unknown.jpg")

    whole = train.joinpath("low/1.jpg").read_bytes()
    train.joinpath("low/cut short.jpg").write_bytes(whole[: len(whole) // 2])
    train.joinpath("low/text.jpg").write_text("This is not a picture.")
    train.joinpath("middle/empty.png").write_bytes(b"")
    save(draw(90), train / "rare/only one.jpg")

    exif = Image.Exif()
    exif[0x0112] = 6
    save(draw(91), train / "award/phone.jpg", exif=exif)
    save(draw(92), train / "award/scan.tif", "TIFF", exif=exif)
    save(draw(93).convert("CMYK"), train / "middle/print.jpg")
    save(draw(94), train / "middle/screenshot.jpg", "PNG")
    save(draw(95, size=(300, 120)), train / "low/banner.jpg")
    train.joinpath("notes.txt").write_text("ask Kim about these")
    train.joinpath("low/.DS_Store").write_bytes(b"\0")
    return root


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _open(path: Path) -> Image.Image:
    return Image.open(io.BytesIO(path.read_bytes()))


if __name__ == "__main__":
    dirty_folder(Path(sys.argv[1]))
