"""What a store should hold, what it holds already, and so what is missing: a run decided before it starts."""

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
from featurize.images.dataset import Dataset, ImageFile
from featurize.images.skip_reasons import is_transient
from featurize.store.columns import LevelColumns
from featurize.store.parts import PartIndex, RunChoices, load_run_choices, parts_folder
from featurize.store.reader import ImageTable, Store, open_store


@dataclass(frozen=True, kw_only=True)
class StorePlan:
    """One store to be, and what of it is there already."""

    backbone: Backbone
    weights: Weights
    config: dict[str, Any]
    precision: Mapping[str, Any] | None  # what was measured to settle it; None for an older store
    path: Path
    store: Store | None  # what is there now, open
    parts: PartIndex  # finished by an earlier run that did not end
    uses_parts: bool  # whether the store lacks anything that they have
    n_views: int
    missing: dict[str, tuple[int, ...]]  # content → numbers of the views to compute; () when nothing is
    augmented: frozenset[str]  # contents that will have augmented views
    bad: dict[str, str]  # content → why it was skipped by an earlier run
    distrusted: frozenset[str]  # contents whose stored features are not to be used
    trusts_images: bool  # whether the stored table of images is to be believed
    failed: dict[str, str] = field(default_factory=dict)  # content → why it was skipped by this run

    @property
    def n_resumed(self) -> int:
        """Contents that an earlier run finished and did not live to assemble."""
        return sum(1 for sha256, views in self.missing.items() if not views and sha256 in self.parts)

    def stored(self) -> list[str]:
        """Return the contents that the store will hold, sorted, given what has failed so far."""
        return [sha256 for sha256 in self.missing if sha256 not in self.failed]

    def skipped(self) -> dict[str, str]:
        """Return the reasons of all contents that are skipped."""
        return {**self.bad, **self.failed}


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
        wanted = with_earlier_choices(store.config, config)
        if wanted != store.config:
            listed = "; ".join(map(str, differences(store.config, wanted)))
            raise StoreError(
                f"{path} holds features of another config: {listed}. Keep both with: --out FOLDER"
            )
        if not force:
            refuse_other_pictures(store, dataset)
    except StoreError:
        store.close()
        raise
    return store


def refuse_other_pictures(store: Store, dataset: Dataset) -> None:
    """Raise a StoreError if fewer than half of the stored contents are in the data set."""
    stored = set(store.content.sha256)
    found = len(stored & {image.sha256 for image in dataset.images})
    if 2 * found < len(stored):
        source = store.created_with.get("data", "another folder")
        raise StoreError(
            f"{store.path}: only {found} of its {len(stored)} pictures are in {dataset.root}; it was made "
            f"from {source}. Another data set, or an unmounted drive? "
            "Go on with --replace, or keep both with --out FOLDER"
        )


def resolve_config(path: Path, config: dict[str, Any], store: Store | None) -> RunChoices:
    """Return the config with what an earlier run settled, if one did, and what it measured for that.

    Raises
    ------
    StoreError
        If there is work in progress of another config in this place.
    """
    if store is not None:
        return RunChoices(config=store.config, precision=store.created_with.get("precision"))
    earlier = load_run_choices(parts_folder(path))
    if earlier is None:
        return RunChoices(config=config, precision=None)
    wanted = with_earlier_choices(earlier.config, config)
    if wanted != earlier.config:
        listed = "; ".join(map(str, differences(earlier.config, wanted)))
        raise StoreError(
            f"{parts_folder(path)} holds an unfinished run of another config: {listed}. "
            "Delete that folder to drop its work, or keep both with: --out FOLDER"
        )
    return earlier


def refuse_other_parts(path: Path, config: Mapping[str, Any], dataset: Dataset) -> None:
    """Raise a StoreError if an unfinished run in this place was of other pictures."""
    done = PartIndex(parts_folder(path), config_digest=config_digest(config)).contents()
    found = len(done & {image.sha256 for image in dataset.images})
    if 2 * found < len(done):
        raise StoreError(
            f"{parts_folder(path)} holds an unfinished run of {len(done)} pictures, and only {found} of them "
            f"are in {dataset.root}. Another data set, or an unmounted drive? Delete that folder to drop its "
            "work, go on with --replace, or keep both with --out FOLDER"
        )


def refuse_lost_order(store: Store | None, dataset: Dataset) -> None:
    """Raise a ConfigError if the classes had an order and are no longer the same: it must be said anew."""
    if store is not None and store.ordered and not dataset.ordered:
        raise ConfigError(
            f"{store.path} has the order {' < '.join(store.classes)}, and the classes are now "
            f"{', '.join(dataset.classes)}. Say their order, lowest first: "
            f"--order {','.join(dataset.classes)}"
        )


def keep_stored_order(dataset: Dataset, store: Store | None) -> Dataset:
    """Return the data set with the class order an earlier run settled, if the classes are still the same."""
    if store is None or dataset.ordered or not store.ordered or set(store.classes) != set(dataset.classes):
        return dataset
    return replace(dataset, classes=store.classes, ordered=True, suggested_order=None)


