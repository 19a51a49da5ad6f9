"""The images of a run for the report, and the data set summary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
