"""Work in progress: finished parts of a run, each whole, checksummed and put in place in one step.

A part is an HDF5 file built in memory and written as plain bytes: an HDF5 write that meets a full disk can
take the process with it, a plain write gives a clean error. Its name is the SHA-256 of its bytes, so that a
torn or altered part is known from its name alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from featurize.base.files import fsync_folder, write_error, write_synced
from featurize.errors import StoreError
from featurize.store.columns import LevelColumns

SUFFIX = ".part"
SETTLED = "settled.json"


@dataclass(frozen=True, kw_only=True)
class ContentMeta:
    """What is kept of one content besides its features."""

    width: int  # upright pixels
    height: int
    phash: int
    thumbnail: npt.NDArray[np.uint8]  # (32, 32, 3)


@dataclass(frozen=True, kw_only=True)
class RunChoices:
    """What a run settled before its first part, and later runs keep."""

    config: dict[str, Any]
    precision: Mapping[str, Any] | None  # how its precision was settled; see `featurize.extraction.precision`


@dataclass(kw_only=True)
class Part:
    """Some finished views of some contents, and the files that turned out to be no pictures."""

    meta: dict[str, ContentMeta] = field(default_factory=dict)  # by SHA-256
    features: dict[tuple[str, int], npt.NDArray[np.float32]] = field(
        default_factory=dict
    )  # (n_features,) each
    failed: dict[str, str] = field(default_factory=dict)  # SHA-256 → reason
    columns: LevelColumns | None = None  # of the features; None while there are none

    def __len__(self) -> int:
        return len(self.meta) + len(self.failed)


@dataclass(frozen=True, kw_only=True)
class PartKeys:
    """What a part holds, without its features."""

    name: str  # of its file
    views: dict[str, tuple[int, ...]]  # content → numbers of its finished views
    contents: tuple[str, ...]  # those with facts of their pictures
    failed: dict[str, str]
    columns: LevelColumns | None

    @classmethod
    def of(cls, path: Path, part: Part) -> PartKeys:
        """Return the keys of a part that is in place."""
        views: dict[str, list[int]] = {}
        for sha256, view in part.features:
            views.setdefault(sha256, []).append(view)
        return cls(
            name=path.name,
            views={sha256: tuple(numbers) for sha256, numbers in views.items()},
            contents=tuple(part.meta),
            failed=dict(part.failed),
            columns=part.columns,
        )


def parts_folder(store: Path) -> Path:
    """Return the folder of a store's work in progress."""
    return store.with_name(store.name + ".parts")


def write_part(folder: Path, part: Part, *, config_digest: str) -> Path:
    """Put a part in place, complete and flushed to disk, or not at all.

    Raises
    ------
    StoreError
        If the disk is full or the folder cannot be written to; what was there before is untouched.
    """
    data = _to_bytes(part, config_digest=config_digest)
    path = folder / (hashlib.sha256(data).hexdigest() + SUFFIX)
    temporary = folder / f".{secrets.token_hex(8)}.tmp"
    try:
        write_synced(temporary, data)
        os.replace(temporary, path)
        fsync_folder(folder)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise write_error(path, error) from error
    return path


def read_part(path: Path, *, config_digest: str) -> Part | None:
    """Return a part; None if it is torn, altered or made under another config."""
    data = path.read_bytes()
    if path.name != hashlib.sha256(data).hexdigest() + SUFFIX:
        return None
    return _from_bytes(data, config_digest=config_digest)


def part_paths(folder: Path) -> list[Path]:
    """Return the paths of the parts that are in place, whole or not."""
    return sorted(path for path in folder.glob("*" + SUFFIX) if not path.name.startswith("."))


def discard_parts(folder: Path) -> None:
    """Remove the folder: everything in it is in the store now."""
    shutil.rmtree(folder, ignore_errors=True)


