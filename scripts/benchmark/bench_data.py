"""The pictures of the benchmark: a tree that every arm can read, smaller or larger ones of the same kind."""

from __future__ import annotations

import itertools
import os
import shutil
import struct
import subprocess
import sys
import zlib
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from featurize.images import dataset

READ_BY_KERAS = {"JPEG": ".jpg", "PNG": ".png"}
SPLITS = ("train", "test")


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """A tree ``SPLIT/CLASS/FILE``: graded pictures, all different, that every arm reads."""

    root: Path
    files: tuple[tuple[str, str, Path], ...]  # split, class, file
    left_out: int  # of the folder that was named

    @property
    def counts(self) -> dict[str, int]:
        """Pictures a split."""
        return {split: sum(one == split for one, _, _ in self.files) for split in SPLITS}

    def forward(self, views: int) -> int:
        """Return how many renderings go through the network with that many augmented views for training."""
        return len(self.files) + views * self.counts["train"]


def make_sample(folder: Path, *, images: int) -> Path:
    """Draw the sample portfolio, for where no folder is named."""
    script = Path(__file__).parents[1] / "make_sample.py"
    subprocess.run([sys.executable, str(script), str(folder), "--images", str(images)], check=True)
    return folder


def readable_pictures(data: Path, root: Path, *, limit: int | None) -> Pictures:
    """Link what every arm can read into a tree of its own.

    Left out are other formats than JPEG and PNG, other modes than RGB and gray, damaged files and second
    copies: Keras stops at some of these, and Folio computes a content once.

    Parameters
    ----------
    data : Path
        As ``featurize extract`` takes it. Val counts as test; without either, every fourth
        picture of a class is test.
    root : Path
        Where to.
    limit : int, optional
        Most pictures, taken evenly from each class of each split.
    """
    found: dict[tuple[str, str], list[Path]] = defaultdict(list)
    seen: set[str] = set()
    scanned = dataset.load_dataset(data)
    for image in scanned.images:
        path = data / image.path
        if image.class_name and image.sha256 not in seen and _is_readable(path):
            seen.add(image.sha256)
            found["train" if image.split == "train" else "test", image.class_name].append(path)
    if not any(split == "test" for split, _ in found):
        found = {
            (split, class_name): paths[start::4] if split == "test" else _but_every_fourth(paths)
            for (_, class_name), paths in found.items()
            for split, start in (("train", 0), ("test", 3))
        }
    chosen: dict[tuple[str, str], list[Path]] = dict(found)
    if limit is not None and limit < len(seen):
        share = limit / len(seen)
        chosen = {place: evenly(paths, max(2, round(share * len(paths)))) for place, paths in found.items()}
    files = []
    for (split, class_name), paths in sorted(chosen.items()):
        for number, path in enumerate(paths):
            with Image.open(path) as image:
                ending = READ_BY_KERAS[image.format or ""]
            target = root / split / class_name / f"{number:05d}{ending}"
            target.parent.mkdir(parents=True, exist_ok=True)
            _link(path, target)
            files.append((split, class_name, target))
    return Pictures(root=root, files=tuple(files), left_out=len(scanned.images) - len(seen))


def evenly(paths: list[Path], n: int) -> list[Path]:
    """Return n of the paths, spread over them."""
    return [paths[i * len(paths) // n] for i in range(min(n, len(paths)))]


def smaller(pictures: Pictures, root: Path, *, images: int) -> Pictures:
    """Return a tree of about that many of the pictures."""
    return readable_pictures(pictures.root, root, limit=images)


def multiplied(pictures: Pictures, root: Path, *, times: int) -> Pictures:
    """Return a tree with every picture so many times, no two files equal; each costs the same to decode."""
    files = []
    for (split, class_name, path), copy in itertools.product(pictures.files, range(times)):
        target = root / split / class_name / f"{path.stem}_{copy:03d}{path.suffix}"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(with_comment(path.read_bytes(), f"copy {copy}".encode()))
        files.append((split, class_name, target))
    return Pictures(root=root, files=tuple(files), left_out=0)


def with_comment(content: bytes, comment: bytes) -> bytes:
    """Return the file with a comment in it: other bytes, the same pixels.

    Parameters
    ----------
    content : bytes
        A JPEG or PNG file.
    comment : bytes
        Less than 64 KiB of ASCII.
    """
    if content.startswith(b"\xff\xd8"):  # JPEG: a COM segment straight after the start of the image
        return content[:2] + b"\xff\xfe" + struct.pack(">H", len(comment) + 2) + comment + content[2:]
    if content.startswith(b"\x89PNG"):  # a tEXt chunk after IHDR, which is the first and 25 bytes long
        chunk = b"tEXt" + b"Comment\0" + comment
        framed = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        return content[:33] + framed + content[33:]
    raise ValueError("expected a JPEG or PNG file")


def _but_every_fourth(paths: list[Path]) -> list[Path]:
    return [path for number, path in enumerate(paths) if number % 4 != 3]


def _is_readable(path: Path) -> bool:
    try:
        with Image.open(path) as image:
            image.load()
            return image.format in READ_BY_KERAS and image.mode in ("RGB", "L")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False


def _link(path: Path, target: Path) -> None:
    try:
        os.link(path, target)
    except OSError:  # another file system, or no right to
        shutil.copyfile(path, target)
