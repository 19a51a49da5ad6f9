"""Rows of one dataset of a store, read from disk on demand: a store need not fit in memory."""

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
    """Array-like access to a dataset that is chunked in whole rows; each requested chunk is read once.

    It refers to the file by its path, so it can be pickled and sent to another process. Reading fails if the
    file was replaced in the meantime. Not thread-safe.

    Parameters
    ----------
    path : path-like
        The store.
    name : str
        Name of the dataset.
    file : h5py.File
        The store, open for reading; it is opened again by path after it has been closed.
    salvage : bool, default=False
        Return zeros for rows that cannot be read.
    """

    def __init__(
        self, path: str | os.PathLike[str], name: str, *, file: h5py.File, salvage: bool = False
    ) -> None:
        self.path = Path(path).absolute()
        self.name = name
        self._salvage = salvage
        self._version = _version(os.fstat(file.id.get_vfd_handle()))
        self._dataset: h5py.Dataset | None = file[name]  # falsy after its file is closed
        self._cached: tuple[int, npt.NDArray[Any]] | None = None  # first row and values of the last chunk
        self.shape: tuple[int, ...] = tuple(self._opened().shape)
        self.dtype: np.dtype[Any] = self._opened().dtype
        chunks = self._opened().chunks
        self.chunk_rows = int(chunks[0]) if chunks is not None else max(1, len(self))

    def __len__(self) -> int:
        return self.shape[0]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_dataset": None, "_cached": None}

    def __getitem__(self, rows: Any) -> npt.NDArray[Any]:
        """Return one row (int), or rows in any order (slice or array of int), in the stored dtype."""
        if isinstance(rows, int | np.integer):
            return self._single_row(int(rows))
        if isinstance(rows, slice):
            rows = np.arange(len(self))[rows]
        requested = np.asarray(rows, dtype=np.int64)
        order = np.argsort(requested, kind="stable")
        values = np.empty((len(requested), *self.shape[1:]), dtype=self.dtype)
        for part, block in self.blocks(requested[order], most_rows=self.chunk_rows):
            values[order[part]] = block
        return values

    def blocks(
        self, rows: npt.NDArray[np.int64], *, most_rows: int
    ) -> Iterator[tuple[slice, npt.NDArray[Any]]]:
        """Yield the requested rows in blocks, in their order.

        Parameters
        ----------
        rows : ndarray of shape (n_rows,), int64
            Ascending; may contain duplicates.
        most_rows : int
            Maximum number of rows to read at a time, rounded down to whole chunks; at least one chunk.

        Yields
        ------
        part : slice
            Positions in `rows`.
        block : ndarray of shape (n_part, ...)
            Values of ``rows[part]``, in the stored dtype.
        """
        height = self.chunk_rows
        most = max(1, most_rows // height) * height
        start = 0
        while start < len(rows):
            first = int(rows[start]) // height * height
            stop = int(np.searchsorted(rows, first + most))
            chunk = rows[start:stop] // height
            if (gaps := np.flatnonzero(np.diff(chunk) > 1)).size:  # do not read chunks without requested rows
                stop = start + int(gaps[0]) + 1
            end = min((int(rows[stop - 1]) // height + 1) * height, len(self))
            block = self._read(first, end)
            offsets = rows[start:stop] - first
            if len(offsets) != end - first or not np.array_equal(offsets, np.arange(end - first)):
                block = block[offsets]
            yield slice(start, stop), block
            start = stop

    def _single_row(self, row: int) -> npt.NDArray[Any]:
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} is out of range: {self.name} has {len(self)} rows")
        row %= len(self)
        first = row // self.chunk_rows * self.chunk_rows
        if self._cached is None or self._cached[0] != first:
            self._cached = first, self._read(first, min(first + self.chunk_rows, len(self)))
        return self._cached[1][row - first]

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
                version = _version(self.path.stat())
                file = h5py.File(self.path, "r", locking=False)
            except OSError as error:
                raise StoreError(f"{self.path}: can no longer be read ({error}). Restore the file") from None
            if version != self._version:
                file.close()
                raise StoreError(
                    f"{self.path}: was replaced while it was being read. Run the same command again"
                )
            self._dataset = file[self.name]
        return self._dataset


def damaged(path: Path, what: str, why: str) -> StoreError:
    """Return the error for a store with damaged data."""
    return StoreError(
        f"{path}: {what} is damaged on disk ({why}). "
        f"Repair it with: featurize repair {shlex.quote(str(path))}"
    )


def _version(status: os.stat_result) -> tuple[int, ...]:
    return status.st_ino, status.st_size, status.st_mtime_ns
