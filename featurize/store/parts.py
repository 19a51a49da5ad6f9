"""Parts of an unfinished run: complete, checksummed files that appear in one step.

A part is an HDF5 file that is built in memory and written as plain bytes, because HDF5 may crash when the
disk is full, while a plain write raises an error. The name of a part is the SHA-256 of its bytes, so that an
incomplete or changed part is detected.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from featurize.base.files import write_atomic, write_error
from featurize.base.typing import Float32Array
from featurize.errors import StoreError
from featurize.store.columns import LevelColumns

_SUFFIX = ".part"
_RUN_CHOICES = "settled.json"
_OPEN_PARTS = 4  # parts that a `PartIndex` keeps in memory


@dataclass(frozen=True, kw_only=True)
class ContentMeta:
    """Metadata of one content, stored with its features."""

    width: int  # in pixels, upright
    height: int
    phash: int
    thumbnail: npt.NDArray[np.uint8]  # (32, 32, 3)


@dataclass(frozen=True, kw_only=True)
class RunChoices:
    """Settings that a run chose before its first part, and that later runs reuse."""

    config: dict[str, Any]
    precision: Mapping[str, Any] | None  # how the precision was chosen: `featurize.extraction.precision`


@dataclass(kw_only=True)
class Part:
    """Finished views of some contents, and the contents that cannot be decoded."""

    meta: dict[str, ContentMeta] = field(default_factory=dict)  # by SHA-256
    # By SHA-256 and view number; each of shape (n_features,).
    features: dict[tuple[str, int], Float32Array] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)  # SHA-256 → reason
    columns: LevelColumns | None = None  # of the features; None without features

    def __len__(self) -> int:
        return len(self.meta) + len(self.failed)


@dataclass(frozen=True, kw_only=True)
class PartKeys:
    """Keys of a part's contents and views, without the features."""

    name: str  # file name
    views: dict[str, tuple[int, ...]]  # SHA-256 → numbers of the finished views
    contents: tuple[str, ...]  # SHA-256 of the contents with metadata
    failed: dict[str, str]
    columns: LevelColumns | None

    @classmethod
    def of(cls, path: Path, part: Part) -> PartKeys:
        """Return the keys of a written part."""
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
    """Return the folder with the parts of a store."""
    return store.with_name(store.name + ".parts")


def write_part(folder: Path, part: Part, *, config_digest: str) -> Path:
    """Write a part, complete and flushed to disk, or not at all; return its path.

    Raises
    ------
    StoreError
        If the disk is full or the folder is not writable; existing files are unchanged.
    """
    data = _to_bytes(part, config_digest=config_digest)
    path = folder / (hashlib.sha256(data).hexdigest() + _SUFFIX)
    try:
        write_atomic(path, data)
    except OSError as error:
        raise write_error(path, error) from error
    return path


def read_part(path: Path, *, config_digest: str) -> Part | None:
    """Return a part, or None if the file is incomplete or changed, or has another config."""
    data = path.read_bytes()
    if path.name != hashlib.sha256(data).hexdigest() + _SUFFIX:
        return None
    return _from_bytes(data, config_digest=config_digest)


def part_paths(folder: Path) -> list[Path]:
    """Return the paths of all parts, including damaged ones."""
    return sorted(path for path in folder.glob("*" + _SUFFIX) if not path.name.startswith("."))


def discard_parts(folder: Path) -> None:
    """Remove the folder of parts, after its content has been added to the store."""
    shutil.rmtree(folder, ignore_errors=True)


def save_run_choices(folder: Path, choices: RunChoices) -> None:
    """Write the settings of an unfinished run, so that a later run reuses them.

    Raises
    ------
    StoreError
        If the disk is full, or the folder cannot be created or is not writable.
    """
    path = folder / _RUN_CHOICES
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(asdict(choices)))
    except OSError as error:
        raise write_error(path, error) from error


def load_run_choices(folder: Path) -> RunChoices | None:
    """Return the settings of an unfinished run; None if there are none, or the file is damaged.

    Raises
    ------
    StoreError
        If the file exists but cannot be read: fitted statistics must not be silently fitted again.
    """
    path = folder / _RUN_CHOICES
    try:
        choices = json.loads(path.read_bytes())
        return RunChoices(config=dict(choices["config"]), precision=choices["precision"])
    except (FileNotFoundError, NotADirectoryError, ValueError, TypeError, KeyError):
        return None
    except OSError as error:
        raise StoreError(
            f"{path}: cannot be read ({error.strerror or error}). Give read permission, then run the same "
            "command again"
        ) from error


