"""Stores to be, drafted from what was asked or from what a store says of itself, and then made."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from featurize.backbones.registry import Backbone, get_backbone
from featurize.backbones.weights import Weights, find_weights, weights_status
from featurize.base.dask_cluster import Cluster
from featurize.base.files import write_lock
from featurize.config import make_config, store_name
from featurize.errors import DatasetError
from featurize.extraction.dask_client import DaskExtraction
from featurize.extraction.execution import Decoders, ExecutionOptions
from featurize.extraction.options import ExtractOptions
from featurize.extraction.plan import (
    StoreRequest,
    StoreResult,
    existing_store,
    keep_stored_order,
    refuse_lost_order,
    refuse_other_parts,
    resolve_config,
)
from featurize.extraction.precision import PrecisionSample, resolve_precision, sample_images
from featurize.extraction.produce import current_image_table, fit_statistics, produce
from featurize.images.dataset import Dataset, load_dataset
from featurize.images.pool import Decoder
from featurize.images.render import RenderSettings
from featurize.store.parts import load_run_choices, parts_folder
from featurize.store.reader import open_store


def make_stores(
    dataset: Dataset,
    drafts: Sequence[StoreRequest],
    *,
    max_pixels: int,
    decoders: Decoders,
    execution: ExecutionOptions,
    cluster: Cluster | None = None,
) -> list[StoreResult]:
    """Make or update every drafted store, those of one input size together: here, or on a cluster."""
    outcomes: dict[Path, StoreResult] = {}
    for size in dict.fromkeys(draft.config["input_size"] for draft in drafts):
        start = time.perf_counter()
        group = [draft for draft in drafts if draft.config["input_size"] == size]
        rendering = RenderSettings.from_config(group[0].config, max_pixels=max_pixels)
        most_views = 1 + max(draft.most_views for draft in group)
        if cluster is None:
            decoder = decoders.of(rendering, most_views=most_views)
            made = _carry_out_here(dataset, group, decoder=decoder, execution=execution)
        else:
            crew = DaskExtraction(
                cluster,
                execution=execution,
                workers=decoders.workers,
                image_timeout=decoders.image_timeout,
                rendering=rendering,
                most_views=most_views,
            )
            made = _carry_out_there(dataset, group, crew=crew)
        for outcome in made:
            outcome.seconds["total"] = time.perf_counter() - start
            outcomes[outcome.target.path] = outcome
    return [outcomes[draft.path] for draft in drafts]


def _carry_out_here(
    dataset: Dataset, drafts: Sequence[StoreRequest], *, decoder: Decoder, execution: ExecutionOptions
) -> list[StoreResult]:
    fit = partial(fit_statistics, dataset, decoder=decoder, execution=execution)
    sample = PrecisionSample(sample_images(dataset), decoder, execution)
    settled, engines = [], {}
    for draft in _with_statistics(drafts, fit):
        draft, engine = resolve_precision(draft, sample, execution)
        settled.append(draft)
        if engine is not None:
            engines[draft.path] = engine
    targets = [draft.target(dataset) for draft in settled]
    return produce(dataset, targets, decoder=decoder, engines=engines, execution=execution)


def _carry_out_there(
    dataset: Dataset, drafts: Sequence[StoreRequest], *, crew: DaskExtraction
) -> list[StoreResult]:
    targets = [draft.target(dataset) for draft in drafts]
    if all(current_image_table(dataset, target) is not None for target in targets):
        return crew.produce(dataset, targets, engines={})
    drafts = _with_statistics(drafts, partial(crew.fit_statistics, dataset, drafts))
    settled, engines = crew.settle(dataset, drafts)
    return crew.produce(dataset, [draft.target(dataset) for draft in settled], engines=engines)


def _with_statistics(
    drafts: Sequence[StoreRequest], fit: Callable[[], dict[str, list[float]]]
) -> list[StoreRequest]:
    """Return drafts that have their statistics, fitted once for all backbones of one input size."""
    if not any(lacks_statistics(draft.config) for draft in drafts):
        return list(drafts)
    fitted = fit()
    return [
        replace(draft, config={**draft.config, "statistics": fitted})
        if lacks_statistics(draft.config)
        else draft
        for draft in drafts
    ]


def lacks_statistics(config: Mapping[str, Any]) -> bool:
    """Tell whether the config needs statistics that no run has fitted yet."""
    return config["preprocess"] == "featurewise" and config["statistics"] is None


def read_dataset(data: Path, asked: ExtractOptions, *, report: Callable[[str, int, int], None]) -> Dataset:
    """Return what the folder tree holds.

    Raises
    ------
    DatasetError
        If it is no data set, or has no files.
    """
    dataset = load_dataset(
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


def request_stores(
    dataset: Dataset,
    asked: ExtractOptions,
    *,
    open_stores: ExitStack,
    dry: bool = False,
    on_note: Callable[[str], None] | None = None,
) -> tuple[Dataset, list[StoreRequest]]:
    """Draft the store of each backbone, and settle the class order that an earlier run was given.

    Parameters
    ----------
    dataset : Dataset
        The images.
    asked : ExtractOptions
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
            open_stores.enter_context(write_lock(path))
        store = existing_store(path, config, dataset, force=asked.replace)
        if store is not None:
            open_stores.enter_context(store)
        earlier = resolve_config(path, config, store)
        if not asked.replace:
            refuse_other_parts(path, earlier.config, dataset)
        dataset = keep_stored_order(dataset, store)
        refuse_lost_order(store, dataset)
        drafts.append(
            StoreRequest(
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


def _assumed_weights(backbone: Backbone, asked: ExtractOptions, folder: Path) -> Weights:
    """Return the ImageNet weights as an earlier run knew them; without digest where there was none."""
    weights = Weights(kind="imagenet", path=None, sha256="", seed=None)
    path = folder / _file_name(backbone, _config(backbone, weights, asked))
    work = load_run_choices(parts_folder(path))
    known = work.config if work is not None else None
    if path.is_file():
        with open_store(path) as store:
            known = store.config
    if known is not None and known["weights"]["kind"] == "imagenet":
        return replace(weights, sha256=known["weights"]["sha256"])
    return weights


def _config(backbone: Backbone, weights: Weights, asked: ExtractOptions) -> dict[str, Any]:
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
