"""A folder tree as a table of images: path, split, class, entry, content hash."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from featurize.errors import ConfigError, DatasetError
from featurize.images.files import UnreadableFile, file_sha256, files_below
from featurize.images.folders import LAYOUTS, SPLITS, Layout, order_classes, read_layout

__all__ = ["ENTRIES", "SPLITS", "Dataset", "ImageFile", "find_images", "load_dataset"]

ENTRIES = ("folder", "image")


@dataclass(frozen=True, kw_only=True)
class ImageFile:
    """One file that is to be an image."""

    path: str  # relative to the root, "/" between parts; undecodable bytes as os.fsdecode gives them
    split: str  # one of SPLITS; "train" where the data set has no split
    class_name: str  # split suffix stripped, NFC-normalised; "" when ungraded
    entry: str  # relative path of the first folder under the class, or the image's own path
    sha256: str  # of the content, hexadecimal; "" when it could not be read
    problem: str  # "" or why it could not be read


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """What a folder tree holds. Nothing in it depends on the order in which the file system lists names."""

    root: Path
    name: str
    images: tuple[ImageFile, ...]  # sorted by the bytes of the path
    classes: tuple[str, ...]  # in label order
    ordered: bool
    has_split: bool  # there is a top-level train folder
    suggested_order: tuple[str, ...] | None  # for --order, when the names look like grades and none was given
    outside: tuple[str, ...]  # files in no class folder, not used
    ignored: int  # hidden names, Thumbs.db and the like passed over; a folder counts once

    def label(self, image: ImageFile) -> int:
        """Return the index of the image's class in `classes`, or -1 for an ungraded image."""
        return self.classes.index(image.class_name) if image.class_name else -1


def load_dataset(
    root: str | os.PathLike[str],
    *,
    entries: str = "folder",
    order: Sequence[str] | None = None,
    on_file: Callable[[int, int], None] | None = None,
    jobs: int = 4,
) -> Dataset:
    """List the images of a folder tree with their splits, classes, entries and content hashes.

    Every visible file under a class folder is listed, whatever its suffix. Linked folders are followed, but
    not back to a folder that they lie in.

    Parameters
    ----------
    root : path-like
        The data set: ``train/CLASS/...`` with ``val``, ``test`` and ``new`` beside it; or ``CLASS/...`` with
        ``new`` beside it; or nothing but images, which are then ungraded.
    entries : {"folder", "image"}, default="folder"
        Whether the first folder under a class is one entry, or each image is.
    order : sequence of str, optional
        All classes, lowest first; makes them ordered.
    on_file : callable, optional
        Called with (files hashed, files in all), in this thread.
    jobs : int, default=4
        Threads that read and hash.

    Returns
    -------
    Dataset

    Raises
    ------
    DatasetError
        If the tree is none of these layouts; the text says where and what to change.
    ConfigError
        If `order` is not exactly the classes, or `entries` is unknown.
    """
    if entries not in ENTRIES:
        raise ConfigError(f"Unknown --entries {entries!r}. Choose one of: {', '.join(ENTRIES)}")
    folder = Path(root)
    if not os.path.isdir(folder):
        what = "not a folder" if os.path.lexists(folder) else "no such folder"
        raise DatasetError(f"{folder}: {what}. Give a folder laid out as {LAYOUTS}")
    layout = read_layout(folder)
    classes = {place.class_name for place in layout.places if place.split == "train"}
    class_order = order_classes(classes, order=order)
    return Dataset(
        root=folder,
        name=folder.resolve().name or "dataset",
        images=tuple(_hashed(layout, entries=entries, on_file=on_file, jobs=jobs)),
        classes=class_order.classes,
        ordered=class_order.ordered,
        has_split=layout.has_split,
        suggested_order=class_order.suggested,
        outside=tuple(sorted(layout.outside, key=os.fsencode)),
        ignored=layout.ignored,
    )


def find_images(root: str | os.PathLike[str]) -> list[str]:
    """Return the relative paths of all visible files below any folder, sorted by their bytes.

    Raises
    ------
    DatasetError
        If a folder cannot be listed.
    """
    files, _ = files_below(Path(root), "")
    return sorted(files, key=os.fsencode)


def _hashed(
    layout: Layout, *, entries: str, on_file: Callable[[int, int], None] | None, jobs: int
) -> Iterator[ImageFile]:
    """Yield the images sorted by the bytes of their paths, each with the hash of its content."""
    rows = [(path, place) for place in layout.places for path in place.files]
    rows.sort(key=lambda row: os.fsencode(row[0]))
    with ThreadPoolExecutor(max_workers=max(1, jobs)) as threads:
        hashes = threads.map(_hash_or_problem, [layout.root / path for path, _ in rows])
        for done, ((path, place), (sha256, problem)) in enumerate(zip(rows, hashes, strict=True), start=1):
            yield ImageFile(
                path=path,
                split=place.split,
                class_name=place.class_name,
                entry=_entry(path, place.folder) if entries == "folder" else path,
                sha256=sha256,
                problem=problem,
            )
            if on_file:
                on_file(done, len(rows))


def _hash_or_problem(path: Path) -> tuple[str, str]:
    try:
        return file_sha256(path), ""
    except UnreadableFile as error:
        return "", error.reason


def _entry(path: str, folder: str) -> str:
    """Return the first folder below the class folder, or the path itself for a file directly in it."""
    below = path[len(folder) :].lstrip("/").split("/")
    return path if len(below) == 1 else f"{folder}/{below[0]}"
