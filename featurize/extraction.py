"""The public job: a folder of images in, one store a backbone out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurize.dataset import Dataset
from featurize.errors import ConfigError
from featurize.views import ViewRanges

if TYPE_CHECKING:
    from featurize.making.filling import Outcome
    from featurize.making.skipping import Skipped

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
    skipped: list[Skipped]
    outside: tuple[str, ...]  # files in no class folder
    device: str
    seconds: dict[str, float]  # decoding (summed over threads), network, writing, total
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Which features are wanted, and where: parameters of `extract`, which has their defaults."""

    backbones: tuple[str, ...]
    views: int
    views_for: str
    out: Path | None
    weights: str
    seed: int
    preprocess: str
    input_size: int | None
    resize: str
    resample: str
    precision: str
    store_dtype: str
    ranges: ViewRanges
    order: tuple[str, ...] | None
    entries: str
    replace: bool

    @staticmethod
    def default_folder(dataset: str) -> Path:
        """Return the folder of a data set's stores when none is named."""
        return FEATURES / dataset

    def check(self) -> None:
        """Raise a ConfigError if this makes no sense."""
        from featurize.images import RESAMPLES, RESIZES  # Pillow: --help needs none

        if not self.backbones:
            raise ConfigError("No backbone was named. See which there are with: featurize backbones")
        if self.views < 0:
            raise ConfigError(f"--views {self.views}: expected 0 or more")
        if self.views_for not in VIEWS_FOR:
            raise ConfigError(f"--views-for {self.views_for}: unknown. Choose one of: {', '.join(VIEWS_FOR)}")
        if self.resize not in RESIZES:
            raise ConfigError(f"--resize {self.resize}: unknown. Choose one of: {', '.join(RESIZES)}")
        if self.resample not in RESAMPLES:
            raise ConfigError(f"--resample {self.resample}: unknown. Choose one of: {', '.join(RESAMPLES)}")
        if self.input_size is not None and self.input_size < 1:
            raise ConfigError(f"--input-size {self.input_size}: expected 1 or more")
        n_backbones = len(set(self.backbones))
        if self.weights not in ("imagenet", "random") and n_backbones > 1:
            raise ConfigError(
                f"--weights {self.weights} fits one backbone, but {n_backbones} were named: "
                "extract one by one"
            )


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
    from featurize.making.drafting import draft_stores, read_dataset  # h5py only where there is work
    from featurize.making.filling import Execution
    from featurize.making.runs import carry_out

    asked = Asked(
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
    report = on_progress or (lambda stage, done, total: None)
    dataset = read_dataset(Path(data), asked, report=report)
    execution = Execution(
        device=device,
        gpu_memory=gpu_memory,
        batch_size=batch_size,
        workers=workers,
        image_timeout=image_timeout,
        strict=strict,
        report=report,
        remembered={"entries": entries, "views_for": views_for, "max_pixels": max_pixels},
    )
    with ExitStack() as stack:
        dataset, drafts = draft_stores(dataset, asked, open_stores=stack, on_note=on_note)
        outcomes = carry_out(dataset, drafts, max_pixels=max_pixels, execution=execution)
    return [describe(dataset, outcome) for outcome in outcomes]


def describe(dataset: Dataset, outcome: Outcome) -> ExtractResult:
    """Return what a run brought one store."""
    from featurize.making.skipping import Skipped

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
        skipped=[
            Skipped(
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
        device=outcome.device,
        seconds=outcome.seconds,
        bytes=outcome.n_bytes,
    )
