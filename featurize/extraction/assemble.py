"""Assembly of a store: a child process writes it from the finished parts and the previous store."""

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
from featurize.base.text import plural
from featurize.config import config_digest
from featurize.errors import DatasetError, FolioError, StoreError
from featurize.extraction.execution import ExecutionOptions
from featurize.extraction.plan import (
    FEATURE_PACKAGES,
    StorePlan,
    StoreResult,
    image_table,
    is_current,
    unchanged_result,
)
from featurize.images.dataset import Dataset
from featurize.images.skip_reasons import count_kinds
from featurize.store.columns import LevelColumns, common_columns
from featurize.store.parts import PartIndex, RunChoices, discard_parts, save_run_choices
from featurize.store.reader import ContentRow, ImageTable, Store, open_store
from featurize.store.writer import StoreWriter

INVALID_INPUT = 3  # exit code of the child if the store or a part is damaged; its output is the message


class AssemblyProcess:
    """Child process that writes a store; it loads its libraries while the network still computes.

    A separate process is used because an HDF5 write to a full disk can crash the process.
    """

    def __init__(self) -> None:
        self._process = start_module("featurize.extraction.assemble", str(os.getpid()))

    def run(self, job_file: Path) -> tuple[int, str]:
        """Run the assembly described in a file; return the exit code and the last line of output."""
        output, _ = self._process.communicate(os.fsencode(job_file))
        lines = output.decode("utf-8", "replace").strip().splitlines()
        return self._process.returncode, lines[-1] if lines else ""

    def close(self) -> None:
        """Kill the process."""
        self._process.kill()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()
        self._process.wait()


def assemble(
    plan: StorePlan,
    *,
    process: AssemblyProcess,
    contents: Sequence[str],
    columns: LevelColumns,
    images: ImageTable,
    dataset: Dataset,
    created_with: Mapping[str, Any],
) -> int:
    """Write the store from its previous version and the parts, and replace it; return its size in bytes.

    Parameters
    ----------
    plan : StorePlan
        The plan of the store; all its parts have been written.
    process : AssemblyProcess
        The process that writes the store.
    contents : sequence of str
        The contents of the store, sorted by SHA-256.
    columns : LevelColumns
        Columns of the features.
    images : ImageTable
        The table of image files.
    dataset : Dataset
        Supplies the classes.
    created_with : mapping
        What the store records about this run.

    Raises
    ------
    StoreError
        If the store could not be written; the previous store and the parts are unchanged.
    """
    job = {
        "path": str(plan.path.absolute()),
        "parts": str(plan.parts.folder.absolute()),
        "update": plan.store is not None,
        "invalid_contents": sorted(plan.invalid_contents),
        "salvage": bool(plan.invalid_contents) or not plan.valid_images,
        "config": plan.config,
        "n_features": columns.n_features,
        "level_names": list(columns.names),
        "level_ends": list(columns.ends),
        "n_views": plan.n_views,
        "contents": list(contents),
        "augmented": sorted(plan.augmented & set(contents)),
        "images": {name: _to_list(getattr(images, name)) for name in vars(images)},
        "classes": list(dataset.classes),
        "ordered": dataset.ordered,
        "created_with": dict(created_with),
    }
    token = secrets.token_hex(8)
    job_file = plan.parts.folder / f"assemble-{token}.json"
    # The child writes to a unique temporary name, and only this process, which holds the lock, renames it. So
    # a child that outlives a killed parent cannot damage the store.
    temporary = plan.path.with_name(f"{plan.path.name}.{token}.tmp")
    job["temporary"] = str(temporary.absolute())
    _remove_leftovers(plan.path)
    try:
        job_file.write_bytes(json.dumps(job).encode("ascii"))
    except OSError as error:
        job_file.unlink(missing_ok=True)
        raise write_error(job_file, error) from error
    try:
        code, message = process.run(job_file)
    except BaseException:  # interrupted
        process.close()
        _remove_leftovers(plan.path)
        raise
    finally:
        job_file.unlink(missing_ok=True)
    if code:
        _remove_leftovers(plan.path)
        if code == INVALID_INPUT and message:
            raise StoreError(message)
        free = shutil.disk_usage(plan.path.parent).free // 2**20
        raise StoreError(
            f"{plan.path}: could not be written ({message or _exit_reason(code)}; {free} MiB are free on "
            "the disk). Finished work is kept. Free disk space, then run the same command again to continue"
        )
    os.replace(temporary, plan.path)
    fsync_folder(plan.path.parent)
    return plan.path.stat().st_size


