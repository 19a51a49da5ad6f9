"""Columns of the features that belong to each level of the network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

from featurize.base.typing import Float32Array
from featurize.errors import StoreError


class HasLevels(Protocol):
    """An engine or an open store."""

    @property
    def level_names(self) -> tuple[str, ...]:
        """Names of the levels, in the order of their columns."""
        ...  # pragma: no cover - a protocol

    @property
    def level_ends(self) -> tuple[int, ...]:
        """End column of each level (exclusive)."""
        ...  # pragma: no cover - a protocol


@dataclass(frozen=True, kw_only=True)
class LevelColumns:
    """The columns of each level: level i is columns ``ends[i - 1]`` (0 for the first) to ``ends[i]``."""

    names: tuple[str, ...]
    ends: tuple[int, ...]

    @classmethod
    def of(cls, source: HasLevels) -> LevelColumns:
        """Return the level columns of an engine or a store."""
        return cls(names=tuple(source.level_names), ends=tuple(source.level_ends))

    @property
    def n_features(self) -> int:
        """Number of columns of all levels."""
        return self.ends[-1]

    def blocks(self, features: Float32Array) -> Iterator[Float32Array]:
        """Yield the columns of each level of features (n, n_features)."""
        for start, end in pairwise((0, *self.ends)):
            yield features[:, start:end]


def common_columns(sources: Sequence[LevelColumns], *, where: str) -> LevelColumns:
    """Return the level columns that all sources of a store's features have.

    Parameters
    ----------
    sources : sequence of LevelColumns
        First those of the current version, if it computed features; then those of parts and of the store.
    where : str
        Path of the store, for the error message.

    Raises
    ------
    StoreError
        If they differ, because another version of Folio pooled other maps.
    """
    first = sources[0]
    for other in sources[1:]:
        if other != first:
            raise StoreError(
                f"{where}: has the levels {_described(other)}, but this version of Folio computes "
                f"{_described(first)}. Write to another folder with: --out FOLDER"
            )
    return first


def _described(columns: LevelColumns) -> str:
    return ", ".join(f"{name} up to {end}" for name, end in zip(columns.names, columns.ends, strict=True))
