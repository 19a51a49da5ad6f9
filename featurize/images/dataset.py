"""Data set: the images of a folder tree with path, split, class, entry and content hash."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from featurize.errors import ConfigError, DatasetError
from featurize.images.files import UnreadableFile, file_sha256, files_below
from featurize.images.folders import LAYOUTS, Layout, order_classes, read_layout

ENTRIES = ("folder", "image")


@dataclass(frozen=True, kw_only=True)
class ImageFile:
    """One file in a class folder; it need not be a readable image."""

    path: str  # relative to the root, "/" between parts; undecodable bytes as os.fsdecode gives them
    split: str  # one of `featurize.images.folders.SPLITS`; "train" if the data set has no splits
    class_name: str  # without the split suffix, NFC-normalised; "" if ungraded
    entry: str  # relative path of the first folder below the class folder, or the path of the image
    sha256: str  # of the content, hexadecimal; "" if the file could not be read
    problem: str  # "" or the reason why the file could not be read


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Images and classes of a folder tree, independent of the order in which folders are listed."""

    root: Path
    name: str
    images: tuple[ImageFile, ...]  # sorted by the bytes of the path
    classes: tuple[str, ...]  # in label order
    ordered: bool
    has_split: bool  # whether there is a top-level train folder
    suggested_order: tuple[str, ...] | None  # for --order; None if an order was given or none is likely
    outside: tuple[str, ...]  # unused files, which are in no class folder
    ignored: int  # number of hidden and system names, such as Thumbs.db; a folder counts once

    def label(self, image: ImageFile) -> int:
        """Return the label of an image: the index of its class in `classes`, or -1 if it is ungraded."""
        return self.classes.index(image.class_name) if image.class_name else -1

    @cached_property
    def distinct_contents(self) -> dict[str, ImageFile]:
        """One readable image per distinct content: SHA-256 → its first image, sorted by SHA-256."""
        first: dict[str, ImageFile] = {}
        for image in self.images:
            if image.sha256 and not image.problem:
                first.setdefault(image.sha256, image)
        return dict(sorted(first.items()))


def load_dataset(
    root: str | os.PathLike[str],
    *,
    entries: str = "folder",
    order: Sequence[str] | None = None,
    on_file: Callable[[int, int], None] | None = None,
    jobs: int = 4,
) -> Dataset:
    """List the images of a folder tree with their splits, classes, entries and content hashes.

    Every visible file below a class folder is listed, whatever its suffix. Symbolic links to folders are
    followed, unless they lead back to a folder that contains them.

    Parameters
    ----------
    root : path-like
        The data set: ``train/CLASS/...``, optionally with ``val``, ``test`` and ``new``; or ``CLASS/...``,
        optionally with ``new``; or only images, which are then ungraded.
    entries : {"folder", "image"}, default="folder"
        "folder": each first folder below a class folder is one entry; "image": each image is.
    order : sequence of str, optional
        All classes from lowest to highest. The classes are then ordered.
    on_file : callable, optional
        Called with (number of hashed files, number of files), in the calling thread.
    jobs : int, default=4
        Number of threads that read and hash files.

    Returns
    -------
    Dataset

    Raises
    ------
    DatasetError
        If the tree has none of these layouts; the message says where and what to change.
    ConfigError
        If `order` does not list exactly the classes, or `entries` is invalid.
    """
    if entries not in ENTRIES:
        raise ConfigError(f"Unknown --entries {entries!r}. Choose one of: {', '.join(ENTRIES)}")
    path = Path(root)
    if not os.path.isdir(path):
        what = "not a folder" if os.path.lexists(path) else "no such folder"
        raise DatasetError(f"{path}: {what}. Give a folder with the layout {LAYOUTS}")
    layout = read_layout(path)
    classes = {folder.class_name for folder in layout.class_folders if folder.split == "train"}
    class_order = order_classes(classes, order=order)
    return Dataset(
        root=path,
        name=path.resolve().name or "dataset",
        images=tuple(_hashed(layout, entries=entries, on_file=on_file, jobs=jobs)),
        classes=class_order.classes,
        ordered=class_order.ordered,
        has_split=layout.has_split,
        suggested_order=class_order.suggested,
        outside=tuple(sorted(layout.outside, key=os.fsencode)),
        ignored=layout.ignored,
    )


def find_images(root: str | os.PathLike[str]) -> list[str]:
    """Return the relative paths of all visible files below a folder, sorted by their bytes.

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
    rows = [(path, folder) for folder in layout.class_folders for path in folder.files]
    rows.sort(key=lambda row: os.fsencode(row[0]))
    with ThreadPoolExecutor(max_workers=max(1, jobs)) as threads:
        hashes = threads.map(_hash_or_problem, [layout.root / path for path, _ in rows])
        for done, ((path, folder), (sha256, problem)) in enumerate(zip(rows, hashes, strict=True), start=1):
            yield ImageFile(
                path=path,
                split=folder.split,
                class_name=folder.class_name,
                entry=_entry(path, folder.folder) if entries == "folder" else path,
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
    """Return the first folder below the class folder, or the path of a file directly in it."""
    below = path[len(folder) :].lstrip("/").split("/")
    return path if len(below) == 1 else f"{folder}/{below[0]}"
