"""Feature rows that are read from disk block by block, each time they are needed.

Blocks are processed in several threads, and their results are returned in the order of the blocks: sums over
all rows do not depend on the number of threads.
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

MAX_BLOCK_VALUES = 2**21  # larger blocks do not fit in the processor's cache and are not faster
BYTES_PER_VALUE = 30  # of a block in work: as stored, in float32, and copies in float64 and float32
MAX_THREADS = 8


class RowSource(Protocol):
    """A source of rows on disk; `featurize.store.rows.StoredRows` is one."""

    shape: tuple[int, ...]
    chunk_rows: int

    def blocks(self, rows: IntArray, *, most_rows: int) -> Iterator[tuple[slice, npt.NDArray[Any]]]:
        """Yield the given ascending rows in their order, at most `most_rows` at a time."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class SourceRows:
    """Rows of one source and their positions in the stream."""

    source: RowSource
    rows: IntArray  # (n,) rows of the source, ascending
    position: IntArray  # (n, n_each) stream rows that each row of the source holds


@dataclass(frozen=True, kw_only=True, eq=False)
class RowStream:
    """Rows to fit on, as `classify.data.samples.Rows`, except that the features stay on disk."""

    y: IntArray  # (n_rows,) index into classes
    groups: IntArray  # (n_rows,) group, which no fold may split
    image: IntArray  # (n_rows,) index of the image in Samples
    is_plain: BoolArray  # (n_rows,)
    pieces: tuple[SourceRows, ...]
    columns: slice  # of the last axis of the sources
    working_bytes: int  # memory that may be used in addition to these arrays

    @property
    def n_features(self) -> int:
        """Number of columns."""
        return len(range(*self.columns.indices(self.pieces[0].source.shape[-1])))

    def __len__(self) -> int:
        return len(self.y)

    @property
    def threads(self) -> int:
        """Number of blocks processed at once."""
        return min(available_cores(), MAX_THREADS)

    def with_labels(self, y: IntArray) -> RowStream:
        """Return the same rows with other labels."""
        return replace(self, y=y)

    def map_blocks(
        self,
        work: Callable[[IntArray, Float32Array], T],
        *,
        chosen: BoolArray | None = None,
        values: int | None = None,
    ) -> Iterator[T]:
        """Apply a function to each block, in several threads; yield the results in the order of the blocks.

        Parameters
        ----------
        work : callable (position, X) -> result
            Called with the rows of the block as positions in the stream, (n_block,), and their features,
            (n_block, n_features), float32.
        chosen : ndarray of shape (n_rows,), bool, optional
            Mask of the rows to read; all by default.
        values : int, optional
            Maximum number of values of a block; by default as many as fit in memory.
        """

        def work_on(position: IntArray, raw: npt.NDArray[Any]) -> T:
            return work(position, raw.astype(np.float32))

        threads = self.threads
        waiting: deque[Future[T]] = deque()
        with ThreadPoolExecutor(threads) as pool:
            try:
                for position, raw in self._raw(chosen, values or self._block_values(threads)):
                    waiting.append(pool.submit(work_on, position, raw))
                    if len(waiting) > threads + 1:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                pool.shutdown(cancel_futures=True)

    def take(self, position: IntArray) -> Float32Array:
        """Return the features of some distinct rows, in the given order: (n_taken, n_features)."""
        output_row = np.full(len(self), -1, dtype=np.int64)
        output_row[position] = np.arange(len(position))
        output = np.empty((len(position), self.n_features), dtype=np.float32)

        def copy(rows: IntArray, X: Float32Array) -> None:
            output[output_row[rows]] = X

        for _ in self.map_blocks(copy, chosen=output_row >= 0):
            pass
        return output

    def _block_values(self, threads: int) -> int:
        return max(1, min(MAX_BLOCK_VALUES, self.working_bytes // (2 * (threads + 2) * BYTES_PER_VALUE)))

    def _raw(self, chosen: BoolArray | None, values: int) -> Iterator[tuple[IntArray, npt.NDArray[Any]]]:
        """Yield the stream positions of each block, and its features as stored."""
        for piece in self.pieces:
            rows, position = piece.rows, piece.position
            if chosen is not None:
                needed = chosen[position].any(axis=1)
                rows, position = rows[needed], position[needed]
            width = int(np.prod(piece.source.shape[1:]))
            for part, block in piece.source.blocks(rows, most_rows=max(1, values // max(1, width))):
                block_position = position[part].ravel()
                raw = block.reshape(len(block_position), block.shape[-1])[:, self.columns]
                if chosen is not None and not (mask := chosen[block_position]).all():
                    block_position, raw = block_position[mask], raw[mask]
                yield block_position, raw


class SpooledRows:
    """Rows in float32 that are computed once, written to an unnamed temporary file and read again.

    A context manager: the file is removed at the end.
    """

    def __init__(self, n_features: int, *, rows_at_once: int, folder: Path | None = None) -> None:
        import tempfile

        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by __exit__
        self.shape: tuple[int, ...] = (0, n_features)
        self.chunk_rows = rows_at_once

    def __enter__(self) -> SpooledRows:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def append(self, rows: Float32Array) -> None:
        """Append rows, (n_more, n_features)."""
        self._file.seek(0, 2)
        self._file.write(np.ascontiguousarray(rows, dtype=np.float32).data)
        self.shape = (self.shape[0] + len(rows), self.shape[1])

    def blocks(self, rows: IntArray, *, most_rows: int) -> Iterator[tuple[slice, Float32Array]]:
        """Yield the given ascending rows in their order, at most `most_rows` at a time."""
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
