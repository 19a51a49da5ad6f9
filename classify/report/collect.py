"""Images, maps, similar training images and doubtful grades of a run, for the report page."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from classify.errors import CompareError
from classify.io.results import DOUBTFUL
from classify.report.embedding import FeatureSpace
from classify.report.images import RunImages, ShownImages, data_folder, dataset_summary, run_images
from classify.report.names import has_test_split
from classify.report.predictions import TestedEntries
from featurize.base.text import safe_cell
from featurize.base.typing import BoolArray
from featurize.errors import FolioError
from featurize.store.reader import open_store

MAX_DOUBTFUL = 200  # doubtful grades in the gallery; doubtful.csv has all
MAX_TESTED = 5_000  # tested entries in galleries and map
MAX_FITTED = 20_000  # training images that are searched for similar ones
_DOUBTFUL_COLUMNS = ("entry", "path", "grade", "looks_like", "reason")


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """Data of a report page that is not in results.json."""

    shown: ShownImages
    summary: Mapping[str, Any] | None  # from `classify.report.images.dataset_summary`
    configs: Mapping[str, Mapping[str, Any]]  # store → settings of its features


def find_stores(folder: Path, record: Mapping[str, Any], given: Sequence[Path] = ()) -> list[Path]:
    """Return the paths of the stores of a run, in the order of the run.

    A store is searched at the path that was passed to the comparison, relative to the working directory and
    to each parent of the run folder.

    Parameters
    ----------
    folder : Path
        The run.
    record : mapping
        Its results.json.
    given : sequence of Path
        Current paths of some of the stores.

    Raises
    ------
    CompareError
        If a store is missing, if it has another config than in the run, or if a given path is not a store of
        the run.
    """
    stores = [store for store in record["stores"] if store["path"] is not None]
    names = [store["store"] for store in stores]
    for path in given:
        if path.name.removesuffix(".h5") not in names:
            raise CompareError(f"{path}: not a store of this run. Its stores: {', '.join(names)}")
        if not path.is_file():
            raise CompareError(f"{path}: no such file. Pass the current path of {path.name}")
    found = []
    for store in stores:
        original = Path(store["path"])
        below_parents = [parent / original for parent in folder.absolute().parents]
        matching = [path for path in given if path.name.removesuffix(".h5") == store["store"]]
        existing = [path for path in (*matching, original, *below_parents) if path.is_file()]
        if not existing:
            raise CompareError(f"{store['path']}: not found. Pass its current path with: --store FILE")
        path = existing[0]
        with open_store(path) as opened:
            if opened.config_digest != store["config_digest"]:
                raise CompareError(
                    f"{path}: was extracted again with other settings since the comparison. Run classify "
                    "compare again"
                )
        found.append(path)
    return found


def collect_report_data(
    folder: Path,
    record: Mapping[str, Any],
    tested: TestedEntries,
    *,
    stores: Sequence[Path],
    data: Path | None = None,
    with_pictures: bool = True,
    on_progress: Callable[[int, int], None] | None = None,
) -> ReportData:
    """Return thumbnails, maps, similar training images, doubtful grades and the data set summary.

    Parameters
    ----------
    folder : Path
        The run.
    record : mapping
        Its results.json.
    tested : TestedEntries
        Predictions of its heads.
    stores : sequence of Path
        From `find_stores`.
    data : Path, optional
        Folder of the images, if it has moved since the features were extracted.
    with_pictures : bool, default=True
        Whether the page shows thumbnails.
    on_progress : callable, optional
        Called with (done, total) thumbnails.

    Raises
    ------
    CompareError
        If the stores have other images or classes than the comparison.
    """
    from classify.data.load import load_same_dataset

    samples = load_same_dataset(
        stores,
        order=record["classes"] if record["ordered"] else None,
        join=record.get("join") or "probabilities",
        fuse=any(store["parts"] for store in record["stores"]),
    )
    if list(samples[0].classes) != list(record["classes"]):
        classes = ", ".join(samples[0].classes)
        raise CompareError(f"{stores[0]}: its classes are now {classes}. Run classify compare again")
    images = run_images(samples, store=stores[0])
    entries = sample_indices(len(tested.entry), most=MAX_TESTED, seed=record["seed"])
    images_of_entry = _tested_images(images, tested)
    entry_images = [images_of_entry[entry] for entry in entries]
    doubtful, doubtful_notes = _doubtful(folder, images)
    used = _used_images(images, entry_images, doubtful, seed=record["seed"])
    spaces = {one.store: FeatureSpace(one, images, used) for one in samples}
    nearest = {name: space.nearest(entry_images) for name, space in spaces.items()}
    study = record.get("studies", {}).get("labels", {})
    space = spaces.get(study.get("store", ""), next(iter(spaces.values())))
    for row, pairs in zip(doubtful, space.nearest([row["images"] for row in doubtful]), strict=True):
        row["near"] = pairs
    maps = {name: space.map(seed=record["seed"]) for name, space in spaces.items()}
    picture, uris, notes = _thumbnails(
        images,
        large=[image for group in (*entry_images, *(row["images"] for row in doubtful)) for image in group],
        small=[
            *(image for positions in maps.values() for image in positions["image"]),
            *(int(image) for rows in nearest.values() for pairs in rows for image in pairs[::2]),
            *(int(image) for row in doubtful for image in row["near"][::2]),
        ],
        data=data_folder(images, given=data) if with_pictures else None,
        with_pictures=with_pictures,
        on_progress=on_progress,
    )
    shown = ShownImages(
        path=images.path,
        split=images.split.tolist(),
        y=images.y.tolist(),
        picture=picture,
        pictures=uris,
        entries=entries,
        entry_images=entry_images,
        entry_split=[str(images.split[group[0]]) if group else "" for group in entry_images],
        maps=maps,
        nearest=nearest,
        doubtful=doubtful,
        notes=(*_sampling_notes(tested, entries, images, used), *notes, *doubtful_notes),
    )
    return ReportData(
        shown=shown.without_unused(),
        summary=dataset_summary(images),
        configs=_configs(stores),
    )


def without_stores(tested: TestedEntries, record: Mapping[str, Any], reason: str) -> ReportData:
    """Return the data of a page without images and maps, for a run whose stores cannot be read."""
    entries = sample_indices(len(tested.entry), most=MAX_TESTED, seed=record["seed"])
    split = "test" if has_test_split(record) else "train"
    note = f"No map and no pictures: {reason}"
    return ReportData(
        shown=ShownImages(
            entries=entries,
            entry_images=[[] for _ in entries],
            entry_split=[split] * len(entries),
            why_no_map=note,
            notes=(note,),
        ),
        summary=None,
        configs={},
    )


def sample_indices(n: int, *, most: int, seed: int) -> list[int]:
    """Return the numbers from 0 to n − 1, or a random sample of ``most`` of them, in ascending order."""
    if n <= most:
        return list(range(n))
    return sorted(np.random.default_rng(seed).permutation(n)[:most].tolist())


def _used_images(
    images: RunImages,
    entry_images: Sequence[Sequence[int]],
    doubtful: Sequence[Mapping[str, Any]],
    *,
    seed: int,
) -> BoolArray:
    """Return the images to use: all or, in a large data set, those of the page and a sample of the others."""
    if len(images) <= MAX_TESTED + MAX_FITTED:
        return np.ones(len(images), dtype=bool)
    used = np.zeros(len(images), dtype=bool)
    for group in (*entry_images, *(row["images"] for row in doubtful)):
        used[list(group)] = True
    fitted = np.flatnonzero(images.fitted)
    used[fitted[sample_indices(len(fitted), most=MAX_FITTED, seed=seed)]] = True
    return used


def _sampling_notes(
    tested: TestedEntries, entries: Sequence[int], images: RunImages, used: BoolArray
) -> list[str]:
    lines = []
    if len(entries) < len(tested.entry):
        lines.append(
            f"Galleries and map show a random sample of {len(entries):,} of the {len(tested.entry):,} tested "
            "entries; metrics and curves use all."
        )
    n_fitted, n_used = int(images.fitted.sum()), int((images.fitted & used).sum())
    if n_used < n_fitted:
        lines.append(
            f"Similar images are from a random sample of {n_used:,} of the {n_fitted:,} training images."
        )
    return lines


def _tested_images(images: RunImages, tested: TestedEntries) -> list[list[int]]:
    """Return the images of each tested entry.

    Raises
    ------
    CompareError
        If an entry has none.
    """
    by_entry: dict[str, list[int]] = {}
    for image in np.flatnonzero(images.tested):
        by_entry.setdefault(safe_cell(images.entry[image]), []).append(int(image))
    if missing := [entry for entry in tested.entry if entry not in by_entry]:
        raise CompareError(
            f"{images.store}: no longer has the tested entry {missing[0]!r}. Run classify compare again"
        )
    return [by_entry[entry] for entry in tested.entry]


def _doubtful(folder: Path, images: RunImages) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """Return the rows of doubtful.csv whose images are in the store, and a note if the file is damaged."""
    by_name: dict[str, list[int]] = {}
    for image in range(len(images)):
        for name in {safe_cell(images.entry[image]), safe_cell(images.path[image])}:
            by_name.setdefault(name, []).append(image)
    path = folder / DOUBTFUL
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            rows = [{name: row[name] for name in _DOUBTFUL_COLUMNS} for row in csv.DictReader(stream)]
        if any(value is None for row in rows for value in row.values()):
            raise ValueError("a line is incomplete")
    except FileNotFoundError:
        return [], ()
    except (OSError, KeyError, ValueError, csv.Error) as error:
        return [], (f"No doubtful grades: {path}: cannot be read ({error!r}).",)
    found = []
    for row in rows[:MAX_DOUBTFUL]:
        name = row["path"] or row["entry"]
        if row_images := by_name.get(name, []):
            found.append(
                {
                    "entry": name,
                    "grade": row["grade"],
                    "looks_like": row["looks_like"],
                    "reason": row["reason"],
                    "images": row_images,
                    "split": str(images.split[row_images[0]]),
                }
            )
    return found, ()


def _thumbnails(
    images: RunImages,
    *,
    large: Sequence[int],
    small: Sequence[int],
    data: Path | None,
    with_pictures: bool,
    on_progress: Callable[[int, int], None] | None,
) -> tuple[list[int], list[str], tuple[str, ...]]:
    """Return the thumbnail number of each image, the thumbnails as ``data:`` addresses, and notes."""
    if not with_pictures:
        return [-1] * len(images), [], ("Pictures are not shown, as requested.",)
    from classify.report.thumbnails import page_thumbnails

    thumbnails = page_thumbnails(images, data=data, large=large, small=small, on_progress=on_progress)
    return thumbnails.number.tolist(), list(thumbnails.uri), thumbnails.notes


def _configs(stores: Sequence[Path]) -> dict[str, Mapping[str, Any]]:
    configs: dict[str, Mapping[str, Any]] = {}
    for path in stores:
        try:
            with open_store(path) as store:
                configs[store.name] = {**store.config, "packages": store.created_with.get("packages", {})}
        except FolioError:
            continue
    return configs
