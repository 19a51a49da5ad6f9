"""Whether a store is what it should be: from within, against the files on disk, and against the network."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featurize.base.project import start_module
from featurize.errors import EngineError, StoreError, WeightsError
from featurize.extraction.commands import anew_command, repair_command
from featurize.extraction.plan import keep_stored_order
from featurize.extraction.preview import DatasetChanges, changes_since
from featurize.extraction.recompute import SAMPLE, SEED, RecomputedSample, recompute_sample
from featurize.images.dataset import Dataset, load_dataset
from featurize.store.check import Fault
from featurize.store.parts import part_paths, parts_folder
from featurize.store.reader import Store, open_store

SILENCE = 120.0  # seconds without a sign of progress after which the structure is taken to be broken

Report = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What was looked at, and what is off."""

    path: Path
    faults: tuple[Fault, ...]  # empty: nothing is off
    notes: tuple[str, ...]  # what was not looked at, and why; and what lies beside the store
    data: Path | None  # the folder of images
    compared: bool  # whether the rows were compared with the files in it
    n_content: int
    n_images: int
    sampled: RecomputedSample | None  # the recomputed sample
    mend: str  # the command that mends it, "" when nothing is off

    @property
    def clean(self) -> bool:
        """Whether nothing is off."""
        return not self.faults

    def reaches(self, reach: str) -> bool:
        """Tell whether any fault reaches so far; see `featurize.store.check.REACHES`."""
        return any(fault.reach == reach for fault in self.faults)

    @property
    def distrusted(self) -> frozenset[str]:
        """Contents whose features are not to be used."""
        return frozenset(sha256 for fault in self.faults for sha256 in fault.contents)


def verify(
    path: str | Path,
    *,
    data: str | Path | None = None,
    sample: int = SAMPLE,
    seed: int = SEED,
    weights: str | Path | None = None,
    device: str = "auto",
    workers: int | None = None,
    on_progress: Report | None = None,
) -> Verification:
    """Check a store's structure and checksums, its rows against the files, and a sample of its features.

    Nothing is written and nothing downloaded. Memory holds the tables and one chunk.

    Parameters
    ----------
    path : path-like
        The store.
    data : path-like, optional
        The folder of images; by default the one that it was made from, if that is still there.
    sample : int
        Contents whose features, plain and augmented, are computed again; spread over the store.
    seed : int
        Decides which.
    weights : path-like, optional
        The weights file; found as the store names it by default.
    device : str
        ``auto``, ``cpu`` or ``gpu:N``.
    workers : int, optional
        Decoding processes; one a core by default.
    on_progress : callable, optional
        Called with (stage, done, total).

    Returns
    -------
    Verification

    Raises
    ------
    StoreError
        If there is no such file.
    DatasetError
        If ``data`` is given and is no data set.
    WeightsError
        If ``weights`` is given and is not the store's.
    """
    path = Path(path)
    report = on_progress or (lambda stage, done, total: None)
    faults, facts = check_store(path, report=report)
    if any(fault.reach == "file" for fault in faults):
        return Verification(
            path=path, faults=faults, notes=(), data=None, compared=False, n_content=0,
            n_images=0, sampled=None, mend=anew_command(path, facts["config"], facts["created_with"]),
        )  # fmt: skip
    notes = _parts_notes(path)
    with open_store(path, salvage=True) as store:
        root = Path(data) if data is not None else made_from(store)
        dataset, sampled, compared = None, None, False
        if root is None:
            notes.append(
                f"the folder it was made from, {store.created_with.get('data', 'not known')}, is not there: "
                "no row was compared with a file, no feature computed again. Name the folder with --data"
            )
        elif not any(fault.reach == "rows" for fault in faults):
            dataset = dataset_of(store, root, report=report)
            if not any(fault.reach == "images" for fault in faults):
                compared = True
                faults += _data_faults(changes_since(store.images, store.classes, dataset))
        if dataset is not None and sample:
            distrusted = frozenset(sha256 for fault in faults for sha256 in fault.contents)
            try:
                sampled = recompute_sample(
                    store, dataset, n=sample, seed=seed, without=distrusted, weights=weights, device=device,
                    workers=workers, report=report,
                )  # fmt: skip
                faults += sampled.faults
                notes += sampled.notes
            except (WeightsError, EngineError) as error:
                if weights is not None:
                    raise
                notes.append(f"no feature was computed again: {error}")
        return Verification(
            path=path, faults=faults, notes=tuple(notes), data=root, compared=compared,
            n_content=store.n_content, n_images=store.n_images, sampled=sampled,
            mend=repair_command(path, data=data, weights=weights, sample=sample, seed=seed) if faults else "",
        )  # fmt: skip


