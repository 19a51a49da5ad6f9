"""Finished parts and what the old store has, streamed into a new store by a child process."""

from __future__ import annotations

import glob
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featurize.config import config_digest
from featurize.decode.decode_worker import die_with_parent
from featurize.errors import FolioError, StoreError
from featurize.making.columns import Columns
from featurize.making.durable import flush_folder
from featurize.making.parts import PartIndex, cannot_write
from featurize.store import ContentRow, ImageTable, Store, open_store
from featurize.store_writer import StoreWriter

if TYPE_CHECKING:
    from featurize.dataset import Dataset
    from featurize.making.planning import Target

REFUSED = 3  # exit code of the child when what it is to copy is damaged; its line says what to do


class AssemblyProcess:
    """The child that writes a store; it loads its libraries while the network is still at work.

    A child, because HDF5 writes the store, and an HDF5 write that meets a full disk can end in a crash.
    """

    def __init__(self) -> None:
        package = str(Path(__file__).resolve().parents[2])
        paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
        # A group of its own: Ctrl-C in the terminal is for the parent, which then ends it.
        options: dict[str, Any] = {} if os.name == "nt" else {"process_group": 0}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "featurize.making.assembly", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            **options,
        )

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
    target: Target,
    *,
    process: AssemblyProcess,
    stored: Sequence[str],
    columns: Columns,
    images: ImageTable,
    dataset: Dataset,
    created_with: Mapping[str, Any],
) -> int:
    """Write the store from its old version and the parts, put it in place; return its size in bytes.

    Parameters
    ----------
    target : Target
        The store to be; its parts are all in place.
    process : AssemblyProcess
        Who writes it.
    stored : sequence of str
        The contents it will hold, sorted by their SHA-256.
    columns : Columns
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
        raise cannot_write(description, error) from error
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
            f"{free} MiB are free there). Nothing that was finished is lost. Make room, then run the same "
            "command again: it goes on from there"
        )
    os.replace(temporary, target.path)
    flush_folder(target.path.parent)
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
    die_with_parent(parent)  # nothing is waiting for the store then
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


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
