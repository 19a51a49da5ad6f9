"""The images of a run, one row an image: what the report says and shows of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
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
from featurize.images.duplicates import connected_components
from featurize.store.reader import open_store


@dataclass(frozen=True, kw_only=True, eq=False)
class RunImages:
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


def run_images(samples: Sequence[Samples], *, store: str | Path) -> RunImages:
    """Return the images that the stores of a run hold.

    Parameters
    ----------
    samples : sequence of Samples
        From `classify.data.load.load_same_dataset`, all of the same images; the first says what is fitted on.
    store : path-like
        One of the stores they were loaded from: it has hashes, sizes and places of the files.

    Returns
    -------
    RunImages

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
            content=of,
            sha256=[content.sha256[row] for row in of],
            width=content.width[of].astype(np.int64),
            height=content.height[of].astype(np.int64),
        )


def data_folder(shown: RunImages, *, given: str | Path | None = None) -> Path | None:
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


MOST_SKIPPED = 50  # files that are listed; all are counted


def dataset_summary(
    samples: Sequence[Samples], shown: RunImages, record: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the facts of intake.

    Parameters
    ----------
    samples : sequence of Samples
        Of the run's stores, from `classify.data.load.load_same_dataset`.
    shown : RunImages
        Their images.
    record : mapping
        The run's results.json.

    Returns
    -------
    dict
        Plain JSON; names from the file system as `featurize.printable` shows them.

        ``splits``, ``rows``: names of the splits; of each class its ``name`` and ``counts``, the graded
        images that could be read, split by split. ``n_images``, ``n_entries``, ``n_files``: of those images,
        of their entries, and with the files that could not be read. ``n_fitted``, ``n_tested``: images that
        heads may be fitted on, and that count in the figures. ``n_skipped``, ``skipped``: graded or not,
        files that could not be read, and the first of them with the reason. ``n_ungraded``: images without a
        grade that could be read. ``lines``: what was left out and what is odd, in sentences.
        ``sizes``: ``min``, ``median`` and ``max`` of ``width``, ``height`` and megapixels, null where there
        is no image; ``n_small``: images with a side below the network's input, ``input_size``.
        ``n_copies``: images beyond the first of each content. ``n_alike``, ``n_in_alike``: sets of different
        files that show the same picture, and images in them. ``n_portfolios``: entries of several images.

    Raises
    ------
    StoreError
        If the store cannot be read.
    """
    with open_store(shown.store) as store:
        images, size = store.images, int(store.config["input_size"])
        graded = images.label >= 0
        read = images.content >= 0
        skipped = [
            (printable(images.path[row]), printable(images.skipped[row])) for row in np.flatnonzero(~read)
        ]
        split = np.array(images.split, dtype=np.str_)[graded & read]
        facts = [printable(line) for line in record.get("facts") or _lines(samples)]
        splits = [name for name in SPLITS if np.any(split == name)]
        n_alike, n_in_alike = _alike(samples, shown)
        return {
            "splits": splits,
            "rows": [
                {
                    "name": printable(name),
                    "counts": [int(np.sum((split == one) & (shown.y == k))) for one in splits],
                }
                for k, name in enumerate(shown.classes)
            ],
            "n_files": len(images),
            "n_images": len(shown),
            "n_entries": len(set(shown.entry)),
            "n_fitted": int(shown.fitted.sum()),
            "n_tested": int(shown.tested.sum()),
            "n_ungraded": int(np.sum(~graded & read)),
            "n_skipped": len(skipped),
            "skipped": skipped[:MOST_SKIPPED],
            "lines": facts,
            "sizes": _sizes(shown),
            "n_small": int(np.sum(np.minimum(shown.width, shown.height) < size)),
            "input_size": size,
            "n_copies": len(shown) - len(set(shown.sha256)),
            "n_alike": n_alike,
            "n_in_alike": n_in_alike,
            "n_portfolios": sum(n > 1 for n in Counter(shown.entry).values()),
        }


def _lines(samples: Sequence[Samples]) -> list[str]:
    return list(dict.fromkeys(line for one in samples for line in one.facts.lines()))


def _alike(samples: Sequence[Samples], shown: RunImages) -> tuple[int, int]:
    """Count the sets of different files that show the same picture in any store, and the images in them."""
    row = {path: k for k, path in enumerate(shown.path)}
    pairs = {pair for one in samples for pair in one.facts.near_duplicates}
    copies = np.unique(np.array(shown.sha256, dtype=np.str_), return_inverse=True)[1].reshape(-1)
    links = np.array([(copies[row[a]], copies[row[b]]) for a, b in sorted(pairs)], dtype=np.int64)
    n_contents = int(copies.max(initial=-1)) + 1
    alike = connected_components(n_contents, links.reshape(-1, 2))  # of each content
    several = np.bincount(alike) > 1
    return int(several.sum()), int(several[alike][copies].sum())


def _sizes(shown: RunImages) -> dict[str, dict[str, float]] | None:
    if not len(shown):
        return None
    megapixels = shown.width * shown.height / 1e6
    return {
        name: {
            "min": round(float(values.min()), digits),
            "median": round(float(np.median(values)), digits),
            "max": round(float(values.max()), digits),
        }
        for name, values, digits in (
            ("width", shown.width, 1),
            ("height", shown.height, 1),
            ("megapixels", megapixels, 2),
        )
    }