def plan_store(
    dataset: Dataset,
    *,
    backbone: Backbone,
    weights: Weights,
    config: dict[str, Any],
    precision: Mapping[str, Any] | None,
    path: Path,
    store: Store | None,
    views: int,
    views_for: str,
    distrusted: frozenset[str] = frozenset(),
    trusts_images: bool = True,
) -> StorePlan:
    """Work out which views of which contents are missing from the store; what is distrusted is missing."""
    parts = PartIndex(parts_folder(path), config_digest=config_digest(config))
    stored_views: dict[str, int] = {}  # content → augmented views in the store
    stored_plain: set[str] = set()
    bad = dict(parts.failed)
    n_stored_views = 0
    wanting = {image.sha256 for image in dataset.images if views_for == "all" or image.split == "train"}
    if store is not None:
        stored_plain = set(store.content.sha256) - distrusted
        having_views = store.rows_of_views()
        stored_views = {name: store.n_views for name in having_views if name not in distrusted}
        wanting |= having_views.keys() & distrusted  # what had views gets them back
        bad |= _bad_contents(store) if trusts_images else {}
        n_stored_views = store.n_views
    n_views = max(views, n_stored_views)
    missing: dict[str, tuple[int, ...]] = {}
    augmented = set()
    uses_parts = False
    for sha256 in distinct_contents(dataset):
        if sha256 in bad:
            continue
        there = stored_views.get(sha256, 0)
        wanted = {PLAIN}
        if n_views and (sha256 in wanting or there == n_views):
            augmented.add(sha256)
            wanted |= set(range(1, n_views + 1))
        wanted -= set(range(1, there + 1)) | ({PLAIN} if sha256 in stored_plain else set())
        uses_parts = uses_parts or bool(wanted & parts.views(sha256))
        missing[sha256] = tuple(sorted(wanted - parts.views(sha256)))
    return StorePlan(
        backbone=backbone,
        weights=weights,
        config=config,
        precision=precision,
        path=path,
        store=store,
        parts=parts,
        uses_parts=uses_parts,
        n_views=n_views,
        missing=missing,
        augmented=frozenset(augmented),
        bad=bad,
        distrusted=distrusted,
        trusts_images=trusts_images,
    )


def distinct_contents(dataset: Dataset) -> dict[str, ImageFile]:
    """Return one file for each distinct content, sorted by its SHA-256."""
    first: dict[str, ImageFile] = {}
    for image in dataset.images:
        if image.sha256 and not image.problem:
            first.setdefault(image.sha256, image)
    return dict(sorted(first.items()))


def is_current(dataset: Dataset, target: StorePlan, images: ImageTable) -> bool:
    """Tell whether the store holds just what it should, given that no feature is missing."""
    old = target.store
    if old is None or target.distrusted or not target.trusts_images:
        return False
    same_rows = old.images.same_as(images) and set(old.content.sha256) <= set(images.sha256)
    same_views = old.n_views == target.n_views and old.n_augmented == len(
        target.augmented - target.failed.keys()
    )
    return same_rows and same_views and old.classes == dataset.classes and old.ordered == dataset.ordered


def image_table(dataset: Dataset, stored: Sequence[str], skipped: Mapping[str, str]) -> ImageTable:
    """Return the table of image files, given the contents stored, in row order, and why others were not."""
    row_of = {sha256: row for row, sha256 in enumerate(stored)}
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


def _bad_contents(store: Store) -> dict[str, str]:
    images = store.images
    known: Sequence[tuple[str, str]] = list(zip(images.sha256, images.skipped, strict=True))
    return {sha256: reason for sha256, reason in known if sha256 and reason and not is_transient(reason)}


PACKAGES = ("tensorflow", "openvino", "keras", "numpy", "pillow", "opencv-python-headless", "h5py")


@dataclass(kw_only=True)
class StoreResult:
    """What a run brought one store; seconds as in `featurize.extraction.extract.ExtractResult`."""

    target: StorePlan
    state: str  # "made", "updated" or "up to date"
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
    workers: dict[str, dict[str, float]] = field(default_factory=dict)  # Dask's, as in the same place


def unchanged_result(target: StorePlan, images: ImageTable, *, n_decoded: int = 0) -> StoreResult:
    """Return the outcome of a run that had nothing to do for this store."""
    assert target.store is not None
    return StoreResult(
        target=target,
        state="up to date",
        images=images,
        columns=LevelColumns.of(target.store),
        n_content=len(set(images.content.tolist()) - {-1}),
        n_decoded=n_decoded,
        n_bytes=target.path.stat().st_size,
        seconds={"network": 0.0, "writing": 0.0},
    )


@dataclass(frozen=True, kw_only=True)
class StoreRequest:
    """One store to be, before it is known what it lacks."""

    backbone: Backbone
    weights: Weights
    config: dict[str, Any]
    precision: Mapping[str, Any] | None  # how it was settled, if it was; see `featurize.extraction.precision`
    path: Path
    store: Store | None  # what is there now, open, as far as it is to be used
    views: int
    views_for: str
    distrusted: frozenset[str] = frozenset()  # contents whose stored features are not to be used
    trusts_images: bool = True  # whether the stored table of images is to be believed

    @property
    def most_views(self) -> int:
        """Augmented views of one image, at most."""
        return max(self.views, self.store.n_views if self.store is not None else 0)

    def target(self, dataset: Dataset) -> StorePlan:
        """Work out what is missing."""
        return plan_store(
            dataset,
            backbone=self.backbone,
            weights=self.weights,
            config=self.config,
            precision=self.precision,
            path=self.path,
            store=self.store,
            views=self.views,
            views_for=self.views_for,
            distrusted=self.distrusted,
            trusts_images=self.trusts_images,
        )
