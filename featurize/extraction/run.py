"""Extraction runs: requests from options, precision and statistics resolved, stores created or updated."""

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
    apply_stored_order,
    check_class_order,
    check_part_images,
    open_existing_store,
    plan_store,
    resolve_config,
)
from featurize.extraction.precision import PrecisionSample, resolve_precision, sample_candidates
from featurize.extraction.produce import current_image_table, fit_statistics, produce_stores
from featurize.images.dataset import Dataset, load_dataset
from featurize.images.pool import Decoder
from featurize.images.render import RenderSettings
from featurize.store.parts import load_run_choices, parts_folder
from featurize.store.reader import open_store


def run_extraction(
    dataset: Dataset,
    requests: Sequence[StoreRequest],
    *,
    max_pixels: int,
    decoders: Decoders,
    execution: ExecutionOptions,
    cluster: Cluster | None = None,
) -> list[StoreResult]:
    """Create or update the requested stores, one input size after the other.

    Parameters
    ----------
    dataset : Dataset
        The images.
    requests : sequence of StoreRequest
        The stores.
    max_pixels : int
        Images with more pixels are skipped.
    decoders : Decoders
        Decode processes of a local run; on a cluster only their settings are used.
    execution : ExecutionOptions
        Execution options.
    cluster : Cluster, optional
        Dask workers that compute; by default this process does.

    Returns
    -------
    list of StoreResult
        In the order of ``requests``.
    """
    results: dict[Path, StoreResult] = {}
    for size in dict.fromkeys(request.config["input_size"] for request in requests):
        start = time.perf_counter()
        group = [request for request in requests if request.config["input_size"] == size]
        rendering = RenderSettings.from_config(group[0].config, max_pixels=max_pixels)
        most_views = 1 + max(request.max_views for request in group)
        if cluster is None:
            decoder = decoders.get(rendering, most_views=most_views)
            group_results = _run_locally(dataset, group, decoder=decoder, execution=execution)
        else:
            extraction = DaskExtraction(
                cluster,
                execution=execution,
                workers=decoders.workers,
                image_timeout=decoders.image_timeout,
                rendering=rendering,
                most_views=most_views,
            )
            group_results = _run_on_cluster(dataset, group, extraction=extraction)
        for result in group_results:
            result.seconds["total"] = time.perf_counter() - start
            results[result.plan.path] = result
    return [results[request.path] for request in requests]


def _run_locally(
    dataset: Dataset, requests: Sequence[StoreRequest], *, decoder: Decoder, execution: ExecutionOptions
) -> list[StoreResult]:
    fit = partial(fit_statistics, dataset, decoder=decoder, execution=execution)
    sample = PrecisionSample(sample_candidates(dataset), decoder, execution)
    plans, engines = [], {}
    for request in _with_statistics(requests, fit):
        request, engine = resolve_precision(request, sample, execution)
        plans.append(plan_store(request, dataset))
        if engine is not None:
            engines[request.path] = engine
    return produce_stores(dataset, plans, decoder=decoder, engines=engines, execution=execution)


def _run_on_cluster(
    dataset: Dataset, requests: Sequence[StoreRequest], *, extraction: DaskExtraction
) -> list[StoreResult]:
    plans = [plan_store(request, dataset) for request in requests]
    if all(current_image_table(dataset, plan) is not None for plan in plans):
        return extraction.produce_stores(dataset, plans, engines={})
    requests = _with_statistics(requests, partial(extraction.fit_statistics, dataset, requests))
    requests, engines = extraction.resolve_precision(dataset, requests)
    plans = [plan_store(request, dataset) for request in requests]
    return extraction.produce_stores(dataset, plans, engines=engines)


def _with_statistics(
    requests: Sequence[StoreRequest], fit: Callable[[], dict[str, list[float]]]
) -> list[StoreRequest]:
    """Return the requests with pixel statistics, fitted once for all backbones of the input size."""
    if not any(needs_statistics(request.config) for request in requests):
        return list(requests)
    statistics = fit()
    return [
        replace(request, config={**request.config, "statistics": statistics})
        if needs_statistics(request.config)
        else request
        for request in requests
    ]