def save_run_choices(folder: Path, settled: RunChoices) -> None:
    """Write down what was settled for the work in progress, so that a later run keeps it.

    Raises
    ------
    StoreError
        If the disk is full or the folder cannot be made or written to.
    """
    path, temporary = folder / SETTLED, folder / f".{secrets.token_hex(8)}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_synced(temporary, json.dumps(asdict(settled)).encode("ascii"))
        os.replace(temporary, path)
        fsync_folder(folder)
    except OSError as error:
        with suppress(OSError):  # where the folder itself is a file, say
            temporary.unlink(missing_ok=True)
        raise write_error(path, error) from error


def load_run_choices(folder: Path) -> RunChoices | None:
    """Return what was settled for the work in progress; None if there is none.

    Raises
    ------
    StoreError
        If it is there and the system does not give it: what was fitted is not silently fitted again.
    """
    path = folder / SETTLED
    try:
        facts = dict(json.loads(path.read_bytes()))
        if "backbone" in facts:  # written before there was more than the config
            return RunChoices(config=facts, precision=None)
        return RunChoices(config=dict(facts["config"]), precision=facts["precision"])
    except (FileNotFoundError, NotADirectoryError, ValueError, TypeError, KeyError):
        return None  # not there; or damaged, so of no use
    except OSError as error:
        raise StoreError(
            f"{path}: cannot be read ({error.strerror or error}). Give read permission, then run the same "
            "command again"
        ) from error


def _to_bytes(part: Part, *, config_digest: str) -> bytes:
    names = sorted(part.meta)
    place = {name: row for row, name in enumerate(names)}
    keys = sorted(part.features)
    # Another store's part may be on its way in another thread, and HDF5 knows files in memory by name too.
    with h5py.File(secrets.token_hex(8), "w", driver="core", backing_store=False) as file:
        file.attrs["format"] = "folio-part"
        file.attrs["config_digest"] = config_digest
        if part.columns is not None:
            file.attrs["level_names"] = list(part.columns.names)
            file.attrs["level_ends"] = part.columns.ends
        file["sha256"] = np.array(names, dtype="S64")
        for column, dtype in (("width", "<i4"), ("height", "<i4"), ("phash", "<u8")):
            file[column] = np.array([getattr(part.meta[name], column) for name in names], dtype=dtype)
        thumbnails = [part.meta[name].thumbnail for name in names]
        file["thumbnail"] = np.stack(thumbnails) if thumbnails else np.zeros((0, 32, 32, 3), np.uint8)
        file["row_content"] = np.array([place[name] for name, _ in keys], dtype="<i8")
        file["row_view"] = np.array([view for _, view in keys], dtype="<i4")
        features = [part.features[key] for key in keys]
        file["features"] = np.stack(features).astype("<f4") if features else np.zeros((0, 0), "<f4")
        file["failed"] = json.dumps(part.failed)
        file.flush()
        return bytes(file.id.get_file_image())


def _from_bytes(data: bytes, *, config_digest: str) -> Part | None:
    with h5py.File.in_memory(data) as file:
        if file.attrs["config_digest"] != config_digest:
            return None
        names = [name.decode("ascii") for name in file["sha256"][:]]
        columns = [file[column][:] for column in ("width", "height", "phash", "thumbnail")]
        meta = {
            name: ContentMeta(width=int(width), height=int(height), phash=int(phash), thumbnail=thumbnail)
            for name, width, height, phash, thumbnail in zip(names, *columns, strict=True)
        }
        rows = zip(file["row_content"][:], file["row_view"][:], file["features"][:], strict=True)
        features = {(names[content], int(view)): vector for content, view, vector in rows}
        return Part(
            meta=meta, features=features, failed=json.loads(file["failed"][()]), columns=_columns(file)
        )


def _columns(file: h5py.File) -> LevelColumns | None:
    if "level_names" in file.attrs:
        names = tuple(str(name) for name in file.attrs["level_names"])
        return LevelColumns(names=names, ends=tuple(map(int, file.attrs["level_ends"])))
    n_rows, n_features = file["features"].shape  # written before there were levels
    return LevelColumns.of_width(n_features) if n_rows else None


