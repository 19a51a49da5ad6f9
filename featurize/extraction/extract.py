"""The public job: a folder of images in, one store a backbone out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurize.base.dask_cluster import check_dask, connect_cluster
from featurize.errors import ConfigError
from featurize.extraction.options import ExtractOptions
from featurize.images.augment import ViewRanges
from featurize.images.dataset import Dataset
from featurize.images.skip_reasons import SkippedFile

if TYPE_CHECKING:
    from featurize.extraction.plan import StoreResult


DEFAULT_BACKBONE = "efficientnet_lite0"


def extract(
    data: str | Path,
    *,
    backbones: Sequence[str] = (DEFAULT_BACKBONE,),
    views: int = 4,
    views_for: str = "train",
    out: str | Path | None = None,
    weights: str = "imagenet",
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
    order: Sequence[str] | None = None,
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
    """Run frozen backbones over every image of a folder tree and keep the pooled features.

    Parameters
    ----------
    data : path-like
        The folder tree; see "Folders" in the README for the layouts.
    backbones : sequence of str
        Names from `featurize.BACKBONES`. Backbones of one input size share one decode.
    views : int
        Augmented views of each training image, next to its plain one.
    views_for : {"train", "all"}
        Whose images get augmented views.
    out : path-like, optional
        Folder of the stores; ``artifacts/features/<dataset>`` by default.
    weights : str
        ``"imagenet"``, ``"random"``, or a weights file for the one backbone named.
    seed : int
        Seeds augmentation and random weights.
    preprocess : {"native", "rescale", "featurewise"}
        The backbone's own preprocessing, 1/255, or 1/255 and then fitted mean and standard deviation.
    input_size : int, optional
        Side of the network's input in pixels; the backbone's own by default.
    resize : {"squash", "crop", "pad"}
        How a picture becomes a square.
    resample : str
        Pillow's filter: nearest, bilinear, bicubic or lanczos; antialiased.
    max_pixels : int
        Pictures of more pixels (after JPEG's own scaling) are skipped before decoding.
    precision : {"auto", "float32", "bfloat16", "float16"}
        Format of the network's arithmetic; pooled features are float32. "auto" takes one that the hardware
        has beside float32, where 32 of the images have nearly the same features in it (a cosine of at least
        0.999); settled once a store.
    engine : {"auto", "tensorflow", "openvino"}
        What runs the network: TensorFlow where there is a GPU, else OpenVINO, by default.
    levels : bool
        Also keep the pooled maps of the earlier resolution stages: more columns a view.
    store_dtype : {"float32", "float16"}
        Format of the features on disk.
    ranges : ViewRanges
        Ranges of the augmentation.
    order : sequence of str, optional
        The classes from worst to best: makes them ordered.
    entries : {"folder", "image"}
        Whether a folder below a class is one entry.
    strict : bool
        Raise on the first image that cannot be used, instead of skipping it.
    replace : bool
        Go on although fewer than half of the stored images are in ``data``.
    device : str
        ``auto``, ``cpu`` or ``gpu:N``.
    gpu_memory : float, optional
        Fraction of the GPU's memory to take; grows on demand by default.
    batch_size : int or "auto"
        Views in one forward pass.
    workers : int, optional
        Decoding processes; one a core by default.
    image_timeout : float
        Seconds after which a file is skipped; the next run tries it again.
    dask : str, optional
        A Dask scheduler's address, whose workers compute, or "local:N" for N of them here ("local":
        one a core). Then ``device``, ``gpu_memory``, ``batch_size`` and ``workers`` are those of each.
    on_progress : callable, optional
        Called with (stage, done, total).
    on_note : callable, optional
        Called with a line worth showing, such as the start of a download.

    Returns
    -------
    list of ExtractResult
        One for each backbone, in the order asked for.

    Raises
    ------
    DatasetError, ImageError, ConfigError, WeightsError, EngineError, StoreError, ClusterError
        Each with one line that says what to do.
    """
    from featurize.extraction.execution import Decoders, ExecutionOptions

    asked = ExtractOptions(
        backbones=tuple(backbones),
        views=views,
        views_for=views_for,
        out=Path(out) if out is not None else None,
        weights=weights,
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
        order=tuple(order) if order is not None else None,
        entries=entries,
        replace=replace,
    )
    asked.check()
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
        remembered={"entries": entries, "views_for": views_for, "max_pixels": max_pixels},
    )
    with ExitStack() as stack:
        decoders = stack.enter_context(closing(Decoders(workers=workers, image_timeout=image_timeout)))
        if dask is None:
            decoders.start_early(Path(data), asked, max_pixels=max_pixels)
        from featurize.extraction.run import make_stores, read_dataset, request_stores  # NumPy, HDF5

        dataset = read_dataset(Path(data), asked, report=report)
        dataset, drafts = request_stores(dataset, asked, open_stores=stack, on_note=on_note)
        cluster = None
        if dask is not None:
            cluster = stack.enter_context(connect_cluster(dask, note=execution.note))
        outcomes = make_stores(
            dataset,
            drafts,
            max_pixels=max_pixels,
            decoders=decoders,
            execution=execution,
            cluster=cluster,
        )
    return [extract_result(dataset, outcome) for outcome in outcomes]


@dataclass(frozen=True, kw_only=True)
class ExtractResult:
    """What one run made of one store."""

    path: Path
    backbone: str
    dataset: str
    classes: tuple[str, ...]
    ordered: bool
    suggested_order: tuple[str, ...] | None
    config: dict[str, Any]
    state: str  # "made", "updated" or "up to date"
    n_images: int  # files, skipped ones included
    n_content: int  # distinct contents with features
    n_decoded: int  # files decoded by this run
    n_forward: int  # views sent through the network by this run
    n_resumed: int  # contents that an unfinished earlier run had computed
    n_views: int
    n_features: int
    level_names: tuple[str, ...]  # ("final",) unless levels were asked for
    level_ends: tuple[int, ...]  # level i is the columns from level_ends[i - 1] (or 0) up to level_ends[i]
    precision: (
        dict[str, Any] | None
    )  # how it was settled: see `featurize.extraction.precision.PrecisionCheck`
    split_counts: dict[str, dict[str, int]]  # split → class ("" ungraded) → images with features
    skipped: list[SkippedFile]
    outside: tuple[str, ...]  # files in no class folder
    engine: str  # "" when nothing was computed
    device: str
    seconds: dict[str, float]  # decoding: summed over workers; network, writing: waited for; total
    bytes: int
    workers: dict[str, dict[str, float]]  # Dask workers by address: the "pictures" and "seconds" of each


def extract_result(dataset: Dataset, outcome: StoreResult) -> ExtractResult:
    """Return what a run brought one store."""
    images, target = outcome.images, outcome.target
    counts: dict[str, Counter[int]] = {}
    for split, label, row in zip(images.split, images.label, images.content, strict=True):
        if row >= 0:
            counts.setdefault(split, Counter())[int(label)] += 1
    return ExtractResult(
        path=target.path,
        backbone=target.backbone.name,
        dataset=dataset.name,
        classes=dataset.classes,
        ordered=dataset.ordered,
        suggested_order=dataset.suggested_order,
        config=target.config,
        state=outcome.state,
        n_images=len(images),
        n_content=outcome.n_content,
        n_decoded=outcome.n_decoded,
        n_forward=outcome.n_forward,
        n_resumed=outcome.n_resumed,
        n_views=target.n_views,
        n_features=outcome.columns.n_features,
        level_names=outcome.columns.names,
        level_ends=outcome.columns.ends,
        precision=dict(target.precision) if target.precision is not None else None,
        split_counts={
            split: {dataset.classes[label] if label >= 0 else "": each[label] for label in sorted(each)}
            for split, each in counts.items()
        },
        skipped=[
            SkippedFile(
                path=path,
                split=split,
                class_name=dataset.classes[label] if label >= 0 else "",
                reason=reason,
            )
            for path, split, label, reason in zip(
                images.path, images.split, images.label, images.skipped, strict=True
            )
            if reason
        ],
        outside=dataset.outside,
        engine=outcome.engine,
        device=outcome.device,
        seconds=outcome.seconds,
        bytes=outcome.n_bytes,
        workers=outcome.workers,
    )
