"""Dry runs of an extraction, and the changes of a data set since its store was written."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from featurize.backbones.weights import weights_status
from featurize.config import AUTO
from featurize.extraction.options import ExtractOptions
from featurize.extraction.plan import StorePlan, StoreRequest, plan_store
from featurize.extraction.produce import current_image_table, missing_views
from featurize.extraction.run import needs_statistics, read_dataset, request_stores
from featurize.images.dataset import Dataset, ImageFile
from featurize.store.parts import part_paths
from featurize.store.reader import ImageTable


@dataclass(frozen=True, kw_only=True)
class Preview:
    """Work that a run would do for one store."""

    path: Path
    backbone: str
    dataset: str
    state: str  # "new", "changes" or "up to date"
    n_images: int  # files
    n_decode: int  # contents to decode
    n_views: int  # views to send through the network
    n_resumed: int  # contents finished by an interrupted run
    n_parts: int  # parts of that run
    n_damaged_parts: int  # parts that must be computed again
    changes: DatasetChanges
    missing_weights: str  # how the weights would be obtained; "" if they are available or not needed
    fits_statistics: bool  # all training images are first decoded once more
    settles_precision: bool  # some images are first computed in a fast format


def preview(
    data: str | Path, options: ExtractOptions, *, on_progress: Callable[[str, int, int], None] | None = None
) -> list[Preview]:
    """Return the work that `extract` would do, per backbone; lock, create and download nothing.

    Raises
    ------
    DatasetError, ConfigError, WeightsError, StoreError
        As in `extract`.
    """
    options.check()
    dataset = read_dataset(Path(data), options, report=on_progress or (lambda stage, done, total: None))
    with ExitStack() as stack:
        dataset, requests = request_stores(dataset, options, stack=stack, dry_run=True)
        return [_preview(dataset, request, plan_store(request, dataset), options) for request in requests]


def _preview(dataset: Dataset, request: StoreRequest, plan: StorePlan, options: ExtractOptions) -> Preview:
    store = request.store
    missing = missing_views([plan], dataset)
    state = "new"
    if store is not None:
        state = "up to date" if current_image_table(dataset, plan) else "changes"
    weights = weights_status(request.backbone)
    needs_weights = bool(missing) and options.weights == "imagenet" and not weights.available
    return Preview(
        path=request.path,
        backbone=request.backbone.name,
        dataset=dataset.name,
        state=state,
        n_images=len(dataset.images),
        n_decode=len(missing),
        n_views=sum(map(len, missing.values())),
        n_resumed=plan.n_resumed,
        n_parts=len(part_paths(plan.parts.folder)),
        n_damaged_parts=len(plan.parts.damaged),
        changes=changes_since(
            store.images if store is not None else None, store.classes if store is not None else (), dataset
        ),
        missing_weights=weights.hint if needs_weights else "",
        fits_statistics=bool(missing) and needs_statistics(request.config),
        settles_precision=bool(missing) and request.config["precision"] == AUTO,
    )


@dataclass(frozen=True, kw_only=True)
class MovedFile:
    """A file with unchanged content and a new path, split or class."""

    path: str
    old_path: str  # equal to `path` if it was not moved
    place: tuple[str, str]  # split and class; the class is "" for an ungraded image
    old_place: tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class DatasetChanges:
    """Changed files by kind of change, in the order of the data set; removed ones in that of the store."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()  # same path, other content
    unreadable: tuple[tuple[str, str], ...] = ()  # path, reason
    moved: tuple[MovedFile, ...] = ()  # same split and class
    relabelled: tuple[MovedFile, ...] = ()  # another split or class, moved or not
    regrouped: tuple[tuple[str, str, str], ...] = ()  # path, old entry, new entry
    classes: tuple[tuple[str, ...], tuple[str, ...]] | None = None  # old and new, if they differ
    n_duplicates: int = 0  # files with the same content as an earlier file

    @cached_property
    def counts(self) -> dict[str, int]:
        """Number of files per kind of change."""
        kinds = ("added", "removed", "changed", "unreadable", "moved", "relabelled", "regrouped")
        return {kind: len(getattr(self, kind)) for kind in kinds}


def changes_since(images: ImageTable | None, classes: Sequence[str], dataset: Dataset) -> DatasetChanges:
    """Compare the table of images of a store with a data set, by content.

    Parameters
    ----------
    images : ImageTable or None
        The table of the store; None if there is no store.
    classes : sequence of str
        Classes of the store, in label order.
    dataset : Dataset
        The current images.
    """
    row_of = {path: row for row, path in enumerate(images.path)} if images is not None else {}
    found = {image.path: image for image in dataset.images}
    changes: dict[str, list] = defaultdict(list)  # kind → files
    missing: dict[str, deque[str]] = defaultdict(deque)  # content → stored paths that no longer exist
    for path, row in row_of.items():
        if path not in found and images is not None:
            missing[images.sha256[row] or path].append(path)
    for image in dataset.images:
        old_path = image.path
        if old_path not in row_of:
            if not missing[image.sha256]:
                changes["added"].append(image.path)
                continue
            old_path = missing[image.sha256].popleft()
        assert images is not None
        _compare_image(changes, image, old_path, images=images, row=row_of[old_path], classes=classes)
    removed = {path for paths in missing.values() for path in paths}
    contents = Counter(image.sha256 for image in dataset.images if image.sha256)
    return DatasetChanges(
        added=tuple(changes["added"]),
        removed=tuple(path for path in row_of if path in removed),
        changed=tuple(changes["changed"]),
        unreadable=tuple(changes["unreadable"]),
        moved=tuple(changes["moved"]),
        relabelled=tuple(changes["relabelled"]),
        regrouped=tuple(changes["regrouped"]),
        classes=(tuple(classes), dataset.classes)
        if images is not None and tuple(classes) != dataset.classes
        else None,
        n_duplicates=sum(contents.values()) - len(contents),
    )


def _compare_image(
    changes: dict[str, list],
    image: ImageFile,
    old_path: str,
    *,
    images: ImageTable,
    row: int,
    classes: Sequence[str],
) -> None:
    """Add one stored image to ``changes`` if it differs from its stored row."""
    if image.problem:
        if images.sha256[row]:
            changes["unreadable"].append((image.path, image.problem))
        return
    if image.sha256 != images.sha256[row]:
        changes["changed"].append(image.path)
        return
    label = int(images.label[row])
    old_class = classes[label] if 0 <= label < len(classes) else ""
    move = MovedFile(
        path=image.path,
        old_path=old_path,
        place=(image.split, image.class_name),
        old_place=(images.split[row], old_class),
    )
    if move.place != move.old_place:
        changes["relabelled"].append(move)
    elif move.path != move.old_path:
        changes["moved"].append(move)
    elif image.entry != images.entry[row]:
        changes["regrouped"].append((image.path, images.entry[row], image.entry))
