"""A sample of a store's features computed again, and how far they are from those stored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from featurize.backbones.registry import get_backbone
from featurize.backbones.weights import config_weights
from featurize.base.project import installed_versions
from featurize.base.terminal import default_of
from featurize.engines.base import Engine
from featurize.engines.batching import Batcher
from featurize.engines.factory import engine_for_config
from featurize.extraction.extract import extract
from featurize.extraction.plan import distinct_contents
from featurize.images.augment import PLAIN
from featurize.images.dataset import Dataset
from featurize.images.pool import DecodeRequest, DecodeResult, decode_all
from featurize.images.render import RenderSettings
from featurize.store.check import Fault
from featurize.store.reader import ContentRow, Store

SAMPLE = 8  # contents computed again when nothing else is said
SEED = 0  # and which
# What rounding may change, as a part of the largest feature of a view. The same sums in another order differ
# by about 1e-6 in float32, a deep network adds to that; another picture's features differ by 1e-1 and more.
TOLERANCES = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}
OTHER_DEVICE = 1e-2  # a GPU's float32 convolutions may round to 10 bits (TF32), a CPU's do not
FLOAT16_STORED = 1e-3  # the last of its 11 bits
THUMBNAIL_TOLERANCE = 2.0  # gray levels, on average: JPEG decoders differ by so much
PHASH_TOLERANCE = 4  # bits


@dataclass(frozen=True, kw_only=True)
class RecomputedSample:
    """What was computed again."""

    n_contents: int
    n_views: int  # augmented ones included
    tolerance: float  # a part of the largest feature of a view
    largest_difference: float  # in the same unit; over all of them
    faults: tuple[Fault, ...]
    notes: tuple[str, ...]


def recompute_sample(
    store: Store,
    dataset: Dataset,
    *,
    n: int,
    seed: int,
    without: frozenset[str],
    weights: str | Path | None,
    device: str,
    workers: int | None,
    report: Callable[[str, int, int], None],
) -> RecomputedSample:
    """Compute features of ``n`` contents again, holding one batch at a time.

    Parameters
    ----------
    store, dataset : Store, Dataset
        What is stored, and where the files are now.
    n, seed : int
        How many contents, and what decides which.
    without : frozenset of str
        Contents not to be chosen.
    weights, device, workers
        As in `featurize.extraction.verify.verify`.
    report : callable
        Called with (stage, done, total).
    """
    chosen = choose_contents(store, dataset, n=n, seed=seed, without=without)
    if not chosen:
        return RecomputedSample(
            n_contents=0, n_views=0, tolerance=0.0, largest_difference=0.0, faults=(),
            notes=("no feature was computed again: the folder has none of the stored pictures",),
        )  # fmt: skip
    backbone = get_backbone(store.backbone)
    named = weights if weights is not None else weights_file(store)
    found = config_weights(backbone, store.config, named, download=False)
    rendering = RenderSettings.from_config(store.config, max_pixels=max_pixels_of(store))
    engine = engine_for_config(backbone, found, store.config, device=device)
    tolerance = _tolerance(store, engine.device)
    rows, rows_of_views = store.rows_of_contents(), store.rows_of_views()
    files = distinct_contents(dataset)
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
        report("computing again", done, len(requests))
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
            f"{'plain view' if view == PLAIN else f'view {view}'} ({part:.1g} of the largest feature)"
            for view, part in zip(decoded.request.views, differences, strict=True)
            if not part <= tolerance
        ]
        if wrong:
            what = f"its features are not those stored: {', '.join(wrong)}; expected at most {tolerance:g}"
            faults.append(_fault(path, what + _other_versions(store), sha256))
        elif what := _other_facts(stored, decoded):
            faults.append(_fault(path, what + _other_versions(store), sha256))
    return RecomputedSample(
        n_contents=n_done, n_views=n_views, tolerance=tolerance, largest_difference=largest,
        faults=tuple(faults), notes=tuple(notes),
    )  # fmt: skip


def choose_contents(
    store: Store, dataset: Dataset, *, n: int, seed: int, without: frozenset[str]
) -> list[str]:
    """Return up to ``n`` contents spread over the store: one drawn from each stretch of its rows."""
    here = distinct_contents(dataset)
    having_views = store.rows_of_views()
    pool = [sha256 for sha256 in store.content.sha256 if sha256 in here and sha256 not in without]
    pool.sort(key=lambda sha256: sha256 not in having_views)  # stable; so both kinds are drawn from
    rng = np.random.default_rng(seed)
    stretches = np.array_split(np.arange(len(pool)), min(n, len(pool)) or 1)
    return sorted(pool[int(rng.choice(stretch))] for stretch in stretches if len(stretch))


def relative_difference(
    stored: npt.NDArray[np.float32], computed: npt.NDArray[np.float32], *, ends: Sequence[int]
) -> float:
    """Return the largest difference of two feature vectors, as a part of the largest feature in either.

    ``ends`` are the columns at which the levels end: each is measured by its own largest feature.
    """
    parts = [_difference(stored[start:end], computed[start:end]) for start, end in pairwise((0, *ends))]
    return float(np.max(parts))  # NaN where one is


def _difference(stored: npt.NDArray[np.float32], computed: npt.NDArray[np.float32]) -> float:
    if np.array_equal(stored, computed, equal_nan=True):
        return 0.0
    scale = np.maximum(np.abs(stored).max(), np.abs(computed).max())  # NaN where one is
    return float(np.abs(stored - computed).max() / scale)


def max_pixels_of(store: Store) -> int:
    """Return the limit that the store was made under; the default one for a store that does not say."""
    return int(store.created_with.get("options", {}).get("max_pixels", default_of(extract, "max_pixels")))


def _tolerance(store: Store, device: str) -> float:
    tolerance = TOLERANCES[store.config["precision"]]
    made_on = store.created_with.get("device") or device
    if made_on.split(":")[0] != device.split(":")[0]:
        tolerance = max(tolerance, OTHER_DEVICE)
    return max(tolerance, FLOAT16_STORED) if store.config["store_dtype"] == "float16" else tolerance


def _features(engine: Engine, decoded: DecodeResult) -> list[npt.NDArray[np.float32]]:
    """Return the features of each view, (n_features,)."""
    rows: list[npt.NDArray[np.float32]] = []
    feeder: Batcher[None] = Batcher(engine, lambda _, features: rows.extend(features))
    for view in decoded.views:
        feeder.add(view, None)
    feeder.finish()
    return rows


def _stored_view(stored: ContentRow, view: int) -> npt.NDArray[np.float32]:
    if view == PLAIN:
        return stored.plain
    assert stored.augmented is not None
    return stored.augmented[view - 1]


def _other_facts(stored: ContentRow, decoded: DecodeResult) -> str:
    """Return what else the store keeps of the picture and has wrong."""
    if (stored.width, stored.height) != (decoded.width, decoded.height):
        return (
            f"it is {decoded.width} × {decoded.height} pixels, not {stored.width} × {stored.height} as stored"
        )
    if (stored.phash ^ decoded.phash).bit_count() > PHASH_TOLERANCE:
        return "its perceptual hash is not the one stored"
    assert decoded.thumbnail is not None
    gray_levels = np.abs(stored.thumbnail.astype(float) - decoded.thumbnail).mean()
    return "its thumbnail is not the one stored" if gray_levels > THUMBNAIL_TOLERANCE else ""


def _other_versions(store: Store) -> str:
    """Return which packages are others than those that made the store: they may be why."""
    stored = store.created_with.get("packages", {})
    here = installed_versions(stored)
    others = [
        f"{package} {made_with}, here {here.get(package, 'missing')}"
        for package, made_with in stored.items()
        if here.get(package) != made_with
    ]
    return f" (made with {'; '.join(others)})" if others else ""


def weights_file(store: Store) -> Path | None:
    """Return the weights file the run was given, if it is still there."""
    named = store.created_with.get("weights_path")
    if store.config["weights"]["kind"] == "file" and named and Path(named).is_file():
        return Path(named)
    return None


def _fault(path: str, what: str, sha256: str) -> Fault:
    return Fault(reach="contents", where=path, what=what, contents=(sha256,))
