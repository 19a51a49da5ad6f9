"""What an extraction would do, told without doing it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from featurize.asked import Asked
from featurize.config import AUTO
from featurize.dataset import Dataset
from featurize.making.drafting import draft_stores, read_dataset
from featurize.making.parts import part_paths
from featurize.making.planning import Target
from featurize.making.production import nothing_to_do, work
from featurize.making.runs import Draft, lacks_statistics
from featurize.upkeep.changes import Changes, changes_since
from featurize.weights import weights_status


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
    changes: Changes
    missing_weights: str  # "", or what would happen to get them
    fits_statistics: bool  # whether all training images are decoded once more, before
    settles_precision: bool  # whether some images are tried in a fast format, before


def preview(
    data: str | Path, asked: Asked, *, on_progress: Callable[[str, int, int], None] | None = None
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
        dataset, drafts = draft_stores(dataset, asked, open_stores=stack, dry=True)
        return [_preview(dataset, draft, draft.target(dataset), asked) for draft in drafts]


def _preview(dataset: Dataset, draft: Draft, target: Target, asked: Asked) -> Preview:
    store = draft.store
    todo = work([target], dataset)
    state = "new"
    if store is not None:
        state = "up to date" if nothing_to_do(dataset, target) else "changes"
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