def _remove_leftovers(path: Path) -> None:
    """Remove temporary files of a killed assembly; the caller must hold the lock of the store."""
    for leftover in path.parent.glob(f"{glob.escape(path.name)}.*.tmp*"):
        leftover.unlink(missing_ok=True)


def _exit_reason(code: int) -> str:
    return f"the writing process ended by signal {-code}" if code < 0 else f"exit code {code}"


def _to_list(values: Any) -> list[Any]:
    return values.tolist() if isinstance(values, np.ndarray) else list(values)


def main(parent: int) -> int:
    """Run the assembly described in the file named on stdin; return an exit code, print an error message."""
    exit_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    job_file = os.fsdecode(sys.stdin.buffer.read())
    if not job_file:  # the parent has nothing to assemble
        return 0
    job = json.loads(Path(job_file).read_bytes())
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
            if job["update"]:
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
                    most_rows=len(job["contents"]),
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
        return INVALID_INPUT if isinstance(error, FolioError) else 1
    return 0


def _rows(job: Mapping[str, Any], old: Store | None, parts: PartIndex) -> Iterator[ContentRow]:
    """Yield every row of the new store; the features of parts take precedence over those of the old store."""
    augmented, invalid = set(job["augmented"]), set(job["invalid_contents"])
    old_rows = old.rows_of_contents() if old is not None else {}
    old_augmented = old.rows_of_views() if old is not None else {}
    for sha256 in job["contents"]:
        row = None
        if old is not None and sha256 in old_rows and sha256 not in invalid:
            row = old.row(old_rows[sha256], augmented_index=old_augmented.get(sha256))
        plain = row.plain if row is not None else None
        views, missing = None, set()
        if sha256 in augmented:
            views = np.full((job["n_views"], job["n_features"]), np.nan, np.float32)
            missing = set(range(job["n_views"]))
            if row is not None and row.augmented is not None:
                views[: len(row.augmented)] = row.augmented
                missing -= set(range(len(row.augmented)))
        for view, features in parts.features(sha256):
            if view == 0:
                plain = features
            elif views is not None and view <= len(views):
                views[view - 1] = features
                missing.discard(view - 1)
        if plain is None or missing:
            raise StoreError(f"{job['path']}: a view of content {sha256} is missing from the finished parts")
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
    """Counts and times of the computation for one store, in this process or on Dask workers."""

    engine: str = ""  # "" if no view was computed
    device: str = ""
    columns: LevelColumns | None = None
    n_decoded: int = 0
    n_forward: int = 0  # views
    skipped: dict[str, str] = field(default_factory=dict)  # content → reason for which it cannot be used
    seconds: dict[str, float] = field(default_factory=lambda: {"network": 0.0, "writing": 0.0})
    workers: dict[str, dict[str, float]] = field(default_factory=dict)  # see `ExtractResult.workers`


