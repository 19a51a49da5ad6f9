"""Images of the benchmark: a tree that every arm can read, and reduced or replicated copies of it."""

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
class BenchImages:
    """A tree ``SPLIT/CLASS/FILE`` of distinct graded images that every arm can read."""

    root: Path
    files: tuple[tuple[str, str, Path], ...]  # split, class, file
    left_out: int  # images of the data set that not every arm can read

    @property
    def counts(self) -> dict[str, int]:
        """Number of images per split."""
        return {split: sum(name == split for name, _, _ in self.files) for split in SPLITS}

    def n_renderings(self, views: int) -> int:
        """Return the number of forward passes for this number of augmented views per training image."""
        return len(self.files) + views * self.counts["train"]


def make_sample(folder: Path, *, images: int) -> Path:
    """Generate the sample portfolio, the default data set."""
    script = Path(__file__).parents[1] / "make_sample.py"
    subprocess.run([sys.executable, str(script), str(folder), "--images", str(images)], check=True)
    return folder


def readable_images(data: Path, root: Path, *, limit: int | None) -> BenchImages:
    """Link the images that every arm can read into a new tree.

    Excluded are formats other than JPEG and PNG, modes other than RGB and gray, damaged files and duplicates:
    Keras stops at some of these, and Folio computes duplicates only once.

    Parameters
    ----------
    data : Path
        Data set as for ``featurize extract``. Validation images count as test images; without either, every
        fourth image of a class is a test image.
    root : Path
        Folder of the new tree.
    limit : int, optional
        Maximum number of images, taken evenly from each class of each split.
    """
    found: dict[tuple[str, str], list[Path]] = defaultdict(list)
    digests: set[str] = set()
    scanned = dataset.load_dataset(data)
    for image in scanned.images:
        path = data / image.path
        if image.class_name and image.sha256 not in digests and _is_readable(path):
            digests.add(image.sha256)
            found["train" if image.split == "train" else "test", image.class_name].append(path)
    if not any(split == "test" for split, _ in found):
        found = {
            (split, class_name): paths[start::4] if split == "test" else _without_every_fourth(paths)
            for (_, class_name), paths in found.items()
            for split, start in (("train", 0), ("test", 3))
        }
    chosen: dict[tuple[str, str], list[Path]] = dict(found)
    if limit is not None and limit < len(digests):
        fraction = limit / len(digests)
        chosen = {
            key: evenly_spaced(paths, max(2, round(fraction * len(paths)))) for key, paths in found.items()
        }
    files = []
    for (split, class_name), paths in sorted(chosen.items()):
        for number, path in enumerate(paths):
            with Image.open(path) as image:
                ending = READ_BY_KERAS[image.format or ""]
            target = root / split / class_name / f"{number:05d}{ending}"
            target.parent.mkdir(parents=True, exist_ok=True)
            _link(path, target)
            files.append((split, class_name, target))
    return BenchImages(root=root, files=tuple(files), left_out=len(scanned.images) - len(digests))


def evenly_spaced(paths: list[Path], n: int) -> list[Path]:
    """Return n evenly spaced elements of the list."""
    return [paths[i * len(paths) // n] for i in range(min(n, len(paths)))]


def reduced(images: BenchImages, root: Path, *, limit: int) -> BenchImages:
    """Return a tree of about this many of the images."""
    return readable_images(images.root, root, limit=limit)


def replicated(images: BenchImages, root: Path, *, times: int) -> BenchImages:
    """Return a tree with this many distinct copies of every image, each as expensive to decode."""
    files = []
    for (split, class_name, path), copy in itertools.product(images.files, range(times)):
        target = root / split / class_name / f"{path.stem}_{copy:03d}{path.suffix}"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(with_comment(path.read_bytes(), f"copy {copy}".encode()))
        files.append((split, class_name, target))
    return BenchImages(root=root, files=tuple(files), left_out=0)


def with_comment(content: bytes, comment: bytes) -> bytes:
    """Return an image file with a comment inserted: different bytes, the same pixels.

    Parameters
    ----------
    content : bytes
        A JPEG or PNG file.
    comment : bytes
        Less than 64 KiB of ASCII.
    """
    if content.startswith(b"\xff\xd8"):  # JPEG: a COM segment after the start-of-image marker
        return content[:2] + b"\xff\xfe" + struct.pack(">H", len(comment) + 2) + comment + content[2:]
    if content.startswith(b"\x89PNG"):  # a tEXt chunk after IHDR, the first chunk, of 25 bytes
        chunk = b"tEXt" + b"Comment\0" + comment
        framed = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        return content[:33] + framed + content[33:]
    raise ValueError("expected a JPEG or PNG file")


def _without_every_fourth(paths: list[Path]) -> list[Path]:
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
    except OSError:  # another file system, or no permission
        shutil.copyfile(path, target)