def needs_statistics(config: Mapping[str, Any]) -> bool:
    """Return whether the config needs pixel statistics that have not been fitted yet."""
    return config["preprocess"] == "featurewise" and config["statistics"] is None


def read_dataset(data: Path, options: ExtractOptions, *, report: Callable[[str, int, int], None]) -> Dataset:
    """Return the data set in a folder tree.

    Raises
    ------
    DatasetError
        If the folder is not a data set, or has no files.
    """
    dataset = load_dataset(
        data,
        entries=options.entries,
        order=options.order,
        on_file=lambda done, total: report("reading", done, total),
    )
    if not dataset.images:
        raise DatasetError(
            f"{data}: no files in class folders. Expected {data}/train/CLASS/… or {data}/CLASS/…"
        )
    return dataset


def request_stores(
    dataset: Dataset,
    options: ExtractOptions,
    *,
    stack: ExitStack,
    dry_run: bool = False,
    on_note: Callable[[str], None] | None = None,
) -> tuple[Dataset, list[StoreRequest]]:
    """Return the data set with the stored class order, if any, and a request for the store of each backbone.

    Parameters
    ----------
    dataset : Dataset
        The images.
    options : ExtractOptions
        The options of `extract`.
    stack : ExitStack
        Closes the existing stores and releases their locks.
    dry_run : bool, default=False
        Take no lock, create nothing and download nothing; weights that are not on this machine are assumed
        to be those of the store.
    on_note : callable, optional
        Called with a message before a download starts.
    """
    folder = options.out if options.out is not None else options.default_folder(dataset.name)
    requests = []
    for name in dict.fromkeys(options.backbones):
        backbone = get_backbone(name)
        if dry_run and options.weights == "imagenet" and not weights_status(backbone).available:
            weights = _assumed_weights(backbone, options, folder)
        else:
            weights = find_weights(
                backbone, options.weights, seed=options.seed, download=not dry_run, on_download=on_note
            )
        config = _config(backbone, weights, options)
        path = folder / _file_name(backbone, config)
        if not dry_run:
            stack.enter_context(write_lock(path))
        store = open_existing_store(path, config, dataset, replace=options.replace)
        if store is not None:
            stack.enter_context(store)
        earlier = resolve_config(path, config, store)
        if not options.replace:
            check_part_images(path, earlier.config, dataset)
        dataset = apply_stored_order(dataset, store)
        check_class_order(store, dataset)
        requests.append(
            StoreRequest(
                backbone=backbone,
                weights=weights,
                config=earlier.config,
                precision=earlier.precision,
                path=path,
                store=store,
                views=options.views,
                views_for=options.views_for,
            )
        )
    return dataset, requests


def _assumed_weights(backbone: Backbone, options: ExtractOptions, folder: Path) -> Weights:
    """Return the ImageNet weights with the digest recorded in the store or its parts, "" without either."""
    weights = Weights(kind="imagenet", path=None, sha256="", seed=None)
    path = folder / _file_name(backbone, _config(backbone, weights, options))
    choices = load_run_choices(parts_folder(path))
    config = choices.config if choices is not None else None
    if path.is_file():
        with open_store(path) as store:
            config = store.config
    if config is not None and config["weights"]["kind"] == "imagenet":
        return replace(weights, sha256=config["weights"]["sha256"])
    return weights


def _config(backbone: Backbone, weights: Weights, options: ExtractOptions) -> dict[str, Any]:
    return make_config(
        backbone,
        weights,
        input_size=backbone.size if options.input_size is None else options.input_size,
        resize=options.resize,
        resample=options.resample,
        preprocess=options.preprocess,
        precision=options.precision,
        levels=options.levels,
        engine=options.engine,
        store_dtype=options.store_dtype,
        ranges=options.ranges,
        seed=options.seed,
    )


def _file_name(backbone: Backbone, config: dict[str, Any]) -> str:
    return f"{store_name(config, default_size=backbone.size)}.h5"
