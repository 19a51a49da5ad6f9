"""Finished parts and what the old store has, streamed into a new store by a child process."""

from __future__ import annotations

import glob
import json
import os
import secrets
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from featurize._version import __version__
from featurize.base.files import fsync_folder, write_error
from featurize.base.project import exit_with_parent, installed_versions, start_module
from featurize.config import config_digest
from featurize.errors import DatasetError, FolioError, StoreError
from featurize.extraction.execution import ExecutionOptions
from featurize.extraction.plan import (
    PACKAGES,
    StorePlan,
    StoreResult,
    distinct_contents,
    image_table,
    is_current,
    unchanged_result,
)
from featurize.images.dataset import Dataset
from featurize.images.skip_reasons import count_kinds
from featurize.store.columns import LevelColumns, single_value
from featurize.store.parts import PartIndex, RunChoices, discard_parts, save_run_choices
from featurize.store.reader import ContentRow, ImageTable, Store, open_store
from featurize.store.writer import StoreWriter

REFUSED = 3  # exit code of the child when what it is to copy is damaged; its line says what to do


class AssemblyProcess:
    """The child that writes a store; it loads its libraries while the network is still at work.

    A child, because HDF5 writes the store, and an HDF5 write that meets a full disk can end in a crash.
    """

    def __init__(self) -> None:
        self._process = start_module("featurize.extraction.assemble", str(os.getpid()))

    def carry_out(self, description: Path) -> tuple[int, str]:
        """Have it do what a file describes; return its exit code and the last line it said."""
        said, _ = self._process.communicate(os.fsencode(description))
        lines = said.decode("utf-8", "replace").strip().splitlines()
        return self._process.returncode, lines[-1] if lines else ""

    def close(self) -> None:
        """End it, whatever it is at."""
        self._process.kill()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()
        self._process.wait()


def assemble(
    target: StorePlan,
    *,
    process: AssemblyProcess,
    stored: Sequence[str],
    columns: LevelColumns,
    images: ImageTable,
    dataset: Dataset,
    created_with: Mapping[str, Any],
) -> int:
    """Write the store from its old version and the parts, put it in place; return its size in bytes.

    Parameters
    ----------
    target : StorePlan
        The store to be; its parts are all in place.
    process : AssemblyProcess
        Who writes it.
    stored : sequence of str
        The contents it will hold, sorted by their SHA-256.
    columns : LevelColumns
        Of the features.
    images : ImageTable
        The table of image files.

    Raises
    ------
    StoreError
        If it could not be written; the old store and the parts are untouched.
    """
    job = {
        "path": str(target.path.absolute()),
        "parts": str(target.parts.folder.absolute()),
        "has_old": target.store is not None,
        "distrusted": sorted(target.distrusted),
        "salvage": bool(target.distrusted) or not target.trusts_images,
        "config": target.config,
        "n_features": columns.n_features,
        "level_names": list(columns.names),
        "level_ends": list(columns.ends),
        "n_views": target.n_views,
        "stored": list(stored),
        "augmented": sorted(target.augmented & set(stored)),
        "images": {name: _plain_list(getattr(images, name)) for name in vars(images)},
        "classes": list(dataset.classes),
        "ordered": dataset.ordered,
        "created_with": dict(created_with),
    }
    token = secrets.token_hex(8)
    description = target.parts.folder / f"assemble-{token}.json"
    # A name of its own, and only this process, which holds the lock, puts it in place: a child that outlives
    # a killed parent can write where it likes, and harms no store.
    temporary = target.path.with_name(f"{target.path.name}.{token}.tmp")
    job["temporary"] = str(temporary.absolute())
    _remove_leftovers(target.path)
    try:
        description.write_bytes(json.dumps(job).encode("ascii"))
    except OSError as error:
        description.unlink(missing_ok=True)
        raise write_error(description, error) from error
    try:
        code, said = process.carry_out(description)
    except BaseException:  # interrupted
        process.close()
        _remove_leftovers(target.path)
        raise
    finally:
        description.unlink(missing_ok=True)
    if code:
        _remove_leftovers(target.path)
        if code == REFUSED and said:
            raise StoreError(said)
        free = shutil.disk_usage(target.path.parent).free // 2**20
        raise StoreError(
            f"{target.path}: could not be written ({said or _ending(code)}; "
            f"{free} MiB are free there). Finished work is kept. Make room, then run the same "
            "command again: it goes on from there"
        )
    os.replace(temporary, target.path)
    fsync_folder(target.path.parent)
    return target.path.stat().st_size


