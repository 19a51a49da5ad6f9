"""From a run and its stores to what the page can show of the images."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from classify.errors import CompareError
from classify.io.results import DOUBTFUL, safe_cell
from classify.report.embedding import FeatureSpace
from classify.report.images import RunImages, data_folder, run_images
from classify.report.predictions import TestedEntries
from featurize.base.typing import BoolArray
from featurize.errors import FolioError
from featurize.store.reader import open_store

MOST_DOUBTFUL = 200  # of the list; all of it is in doubtful.csv
MOST_TESTED = 5_000  # entries that galleries and map are of
MOST_FITTED = 20_000  # training images that the most alike are looked for among
_OF_DOUBTFUL = ("entry", "path", "grade", "looks_like", "reason")  # columns


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """What a page is made of beside the record."""

    seen: ShownImages
    intake: Mapping[str, Any] | None
    configs: Mapping[str, Mapping[str, Any]]  # store → what its features were made with


def find_stores(folder: Path, record: Mapping[str, Any], given: Sequence[Path] = ()) -> list[Path]:
    """Return the stores that a run was made from, in its order.

    They are looked for where the comparison had them: as it was typed, from here and from above the run.

    Parameters
    ----------
    folder : Path
        The run.
    record : mapping
        Its results.json.
    given : sequence of Path
        Where some of them are now.

    Raises
    ------
    CompareError
        If one is not there, or was made anew under another config, or is given and none of the run's.
    """
    wanted = [store for store in record["stores"] if store["path"] is not None]
    names = [store["store"] for store in wanted]
    for path in given:
        if path.name.removesuffix(".h5") not in names:
            raise CompareError(f"{path}: no store of this run. Those are: {', '.join(names)}")
        if not path.is_file():
            raise CompareError(f"{path}: no such file. Name where {path.name} is now")
    found = []
    for store in wanted:
        named = Path(store["path"])
        above = [parent / named for parent in folder.absolute().parents]
        mine = [path for path in given if path.name.removesuffix(".h5") == store["store"]]
        place = next((path for path in (*mine, named, *above) if path.is_file()), None)
        if place is None:
            raise CompareError(f"{store['path']}: not there any more. Name where it is with: --store FILE")
        with open_store(place) as opened:
            if opened.config_digest != store["config_digest"]:
                raise CompareError(f"{place}: made anew with other settings since. Compare anew")
        found.append(place)
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
    """Return pictures, maps, nearest training images, doubtful grades and facts of intake.

    Parameters
    ----------
    folder : Path
        The run.
    record : mapping
        Its results.json.
    tested : TestedEntries
        What its heads said.
    stores : sequence of Path
        Those it was made from.
    data : Path, optional
        Where the images lie, if not where they lay when features were extracted.
    with_pictures : bool, default=True
        Whether the page shows any image.
    on_progress : callable, optional
        Called with (done, total) pictures.

    Raises
    ------
    CompareError
        If the stores hold other images than those that were compared.
    """
    from classify.data.load import load_same_dataset
    from classify.report.images import dataset_summary

    samples = load_same_dataset(
        stores,
        order=record["classes"] if record["ordered"] else None,
        join=record.get("join") or "probabilities",
        fuse=any(store["parts"] for store in record["stores"]),
    )
    if list(samples[0].classes) != list(record["classes"]):
        raise CompareError(f"{stores[0]}: its classes are {', '.join(samples[0].classes)} now. Compare anew")
    shown = run_images(samples, store=stores[0])
    units = sample_indices(len(tested.entry), most=MOST_TESTED, seed=record["seed"])
    every = _tested_images(shown, tested)
    images = [every[unit] for unit in units]
    doubtful, torn = _doubtful(folder, shown)
    used = _used(shown, images, doubtful, seed=record["seed"])
    spaces = {one.store: FeatureSpace(one, shown, used) for one in samples}
    nearest = {name: space.nearest(images) for name, space in spaces.items()}
    study = record.get("studies", {}).get("labels", {})
    space = spaces.get(study.get("store", ""), next(iter(spaces.values())))
    for one, pairs in zip(doubtful, space.nearest([one["images"] for one in doubtful]), strict=True):
        one["near"] = pairs
    maps = {name: space.map(seed=record["seed"]) for name, space in spaces.items()}
    picture, uris, notes = _pictures(
        shown,
        large=[
            image for part in (images, [one["images"] for one in doubtful]) for unit in part for image in unit
        ],
        small=[
            *(image for place in maps.values() for image in place["image"]),
            *(int(image) for found in nearest.values() for pairs in found for image in pairs[::2]),
            *(int(image) for one in doubtful for image in one["near"][::2]),
        ],
        data=data_folder(shown, given=data) if with_pictures else None,
        with_pictures=with_pictures,
        on_progress=on_progress,
    )
    seen = ShownImages(
        path=shown.path,
        split=shown.split.tolist(),
        y=shown.y.tolist(),
        picture=picture,
        pictures=uris,
        units=units,
        tested=images,
        split_of_tested=[str(shown.split[unit[0]]) if unit else "" for unit in images],
        maps=maps,
        nearest=nearest,
        doubtful=doubtful,
        notes=(*_left_out(tested, units, shown, used), *notes, *torn),
    )
    return ReportData(
        seen=seen.without_unused(),
        intake=dataset_summary(samples, shown, record),
        configs=_configs(stores),
    )


def without_stores(tested: TestedEntries, record: Mapping[str, Any], why: str) -> ReportData:
    """Return what can be said where the stores cannot be read."""
    split = "test" if record["protocol"]["kind"] == "test split" else "train"
    return ReportData(
        seen=ShownImages(
            units=(units := sample_indices(len(tested.entry), most=MOST_TESTED, seed=record["seed"])),
            tested=[[] for _ in units],
            split_of_tested=[split] * len(units),
            why_no_map=f"No map and no pictures: {why}",
            notes=(f"No map and no pictures: {why}",),
        ),
        intake=None,
        configs={},
    )


def sample_indices(n: int, *, most: int, seed: int) -> list[int]:
    """Return all of n numbers from 0, or so many of them, drawn by lot, in their order."""
    if n <= most:
        return list(range(n))
    return sorted(np.random.default_rng(seed).permutation(n)[:most].tolist())


def _used(
    shown: RunImages, images: Sequence[Sequence[int]], doubtful: Sequence[Mapping[str, Any]], *, seed: int
) -> BoolArray:
    """Return which images there is to be anything of: all, or of very many the listed and some others."""
    if len(shown) <= MOST_TESTED + MOST_FITTED:
        return np.ones(len(shown), dtype=bool)
    used = np.zeros(len(shown), dtype=bool)
    for unit in (*images, *(one["images"] for one in doubtful)):
        used[list(unit)] = True
    fitted = np.flatnonzero(shown.fitted)
    used[fitted[sample_indices(len(fitted), most=MOST_FITTED, seed=seed)]] = True
    return used


def _left_out(tested: TestedEntries, units: Sequence[int], shown: RunImages, used: BoolArray) -> list[str]:
    lines = []
    if len(units) < len(tested.entry):
        lines.append(
            f"Galleries and map are of {len(units):,} of the {len(tested.entry):,} that were tested, drawn "
            "by lot; figures and curves are of all."
        )
    n_fitted, n_used = int(shown.fitted.sum()), int((shown.fitted & used).sum())
    if n_used < n_fitted:
        lines.append(f"The most alike are those of {n_used:,} of {n_fitted:,} training images, drawn by lot.")
    return lines


def _tested_images(shown: RunImages, tested: TestedEntries) -> list[list[int]]:
    """Return the images of each tested entry.

    Raises
    ------
    CompareError
        If an entry has none.
    """
    images: dict[str, list[int]] = {}
    for image in np.flatnonzero(shown.tested):
        images.setdefault(safe_cell(shown.entry[image]), []).append(int(image))
    if gone := [entry for entry in tested.entry if entry not in images]:
        raise CompareError(f"{shown.store}: does not hold the tested {gone[0]!r} any more. Compare anew")
    return [images[entry] for entry in tested.entry]


def _doubtful(folder: Path, shown: RunImages) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """Return the list of doubtful grades, where there is one, without what is not in the store any more.

    The second part says so where the list is damaged.
    """
    images: dict[str, list[int]] = {}
    for image in range(len(shown)):
        for name in {safe_cell(shown.entry[image]), safe_cell(shown.path[image])}:
            images.setdefault(name, []).append(image)
    path = folder / DOUBTFUL
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            rows = [{name: row[name] for name in _OF_DOUBTFUL} for row in csv.DictReader(stream)]
        if any(value is None for row in rows for value in row.values()):
            raise ValueError("a line is torn")
    except FileNotFoundError:
        return [], ()
    except (OSError, KeyError, ValueError, csv.Error) as error:
        return [], (f"No doubtful grades: {path}: cannot be read ({error!r}).",)
    found = []
    for row in rows[:MOST_DOUBTFUL]:
        mine = images.get(row["path"] or row["entry"], [])
        if mine:
            found.append(
                {
                    "entry": row["path"] or row["entry"],
                    "grade": row["grade"],
                    "looks_like": row["looks_like"],
                    "reason": row["reason"],
                    "images": mine,
                    "split": str(shown.split[mine[0]]),
                }
            )
    return found, ()


def _pictures(
    shown: RunImages,
    *,
    large: Sequence[int],
    small: Sequence[int],
    data: Path | None,
    with_pictures: bool,
    on_progress: Callable[[int, int], None] | None,
) -> tuple[list[int], list[str], tuple[str, ...]]:
    """Return of each image the number of its picture, the pictures, and what was wrong with them."""
    if not with_pictures:
        return [-1] * len(shown), [], ("Pictures were left out, as was asked for.",)
    from classify.report.thumbnails import page_thumbnails

    found = page_thumbnails(shown, data=data, wanted=large, small=small, on_progress=on_progress)
    return found.number.tolist(), list(found.uri), found.notes


def _configs(stores: Sequence[Path]) -> dict[str, Mapping[str, Any]]:
    configs: dict[str, Mapping[str, Any]] = {}
    for path in stores:
        try:
            with open_store(path) as store:
                configs[store.name] = {**store.config, "made with": store.created_with.get("packages", {})}
        except FolioError:
            continue
    return configs


@dataclass(frozen=True, kw_only=True)
class ShownImages:
    """What the page shows of images; rows of `path`, `split`, `y` and `picture` are images."""

    path: Sequence[str] = ()
    split: Sequence[str] = ()
    y: Sequence[int] = ()
    picture: Sequence[int] = ()  # index into `page_thumbnails`, -1 for none
    pictures: Sequence[str] = ()  # data: addresses
    units: Sequence[int]  # which of the tested entries are shown
    tested: Sequence[Sequence[int]]  # one a shown entry: its images
    split_of_tested: Sequence[str]
    maps: Mapping[str, Any] = field(default_factory=dict)  # store → image, x, y, method
    nearest: Mapping[str, Any] = field(
        default_factory=dict
    )  # store → of each shown entry image, similarity, …
    doubtful: Sequence[Mapping[str, Any]] = ()
    why_no_map: str = ""
    notes: tuple[str, ...] = ()  # what could not be shown, and why

    def without_unused(self) -> ShownImages:
        """Return the same without the images that nothing refers to; the others are numbered anew."""
        used = {
            *(image for unit in self.tested for image in unit),
            *(image for place in self.maps.values() for image in place["image"]),
            *(int(image) for found in self.nearest.values() for pairs in found for image in pairs[::2]),
            *(image for one in self.doubtful for image in one["images"]),
            *(int(image) for one in self.doubtful for image in one["near"][::2]),
        }
        kept = sorted(used)
        number = {image: k for k, image in enumerate(kept)}

        def pairs_anew(pairs: Sequence[float]) -> list[float]:
            return [number[int(value)] if k % 2 == 0 else value for k, value in enumerate(pairs)]

        return replace(
            self,
            path=[self.path[image] for image in kept],
            split=[self.split[image] for image in kept],
            y=[self.y[image] for image in kept],
            picture=[self.picture[image] for image in kept],
            tested=[[number[image] for image in unit] for unit in self.tested],
            maps={
                name: {**place, "image": [number[image] for image in place["image"]]}
                for name, place in self.maps.items()
            },
            nearest={name: [pairs_anew(pairs) for pairs in found] for name, found in self.nearest.items()},
            doubtful=[
                {
                    **one,
                    "images": [number[image] for image in one["images"]],
                    "near": pairs_anew(one["near"]),
                }
                for one in self.doubtful
            ],
        )
