"""Plans of a run: the contents and views that each store will have, and those that must be computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from featurize.backbones.registry import Backbone
from featurize.backbones.weights import Weights
from featurize.config import config_digest, differences, with_earlier_choices
from featurize.errors import ConfigError, StoreError
from featurize.images.augment import PLAIN
from featurize.images.dataset import Dataset
from featurize.images.skip_reasons import is_transient
from featurize.store.columns import LevelColumns
from featurize.store.parts import PartIndex, RunChoices, load_run_choices, parts_folder
from featurize.store.reader import ImageTable, Store, open_store

# A store records their versions, and workers of one run must agree on them.
FEATURE_PACKAGES = ("tensorflow", "openvino", "keras", "numpy", "pillow", "opencv-python-headless", "h5py")


@dataclass(frozen=True, kw_only=True)
class StoreRequest:
    """One store to create or update, before its missing views are known."""

    backbone: Backbone
    weights: Weights
    config: dict[str, Any]
    precision: Mapping[str, Any] | None  # fields of `PrecisionCheck`; None until it is resolved
    path: Path
    store: Store | None  # the existing store, open; None if there is none or it must not be used
    views: int
    views_for: str
    invalid_contents: frozenset[str] = frozenset()  # contents whose stored features must not be used
    valid_images: bool = True  # False if the stored table of images must not be used

    @property
    def max_views(self) -> int:
        """Largest number of augmented views per image."""
        return max(self.views, self.store.n_views if self.store is not None else 0)


@dataclass(frozen=True, kw_only=True)
class StorePlan:
    """The contents and views of one store, and what is missing from it."""

    backbone: Backbone
    weights: Weights
    config: dict[str, Any]
    precision: Mapping[str, Any] | None  # fields of `PrecisionCheck`; None for an older store
    path: Path
    store: Store | None  # the existing store, open
    parts: PartIndex  # finished by an earlier run that was interrupted
    uses_parts: bool  # the parts have views that the existing store lacks
    n_views: int
    missing: dict[str, tuple[int, ...]]  # content → numbers of the views to compute; () if it is complete
    augmented: frozenset[str]  # contents that will have augmented views
    skipped_before: dict[str, str]  # content → reason for which an earlier run skipped it
    invalid_contents: frozenset[str]  # contents whose stored features must not be used
    valid_images: bool  # False if the stored table of images must not be used
    skipped_now: dict[str, str] = field(default_factory=dict)  # content → reason, from this run

    @property
    def n_resumed(self) -> int:
        """Number of contents that an interrupted run finished and did not assemble."""
        return sum(1 for sha256, views in self.missing.items() if not views and sha256 in self.parts)

    def contents(self) -> list[str]:
        """Return the contents that the store will have, sorted by SHA-256, without those skipped so far."""
        return [sha256 for sha256 in self.missing if sha256 not in self.skipped_now]

    def skip_reasons(self) -> dict[str, str]:
        """Return the reason for each skipped content."""
        return {**self.skipped_before, **self.skipped_now}


def open_existing_store(
    path: Path, config: Mapping[str, Any], dataset: Dataset, *, replace: bool
) -> Store | None:
    """Open the store at ``path``; return None if there is no file.

    Raises
    ------
    StoreError
        If the store has another config, or fewer than half of its contents are in the data set and
        ``replace`` is False.
    """
    if not path.exists():
        return None
    store = open_store(path)
    try:
        requested = with_earlier_choices(store.config, config)
        if requested != store.config:
            listed = "; ".join(map(str, differences(store.config, requested)))
            raise StoreError(
                f"{path} has features of another config: {listed}. Keep both stores with: --out FOLDER"
            )
        if not replace:
            check_store_images(store, dataset)
    except StoreError:
        store.close()
        raise
    return store


def check_store_images(store: Store, dataset: Dataset) -> None:
    """Raise a StoreError if fewer than half of the stored contents are in the data set."""
    stored = set(store.content.sha256)
    n_found = len(stored & {image.sha256 for image in dataset.images})
    if 2 * n_found < len(stored):
        source = store.created_with.get("data", "another folder")
        raise StoreError(
            f"{store.path}: only {n_found} of its {len(stored)} images are in {dataset.root}; it was created "
            f"from {source}. Is this another data set, or is a drive not mounted? "
            "Continue with --replace, or keep both stores with --out FOLDER"
        )


def resolve_config(path: Path, config: dict[str, Any], store: Store | None) -> RunChoices:
    """Return the config and precision check of the store or of an interrupted run, else the given config.

    Raises
    ------
    StoreError
        If an interrupted run of another config left parts for this store.
    """
    if store is not None:
        return RunChoices(config=store.config, precision=store.created_with.get("precision"))
    earlier = load_run_choices(parts_folder(path))
    if earlier is None:
        return RunChoices(config=config, precision=None)
    requested = with_earlier_choices(earlier.config, config)
    if requested != earlier.config:
        listed = "; ".join(map(str, differences(earlier.config, requested)))
        raise StoreError(
            f"{parts_folder(path)} has an unfinished run of another config: {listed}. "
            "Delete that folder to discard its work, or keep both with: --out FOLDER"
        )
    return earlier


def check_part_images(path: Path, config: Mapping[str, Any], dataset: Dataset) -> None:
    """Raise a StoreError if fewer than half of the images in the parts are in the data set."""
    done = PartIndex(parts_folder(path), config_digest=config_digest(config)).contents()
    n_found = len(done & {image.sha256 for image in dataset.images})
    if 2 * n_found < len(done):
        raise StoreError(
            f"{parts_folder(path)} has an unfinished run of {len(done)} images, and only {n_found} of them "
            f"are in {dataset.root}. Is this another data set, or is a drive not mounted? Delete that folder "
            "to discard its work, continue with --replace, or keep both with --out FOLDER"
        )


def check_class_order(store: Store | None, dataset: Dataset) -> None:
    """Raise a ConfigError if the store has ordered classes and the data set has other classes, unordered."""
    if store is not None and store.ordered and not dataset.ordered:
        raise ConfigError(
            f"{store.path} has the order {' < '.join(store.classes)}, and the classes are now "
            f"{', '.join(dataset.classes)}. Give their order, lowest first: "
            f"--order {','.join(dataset.classes)}"
        )


def apply_stored_order(dataset: Dataset, store: Store | None) -> Dataset:
    """Return the data set with the class order of the store, if it has none and the classes are the same."""
    if store is None or dataset.ordered or not store.ordered or set(store.classes) != set(dataset.classes):
        return dataset
    return replace(dataset, classes=store.classes, ordered=True, suggested_order=None)


def plan_store(request: StoreRequest, dataset: Dataset) -> StorePlan:
    """Return the plan of a store: the views of each content that neither the store nor its parts have."""
    store, invalid = request.store, request.invalid_contents
    parts = PartIndex(parts_folder(request.path), config_digest=config_digest(request.config))
    stored_plain: set[str] = set()
    stored_views: set[str] = set()  # contents with augmented views in the store
    n_stored_views = 0
    skipped = dict(parts.failed)
    with_views = {
        image.sha256 for image in dataset.images if request.views_for == "all" or image.split == "train"
    }
    if store is not None:
        stored_plain = set(store.content.sha256) - invalid
        rows_of_views = store.rows_of_views()
        stored_views = rows_of_views.keys() - invalid
        with_views |= rows_of_views.keys() & invalid  # views that were stored are computed again
        skipped |= _stored_skips(store) if request.valid_images else {}
        n_stored_views = store.n_views
    n_views = max(request.views, n_stored_views)
    missing: dict[str, tuple[int, ...]] = {}
    augmented = set()
    uses_parts = False
    for sha256 in dataset.distinct_contents:
        if sha256 in skipped:
            continue
        n_stored = n_stored_views if sha256 in stored_views else 0
        needed = {PLAIN}
        if n_views and (sha256 in with_views or n_stored == n_views):
            augmented.add(sha256)
            needed |= set(range(1, n_views + 1))
        needed -= set(range(1, n_stored + 1)) | ({PLAIN} if sha256 in stored_plain else set())
        uses_parts = uses_parts or bool(needed & parts.views(sha256))
        missing[sha256] = tuple(sorted(needed - parts.views(sha256)))
    return StorePlan(
        backbone=request.backbone,
        weights=request.weights,
        config=request.config,
        precision=request.precision,
        path=request.path,
        store=store,
        parts=parts,
        uses_parts=uses_parts,
        n_views=n_views,
        missing=missing,
        augmented=frozenset(augmented),
        skipped_before=skipped,
        invalid_contents=invalid,
        valid_images=request.valid_images,
    )


def _stored_skips(store: Store) -> dict[str, str]:
    """Return the reason for each content that the store skips for good."""
    images = store.images
    return {
        sha256: reason
        for sha256, reason in zip(images.sha256, images.skipped, strict=True)
        if sha256 and reason and not is_transient(reason)
    }


def is_current(dataset: Dataset, plan: StorePlan, images: ImageTable) -> bool:
    """Return whether the store agrees with the plan and the data set; no feature may be missing."""
    store = plan.store
    if store is None or plan.invalid_contents or not plan.valid_images:
        return False
    n_augmented = len(plan.augmented - plan.skipped_now.keys())
    same_rows = store.images.same_as(images) and set(store.content.sha256) <= set(images.sha256)
    same_views = (store.n_views, store.n_augmented) == (plan.n_views, n_augmented)
    same_classes = (store.classes, store.ordered) == (dataset.classes, dataset.ordered)
    return same_rows and same_views and same_classes


def image_table(dataset: Dataset, contents: Sequence[str], skipped: Mapping[str, str]) -> ImageTable:
    """Return the table of image files of a store.

    Parameters
    ----------
    dataset : Dataset
        The images.
    contents : sequence of str
        The stored contents, in row order.
    skipped : mapping
        Content → reason for which it is not stored.
    """
    row_of = {sha256: row for row, sha256 in enumerate(contents)}
    images = dataset.images
    return ImageTable(
        path=[image.path for image in images],
        sha256=[image.sha256 for image in images],
        content=np.array([row_of.get(image.sha256, -1) for image in images], dtype=np.int64),
        label=np.array([dataset.label(image) for image in images], dtype=np.int16),
        split=[image.split for image in images],
        entry=[image.entry for image in images],
        skipped=[image.problem or skipped.get(image.sha256, "") for image in images],
    )


@dataclass(kw_only=True)
class StoreResult:
    """Result of a run for one store; fields as in `featurize.extraction.extract.ExtractResult`."""

    plan: StorePlan
    state: str  # "created", "updated" or "up to date"
    images: ImageTable
    columns: LevelColumns
    n_content: int
    n_decoded: int = 0
    n_forward: int = 0
    n_resumed: int = 0
    n_bytes: int = 0
    engine: str = ""
    device: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    workers: dict[str, dict[str, float]] = field(default_factory=dict)


def unchanged_result(plan: StorePlan, images: ImageTable, *, n_decoded: int = 0) -> StoreResult:
    """Return the result for a store that the run did not change."""
    assert plan.store is not None
    return StoreResult(
        plan=plan,
        state="up to date",
        images=images,
        columns=LevelColumns.of(plan.store),
        n_content=len(set(images.content.tolist()) - {-1}),
        n_decoded=n_decoded,
        n_bytes=plan.path.stat().st_size,
        seconds={"network": 0.0, "writing": 0.0},
    )