def _remove_leftovers(path: Path) -> None:
    """Remove what an assembly that was killed left beside the store; for the holder of its lock only."""
    for leftover in path.parent.glob(f"{glob.escape(path.name)}.*.tmp*"):
        leftover.unlink(missing_ok=True)


def _ending(code: int) -> str:
    return f"the writing process ended with signal {-code}" if code < 0 else f"exit code {code}"


def _plain_list(values: Any) -> list[Any]:
    return values.tolist() if isinstance(values, np.ndarray) else list(values)


def main(parent: int) -> int:
    """Carry out the assembly that a file describes, named on stdin; a problem is a line and an exit code."""
    exit_with_parent(parent)  # nothing is waiting for the store then
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    description = os.fsdecode(sys.stdin.buffer.read())
    if not description:  # nothing is to be assembled after all
        return 0
    job = json.loads(Path(description).read_bytes())
    digest = config_digest(job["config"])
    columns = job["images"]
    images = ImageTable(
        **{
            **columns,
            "content": np.array(columns["content"], np.int64),
            "label": np.array(columns["label"], np.int16),
        }
    )
    try:
        with ExitStack() as stack:
            old = None
            if job["has_old"]:
                old = stack.enter_context(open_store(job["path"], salvage=job["salvage"]))
            writer = stack.enter_context(
                StoreWriter(
                    job["temporary"],
                    config=job["config"],
                    config_digest=digest,
                    n_features=job["n_features"],
                    level_names=job["level_names"],
                    level_ends=job["level_ends"],
                    n_views=job["n_views"],
                    most_rows=len(job["stored"]),
                    store_dtype=job["config"]["store_dtype"],
                )
            )
            for row in _rows(job, old, PartIndex(Path(job["parts"]), config_digest=digest)):
                writer.add(row)
            writer.finish(
                images=images,
                classes=job["classes"],
                ordered=job["ordered"],
                created_with=job["created_with"],
            )
    except (FolioError, OSError) as error:
        sys.stdout.write(" ".join(str(error).split()) + "\n")  # the parent reads it
        return REFUSED if isinstance(error, FolioError) else 1
    return 0


def _rows(job: Mapping[str, Any], old: Store | None, parts: PartIndex) -> Iterator[ContentRow]:
    """Yield every row of the new store; what a part has is newer than what the old store has."""
    augmented, distrusted = set(job["augmented"]), set(job["distrusted"])
    old_row = old.rows_of_contents() if old is not None else {}
    old_augmented = old.rows_of_views() if old is not None else {}
    for sha256 in job["stored"]:
        row = None
        if old is not None and sha256 in old_row and sha256 not in distrusted:
            row = old.row(old_row[sha256], augmented_index=old_augmented.get(sha256))
        plain = row.plain if row is not None else None
        views, lacking = None, set()
        if sha256 in augmented:
            views = np.full((job["n_views"], job["n_features"]), np.nan, np.float32)
            lacking = set(range(job["n_views"]))
            if row is not None and row.augmented is not None:
                views[: len(row.augmented)] = row.augmented
                lacking -= set(range(len(row.augmented)))
        for view, features in parts.features(sha256):
            if view == 0:
                plain = features
            elif views is not None and view <= len(views):
                views[view - 1] = features
                lacking.discard(view - 1)
        if plain is None or lacking:
            raise StoreError(f"{job['path']}: content {sha256} lacks a view among the finished parts")
        meta = row if row is not None else parts.meta(sha256)
        yield ContentRow(
            sha256=sha256,
            width=meta.width,
            height=meta.height,
            phash=meta.phash,
            thumbnail=meta.thumbnail,
            plain=plain,
            augmented=views,
        )


@dataclass(kw_only=True)
class ComputeStats:
    """What was computed of one store, in this process or elsewhere."""

    engine: str = ""  # "" when nothing went through a network
    device: str = ""
    columns: LevelColumns | None = None
    n_decoded: int = 0
    n_forward: int = 0  # views
    failed: dict[str, str] = field(default_factory=dict)  # content → why it gives no picture
    seconds: dict[str, float] = field(default_factory=lambda: {"network": 0.0, "writing": 0.0})
    workers: dict[str, dict[str, float]] = field(default_factory=dict)  # see `ExtractResult.workers`


