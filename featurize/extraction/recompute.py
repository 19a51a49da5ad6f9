"""Recomputation of a sample of a store's features, and comparison with the stored ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from featurize.backbones.registry import get_backbone
from featurize.backbones.weights import config_weights
from featurize.base.project import installed_versions
from featurize.base.terminal import default_of
from featurize.base.typing import Float32Array
from featurize.engines.base import Engine
from featurize.engines.batching import Batcher
from featurize.engines.factory import engine_for_config
from featurize.extraction.extract import extract
from featurize.images.augment import PLAIN
from featurize.images.dataset import Dataset
from featurize.images.pool import DecodeRequest, DecodeResult, decode_all
from featurize.images.render import RenderSettings
from featurize.store.check import Fault
from featurize.store.reader import ContentRow, Store

# Tolerance for rounding, as a fraction of the largest feature of a view. Sums in another order differ by
# about 1e-6 in float32, more in a deep network; features of different images differ by 1e-1 and more.
TOLERANCES = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}
OTHER_DEVICE = 1e-2  # float32 convolutions on a GPU may round to 10 bits (TF32), unlike on a CPU
FLOAT16_STORED = 1e-3  # float16 has 11 significant bits
THUMBNAIL_TOLERANCE = 2.0  # mean difference in gray levels: JPEG decoders differ
PHASH_TOLERANCE = 4  # bits


@dataclass(frozen=True, kw_only=True)
class RecomputedSample:
    """Result of `recompute_sample`."""

    n_contents: int
    n_views: int  # including augmented ones
    tolerance: float  # as a fraction of the largest feature of a view
    largest_difference: float  # in the same unit, over all views
    faults: tuple[Fault, ...]
    notes: tuple[str, ...]


def recompute_sample(
    store: Store,
    dataset: Dataset,
    *,
    n: int,
    seed: int,
    exclude: frozenset[str],
    weights: str | Path | None,
    device: str,
    workers: int | None,
    report: Callable[[str, int, int], None],
) -> RecomputedSample:
    """Compute the features of ``n`` contents again and compare them; memory holds one batch at a time.

    Parameters
    ----------
    store, dataset : Store, Dataset
        The stored features, and the current files.
    n, seed : int
        Number of contents, and the seed of their selection.
    exclude : frozenset of str
        Contents that must not be selected.
    weights, device, workers
        As in `featurize.extraction.verify.verify`.
    report : callable
        Called with (stage, done, total).
    """
    chosen = choose_contents(store, dataset, n=n, seed=seed, exclude=exclude)
    if not chosen:
        return RecomputedSample(
            n_contents=0, n_views=0, tolerance=0.0, largest_difference=0.0, faults=(),
            notes=("no features were computed again: the folder has none of the stored images",),
        )  # fmt: skip
    backbone = get_backbone(store.backbone)
    weights_path = weights if weights is not None else stored_weights_path(store)
    found = config_weights(backbone, store.config, weights_path, download=False)
    rendering = RenderSettings.from_config(store.config, max_pixels=stored_max_pixels(store))
    engine = engine_for_config(backbone, found, store.config, device=device)
    tolerance = _tolerance(store, engine.device)
    rows, rows_of_views = store.rows_of_contents(), store.rows_of_views()
    files = dataset.distinct_contents
    all_views = (PLAIN, *range(1, store.n_views + 1))
    requests = [
        DecodeRequest(
            path=dataset.root / files[sha256].path,
            sha256=sha256,
            views=all_views if sha256 in rows_of_views else (PLAIN,),
        )
        for sha256 in chosen
    ]
    faults, notes, largest, n_views, n_done = [], [], 0.0, 0, 0
    ends = store.level_ends
    for done, decoded in enumerate(decode_all(requests, rendering, workers=workers), start=1):
        report("recomputing", done, len(requests))
        sha256 = chosen[done - 1]
        path = files[sha256].path
        if decoded.problem:
            notes.append(f"{path} was not computed again: {decoded.problem}")
            continue
        stored = store.row(rows[sha256], augmented_index=rows_of_views.get(sha256))
        differences = [
            relative_difference(_stored_view(stored, view), features, ends=ends)
            for view, features in zip(decoded.request.views, _features(engine, decoded), strict=True)
        ]
        n_views += len(differences)
        n_done += 1
        largest = max(largest, *differences)
        wrong = [
            f"{'plain view' if view == PLAIN else f'view {view}'} ({difference:.1g} of the largest feature)"
            for view, difference in zip(decoded.request.views, differences, strict=True)
            if not difference <= tolerance  # NaN is wrong
        ]
        if wrong:
            what = f"its stored features are wrong: {', '.join(wrong)}; expected at most {tolerance:g}"
        else:
            what = _metadata_difference(stored, decoded)
        if what:
            what += _version_differences(store)
            faults.append(Fault(reach="contents", where=path, what=what, contents=(sha256,)))
    return RecomputedSample(
        n_contents=n_done, n_views=n_views, tolerance=tolerance, largest_difference=largest,
        faults=tuple(faults), notes=tuple(notes),
    )  # fmt: skip


def choose_contents(
    store: Store, dataset: Dataset, *, n: int, seed: int, exclude: frozenset[str]
) -> list[str]:
    """Return up to ``n`` contents spread over the store: a random one from each section of its rows."""
    files = dataset.distinct_contents
    rows_of_views = store.rows_of_views()
    pool = [sha256 for sha256 in store.content.sha256 if sha256 in files and sha256 not in exclude]
    pool.sort(key=lambda sha256: sha256 not in rows_of_views)  # stable; so that both kinds are drawn
    rng = np.random.default_rng(seed)
    sections = np.array_split(np.arange(len(pool)), min(n, len(pool)) or 1)
    return sorted(pool[int(rng.choice(section))] for section in sections if len(section))


def relative_difference(stored: Float32Array, computed: Float32Array, *, ends: Sequence[int]) -> float:
    """Return the largest difference of two feature vectors, as a fraction of the largest feature in either.

    ``ends`` are the columns at which the levels end; each level has its own largest feature.
    """
    differences = [_difference(stored[start:end], computed[start:end]) for start, end in pairwise((0, *ends))]
    return float(np.max(differences))  # NaN if any is NaN


def _difference(stored: Float32Array, computed: Float32Array) -> float:
    if np.array_equal(stored, computed, equal_nan=True):
        return 0.0
    scale = np.maximum(np.abs(stored).max(), np.abs(computed).max())  # NaN if any is NaN
    return float(np.abs(stored - computed).max() / scale)


def stored_max_pixels(store: Store) -> int:
    """Return the ``max_pixels`` option recorded in the store, else the default."""
    return int(store.created_with.get("options", {}).get("max_pixels", default_of(extract, "max_pixels")))


def _tolerance(store: Store, device: str) -> float:
    tolerance = TOLERANCES[store.config["precision"]]
    stored_device = store.created_with.get("device") or device
    if stored_device.split(":")[0] != device.split(":")[0]:
        tolerance = max(tolerance, OTHER_DEVICE)
    return max(tolerance, FLOAT16_STORED) if store.config["store_dtype"] == "float16" else tolerance


def _features(engine: Engine, decoded: DecodeResult) -> list[Float32Array]:
    """Return the features (n_features,) of each view."""
    rows: list[Float32Array] = []
    batcher: Batcher[None] = Batcher(engine, lambda _, features: rows.extend(features))
    for view in decoded.views:
        batcher.add(view, None)
    batcher.finish()
    return rows


def _stored_view(stored: ContentRow, view: int) -> Float32Array:
    if view == PLAIN:
        return stored.plain
    assert stored.augmented is not None
    return stored.augmented[view - 1]


def _metadata_difference(stored: ContentRow, decoded: DecodeResult) -> str:
    """Return a difference in size, perceptual hash or thumbnail, "" if there is none."""
    if (stored.width, stored.height) != (decoded.width, decoded.height):
        return (
            f"it has {decoded.width} × {decoded.height} pixels, stored are {stored.width} × {stored.height}"
        )
    if (stored.phash ^ decoded.phash).bit_count() > PHASH_TOLERANCE:
        return "its perceptual hash differs from the stored one"
    assert decoded.thumbnail is not None
    gray_levels = np.abs(stored.thumbnail.astype(float) - decoded.thumbnail).mean()
    return "its thumbnail differs from the stored one" if gray_levels > THUMBNAIL_TOLERANCE else ""


def _version_differences(store: Store) -> str:
    """Return which package versions differ from those that created the store: a possible cause."""
    stored = store.created_with.get("packages", {})
    installed = installed_versions(stored)
    differences = [
        f"{package} {stored_version}, installed {installed.get(package, 'none')}"
        for package, stored_version in stored.items()
        if installed.get(package) != stored_version
    ]
    return f" (created with {'; '.join(differences)})" if differences else ""


def stored_weights_path(store: Store) -> Path | None:
    """Return the weights file recorded in the store, if it exists."""
    path = store.created_with.get("weights_path")
    if store.config["weights"]["kind"] == "file" and path and Path(path).is_file():
        return Path(path)
    return None
