"""Rows of features that are read from disk each time they are needed, a block at a time.

What is summed over all rows is the same whatever the number of threads: they share the blocks, and what these
add up to is added in the order of the blocks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from featurize.base.cores import available_cores
from featurize.base.typing import BoolArray, Float32Array, IntArray

T = TypeVar("T")

BLOCK_VALUES = 2**21  # of a block, at most: larger ones leave the processor's caches and gain nothing
BYTES_A_VALUE = 30  # that a block under way takes: as stored, in float32, and copies in float64 and float32
MOST_THREADS = 8


class RowSource(Protocol):
    """What rows are read from; `featurize.StoredRows` is one."""

    shape: tuple[int, ...]
    chunk_rows: int

    def blocks(self, rows: IntArray, *, most_rows: int) -> Iterator[tuple[slice, npt.NDArray[Any]]]:
        """Yield ascending rows, some at a time, in their order."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class SourceRows:
    """Rows of one source, and which rows of the stream they are."""

    source: RowSource
    rows: IntArray  # (n,) of the source, ascending
    position: IntArray  # (n, n_each) rows of the stream that each row of the source holds


@dataclass(frozen=True, kw_only=True, eq=False)
class RowStream:
    """Rows to fit, as `classify.data.samples.Rows` has them, but for the features, which stay on disk."""

    y: IntArray  # (n_rows,) index into classes
    groups: IntArray  # (n_rows,) what no fold may split
    image: IntArray  # (n_rows,) index of the image in Samples
    is_plain: BoolArray  # (n_rows,)
    pieces: tuple[SourceRows, ...]
    columns: slice  # of the sources' last axis
    working_bytes: int  # that may be taken beside what is here

    @property
    def n_features(self) -> int:
        """Columns of a row."""
        return len(range(*self.columns.indices(self.pieces[0].source.shape[-1])))

    def __len__(self) -> int:
        return len(self.y)

    @property
    def threads(self) -> int:
        """How many blocks are worked on at once."""
        return min(available_cores(), MOST_THREADS)

    def labelled(self, y: IntArray) -> RowStream:
        """Return the same rows with other labels."""
        return replace(self, y=y)

    def each(
        self,
        work: Callable[[IntArray, Float32Array], T],
        *,
        chosen: BoolArray | None = None,
        values: int | None = None,
    ) -> Iterator[T]:
        """Yield what some work makes of each block, in the order of the blocks, in several threads.

        Parameters
        ----------
        work : callable (position, X) -> result
            Called with which rows they are, (n_block,), and their features, (n_block, n_features), float32.
        chosen : ndarray of shape (n_rows,), bool, optional
            Rows that are wanted; all by default.
        values : int, optional
            Features of a block at most; by default what memory allows.
        """

        def made(position: IntArray, raw: npt.NDArray[Any]) -> T:
            return work(position, raw.astype(np.float32))

        threads = self.threads
        waiting: deque[Future[T]] = deque()
        with ThreadPoolExecutor(threads) as pool:
            try:
                for position, raw in self._raw(chosen, values or self._block_values(threads)):
                    waiting.append(pool.submit(made, position, raw))
                    if len(waiting) > threads + 1:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                pool.shutdown(cancel_futures=True)

    def take(self, position: IntArray) -> Float32Array:
        """Return some rows, in the order asked for, each once: (n_taken, n_features)."""
        place = np.full(len(self), -1, dtype=np.int64)
        place[position] = np.arange(len(position))
        found = np.empty((len(position), self.n_features), dtype=np.float32)

        def put(rows: IntArray, X: Float32Array) -> None:
            found[place[rows]] = X

        for _ in self.each(put, chosen=place >= 0):
            pass
        return found

    def _block_values(self, threads: int) -> int:
        return max(1, min(BLOCK_VALUES, self.working_bytes // (2 * (threads + 2) * BYTES_A_VALUE)))

    def _raw(self, chosen: BoolArray | None, values: int) -> Iterator[tuple[IntArray, npt.NDArray[Any]]]:
        """Yield which rows, and their features as stored."""
        for piece in self.pieces:
            rows, position = piece.rows, piece.position
            if chosen is not None:
                wanted = chosen[position].any(axis=1)
                rows, position = rows[wanted], position[wanted]
            width = int(np.prod(piece.source.shape[1:]))
            for part, block in piece.source.blocks(rows, most_rows=max(1, values // max(1, width))):
                where = position[part].ravel()
                raw = block.reshape(len(where), block.shape[-1])[:, self.columns]
                if chosen is not None and not (kept := chosen[where]).all():
                    where, raw = where[kept], raw[kept]
                yield where, raw


class SpooledRows:
    """Rows in float32 that are computed once, written to a file without a name, and read again.

    A context manager: the file is gone afterwards.
    """

    def __init__(self, n_features: int, *, rows_at_once: int, folder: Path | None = None) -> None:
        import tempfile

        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - lives as long as its rows
        self.shape: tuple[int, ...] = (0, n_features)
        self.chunk_rows = rows_at_once

    def __enter__(self) -> SpooledRows:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def append(self, rows: Float32Array) -> None:
        """Write some more rows, (n_more, n_features)."""
        self._file.seek(0, 2)
        self._file.write(np.ascontiguousarray(rows, dtype=np.float32).data)
        self.shape = (self.shape[0] + len(rows), self.shape[1])

    def blocks(self, rows: IntArray, *, most_rows: int) -> Iterator[tuple[slice, Float32Array]]:
        """Yield ascending rows, some at a time, in their order."""
        width, height = self.shape[1], max(1, most_rows)
        start = 0
        while start < len(rows):
            first = int(rows[start])
            stop = int(np.searchsorted(rows, first + height))
            end = int(rows[stop - 1]) + 1
            self._file.seek(4 * width * first)
            block = np.frombuffer(self._file.read(4 * width * (end - first)), dtype=np.float32)
            yield slice(start, stop), block.reshape(-1, width)[rows[start:stop] - first]
            start = stop