class StoreFinisher:
    """Prepares the place of a store's parts, and makes the store of them.

    Parameters
    ----------
    target : StorePlan
        The store to be.
    execution : ExecutionOptions
        How.
    """

    def __init__(self, target: StorePlan, execution: ExecutionOptions) -> None:
        self.target, self.execution = target, execution
        self._assembly: AssemblyProcess | None = None
        save_run_choices(target.parts.folder, RunChoices(config=target.config, precision=target.precision))
        for path in target.parts.damaged:
            path.unlink(missing_ok=True)

    def prepare(self) -> None:
        """Start the process that assembles the store, which loads its libraries meanwhile."""
        if self._assembly is None:
            self._assembly = AssemblyProcess()

    def close(self) -> None:
        """End what works for this store beside this process."""
        if self._assembly is not None:
            self._assembly.close()

    def finish(self, dataset: Dataset, computed: ComputeStats) -> StoreResult:
        """Assemble the store, unless it is as it should be; all parts are in place.

        Raises
        ------
        DatasetError
            If not one file can be used.
        StoreError
            If a stored picture could not be read again, or the store cannot be written.
        """
        target = self.target
        target.failed.update(computed.failed)
        images = image_table(dataset, target.stored(), target.skipped())
        self._refuse_to_finish(dataset, images)
        if not computed.n_forward and not target.uses_parts and is_current(dataset, target, images):
            discard_used_parts(target, dataset)
            return unchanged_result(target, images, n_decoded=computed.n_decoded)
        start = time.perf_counter()
        self.prepare()
        assert self._assembly is not None
        columns = self._columns(computed)
        n_bytes = assemble(
            target,
            process=self._assembly,
            stored=target.stored(),
            columns=columns,
            images=images,
            dataset=dataset,
            created_with=self._created_with(dataset, computed),
        )
        discard_used_parts(target, dataset)
        computed.seconds["writing"] += time.perf_counter() - start
        return StoreResult(
            target=target,
            state="made" if target.store is None else "updated",
            images=images,
            columns=columns,
            n_content=len(target.stored()),
            n_decoded=computed.n_decoded,
            n_forward=computed.n_forward,
            n_resumed=target.n_resumed,
            n_bytes=n_bytes,
            engine=computed.engine,
            device=computed.device,
            seconds=computed.seconds,
            workers=computed.workers,
        )

    def _columns(self, computed: ComputeStats) -> LevelColumns:
        target = self.target
        sources = (
            computed.columns,
            target.parts.columns,
            LevelColumns.of(target.store) if target.store is not None else None,
        )
        return single_value([columns for columns in sources if columns is not None], where=str(target.path))

    def _refuse_to_finish(self, dataset: Dataset, images: ImageTable) -> None:
        """Raise where nothing can be used, or a file that cannot be read now would cost stored features."""
        target = self.target
        if not target.stored():
            reasons = ", ".join(
                f"{kind} ({n})" for kind, n in count_kinds(filter(None, images.skipped)).items()
            )
            raise DatasetError(f"{dataset.root}: not one of its {len(images)} files can be used: {reasons}")
        if target.store is None:
            return
        there = set(target.store.content.sha256) - target.distrusted
        lost = {sha256: reason for sha256, reason in target.failed.items() if sha256 in there}
        if lost:
            raise StoreError(
                f"{target.path}: {len(lost)} pictures that it has could not be read again "
                f"({', '.join(sorted(set(lost.values())))[:200]}). The store is as it was, and what is "
                "finished is kept. Run the same command again, with a longer --image-timeout if files timed "
                "out"
            )

    def _created_with(self, dataset: Dataset, computed: ComputeStats) -> dict[str, Any]:
        old = self.target.store.created_with if self.target.store is not None else {}
        path = self.target.weights.path
        return {
            "engine": computed.engine or old.get("engine", ""),
            "device": computed.device or old.get("device", ""),
            "precision": dict(self.target.precision) if self.target.precision is not None else None,
            "folio": __version__,
            "packages": installed_versions(PACKAGES),
            "dataset": dataset.name,
            "data": str(dataset.root.resolve()),
            "weights_path": str(path.resolve()) if path is not None else None,
            "options": dict(self.execution.remembered),
        }


def discard_used_parts(target: StorePlan, dataset: Dataset) -> None:
    """Remove the parts, unless they have pictures that are not in the data set now and may come back."""
    if target.parts.contents() <= set(distinct_contents(dataset)):
        discard_parts(target.parts.folder)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
