"""Public function `verify`: check a store by itself, against the image files, and against the network."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featurize.base.project import start_module
from featurize.base.text import plural
from featurize.errors import EngineError, StoreError, WeightsError
from featurize.extraction.commands import rebuild_command, repair_command
from featurize.extraction.options import SAMPLE_SEED, SAMPLE_SIZE
from featurize.extraction.plan import apply_stored_order
from featurize.extraction.preview import DatasetChanges, changes_since
from featurize.extraction.recompute import RecomputedSample, recompute_sample
from featurize.images.dataset import Dataset, load_dataset
from featurize.store.check import Fault
from featurize.store.parts import part_paths, parts_folder
from featurize.store.reader import Store, open_store

PROGRESS_TIMEOUT = 120.0  # seconds without progress after which the structure is reported as broken

Report = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class Verification:
    """Result of `verify`."""

    path: Path
    faults: tuple[Fault, ...]
    notes: tuple[str, ...]  # checks that were left out, and unfinished parts
    data: Path | None  # the folder of images; None if it does not exist
    compared: bool  # the rows were compared with the image files
    n_content: int
    n_images: int
    sampled: RecomputedSample | None
    fix: str  # the command that repairs the store; "" without faults

    @property
    def clean(self) -> bool:
        """Whether no fault was found."""
        return not self.faults

    def has_fault(self, reach: str) -> bool:
        """Return whether a fault has this reach; see `featurize.store.check.REACHES`."""
        return any(fault.reach == reach for fault in self.faults)

    @property
    def invalid_contents(self) -> frozenset[str]:
        """Contents whose stored features must not be used."""
        return frozenset(sha256 for fault in self.faults for sha256 in fault.contents)


def verify(
    path: str | os.PathLike[str],
    *,
    data: str | os.PathLike[str] | None = None,
    sample: int = SAMPLE_SIZE,
    seed: int = SAMPLE_SEED,
    weights: str | os.PathLike[str] | None = None,
    device: str = "auto",
    workers: int | None = None,
    on_progress: Report | None = None,
) -> Verification:
    """Check the structure and checksums of a store, its rows against the files, and a sample of its features.

    Nothing is written or downloaded. Memory holds the tables and one chunk.

    Parameters
    ----------
    path : path-like
        The store.
    data : path-like, optional
        The folder of images; by default the one recorded in the store, if it exists.
    sample : int
        Number of contents, spread over the store, whose plain and augmented features are computed again.
    seed : int
        Seed of the selection of the sample.
    weights : path-like, optional
        The weights file; by default the one recorded in the store.
    device : str
        ``auto``, ``cpu`` or ``gpu:N``.
    workers : int, optional
        Number of decode processes; one per core by default.
    on_progress : callable, optional
        Called with (stage, done, total).

    Returns
    -------
    Verification

    Raises
    ------
    StoreError
        If the file does not exist.
    DatasetError
        If ``data`` is given and is not a data set.
    WeightsError
        If ``weights`` is given and differs from the weights of the store.
    """
    path = Path(path)
    data = Path(data) if data is not None else None
    weights = Path(weights) if weights is not None else None
    report = on_progress or (lambda stage, done, total: None)
    faults, facts = check_store(path, report=report)
    if any(fault.reach == "file" for fault in faults):
        return Verification(
            path=path, faults=faults, notes=(), data=None, compared=False, n_content=0,
            n_images=0, sampled=None, fix=rebuild_command(path, facts["config"], facts["created_with"]),
        )  # fmt: skip
    notes = _parts_notes(path)
    with open_store(path, salvage=True) as store:
        root = data if data is not None else source_folder(store)
        dataset, sampled, compared = None, None, False
        if root is None:
            notes.append(
                f"the folder from which it was created, {store.created_with.get('data', 'unknown')}, does "
                "not exist: rows were not compared with files, and no features were computed again. Name the "
                "folder with --data"
            )
        elif not any(fault.reach == "rows" for fault in faults):
            dataset = load_store_dataset(store, root, report=report)
            if not any(fault.reach == "images" for fault in faults):
                compared = True
                faults += _data_faults(changes_since(store.images, store.classes, dataset))
        if dataset is not None and sample:
            invalid = frozenset(sha256 for fault in faults for sha256 in fault.contents)
            try:
                sampled = recompute_sample(
                    store, dataset, n=sample, seed=seed, exclude=invalid, weights=weights, device=device,
                    workers=workers, report=report,
                )  # fmt: skip
                faults += sampled.faults
                notes += sampled.notes
            except (WeightsError, EngineError) as error:
                if weights is not None:
                    raise
                notes.append(f"no features were computed again: {error}")
        return Verification(
            path=path, faults=faults, notes=tuple(notes), data=root, compared=compared,
            n_content=store.n_content, n_images=store.n_images, sampled=sampled,
            fix=repair_command(path, data=data, weights=weights, sample=sample, seed=seed) if faults else "",
        )  # fmt: skip


def check_store(path: Path, *, report: Report) -> tuple[tuple[Fault, ...], dict[str, Any]]:
    """Check a store by itself, in a child process; return the faults, and a dict of config and created_with.

    Raises
    ------
    StoreError
        If the file does not exist.
    """
    if not path.is_file():
        raise StoreError(f"{path}: no such store. Create one with: featurize extract DATA")
    message: dict[str, Any] | None = None
    with start_module("featurize.store.check", str(path), stdin=subprocess.DEVNULL) as child:
        assert child.stdout is not None
        try:
            while True:
                timer = threading.Timer(PROGRESS_TIMEOUT, child.kill)
                timer.daemon = True
                timer.start()
                line = child.stdout.readline()
                timer.cancel()
                if not line:
                    break
                message = json.loads(line)
                if "done" in message:
                    report("checksums", message["done"], message["total"])
        finally:
            child.kill()
    if message is None or "faults" not in message:
        what = "its structure is broken: HDF5 crashed or did not finish reading it"
        return (Fault(reach="file", where="structure", what=what),), {"config": None, "created_with": None}
    faults = tuple(
        Fault(**{**fault, "contents": tuple(fault["contents"])}) for fault in message.pop("faults")
    )
    return faults, message


def source_folder(store: Store) -> Path | None:
    """Return the folder from which a store was created; None if it does not exist."""
    folder = store.created_with.get("data")
    return Path(folder) if folder and Path(folder).is_dir() else None


def load_store_dataset(store: Store, root: Path, *, report: Report) -> Dataset:
    """Return the data set in a folder, with the class order and the ``entries`` option of the store."""
    entries = store.created_with.get("options", {}).get("entries")
    if entries is None:  # an older store, which does not record the option
        entries = "image" if store.images.entry == store.images.path else "folder"
    dataset = load_dataset(
        root,
        entries=entries,
        on_file=lambda done, total: report("reading files", done, total),
    )
    return apply_stored_order(dataset, store)


def _parts_notes(path: Path) -> list[str]:
    n_parts = len(part_paths(parts_folder(path)))
    if not n_parts:
        return []
    return [
        f"an unfinished run left {plural(n_parts, 'part')} in {parts_folder(path)}: extract or repair "
        "continues from there"
    ]


def _data_faults(changes: DatasetChanges) -> tuple[Fault, ...]:
    """Return a fault for each difference between the data set and the table of images."""
    faults = []
    if changes.classes is not None:
        old, new = (", ".join(names) for names in changes.classes)
        faults.append(("classes", f"are {old} in the store and {new} in the folder"))
    faults += [(path, "added: in the folder, not in the store") for path in changes.added]
    faults += [(path, "removed: in the store, not in the folder") for path in changes.removed]
    faults += [(path, "changed: the file has another content now") for path in changes.changed]
    faults += [(path, f"can no longer be read: {reason}") for path, reason in changes.unreadable]
    faults += [(move.path, f"moved: {move.old_path} in the store") for move in changes.moved]
    for move in changes.relabelled:
        old_path = f" ({move.old_path})" if move.old_path != move.path else ""
        old, new = _split_and_class(move.old_place), _split_and_class(move.place)
        faults.append((move.path, f"relabelled: {old} in the store{old_path}, {new} now"))
    faults += [
        (path, f"regrouped: entry {old} in the store, {new} now") for path, old, new in changes.regrouped
    ]
    return tuple(Fault(reach="data", where=where, what=what) for where, what in faults)


def _split_and_class(place: tuple[str, str]) -> str:
    split, class_name = place
    return f"{split} {class_name}" if class_name else f"{split}, ungraded"