def _to_bytes(part: Part, *, config_digest: str) -> bytes:
    names = sorted(part.meta)
    row_of = {name: row for row, name in enumerate(names)}
    keys = sorted(part.features)
    # A unique name, because HDF5 identifies files in memory by name too, and several threads write parts.
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
        file["row_content"] = np.array([row_of[name] for name, _ in keys], dtype="<i8")
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
        values = [file[column][:] for column in ("width", "height", "phash", "thumbnail")]
        meta = {
            name: ContentMeta(width=int(width), height=int(height), phash=int(phash), thumbnail=thumbnail)
            for name, width, height, phash, thumbnail in zip(names, *values, strict=True)
        }
        rows = zip(file["row_content"][:], file["row_view"][:], file["features"][:], strict=True)
        features = {(names[content], int(view)): vector for content, view, vector in rows}
        columns = None
        if "level_names" in file.attrs:
            level_names = tuple(str(name) for name in file.attrs["level_names"])
            columns = LevelColumns(names=level_names, ends=tuple(map(int, file.attrs["level_ends"])))
        return Part(meta=meta, features=features, failed=json.loads(file["failed"][()]), columns=columns)


class PartIndex:
    """Index of the finished views in a folder of parts; features are read one part at a time.

    Parameters
    ----------
    folder : Path
        The folder of parts.
    config_digest : str
        Digest of the features' config; parts with another one count as damaged.

    Attributes
    ----------
    damaged : list of Path
        Parts that cannot be used.
    failed : dict
        SHA-256 of the contents that cannot be decoded → reason.
    columns : LevelColumns or None
        Level columns of the features; None without features.
    """

    def __init__(self, folder: Path, *, config_digest: str) -> None:
        self.folder, self.config_digest = folder, config_digest
        self.damaged: list[Path] = []
        self.failed: dict[str, str] = {}
        self.columns: LevelColumns | None = None
        self._part_of: dict[str, dict[int, Path]] = {}  # SHA-256 → view → part
        self._meta_in: dict[str, Path] = {}
        self._loaded: dict[Path, Part] = {}
        for path in part_paths(folder):
            part = read_part(path, config_digest=config_digest)
            if part is None:
                self.damaged.append(path)
            else:
                self.add(path, part)

    def add(self, path: Path, part: Part) -> None:
        """Add a part to the index."""
        self.add_keys(PartKeys.of(path, part))

    def add_keys(self, keys: PartKeys) -> None:
        """Add a part by its keys, without reading the file."""
        path = self.folder / keys.name
        for sha256, views in keys.views.items():
            self._part_of.setdefault(sha256, {}).update(dict.fromkeys(views, path))
        self._meta_in.update(dict.fromkeys(keys.contents, path))
        self.failed |= keys.failed
        self.columns = keys.columns or self.columns

    def contents(self) -> set[str]:
        """Return the SHA-256 of every content in the parts, including failed ones."""
        return set(self._meta_in) | set(self.failed)

    def __contains__(self, sha256: str) -> bool:
        return sha256 in self._part_of

    def __len__(self) -> int:
        return len(self._part_of)

    def views(self, sha256: str) -> frozenset[int]:
        """Return the numbers of a content's finished views."""
        return frozenset(self._part_of.get(sha256, {}))

    def meta(self, sha256: str) -> ContentMeta:
        """Return the metadata of a content."""
        return self._read(self._meta_in[sha256]).meta[sha256]

    def features(self, sha256: str) -> Iterator[tuple[int, Float32Array]]:
        """Yield number and features, of shape (n_features,), of each finished view of a content."""
        for view, path in self._part_of.get(sha256, {}).items():
            yield view, self._read(path).features[sha256, view]

    def _read(self, path: Path) -> Part:
        if path not in self._loaded:
            part = read_part(path, config_digest=self.config_digest)
            if part is None:
                raise StoreError(
                    f"{path}: was damaged during this run. Run the same command again to repair it"
                )
            # Contents are read in sorted order, so a few parts suffice.
            while len(self._loaded) >= _OPEN_PARTS:
                self._loaded.pop(next(iter(self._loaded)))
            self._loaded[path] = part
        return self._loaded[path]


class PartWriter:
    """Writes parts in a background thread, one at a time.

    Parameters
    ----------
    folder : Path
        The folder of parts.
    config_digest : str
        Digest of the features' config.
    on_part : callable
        Called in that thread with the path of each written part, and the part.
    """

    def __init__(self, folder: Path, *, config_digest: str, on_part: Callable[[Path, Part], None]) -> None:
        self._folder, self._config_digest, self._on_part = folder, config_digest, on_part
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="parts")
        self._pending: Future[None] | None = None

    def put(self, part: Part) -> None:
        """Start writing a part after the previous one is written; the caller must not change it any more.

        Raises
        ------
        StoreError
            If the previous part could not be written.
        """
        self.wait()
        self._pending = self._thread.submit(self._put, part)

    def wait(self) -> None:
        """Return when all parts are written.

        Raises
        ------
        StoreError
            If a part could not be written.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown()

    def _put(self, part: Part) -> None:
        self._on_part(write_part(self._folder, part, config_digest=self._config_digest), part)
