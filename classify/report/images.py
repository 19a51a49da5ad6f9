"""The images of a run, the data set summary, and the images that the page shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from classify.data.labels import SPLITS, class_labels
from classify.data.samples import Samples
from classify.errors import CompareError
from featurize.base.text import printable
from featurize.base.typing import BoolArray, IntArray
from featurize.store.reader import open_store


@dataclass(frozen=True, kw_only=True, eq=False)
class RunImages:
    """The readable graded images of a data set, in the order of ``/images`` in a store.

    If heads were fitted on images, row i is also image i of the samples. If the features of an entry's images
    were averaged, the samples have one row per entry; `sample` has the row of each image.
    """

    dataset: str
    store: Path  # store with thumbnails of 32 × 32 pixels
    source: str  # folder that the store was extracted from, "" if unknown
    squashed: bool  # whether the thumbnails are whole images, resized to a square
    classes: tuple[str, ...]
    path: list[str]  # (n,) relative to the folder, with "/"; undecodable bytes as surrogates
    entry: list[str]
    split: npt.NDArray[np.str_]  # (n,) "train", "val" or "test"; without a test split all "train"
    y: IntArray  # (n,) index into classes
    group: IntArray  # (n,) folds never separate images of one group
    fitted: BoolArray  # (n,) whether heads may be fitted on the image
    tested: BoolArray  # (n,) whether metrics include the image; without a test split the same as `fitted`
    sample: IntArray  # (n,) row of the image in the samples, -1 for none
    content: IntArray  # (n,) row in the store's content table
    sha256: list[str]  # (n,) of the content
    width: IntArray  # (n,) in pixels, after EXIF rotation
    height: IntArray

    def __len__(self) -> int:
        return len(self.path)


def run_images(samples: Sequence[Samples], *, store: str | Path) -> RunImages:
    """Return the images in the stores of a run.

    Parameters
    ----------
    samples : sequence of Samples
        From `classify.data.load.load_same_dataset`. The first one defines which images are fitted on.
    store : path-like
        One of the stores of the samples, for hashes, sizes and paths of the files.

    Returns
    -------
    RunImages

    Raises
    ------
    StoreError
        If the store cannot be read.
    CompareError
        If its images differ from those of the samples.
    """
    first = samples[0]
    with open_store(store) as opened:
        images, content = opened.images, opened.content
        _, labels = class_labels(opened, first.classes)
        rows = np.flatnonzero((labels >= 0) & (images.content >= 0))
        sample = _sample_rows(first, [images.path[row] for row in rows], [images.entry[row] for row in rows])
        if sample is None:
            raise CompareError(
                f"{opened.path}: its images differ from those of the comparison. Run classify compare again"
            )
        known = sample >= 0
        content_row = images.content[rows].astype(np.int64)
        return RunImages(
            dataset=first.dataset,
            store=Path(store),
            source=str(opened.created_with.get("data") or ""),
            squashed=opened.config.get("resize") == "squash",
            classes=first.classes,
            path=[images.path[row] for row in rows],
            entry=[images.entry[row] for row in rows],
            split=np.array([images.split[row] if first.has_test else "train" for row in rows], dtype=np.str_),
            y=labels[rows],
            group=np.where(known, first.group[sample], -1),
            fitted=known & first.fit[sample],
            tested=known & (first.scored if first.has_test else first.fit)[sample],
            sample=sample,
            content=content_row,
            sha256=[content.sha256[row] for row in content_row],
            width=content.width[content_row].astype(np.int64),
            height=content.height[content_row].astype(np.int64),
        )


def data_folder(images: RunImages, *, given: str | Path | None = None) -> Path | None:
    """Return the folder of the images: the given one, else the folder of the extraction if it exists.

    Raises
    ------
    CompareError
        If the given path is not a folder.
    """
    if given is not None:
        if not Path(given).is_dir():
            raise CompareError(
                f"{given}: no such folder. Pass the folder with the images of {images.dataset}"
            )
        return Path(given)
    try:
        return Path(images.source) if images.source and Path(images.source).is_dir() else None
    except (OSError, ValueError):  # the name is invalid on this system
        return None


def _sample_rows(samples: Samples, path: list[str], entry: list[str]) -> IntArray | None:
    """Return the row of each image in the samples, or None if the samples have other images."""
    if samples.n_joined is None:
        return np.arange(len(path)) if samples.path == path else None
    number = {name: row for row, name in enumerate(samples.entry)}
    rows = np.array([number.get(name, -1) for name in entry], dtype=np.int64)
    return rows if set(rows.tolist()) >= set(number.values()) else None


MAX_SKIPPED = 50  # skipped files that are listed; all are counted


def dataset_summary(run: RunImages) -> dict[str, Any]:
    """Return the number of images per class and split, and the files that could not be read.

    Parameters
    ----------
    run : RunImages
        Images of the run.

    Returns
    -------
    dict
        JSON data; file names are printable. ``splits``: names of the splits. ``rows``: per class its ``name``
        and ``counts``, the number of readable graded images per split. ``n_skipped``: number of files, graded
        or not, that could not be read. ``skipped``: path and reason of the first of them.

    Raises
    ------
    StoreError
        If the store cannot be read.
    """
    with open_store(run.store) as store:
        images = store.images
        readable = images.content >= 0
        skipped = [
            (printable(images.path[row]), printable(images.skipped[row])) for row in np.flatnonzero(~readable)
        ]
        split = np.array(images.split, dtype=np.str_)[(images.label >= 0) & readable]
    splits = [name for name in SPLITS if np.any(split == name)]
    return {
        "splits": splits,
        "rows": [
            {
                "name": printable(name),
                "counts": [int(np.sum((split == split_name) & (run.y == k))) for split_name in splits],
            }
            for k, name in enumerate(run.classes)
        ],
        "n_skipped": len(skipped),
        "skipped": skipped[:MAX_SKIPPED],
    }


@dataclass(frozen=True, kw_only=True)
class ShownImages:
    """Images that the page shows; rows of `path`, `split`, `y` and `picture` are images."""

    path: Sequence[str] = ()
    split: Sequence[str] = ()
    y: Sequence[int] = ()
    picture: Sequence[int] = ()  # index into `pictures`, -1 for none
    pictures: Sequence[str] = ()  # thumbnails as data: addresses
    entries: Sequence[int]  # indices of the tested entries that are shown
    entry_images: Sequence[Sequence[int]]  # images of each shown entry
    entry_split: Sequence[str]
    maps: Mapping[str, Any] = field(default_factory=dict)  # store → image, x, y, method
    # Store → per shown entry, its most similar training images: image, similarity, image, similarity, …
    nearest: Mapping[str, Any] = field(default_factory=dict)
    doubtful: Sequence[Mapping[str, Any]] = ()
    why_no_map: str = ""
    notes: tuple[str, ...] = ()  # parts that are not shown, with reasons

    def without_unused(self) -> ShownImages:
        """Return the same without unused images; the other images are renumbered."""
        used = sorted(
            {
                *(image for group in self.entry_images for image in group),
                *(image for positions in self.maps.values() for image in positions["image"]),
                *(int(image) for rows in self.nearest.values() for pairs in rows for image in pairs[::2]),
                *(image for row in self.doubtful for image in row["images"]),
                *(int(image) for row in self.doubtful for image in row["near"][::2]),
            }
        )
        number = {image: k for k, image in enumerate(used)}

        def renumber_pairs(pairs: Sequence[float]) -> list[float]:
            return [number[int(value)] if k % 2 == 0 else value for k, value in enumerate(pairs)]

        return replace(
            self,
            path=[self.path[image] for image in used],
            split=[self.split[image] for image in used],
            y=[self.y[image] for image in used],
            picture=[self.picture[image] for image in used],
            entry_images=[[number[image] for image in group] for group in self.entry_images],
            maps={
                name: {**positions, "image": [number[image] for image in positions["image"]]}
                for name, positions in self.maps.items()
            },
            nearest={name: [renumber_pairs(pairs) for pairs in rows] for name, rows in self.nearest.items()},
            doubtful=[
                {
                    **row,
                    "images": [number[image] for image in row["images"]],
                    "near": renumber_pairs(row["near"]),
                }
                for row in self.doubtful
            ],
        )
