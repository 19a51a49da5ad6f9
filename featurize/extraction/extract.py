"""Public function `extract`: a folder of images in, one feature store per backbone out."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurize.base.text import as_names, split_names
from featurize.errors import ConfigError
from featurize.extraction.options import ExtractOptions
from featurize.images.augment import ViewRanges

if TYPE_CHECKING:
    from featurize.extraction.plan import StoreResult
    from featurize.images.dataset import Dataset
    from featurize.images.skip_reasons import SkippedFile


DEFAULT_BACKBONE = "efficientnet_lite0"


def extract(
    data: str | os.PathLike[str],
    *,
    backbones: str | Sequence[str] = (DEFAULT_BACKBONE,),
    views: int = 4,
    views_for: str = "train",
    out: str | os.PathLike[str] | None = None,
    weights: str | os.PathLike[str] = "imagenet",
    seed: int = 0,
    preprocess: str = "native",
    input_size: int | None = None,
    resize: str = "squash",
    resample: str = "bicubic",
    max_pixels: int = 200_000_000,
    precision: str = "auto",
    engine: str = "auto",
    levels: bool = False,
    store_dtype: str = "float32",
    ranges: ViewRanges = ViewRanges(),  # noqa: B008 - frozen
    order: str | Sequence[str] | None = None,
    entries: str = "folder",
    strict: bool = False,
    replace: bool = False,
    device: str = "auto",
    gpu_memory: float | None = None,
    batch_size: int | str = "auto",
    workers: int | None = None,
    image_timeout: float = 60.0,
    dask: str | None = None,
    on_progress: Callable[[str, int, int], None] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> list[ExtractResult]:
    """Compute the features of every image of a folder tree with frozen backbones, and store them.

    Parameters
    ----------
    data : path-like
        The folder tree; see "Folders" in the README for the layouts.
    backbones : str or sequence of str
        One or more names from `featurize.BACKBONES`. Backbones with the same input size share decoding.
    views : int
        Number of augmented views of each training image, in addition to its plain view.
    views_for : {"train", "all"}
        Images that get augmented views: those of the train split, or all.
    out : path-like, optional
        Folder of the stores; ``artifacts/features/<dataset>`` by default.
    weights : {"imagenet", "random"} or path-like
        Published weights, random weights, or a weights file if there is one backbone.
    seed : int
        Seed of the augmentation and of random weights.
    preprocess : {"native", "rescale", "featurewise"}
        The backbone's own preprocessing, 1/255, or 1/255 followed by fitted mean and standard deviation.
    input_size : int, optional
        Side of the network's input in pixels; the backbone's own by default.
    resize : {"squash", "crop", "pad"}
        Method of fitting an image into the square input.
    resample : str
        Pillow filter: nearest, bilinear, bicubic or lanczos; antialiased.
    max_pixels : int
        Images with more pixels (after JPEG's own scaling) are skipped before decoding.
    precision : {"auto", "float32", "bfloat16", "float16"}
        Number format in which the network computes; pooled features are float32. "auto" selects a faster
        format of the hardware if the features of 32 images in it are close to those in float32 (cosine of
        at least 0.999), else float32. The choice is made once per store.
    engine : {"auto", "tensorflow", "openvino"}
        Library that runs the network. "auto" selects TensorFlow if there is a GPU, else OpenVINO.
    levels : bool
        Also store the pooled maps of the earlier resolution stages: more columns per view.
    store_dtype : {"float32", "float16"}
        Data type of the features on disk.
    ranges : ViewRanges
        Ranges of the augmentation.
    order : str or sequence of str, optional
        All classes from lowest to highest, which makes them ordered. A ``str`` is split at commas, as on
        the command line.
    entries : {"folder", "image"}
        "folder" makes each folder below a class folder one entry, "image" each image.
    strict : bool
        Raise on the first image that cannot be used, instead of skipping it.
    replace : bool
        Continue even if fewer than half of the stored images are in ``data``.
    device : str
        ``auto``, ``cpu`` or ``gpu:N``.
    gpu_memory : float, optional
        Fraction of the GPU's memory to reserve; by default memory use grows on demand.
    batch_size : int or "auto"
        Number of views per forward pass.
    workers : int, optional
        Number of decode processes; one per core by default.
    image_timeout : float
        Seconds after which a file is skipped; the next run tries it again.
    dask : str, optional
        Address of a Dask scheduler, or "local:N" to start N workers on this machine ("local": one per
        core). ``device``, ``gpu_memory``, ``batch_size`` and ``workers`` then apply to each Dask worker.
    on_progress : callable, optional
        Called with (stage, done, total).
    on_note : callable, optional
        Called with a message to show, such as the start of a download.

    Returns
    -------
    list of ExtractResult
        One per backbone, in the order of ``backbones``.

    Raises
    ------
    DatasetError, ImageError, ConfigError, WeightsError, EngineError, StoreError, ClusterError
        With a one-line message that names the next step.
    """
    from featurize.base.dask_cluster import check_dask, connect_cluster
    from featurize.extraction.execution import Decoders, ExecutionOptions

    options = ExtractOptions(
        backbones=as_names(backbones),
        views=views,
        views_for=views_for,
        out=Path(out) if out is not None else None,
        weights=os.fspath(weights),
        seed=seed,
        preprocess=preprocess,
        input_size=input_size,
        resize=resize,
        resample=resample,
        precision=precision,
        engine=engine,
        levels=levels,
        store_dtype=store_dtype,
        ranges=ranges,
        order=split_names(order) if order is not None else None,
        entries=entries,
        replace=replace,
    )
    options.check()
    if workers is not None and workers < 1:
        raise ConfigError(f"--workers {workers}: expected 1 or more")
    if not image_timeout > 0:
        raise ConfigError(f"--image-timeout {image_timeout:g}: expected seconds above 0")
    if dask is not None:
        check_dask(dask)
    report = on_progress or (lambda stage, done, total: None)
    execution = ExecutionOptions(
        engine=engine,
        device=device,
        gpu_memory=gpu_memory,
        batch_size=batch_size,
        strict=strict,
        report=report,
        note=on_note or (lambda text: None),
        stored_options={"entries": entries, "views_for": views_for, "max_pixels": max_pixels},
    )
    with ExitStack() as stack:
        decoders = stack.enter_context(closing(Decoders(workers=workers, image_timeout=image_timeout)))
        if dask is None:
            decoders.start_early(Path(data), options, max_pixels=max_pixels)
        from featurize.extraction.run import read_dataset, request_stores, run_extraction  # NumPy, HDF5

        dataset = read_dataset(Path(data), options, report=report)
        dataset, requests = request_stores(dataset, options, stack=stack, on_note=on_note)
        cluster = None
        if dask is not None:
            cluster = stack.enter_context(connect_cluster(dask, note=execution.note))
        results = run_extraction(
            dataset,
            requests,
            max_pixels=max_pixels,
            decoders=decoders,
            execution=execution,
            cluster=cluster,
        )
    return [public_result(dataset, result) for result in results]


@dataclass(frozen=True, kw_only=True)
class ExtractResult:
    """Result of an extraction for one store."""

    path: Path
    backbone: str
    dataset: str
    classes: tuple[str, ...]
    ordered: bool
    suggested_order: tuple[str, ...] | None
    config: dict[str, Any]
    state: str  # "created", "updated" or "up to date"
    n_images: int  # files, including skipped ones
    n_content: int  # distinct contents with features
    n_decoded: int  # files decoded in this run
    n_forward: int  # views sent through the network in this run
    n_resumed: int  # contents already computed by an earlier, unfinished run
    n_views: int
    n_features: int
    level_names: tuple[str, ...]  # ("final",) without ``levels``
    level_ends: tuple[int, ...]  # level i: columns level_ends[i - 1] (or 0) to level_ends[i]
    precision: dict[str, Any] | None  # fields of `featurize.extraction.precision.PrecisionCheck`
    split_counts: dict[str, dict[str, int]]  # split → class ("": ungraded) → number of images with features
    skipped: list[SkippedFile]
    outside: tuple[str, ...]  # files outside every class folder
    engine: str  # "" if nothing was computed
    device: str
    seconds: dict[str, float]  # "decoding" (summed over workers), "network" and "writing" (waiting), "total"
    bytes: int
    workers: dict[str, dict[str, float]]  # by address of the Dask worker: its "images" and "seconds"


def public_result(dataset: Dataset, result: StoreResult) -> ExtractResult:
    """Return the public result of one store."""
    from featurize.images.skip_reasons import SkippedFile

    images, plan = result.images, result.plan

    def class_name(label: int) -> str:
        return dataset.classes[label] if label >= 0 else ""

    counts: dict[str, Counter[int]] = {}
    for split, label, row in zip(images.split, images.label, images.content, strict=True):
        if row >= 0:
            counts.setdefault(split, Counter())[int(label)] += 1
    return ExtractResult(
        path=plan.path,
        backbone=plan.backbone.name,
        dataset=dataset.name,
        classes=dataset.classes,
        ordered=dataset.ordered,
        suggested_order=dataset.suggested_order,
        config=plan.config,
        state=result.state,
        n_images=len(images),
        n_content=result.n_content,
        n_decoded=result.n_decoded,
        n_forward=result.n_forward,
        n_resumed=result.n_resumed,
        n_views=plan.n_views,
        n_features=result.columns.n_features,
        level_names=result.columns.names,
        level_ends=result.columns.ends,
        precision=dict(plan.precision) if plan.precision is not None else None,
        split_counts={
            split: {class_name(label): by_label[label] for label in sorted(by_label)}
            for split, by_label in counts.items()
        },
        skipped=[
            SkippedFile(
                path=path,
                split=split,
                class_name=class_name(label),
                reason=reason,
            )
            for path, split, label, reason in zip(
                images.path, images.split, images.label, images.skipped, strict=True
            )
            if reason
        ],
        outside=dataset.outside,
        engine=result.engine,
        device=result.device,
        seconds=result.seconds,
        bytes=result.n_bytes,
        workers=result.workers,
    )
