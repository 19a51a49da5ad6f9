"""What a store should hold, what it holds already, and so what is missing: a run decided before it starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from featurize.backbones import Backbone
from featurize.config import differences, same_but_statistics
from featurize.dataset import Dataset, ImageFile
from featurize.errors import StoreError
from featurize.store import Store, open_store
from featurize.weights import Weights

PLAIN = 0  # the number of the plain view; augmented views count from 1
# Reasons that may be gone at the next run; a file skipped for another is known by its content from then on.
TRANSIENT = (
    "unreadable",
    "changed",
    "timed out",
    "decoder crashed",
    "too many pixels",
    "not a regular file",
)


@dataclass(frozen=True, kw_only=True)
class Target:
    """One store to be."""

    backbone: Backbone
    weights: Weights
    config: dict[str, Any]
    path: Path
    store: Store | None  # what is there now, open
    n_views: int
    missing: dict[str, tuple[int, ...]]  # content → numbers of the views to compute; () when nothing is
    old_row: dict[str, int]  # content → its row in `store`
    old_augmented: dict[str, int]  # content → its row in the store's augmented features
    augmented: frozenset[str]  # contents that will have augmented views
    bad: dict[str, str]  # content → why it was skipped before


def existing_store(path: Path, config: Mapping[str, Any], dataset: Dataset, *, force: bool) -> Store | None:
    """Open the store in this place; refuse one of another config, or of other images.

    Raises
    ------
    StoreError
        If the store was made under another config, or fewer than half of its contents are in the data set and
        ``force`` is off.
    """
    if not path.exists():
        return None
    store = open_store(path)
    try:
        if not same_but_statistics(store.config, config):
            listed = "; ".join(map(str, differences(store.config, config)))
            raise StoreError(
                f"{path} holds features of another config: {listed}. Keep both with: --out FOLDER"
            )
        stored = set(store.content.sha256)
        found = len(stored & {image.sha256 for image in dataset.images})
        if 2 * found < len(stored) and not force:
            source = store.created_with.get("data", "another folder")
            raise StoreError(
                f"{path}: only {found} of its {len(stored)} pictures are in {dataset.root}; it was made from "
                f"{source}. Another data set, or an unmounted drive? "
                "Go on with --replace, or keep both with --out FOLDER"
            )
    except StoreError:
        store.close()
        raise
    return store


def keep_stored_order(dataset: Dataset, store: Store | None) -> Dataset:
    """Return the data set with the class order an earlier run settled, if the classes are still the same."""
    if store is None or dataset.ordered or not store.ordered or set(store.classes) != set(dataset.classes):
        return dataset
    return replace(dataset, classes=store.classes, ordered=True, suggested_order=None)


def plan(
    dataset: Dataset,
    *,
    backbone: Backbone,
    weights: Weights,
    config: dict[str, Any],
    path: Path,
    store: Store | None,
    views: int,
    views_for: str,
) -> Target:
    """Work out which views of which contents are missing from the store."""
    old_row: dict[str, int] = {}
    old_augmented: dict[str, int] = {}
    bad: dict[str, str] = {}
    stored_views = 0
    if store is not None:
        names = store.content.sha256
        old_row = {sha256: row for row, sha256 in enumerate(names)}
        old_augmented = {names[content]: row for row, content in enumerate(store.augmented_content)}
        bad = _bad_contents(store)
        stored_views = store.n_views
    n_views = max(views, stored_views)
    wanting = {image.sha256 for image in dataset.images if views_for == "all" or image.split == "train"}
    missing: dict[str, tuple[int, ...]] = {}
    augmented = set()
    for sha256 in contents(dataset):
        if sha256 in bad:
            continue
        there = stored_views if sha256 in old_augmented else 0
        has_views = n_views > 0 and (sha256 in wanting or there == n_views)
        if has_views:
            augmented.add(sha256)
        new_views = tuple(range(there + 1, n_views + 1)) if has_views else ()
        missing[sha256] = new_views if sha256 in old_row else (PLAIN, *new_views)
    return Target(
        backbone=backbone,
        weights=weights,
        config=store.config if store is not None else config,
        path=path,
        store=store,
        n_views=n_views,
        missing=missing,
        old_row=old_row,
        old_augmented=old_augmented,
        augmented=frozenset(augmented),
        bad=bad,
    )


def contents(dataset: Dataset) -> dict[str, ImageFile]:
    """Return one file for each distinct content, sorted by its SHA-256."""
    first: dict[str, ImageFile] = {}
    for image in dataset.images:
        if image.sha256 and not image.problem:
            first.setdefault(image.sha256, image)
    return dict(sorted(first.items()))


def is_transient(reason: str) -> bool:
    """Tell whether a skipped file may be readable at the next run."""
    return reason.startswith(TRANSIENT)


def _bad_contents(store: Store) -> dict[str, str]:
    images = store.images
    known: Sequence[tuple[str, str]] = list(zip(images.sha256, images.skipped, strict=True))
    return {sha256: reason for sha256, reason in known if sha256 and reason and not is_transient(reason)}
