"""Which columns of the features are which level of the network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
import numpy.typing as npt

from featurize.errors import StoreError


class HasLevels(Protocol):
    """An engine, or an open store."""

    @property
    def level_names(self) -> tuple[str, ...]:
        """Names of the levels, in the order of their columns."""
        ...  # pragma: no cover - a protocol

    @property
    def level_ends(self) -> tuple[int, ...]:
        """Column at which each level ends."""
        ...  # pragma: no cover - a protocol


@dataclass(frozen=True, kw_only=True)
class LevelColumns:
    """Level i is the columns from ``ends[i - 1]`` (or 0) up to ``ends[i]``."""

    names: tuple[str, ...]
    ends: tuple[int, ...]

    @classmethod
    def of(cls, source: HasLevels) -> LevelColumns:
        """Return those of an engine or a store."""
        return cls(names=tuple(source.level_names), ends=tuple(source.level_ends))

    @classmethod
    def of_width(cls, n_features: int) -> LevelColumns:
        """Return those of features without levels."""
        return cls(names=("final",), ends=(n_features,))

    @property
    def n_features(self) -> int:
        """All columns together."""
        return self.ends[-1]

    def blocks(self, features: npt.NDArray[np.float32]) -> Iterator[npt.NDArray[np.float32]]:
        """Yield the columns of each level of some features (n, n_features)."""
        for start, end in pairwise((0, *self.ends)):
            yield features[:, start:end]


def single_value(found: Sequence[LevelColumns], *, where: str) -> LevelColumns:
    """Return the one thing that all sources of a store's features say.

    Raises
    ------
    StoreError
        If they differ: another version of Folio pooled other maps.
    """
    first = found[0]
    for other in found[1:]:
        if other != first:
            raise StoreError(
                f"{where}: it has the levels {_told(other)}, and this version of Folio makes {_told(first)}. "
                "Keep both with: --out FOLDER"
            )
    return first


def _told(columns: LevelColumns) -> str:
    return ", ".join(f"{name} up to {end}" for name, end in zip(columns.names, columns.ends, strict=True))