def check_store(path: Path, *, report: Report) -> tuple[tuple[Fault, ...], dict[str, Any]]:
    """Check a store from within, in a process of its own; return faults, and config and created_with.

    Raises
    ------
    StoreError
        If there is no such file.
    """
    if not path.is_file():
        raise StoreError(f"{path}: no such store. Make one with: featurize extract DATA")
    said: dict[str, Any] | None = None
    with start_module("featurize.store.check", str(path), stdin=subprocess.DEVNULL) as child:
        assert child.stdout is not None
        try:
            while True:
                silence = threading.Timer(SILENCE, child.kill)
                silence.daemon = True
                silence.start()
                line = child.stdout.readline()
                silence.cancel()
                if not line:
                    break
                said = json.loads(line)
                if "done" in said:
                    report("checksums", said["done"], said["total"])
        finally:
            child.kill()
    if said is None or "faults" not in said:
        what = "HDF5 crashed on it or did not come to an end: its structure is broken"
        return (Fault(reach="file", where="structure", what=what),), {"config": None, "created_with": None}
    faults = tuple(Fault(**{**fault, "contents": tuple(fault["contents"])}) for fault in said.pop("faults"))
    return faults, said


def made_from(store: Store) -> Path | None:
    """Return the folder that a store was made from; None if it is not there."""
    named = store.created_with.get("data")
    return Path(named) if named and Path(named).is_dir() else None


def dataset_of(store: Store, root: Path, *, report: Report) -> Dataset:
    """Scan a folder as the run did that made the store: with its class order and its idea of an entry."""
    entries = store.created_with.get("options", {}).get("entries")
    if entries is None:  # made before that was kept
        entries = "image" if store.images.entry == store.images.path else "folder"
    dataset = load_dataset(
        root,
        entries=entries,
        on_file=lambda done, total: report("reading files", done, total),
    )
    return keep_stored_order(dataset, store)


def _parts_notes(path: Path) -> list[str]:
    n_parts = len(part_paths(parts_folder(path)))
    if not n_parts:
        return []
    return [
        f"an unfinished run left {n_parts} parts in {parts_folder(path)}: extract or repair goes on from them"
    ]


def _data_faults(changes: DatasetChanges) -> tuple[Fault, ...]:
    """Name everything in which the folder and the table of images differ."""
    found = []
    if changes.classes is not None:
        then, now = (", ".join(names) for names in changes.classes)
        found.append(("classes", f"are {then} in the store and {now} in the folder"))
    found += [(path, "added: in the folder, not in the store") for path in changes.added]
    found += [(path, "removed: in the store, not in the folder") for path in changes.removed]
    found += [(path, "changed: the file has another content now") for path in changes.changed]
    found += [(path, f"cannot be read any more: {why}") for path, why in changes.unreadable]
    found += [(move.path, f"moved: {move.old_path} in the store") for move in changes.moved]
    for move in changes.relabelled:
        was = f" ({move.old_path})" if move.old_path != move.path else ""
        found.append(
            (move.path, f"relabelled: {_place(move.old_place)} in the store{was}, {_place(move.place)} now")
        )
    found += [
        (path, f"regrouped: entry {then} in the store, {now} now") for path, then, now in changes.regrouped
    ]
    return tuple(Fault(reach="data", where=where, what=what) for where, what in found)


def _place(place: tuple[str, str]) -> str:
    split, class_name = place
    return f"{split} {class_name}" if class_name else f"{split}, ungraded"