class PartIndex:
    """Where each finished view lies among the parts; holds keys, and reads features a part at a time."""

    def __init__(self, folder: Path, *, config_digest: str) -> None:
        self.folder, self.config_digest = folder, config_digest
        self.damaged: list[Path] = []
        self.failed: dict[str, str] = {}
        self.columns: LevelColumns | None = None
        self._part_of: dict[str, dict[int, Path]] = {}  # SHA-256 → view → part
        self._meta_in: dict[str, Path] = {}
        self._open: dict[Path, Part] = {}
        for path in part_paths(folder):
            part = read_part(path, config_digest=config_digest)
            if part is None:
                self.damaged.append(path)
            else:
                self.add(path, part)

    def add(self, path: Path, part: Part) -> None:
        """Note what a part holds."""
        self.add_keys(PartKeys.of(path, part))

    def add_keys(self, keys: PartKeys) -> None:
        """Note what a part in the folder holds, as whoever wrote it says."""
        path = self.folder / keys.name
        for sha256, views in keys.views.items():
            self._part_of.setdefault(sha256, {}).update(dict.fromkeys(views, path))
        self._meta_in.update(dict.fromkeys(keys.contents, path))
        self.failed |= keys.failed
        self.columns = keys.columns or self.columns

    def contents(self) -> set[str]:
        """Return the SHA-256 of every content that the parts know, failed ones included."""
        return set(self._meta_in) | set(self.failed)

    def __contains__(self, sha256: str) -> bool:
        return sha256 in self._part_of

    def __len__(self) -> int:
        return len(self._part_of)

    def views(self, sha256: str) -> frozenset[int]:
        """Return the numbers of the finished views of one content."""
        return frozenset(self._part_of.get(sha256, {}))

    def meta(self, sha256: str) -> ContentMeta:
        """Return what is kept of a content besides its features."""
        return self._read(self._meta_in[sha256]).meta[sha256]

    def features(self, sha256: str) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
        """Yield the finished views of one content: number and features of shape (n_features,)."""
        for view, path in self._part_of.get(sha256, {}).items():
            yield view, self._read(path).features[sha256, view]

    def _read(self, path: Path) -> Part:
        if path not in self._open:
            part = read_part(path, config_digest=self.config_digest)
            if part is None:
                raise StoreError(
                    f"{path}: damaged since it was checked. Run the same command again to mend it"
                )
            while len(self._open) >= 4:  # contents come sorted, and so do the parts of one run
                self._open.pop(next(iter(self._open)))
            self._open[path] = part
        return self._open[path]


class PartWriter:
    """Puts one part in place at a time; whoever brings the next one waits for it.

    Parameters
    ----------
    folder : Path
        Where.
    config_digest : str
        Of the features.
    on_part : callable
        Told of each part that is in place.
    """

    def __init__(self, folder: Path, *, config_digest: str, on_part: Callable[[Path, Part], None]) -> None:
        self._folder, self._config_digest, self._on_part = folder, config_digest, on_part
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="parts")
        self._under_way: Future[None] | None = None

    def put(self, part: Part) -> None:
        """Start on a part, once the one before is in place; the part is not to be touched any more.

        Raises
        ------
        StoreError
            If the part before could not be written.
        """
        self.wait()
        self._under_way = self._thread.submit(self._put, part)

    def wait(self) -> None:
        """Return when all parts are in place.

        Raises
        ------
        StoreError
            If one could not be written.
        """
        under_way, self._under_way = self._under_way, None
        if under_way is not None:
            under_way.result()

    def close(self) -> None:
        """Let the thread go."""
        self._thread.shutdown()

    def _put(self, part: Part) -> None:
        self._on_part(write_part(self._folder, part, config_digest=self._config_digest), part)
