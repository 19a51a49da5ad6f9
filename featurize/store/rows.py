"""Rows of one dataset of a store, read where they are asked for: a store need not fit in memory."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from featurize.errors import StoreError


class StoredRows:
    """The rows of a dataset that is chunked in whole rows; reads as little as can be, each chunk once.

    It knows the file by its path, so that it can be sent to another process, and refuses a file that was
    replaced in the meantime. Not for several threads at once.
    """

    def __init__(
        self, path: str | os.PathLike[str], name: str, *, file: h5py.File, salvage: bool = False
    ) -> None:
        self.path = Path(path).absolute()
        self.name = name
        self._salvage = salvage  # rows that cannot be read come as zeros
        self._version = _version(os.fstat(file.id.get_vfd_handle()))
        self._dataset: h5py.Dataset | None = file[name]  # falsy once its file is closed
        self._kept: tuple[int, npt.NDArray[Any]] | None = None  # the chunk of the last single row
        self.shape: tuple[int, ...] = tuple(self._opened().shape)
        self.dtype: np.dtype[Any] = self._opened().dtype
        chunks = self._opened().chunks
        self.chunk_rows = int(chunks[0]) if chunks is not None else max(1, len(self))

    def __len__(self) -> int:
        return self.shape[0]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_dataset": None, "_kept": None}

    def __getitem__(self, rows: Any) -> npt.NDArray[Any]:
        """Return one row (int), or rows in any order (a slice, or an array of int), as they are stored."""
        if isinstance(rows, int | np.integer):
            return self._one(int(rows))
        if isinstance(rows, slice):
            rows = np.arange(len(self))[rows]
        wanted = np.asarray(rows, dtype=np.int64)
        order = np.argsort(wanted, kind="stable")
        found = np.empty((len(wanted), *self.shape[1:]), dtype=self.dtype)
        for part, block in self.blocks(wanted[order], most_rows=self.chunk_rows):
            found[order[part]] = block
        return found

    def blocks(
        self, rows: npt.NDArray[np.int64], *, most_rows: int
    ) -> Iterator[tuple[slice, npt.NDArray[Any]]]:
        """Yield the rows asked for, some at a time, in their order.

        Parameters
        ----------
        rows : ndarray of shape (n_rows,), int64
            Ascending; a row may stand twice.
        most_rows : int
            Of the file that are read at a time; one chunk at least.

        Yields
        ------
        part : slice
            Of `rows`.
        block : ndarray of shape (n_part, ...)
            As stored.
        """
        height = self.chunk_rows
        most = max(1, most_rows // height) * height
        start = 0
        while start < len(rows):
            first = int(rows[start]) // height * height
            stop = int(np.searchsorted(rows, first + most))
            chunk = rows[start:stop] // height
            if (gaps := np.flatnonzero(np.diff(chunk) > 1)).size:  # chunks between that nobody wants
                stop = start + int(gaps[0]) + 1
            end = min((int(rows[stop - 1]) // height + 1) * height, len(self))
            block = self._read(first, end)
            wanted = rows[start:stop] - first
            if len(wanted) != end - first or not np.array_equal(wanted, np.arange(end - first)):
                block = block[wanted]
            yield slice(start, stop), block
            start = stop

    def _one(self, row: int) -> npt.NDArray[Any]:
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of {self.name}, which has {len(self)}")
        row %= len(self)
        first = row // self.chunk_rows * self.chunk_rows
        if self._kept is None or self._kept[0] != first:
            self._kept = first, self._read(first, min(first + self.chunk_rows, len(self)))
        return self._kept[1][row - first]

    def _read(self, first: int, end: int) -> npt.NDArray[Any]:
        dataset = self._opened()
        try:
            return np.asarray(dataset[first:end])
        except OSError as error:
            if not self._salvage:
                what = f"{self.name}, rows {first} to {end - 1},"
                raise damaged(self.path, what, str(error)) from None
        return np.zeros((end - first, *self.shape[1:]), dtype=self.dtype)

    def _opened(self) -> h5py.Dataset:
        if not self._dataset:
            try:
                there = _version(self.path.stat())
                file = h5py.File(self.path, "r", locking=False)
            except OSError as error:
                raise StoreError(f"{self.path}: cannot be read any more ({error}). Put it back") from None
            if there != self._version:
                file.close()
                raise StoreError(
                    f"{self.path}: was replaced while it was being read. Run the same command again"
                )
            self._dataset = file[self.name]
        return self._dataset


def damaged(path: Path, what: str, why: str) -> StoreError:
    """Return the error for a store of which a part cannot be read as it was written."""
    return StoreError(
        f"{path}: {what} is damaged on disk ({why}). Mend it with: featurize repair {shlex.quote(str(path))}"
    )


def _version(facts: os.stat_result) -> tuple[int, ...]:
    return facts.st_ino, facts.st_size, facts.st_mtime_ns
