"""From what was asked of an extraction to the stores to be: weights found, configs made, locks taken."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from featurize.asked import Asked
from featurize.backbones import Backbone, get_backbone
from featurize.config import make_config, store_name
from featurize.dataset import Dataset, scan
from featurize.errors import DatasetError
from featurize.making.lock import writing
from featurize.making.parts import parts_folder, settled
from featurize.making.planning import (
    existing_store,
    keep_stored_order,
    refuse_lost_order,
    refuse_other_parts,
    settle_config,
)
from featurize.making.runs import Draft
from featurize.store import open_store
from featurize.weights import Weights, find_weights, weights_status


def read_dataset(data: Path, asked: Asked, *, report: Callable[[str, int, int], None]) -> Dataset:
    """Return what the folder tree holds.

    Raises
    ------
    DatasetError
        If it is no data set, or has no files.
    """
    dataset = scan(
        data,
        entries=asked.entries,
        order=asked.order,
        on_file=lambda done, total: report("reading", done, total),
    )
    if not dataset.images:
        raise DatasetError(
            f"{data}: no files in class folders. Expected {data}/train/CLASS/… or {data}/CLASS/…"
        )
    return dataset


def draft_stores(
    dataset: Dataset,
    asked: Asked,
    *,
    open_stores: ExitStack,
    dry: bool = False,
    on_note: Callable[[str], None] | None = None,
) -> tuple[Dataset, list[Draft]]:
    """Draft the store of each backbone, and settle the class order that an earlier run was given.

    Parameters
    ----------
    dataset : Dataset
        The images.
    asked : Asked
        What is wanted of them.
    open_stores : ExitStack
        Closes the stores that are there now, and gives back the right to write them.
    dry : bool, default=False
        Take no lock, create and download nothing; weights that are not here are taken to be the right ones.
    on_note : callable, optional
        Called with a line before a download starts.
    """
    folder = asked.out if asked.out is not None else asked.default_folder(dataset.name)
    drafts = []
    for name in dict.fromkeys(asked.backbones):
        backbone = get_backbone(name)
        if dry and asked.weights == "imagenet" and not weights_status(backbone).available:
            weights = _assumed_weights(backbone, asked, folder)
        else:
            weights = find_weights(
                backbone, asked.weights, seed=asked.seed, download=not dry, on_download=on_note
            )
        config = _config(backbone, weights, asked)
        path = folder / _file_name(backbone, config)
        if not dry:
            open_stores.enter_context(writing(path))
        store = existing_store(path, config, dataset, force=asked.replace)
        if store is not None:
            open_stores.enter_context(store)
        earlier = settle_config(path, config, store)
        if not asked.replace:
            refuse_other_parts(path, earlier.config, dataset)
        dataset = keep_stored_order(dataset, store)
        refuse_lost_order(store, dataset)
        drafts.append(
            Draft(
                backbone=backbone,
                weights=weights,
                config=earlier.config,
                precision=earlier.precision,
                path=path,
                store=store,
                views=asked.views,
                views_for=asked.views_for,
            )
        )
    return dataset, drafts


def _assumed_weights(backbone: Backbone, asked: Asked, folder: Path) -> Weights:
    """Return the ImageNet weights as an earlier run knew them; without digest where there was none."""
    weights = Weights(kind="imagenet", path=None, sha256="", seed=None)
    path = folder / _file_name(backbone, _config(backbone, weights, asked))
    work = settled(parts_folder(path))
    known = work.config if work is not None else None
    if path.is_file():
        with open_store(path) as store:
            known = store.config
    if known is not None and known["weights"]["kind"] == "imagenet":
        return replace(weights, sha256=known["weights"]["sha256"])
    return weights


def _config(backbone: Backbone, weights: Weights, asked: Asked) -> dict[str, Any]:
    return make_config(
        backbone,
        weights,
        input_size=backbone.size if asked.input_size is None else asked.input_size,
        resize=asked.resize,
        resample=asked.resample,
        preprocess=asked.preprocess,
        precision=asked.precision,
        levels=asked.levels,
        engine=asked.engine,
        store_dtype=asked.store_dtype,
        ranges=asked.ranges,
        seed=asked.seed,
    )


def _file_name(backbone: Backbone, config: dict[str, Any]) -> str:
    return f"{store_name(config, default_size=backbone.size)}.h5"
