"""What is off in a store, made again; the rest stays as it is."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from featurize.backbones.registry import get_backbone
from featurize.backbones.weights import config_weights
from featurize.base.files import write_lock
from featurize.errors import ConfigError, StoreError
from featurize.extraction.execution import Decoders, ExecutionOptions
from featurize.extraction.extract import ExtractResult, extract_result
from featurize.extraction.plan import StoreRequest, refuse_other_pictures
from featurize.extraction.recompute import SAMPLE, SEED, max_pixels_of, weights_file
from featurize.extraction.run import make_stores
from featurize.extraction.verify import Verification, dataset_of, made_from, verify
from featurize.images.dataset import Dataset
from featurize.images.pool import IMAGE_TIMEOUT
from featurize.store.reader import Store, open_store


@dataclass(frozen=True, kw_only=True)
class Repair:
    """What was off, and what was made again; nothing if nothing was off."""

    verification: Verification  # before
    result: ExtractResult | None


def repair(
    path: str | Path,
    *,
    data: str | Path | None = None,
    sample: int = SAMPLE,
    seed: int = SEED,
    weights: str | Path | None = None,
    replace: bool = False,
    device: str = "auto",
    gpu_memory: float | None = None,
    batch_size: int | str = "auto",
    workers: int | None = None,
    image_timeout: float = IMAGE_TIMEOUT,
    on_progress: Callable[[str, int, int], None] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> Repair:
    """Verify a store and compute again just what is off, under the store's own config.

    Damaged rows are made again from their files. Files that were added, changed, moved or removed are
    treated as an extraction does. All other rows keep their bytes. Interrupted, it goes on where it was.

    Parameters
    ----------
    path : path-like
        The store.
    data : path-like, optional
        The folder of images; by default the one that it was made from.
    sample, seed : int
        As in `featurize.extraction.verify.verify`.
    weights : path-like, optional
        The weights file; found as the store names it by default.
    replace : bool
        Go on although fewer than half of the stored images are in ``data``.
    device, gpu_memory, batch_size, workers, image_timeout, on_progress, on_note
        As in `featurize.extract`.

    Raises
    ------
    StoreError
        If nothing in the store is to be relied on, or the folder of images is missing or is another.
    DatasetError, WeightsError, EngineError
        As an extraction.
    """
    path = Path(path)
    report = on_progress or (lambda stage, done, total: None)
    if not path.is_file():
        raise StoreError(f"{path}: no such store. Make one with: featurize extract DATA")
    with ExitStack() as stack:
        stack.enter_context(write_lock(path))
        verification = verify(
            path, data=data, sample=sample, seed=seed, weights=weights, device=device, workers=workers,
            on_progress=on_progress,
        )  # fmt: skip
        if verification.clean:
            return Repair(verification=verification, result=None)
        if verification.reaches("file"):
            raise StoreError(
                f"{path}: cannot be mended ({verification.faults[0]}). "
                f"A new extraction helps: {verification.mend}"
            )
        store = stack.enter_context(open_store(path, salvage=True))
        dataset = _dataset(store, data, verification, replace=replace, report=report)
        backbone = get_backbone(store.backbone)
        named = weights if weights is not None else weights_file(store)
        draft = StoreRequest(
            backbone=backbone,
            weights=config_weights(backbone, store.config, named, on_download=on_note),
            config=store.config,
            precision=store.created_with.get("precision"),
            path=path,
            store=None if verification.reaches("rows") else store,
            views=store.n_views,
            views_for=_views_for(store, verification),
            distrusted=verification.distrusted,
            trusts_images=not verification.reaches("images"),
        )
        options = store.created_with.get("options", {})
        execution = ExecutionOptions(
            engine="auto",
            device=device,
            gpu_memory=gpu_memory,
            batch_size=batch_size,
            strict=False,
            report=report,
            note=on_note or (lambda text: None),
            remembered=options,
        )
        max_pixels = max_pixels_of(store)
        decoders = stack.enter_context(closing(Decoders(workers=workers, image_timeout=image_timeout)))
        (outcome,) = make_stores(
            dataset, [draft], max_pixels=max_pixels, decoders=decoders, execution=execution
        )
    return Repair(verification=verification, result=extract_result(dataset, outcome))


def _dataset(
    store: Store,
    data: str | Path | None,
    verification: Verification,
    *,
    replace: bool,
    report: Callable[[str, int, int], None],
) -> Dataset:
    """Return the pictures to mend the store from; refuse those of another data set."""
    root = Path(data) if data is not None else made_from(store)
    if root is None:
        raise StoreError(
            f"{store.path}: the pictures are needed to mend it, and the folder it was made from, "
            f"{store.created_with.get('data', 'not known')}, is not there. Name it with: --data DATA"
        )
    dataset = dataset_of(store, root, report=report)
    if store.ordered and not dataset.ordered:
        raise ConfigError(
            f"{root}: the classes are now {', '.join(dataset.classes)}, and the store has the order "
            f"{' < '.join(store.classes)}. Say the new order with: featurize extract {root} --order …"
        )
    if not replace and not verification.reaches("rows"):
        refuse_other_pictures(store, dataset)
    return dataset


def _views_for(store: Store, verification: Verification) -> str:
    """Return whose views the store has; worked out of its tables for one that does not say."""
    said = store.created_with.get("options", {}).get("views_for")
    if said or verification.reaches("rows") or verification.reaches("images"):
        return said or "train"
    training = {
        sha256
        for sha256, split in zip(store.images.sha256, store.images.split, strict=True)
        if split == "train"
    }
    return "train" if store.rows_of_views().keys() <= training else "all"