class StoreFinisher:
    """Prepares the folder of a store's parts, and assembles the store from them.

    Parameters
    ----------
    plan : StorePlan
        The plan of the store.
    execution : ExecutionOptions
        Execution options.
    """

    def __init__(self, plan: StorePlan, execution: ExecutionOptions) -> None:
        self.plan, self.execution = plan, execution
        self._assembly: AssemblyProcess | None = None
        save_run_choices(plan.parts.folder, RunChoices(config=plan.config, precision=plan.precision))
        for path in plan.parts.damaged:
            path.unlink(missing_ok=True)

    def prepare(self) -> None:
        """Start the assembly process, so that it loads its libraries early."""
        if self._assembly is None:
            self._assembly = AssemblyProcess()

    def close(self) -> None:
        """End the assembly process."""
        if self._assembly is not None:
            self._assembly.close()

    def finish(self, dataset: Dataset, stats: ComputeStats) -> StoreResult:
        """Assemble the store unless it is up to date; all parts must have been written.

        Raises
        ------
        DatasetError
            If no file can be used.
        StoreError
            If a stored image could not be read again, or the store cannot be written.
        """
        plan = self.plan
        plan.skipped_now.update(stats.skipped)
        contents = plan.contents()
        images = image_table(dataset, contents, plan.skip_reasons())
        self._check_skips(dataset, images)
        if not stats.n_forward and not plan.uses_parts and is_current(dataset, plan, images):
            discard_used_parts(plan, dataset)
            return unchanged_result(plan, images, n_decoded=stats.n_decoded)
        start = time.perf_counter()
        self.prepare()
        assert self._assembly is not None
        columns = self._columns(stats)
        n_bytes = assemble(
            plan,
            process=self._assembly,
            contents=contents,
            columns=columns,
            images=images,
            dataset=dataset,
            created_with=self._created_with(dataset, stats),
        )
        discard_used_parts(plan, dataset)
        stats.seconds["writing"] += time.perf_counter() - start
        return StoreResult(
            plan=plan,
            state="created" if plan.store is None else "updated",
            images=images,
            columns=columns,
            n_content=len(contents),
            n_decoded=stats.n_decoded,
            n_forward=stats.n_forward,
            n_resumed=plan.n_resumed,
            n_bytes=n_bytes,
            engine=stats.engine,
            device=stats.device,
            seconds=stats.seconds,
            workers=stats.workers,
        )

    def _columns(self, stats: ComputeStats) -> LevelColumns:
        plan = self.plan
        sources = (
            stats.columns,
            plan.parts.columns,
            LevelColumns.of(plan.store) if plan.store is not None else None,
        )
        return common_columns([columns for columns in sources if columns is not None], where=str(plan.path))

    def _check_skips(self, dataset: Dataset, images: ImageTable) -> None:
        """Raise an error if no file can be used, or if stored features would be lost."""
        plan = self.plan
        if not plan.contents():
            reasons = ", ".join(
                f"{kind} ({n})" for kind, n in count_kinds(filter(None, images.skipped)).items()
            )
            raise DatasetError(f"{dataset.root}: none of its {len(images)} files can be used: {reasons}")
        if plan.store is None:
            return
        stored = set(plan.store.content.sha256) - plan.invalid_contents
        lost = {sha256: reason for sha256, reason in plan.skipped_now.items() if sha256 in stored}
        if lost:
            raise StoreError(
                f"{plan.path}: {plural(len(lost), 'stored image')} could not be read again "
                f"({', '.join(sorted(set(lost.values())))[:200]}). The store is unchanged and finished work "
                "is kept. Run the same command again, with a longer --image-timeout if files timed out"
            )

    def _created_with(self, dataset: Dataset, stats: ComputeStats) -> dict[str, Any]:
        old = self.plan.store.created_with if self.plan.store is not None else {}
        path = self.plan.weights.path
        return {
            "engine": stats.engine or old.get("engine", ""),
            "device": stats.device or old.get("device", ""),
            "precision": dict(self.plan.precision) if self.plan.precision is not None else None,
            "folio": __version__,
            "packages": installed_versions(FEATURE_PACKAGES),
            "dataset": dataset.name,
            "data": str(dataset.root.resolve()),
            "weights_path": str(path.resolve()) if path is not None else None,
            "options": dict(self.execution.stored_options),
        }


def discard_used_parts(plan: StorePlan, dataset: Dataset) -> None:
    """Remove the parts, unless they have images that the data set lacks now but may have again."""
    if plan.parts.contents() <= dataset.distinct_contents.keys():
        discard_parts(plan.parts.folder)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
