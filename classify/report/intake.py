"""What is to be known of a run's images before any figure: how many, which were left out, how large."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from classify.labelling import SPLITS
from classify.report.images import Shown
from classify.samples import Samples
from featurize import join, open_store, printable

MOST_SKIPPED = 50  # files that are listed; all are counted


def intake(samples: Sequence[Samples], shown: Shown, record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts of intake.

    Parameters
    ----------
    samples : sequence of Samples
        Of the run's stores, from `classify.loading.load_same_dataset`.
    shown : Shown
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


def _alike(samples: Sequence[Samples], shown: Shown) -> tuple[int, int]:
    """Count the sets of different files that show the same picture in any store, and the images in them."""
    row = {path: k for k, path in enumerate(shown.path)}
    pairs = {pair for one in samples for pair in one.facts.near_duplicates}
    copies = np.unique(np.array(shown.sha256, dtype=np.str_), return_inverse=True)[1].reshape(-1)
    links = np.array([(copies[row[a]], copies[row[b]]) for a, b in sorted(pairs)], dtype=np.int64)
    n_contents = int(copies.max(initial=-1)) + 1
    alike = join(n_contents, links.reshape(-1, 2))  # of each content
    several = np.bincount(alike) > 1
    return int(several.sum()), int(several[alike][copies].sum())


def _sizes(shown: Shown) -> dict[str, dict[str, float]] | None:
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
