"""The public job: a folder of images in, one store a backbone out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurize.backbones import get_backbone
from featurize.config import make_config, store_name
from featurize.dataset import Dataset, scan
from featurize.errors import ConfigError, DatasetError
from featurize.views import ViewRanges
from featurize.weights import find_weights

if TYPE_CHECKING:
    from featurize.filling import Execution, Outcome
    from featurize.rendering import Rendering

DEFAULT_BACKBONE = "efficientnet_lite0"
VIEWS_FOR = ("train", "all")
FEATURES = Path("artifacts") / "features"


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
    split_counts: dict[str, dict[str, int]]  # split → class ("" ungraded) → images with features
    skipped: list[tuple[str, str]]  # path, reason
    outside: tuple[str, ...]  # files in no class folder
    device: str
    seconds: dict[str, float]  # decoding (summed over threads), network, writing, total
    bytes: int


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
    precision: str = "float32",
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
    precision : {"float32", "bfloat16", "float16"}
        Format of the network's arithmetic; pooled features are float32.
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
    replace_store : bool
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
    DatasetError, ImageError, ConfigError, WeightsError, EngineError, StoreError
        Each with one line that says what to do.
    """
    from featurize.filling import Execution  # h5py only where there is work: --help needs none
    from featurize.lock import writing
    from featurize.planning import existing_store, keep_stored_order, plan, settle_config
    from featurize.production import produce
    from featurize.rendering import Rendering

    _check(backbones=backbones, views=views, views_for=views_for, weights=weights, workers=workers)
    report = on_progress or (lambda stage, done, total: None)
    dataset = scan(
        data, entries=entries, order=order, on_file=lambda done, total: report("reading", done, total)
    )
    if not dataset.images:
        raise DatasetError(
            f"{data}: no files in class folders. Expected {data}/train/CLASS/… or {data}/CLASS/…"
        )
    folder = Path(out) if out is not None else FEATURES / dataset.name
    with ExitStack() as stack:
        drafts: list[dict[str, Any]] = []
        for name in dict.fromkeys(backbones):
            backbone = get_backbone(name)
            found = find_weights(backbone, weights, seed=seed, on_download=on_note)
            config = make_config(
                backbone,
                found,
                input_size=input_size or backbone.size,
                resize=resize,
                resample=resample,
                preprocess=preprocess,
                precision=precision,
                store_dtype=store_dtype,
                ranges=ranges,
                seed=seed,
            )
            path = folder / f"{store_name(config, default_size=backbone.size)}.h5"
            stack.enter_context(writing(path))
            store = existing_store(path, config, dataset, force=replace)
            if store is not None:
                stack.enter_context(store)
            config = settle_config(path, config, store)
            dataset = keep_stored_order(dataset, store)
            drafts.append(
                {"backbone": backbone, "weights": found, "config": config, "path": path, "store": store}
            )
        execution = Execution(
            device=device,
            gpu_memory=gpu_memory,
            batch_size=batch_size,
            workers=workers,
            image_timeout=image_timeout,
            strict=strict,
            report=report,
        )
        outcomes: dict[str, Outcome] = {}
        for size in dict.fromkeys(draft["config"]["input_size"] for draft in drafts):
            group = [draft for draft in drafts if draft["config"]["input_size"] == size]
            rendering = Rendering(
                size=size, resize=resize, resample=resample, max_pixels=max_pixels, ranges=ranges, seed=seed
            )
            _fit_statistics(dataset, group, rendering, execution)
            targets = [plan(dataset, **draft, views=views, views_for=views_for) for draft in group]
            for outcome in produce(dataset, targets, rendering=rendering, execution=execution):
                outcomes[outcome.target.backbone.name] = outcome
        return [_result(dataset, outcomes[draft["backbone"].name]) for draft in drafts]


def _check(
    *, backbones: Sequence[str], views: int, views_for: str, weights: str, workers: int | None
) -> None:
    if not backbones:
        raise ConfigError("No backbone was named. See which there are with: featurize backbones")
    if views < 0:
        raise ConfigError(f"--views {views}: expected 0 or more")
    if workers is not None and workers < 1:
        raise ConfigError(f"--workers {workers}: expected 1 or more")
    if views_for not in VIEWS_FOR:
        raise ConfigError(f"--views-for {views_for}: unknown. Choose one of: {', '.join(VIEWS_FOR)}")
    if weights not in ("imagenet", "random") and len(set(backbones)) > 1:
        raise ConfigError(
            f"--weights {weights} fits one backbone, but {len(set(backbones))} were named: extract one by one"
        )


def _fit_statistics(
    dataset: Dataset, drafts: Sequence[dict[str, Any]], rendering: Rendering, execution: Execution
) -> None:
    """Settle the statistics that are still open, once for all backbones of one input size."""
    from featurize.production import fit_statistics

    fitted = None
    for draft in drafts:
        if draft["config"]["preprocess"] == "featurewise" and draft["config"]["statistics"] is None:
            fitted = fitted or fit_statistics(dataset, rendering=rendering, execution=execution)
            draft["config"] = {**draft["config"], "statistics": fitted}


def _result(dataset: Dataset, outcome: Outcome) -> ExtractResult:
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
        n_features=target.backbone.n_features,
        split_counts={
            split: {dataset.classes[label] if label >= 0 else "": each[label] for label in sorted(each)}
            for split, each in counts.items()
        },
        skipped=[(path, reason) for path, reason in zip(images.path, images.skipped, strict=True) if reason],
        outside=dataset.outside,
        device=outcome.device,
        seconds=outcome.seconds,
        bytes=outcome.n_bytes,
    )
