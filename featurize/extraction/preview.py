"""What an extraction would do, told without doing it."""

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
from featurize.extraction.plan import StorePlan, StoreRequest
from featurize.extraction.produce import current_image_table, missing_views
from featurize.extraction.run import lacks_statistics, read_dataset, request_stores
from featurize.images.dataset import Dataset, ImageFile
from featurize.store.parts import part_paths
from featurize.store.reader import ImageTable


@dataclass(frozen=True, kw_only=True)
class Preview:
    """What a run would do for one store."""

    path: Path
    backbone: str
    dataset: str
    state: str  # "new", "changes" or "up to date"
    n_images: int  # files
    n_decode: int  # contents to decode
    n_views: int  # views to send through the network
    n_resumed: int  # contents that an unfinished run finished
    n_parts: int  # parts it left
    n_damaged_parts: int  # of them, those whose work is done again
    changes: DatasetChanges
    missing_weights: str  # "", or what would happen to get them
    fits_statistics: bool  # whether all training images are decoded once more, before
    settles_precision: bool  # whether some images are tried in a fast format, before


def preview(
    data: str | Path, asked: ExtractOptions, *, on_progress: Callable[[str, int, int], None] | None = None
) -> list[Preview]:
    """Tell what `extract` would do, for each backbone. Locks nothing, creates nothing, downloads nothing.

    Raises
    ------
    DatasetError, ConfigError, WeightsError, StoreError
        As the extraction would.
    """
    asked.check()
    dataset = read_dataset(Path(data), asked, report=on_progress or (lambda stage, done, total: None))
    with ExitStack() as stack:
        dataset, drafts = request_stores(dataset, asked, open_stores=stack, dry=True)
        return [_preview(dataset, draft, draft.target(dataset), asked) for draft in drafts]


def _preview(dataset: Dataset, draft: StoreRequest, target: StorePlan, asked: ExtractOptions) -> Preview:
    store = draft.store
    todo = missing_views([target], dataset)
    state = "new"
    if store is not None:
        state = "up to date" if current_image_table(dataset, target) else "changes"
    missing = asked.weights == "imagenet" and not weights_status(draft.backbone).available
    return Preview(
        path=draft.path,
        backbone=draft.backbone.name,
        dataset=dataset.name,
        state=state,
        n_images=len(dataset.images),
        n_decode=len(todo),
        n_views=sum(map(len, todo.values())),
        n_resumed=target.n_resumed,
        n_parts=len(part_paths(target.parts.folder)),
        n_damaged_parts=len(target.parts.damaged),
        changes=changes_since(
            store.images if store is not None else None, store.classes if store is not None else (), dataset
        ),
        missing_weights=weights_status(draft.backbone).hint if missing and todo else "",
        fits_statistics=bool(todo) and lacks_statistics(draft.config),
        settles_precision=bool(todo) and draft.config["precision"] == AUTO,
    )


@dataclass(frozen=True, kw_only=True)
class MovedFile:
    """One file whose content stayed, with what became of its name and grade."""

    path: str  # now
    old_path: str  # equal to `path` if it was not moved
    place: tuple[str, str]  # split and class now; the class is "" when ungraded
    old_place: tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class DatasetChanges:
    """Paths by what became of them, each list in the order of the paths now (of the removed: then)."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()  # another content under the same path
    unreadable: tuple[tuple[str, str], ...] = ()  # path, why: its content cannot be compared
    moved: tuple[MovedFile, ...] = ()  # same split and class
    relabelled: tuple[MovedFile, ...] = ()  # another split or class, moved or not
    regrouped: tuple[tuple[str, str, str], ...] = ()  # path, entry then, entry now
    classes: tuple[tuple[str, ...], tuple[str, ...]] | None = None  # then and now, if they differ
    n_duplicates: int = 0  # files now whose content an earlier file has too

    @cached_property
    def counts(self) -> dict[str, int]:
        """How many files of each kind, by the kind's name."""
        kinds = ("added", "removed", "changed", "unreadable", "moved", "relabelled", "regrouped")
        return {kind: len(getattr(self, kind)) for kind in kinds}


def changes_since(images: ImageTable | None, classes: Sequence[str], dataset: Dataset) -> DatasetChanges:
    """Compare a stored table of images with what the folder holds now, by content.

    Parameters
    ----------
    images : ImageTable or None
        What the store says; None if there is no store yet.
    classes : sequence of str
        The store's classes, in label order.
    dataset : Dataset
        What is there.
    """
    row_of = {path: row for row, path in enumerate(images.path)} if images is not None else {}
    found = {image.path: image for image in dataset.images}
    lists: dict[str, list] = defaultdict(list)
    gone: dict[str, deque[str]] = defaultdict(deque)  # content → paths that are no more
    for path, row in row_of.items():
        if path not in found and images is not None:
            gone[images.sha256[row] or path].append(path)
    for image in dataset.images:
        old_path = image.path
        if old_path not in row_of:
            if not gone[image.sha256]:
                lists["added"].append(image.path)
                continue
            old_path = gone[image.sha256].popleft()
        assert images is not None
        _note_kept(lists, image, old_path, images=images, row=row_of[old_path], classes=classes)
    left = {path for paths in gone.values() for path in paths}
    contents = Counter(image.sha256 for image in dataset.images if image.sha256)
    return DatasetChanges(
        added=tuple(lists["added"]),
        removed=tuple(path for path in row_of if path in left),
        changed=tuple(lists["changed"]),
        unreadable=tuple(lists["unreadable"]),
        moved=tuple(lists["moved"]),
        relabelled=tuple(lists["relabelled"]),
        regrouped=tuple(lists["regrouped"]),
        classes=(tuple(classes), dataset.classes)
        if images is not None and _reordered(classes, dataset)
        else None,
        n_duplicates=sum(contents.values()) - len(contents),
    )


def _note_kept(
    lists: dict[str, list],
    image: ImageFile,
    old_path: str,
    *,
    images: ImageTable,
    row: int,
    classes: Sequence[str],
) -> None:
    """Note what became of one file that the store knows."""
    if image.problem:
        if images.sha256[row]:
            lists["unreadable"].append((image.path, image.problem))
        return
    if image.sha256 != images.sha256[row]:
        lists["changed"].append(image.path)
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
        lists["relabelled"].append(move)
    elif move.path != move.old_path:
        lists["moved"].append(move)
    elif image.entry != images.entry[row]:
        lists["regrouped"].append((image.path, images.entry[row], image.entry))


def _reordered(classes: Sequence[str], dataset: Dataset) -> bool:
    return tuple(classes) != dataset.classes
