"""Public function `repair`: verify a store and compute its wrong rows again."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from featurize.backbones.registry import get_backbone
from featurize.backbones.weights import config_weights
from featurize.base.files import write_lock
from featurize.errors import ConfigError, StoreError
from featurize.extraction.execution import Decoders, ExecutionOptions
from featurize.extraction.extract import ExtractResult, public_result
from featurize.extraction.options import SAMPLE_SEED, SAMPLE_SIZE
from featurize.extraction.plan import StoreRequest, check_store_images
from featurize.extraction.recompute import stored_max_pixels, stored_weights_path
from featurize.extraction.run import run_extraction
from featurize.extraction.verify import Verification, load_store_dataset, source_folder, verify
from featurize.images.dataset import Dataset
from featurize.images.pool import IMAGE_TIMEOUT
from featurize.store.reader import Store, open_store


@dataclass(frozen=True, kw_only=True)
class Repair:
    """Result of `repair`."""

    verification: Verification  # before the repair
    result: ExtractResult | None  # None if there was nothing to repair


def repair(
    path: str | os.PathLike[str],
    *,
    data: str | os.PathLike[str] | None = None,
    sample: int = SAMPLE_SIZE,
    seed: int = SAMPLE_SEED,
    weights: str | os.PathLike[str] | None = None,
    replace: bool = False,
    device: str = "auto",
    gpu_memory: float | None = None,
    batch_size: int | str = "auto",
    workers: int | None = None,
    image_timeout: float = IMAGE_TIMEOUT,
    on_progress: Callable[[str, int, int], None] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> Repair:
    """Verify a store and compute its wrong rows again, under the config of the store.

    Damaged rows are computed again from their files. Added, changed, moved and removed files are treated as
    in an extraction. All other rows keep their bytes. An interrupted repair continues when it is run again.

    Parameters
    ----------
    path : path-like
        The store.
    data : path-like, optional
        The folder of images; by default the one recorded in the store.
    sample, seed : int
        As in `featurize.verify`.
    weights : path-like, optional
        The weights file; by default the one recorded in the store.
    replace : bool
        Continue even if fewer than half of the stored images are in ``data``.
    device, gpu_memory, batch_size, workers, image_timeout, on_progress, on_note
        As in `featurize.extract`.

    Raises
    ------
    StoreError
        If the store cannot be read at all, or the folder of images is missing or has other images.
    DatasetError, WeightsError, EngineError
        As in `featurize.extract`.
    """
    path = Path(path)
    weights = Path(weights) if weights is not None else None
    report = on_progress or (lambda stage, done, total: None)
    if not path.is_file():
        raise StoreError(f"{path}: no such store. Create one with: featurize extract DATA")
    with ExitStack() as stack:
        stack.enter_context(write_lock(path))
        verification = verify(
            path, data=data, sample=sample, seed=seed, weights=weights, device=device, workers=workers,
            on_progress=on_progress,
        )  # fmt: skip
        if verification.clean:
            return Repair(verification=verification, result=None)
        if verification.has_fault("file"):
            raise StoreError(
                f"{path}: cannot be repaired ({verification.faults[0]}). Extract it again: {verification.fix}"
            )
        store = stack.enter_context(open_store(path, salvage=True))
        dataset = _dataset(store, data, verification, replace=replace, report=report)
        backbone = get_backbone(store.backbone)
        weights_path = weights if weights is not None else stored_weights_path(store)
        request = StoreRequest(
            backbone=backbone,
            weights=config_weights(backbone, store.config, weights_path, on_download=on_note),
            config=store.config,
            precision=store.created_with.get("precision"),
            path=path,
            store=None if verification.has_fault("rows") else store,
            views=store.n_views,
            views_for=_views_for(store, verification),
            invalid_contents=verification.invalid_contents,
            valid_images=not verification.has_fault("images"),
        )
        execution = ExecutionOptions(
            engine="auto",
            device=device,
            gpu_memory=gpu_memory,
            batch_size=batch_size,
            strict=False,
            report=report,
            note=on_note or (lambda text: None),
            stored_options=store.created_with.get("options", {}),
        )
        max_pixels = stored_max_pixels(store)
        decoders = stack.enter_context(closing(Decoders(workers=workers, image_timeout=image_timeout)))
        (result,) = run_extraction(
            dataset, [request], max_pixels=max_pixels, decoders=decoders, execution=execution
        )
    return Repair(verification=verification, result=public_result(dataset, result))


def _dataset(
    store: Store,
    data: str | os.PathLike[str] | None,
    verification: Verification,
    *,
    replace: bool,
    report: Callable[[str, int, int], None],
) -> Dataset:
    """Return the data set of the store; raise an error if its images or ordered classes are others."""
    root = Path(data) if data is not None else source_folder(store)
    if root is None:
        raise StoreError(
            f"{store.path}: the images are needed for the repair, but the folder from which it was created, "
            f"{store.created_with.get('data', 'unknown')}, does not exist. Name the folder with: --data DATA"
        )
    dataset = load_store_dataset(store, root, report=report)
    if store.ordered and not dataset.ordered:
        raise ConfigError(
            f"{root}: the classes are now {', '.join(dataset.classes)}, but the store has the order "
            f"{' < '.join(store.classes)}. Give the new order with: featurize extract {root} --order …"
        )
    if not replace and not verification.has_fault("rows"):
        check_store_images(store, dataset)
    return dataset


def _views_for(store: Store, verification: Verification) -> str:
    """Return the ``views_for`` option recorded in the store, else the one that its tables imply."""
    recorded = store.created_with.get("options", {}).get("views_for")
    if recorded or verification.has_fault("rows") or verification.has_fault("images"):
        return recorded or "train"
    training = {
        sha256
        for sha256, split in zip(store.images.sha256, store.images.split, strict=True)
        if split == "train"
    }
    return "train" if store.rows_of_views().keys() <= training else "all"
