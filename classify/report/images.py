"""The images of a run, one row an image: what the report says and shows of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from classify.labelling import class_labels
from classify.samples import Samples
from featurize import CompareError, open_store

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False)
class Shown:
    """The graded images of a data set that could be read, in the order of a store's ``/images``.

    Where heads were fitted on images, row i is image i of the samples too. Where the features of an entry's
    images were joined, the samples have one row an entry: `sample` tells which.
    """

    dataset: str
    store: Path  # that has the pictures at 32 × 32
    source: str  # the folder that the store was made from, "" if it does not say
    squashed: bool  # whether those pictures are whole images, stretched to a square
    classes: tuple[str, ...]
    path: list[str]  # (n,) relative to the folder, "/" between parts; undecodable bytes as surrogates
    entry: list[str]
    split: npt.NDArray[np.str_]  # (n,) "train", "val" or "test"; without a test split all "train"
    y: IntArray  # (n,) index into classes
    group: IntArray  # (n,) what no fold may split
    fitted: BoolArray  # (n,) whether heads may be fitted on it
    tested: BoolArray  # (n,) whether it counts in the figures; without a test split what is fitted on does
    sample: IntArray  # (n,) its row in the samples, -1 for none
    content: IntArray  # (n,) row of the store's content table
    sha256: list[str]  # (n,) of the content
    width: IntArray  # (n,) upright pixels
    height: IntArray

    def __len__(self) -> int:
        return len(self.path)


def shown_images(samples: Sequence[Samples], *, store: str | Path) -> Shown:
    """Return the images that the stores of a run hold.

    Parameters
    ----------
    samples : sequence of Samples
        From `classify.loading.load_same_dataset`, all of the same images; the first says what is fitted on.
    store : path-like
        One of the stores they were loaded from: it has hashes, sizes and places of the files.

    Returns
    -------
    Shown

    Raises
    ------
    StoreError
        If the store cannot be read.
    CompareError
        If its images are not those of the samples.
    """
    first = samples[0]
    with open_store(store) as opened:
        images, content = opened.images, opened.content
        _, labels = class_labels(opened, first.classes)
        rows = np.flatnonzero((labels >= 0) & (images.content >= 0))
        sample = _sample_rows(first, [images.path[row] for row in rows], [images.entry[row] for row in rows])
        if sample is None:
            raise CompareError(f"{opened.path}: its images are not those that were compared. Compare anew")
        known = sample >= 0
        of = images.content[rows].astype(np.int64)
        return Shown(
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
            content=of,
            sha256=[content.sha256[row] for row in of],
            width=content.width[of].astype(np.int64),
            height=content.height[of].astype(np.int64),
        )


def data_folder(shown: Shown, *, given: str | Path | None = None) -> Path | None:
    """Return where the images lie: the folder given, else the one the store was made from if it is there.

    Raises
    ------
    CompareError
        If the folder that is given is none.
    """
    if given is not None:
        if not Path(given).is_dir():
            raise CompareError(
                f"{given}: no such folder. Name the one that holds the images of {shown.dataset}"
            )
        return Path(given)
    try:
        return Path(shown.source) if shown.source and Path(shown.source).is_dir() else None
    except (OSError, ValueError):  # a name that this system cannot have
        return None


def _sample_rows(samples: Samples, path: list[str], entry: list[str]) -> IntArray | None:
    """Return the row in the samples of each image, or None where they are of other images."""
    if samples.n_joined is None:
        return np.arange(len(path)) if samples.path == path else None
    number = {name: row for row, name in enumerate(samples.entry)}
    rows = np.array([number.get(name, -1) for name in entry], dtype=np.int64)
    return rows if set(rows.tolist()) >= set(number.values()) else None
