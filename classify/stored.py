"""Features of samples that stay on disk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from classify.streams import Piece
from featurize import StoredRows

if TYPE_CHECKING:
    from classify.samples import Samples

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Stored:
    """Features that stay on disk, because they do not fit in the memory that may be taken."""

    plain: StoredRows  # (n_content, n_features)
    augmented: StoredRows  # (n_augmented, n_views, n_features)
    working_bytes: int  # that fitting may take beside libraries and tables
    sampled: Samples | None = None  # images that hyper-parameters are searched on, in memory
    origin: IntArray | None = None  # (n_sampled,) which images these are


def digests_on_disk(
    plain: StoredRows, augmented: StoredRows, augmented_row: IntArray
) -> tuple[list[bytes], list[bytes]]:
    """Return the digest of each content's plain row, and one of it and its views, read in one pass."""
    of_plain = [digest for _, digest in _row_digests(plain)]
    of_all = list(of_plain)
    content = np.flatnonzero(augmented_row >= 0)
    content = content[np.argsort(augmented_row[content])]
    for row, digest in _row_digests(augmented):
        of_all[content[row]] = sha256(of_plain[content[row]] + digest).digest()
    return of_plain, of_all


def _row_digests(source: StoredRows) -> Iterator[tuple[int, bytes]]:
    for part, block in source.blocks(np.arange(len(source)), most_rows=source.chunk_rows):
        for row, values in enumerate(block.astype(np.float32), start=part.start):
            yield row, sha256(values.data).digest()


def piece_of(source: StoredRows, rows: IntArray, position: IntArray) -> Piece:
    """Return rows of a source, in any order, as a piece of a stream."""
    order = np.argsort(rows, kind="stable")
    return Piece(source=source, rows=rows[order], position=position[order])
