"""Work cut into slices that take about as long each, by how long those before took."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

SLICE_SECONDS = 15.0  # that a slice is to take: what the death of a worker costs
FIRST_SLICE = 16  # items, before it is known how long they take
LEAST_SLICE = 4  # items: each slice costs a start and an end
MOST_SLICE = 256  # items
_RECENT = 16  # slices whose rates count


@dataclass(frozen=True, kw_only=True, eq=False)
class Slice:
    """Some neighbouring items."""

    number: int
    items: tuple[Any, ...]


class Cut:
    """Items to be handed out in their order; a `featurize.spreading.Source`.

    Parameters
    ----------
    items : sequence
        The work.
    size : int, optional
        Of every slice; as `SLICE_SECONDS` asks for by default, and smaller towards the end, so that all who
        work are done at about the same time.
    """

    def __init__(self, items: Sequence[Any], *, size: int | None = None) -> None:
        self._items, self._size = items, size
        self._position = self._number = 0
        self._seconds: deque[float] = deque(maxlen=_RECENT)  # an item

    def take(self, n_workers: int) -> Slice | None:
        """Return the next slice, given how many work; None when all is handed out."""
        left = len(self._items) - self._position
        if not left:
            return None
        size = self._size or min(self._fitting(), max(LEAST_SLICE, left // (2 * n_workers)))
        start, self._position = self._position, self._position + min(size, left)
        self._number += 1
        return Slice(number=self._number - 1, items=tuple(self._items[start : self._position]))

    def returned(self, done: Slice, seconds: float) -> None:
        """Note how long a slice took."""
        self._seconds.append(seconds / len(done.items))

    def _fitting(self) -> int:
        if not self._seconds:
            return FIRST_SLICE
        an_item = max(statistics.median(self._seconds), 1e-6)
        return max(LEAST_SLICE, min(MOST_SLICE, round(SLICE_SECONDS / an_item)))
