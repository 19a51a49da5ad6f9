"""A stream of rows as a head scales them: fitted in one pass, and scaled block by block in the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from sklearn.base import TransformerMixin

from classify.data.blocks import RowStream
from classify.heads.base import FitError, make_scaler
from featurize.base.typing import BoolArray, Float32Array, Float64Array, IntArray

T = TypeVar("T")

SAMPLE_A_COLUMN = 8  # rows for each column that stand for all where a matrix need only be near
LEAST_SAMPLE = 4096


@dataclass(frozen=True, kw_only=True, eq=False)
class Scaled:
    """Rows of a stream, scaled."""

    stream: RowStream
    scaler: Any  # fitted transformer; None: as they are
    gamma: float  # scikit-learn's gamma="scale" for the scaled rows
    mean: (
        Float64Array  # (n_features,) of the rows before they were scaled; the variance is that of the scaler
    )
    variance: Float64Array

    def map_blocks(
        self,
        work: Callable[[IntArray, Float64Array], T],
        *,
        chosen: BoolArray | None = None,
        values: int | None = None,
    ) -> Iterator[T]:
        """Yield what some work makes of each block of scaled rows, (n_block, n_features), float64."""
        return self.stream.map_blocks(
            lambda position, X: work(position, self.scale(X)), chosen=chosen, values=values
        )

    def each_short(self, work: Callable[[IntArray, Float32Array], T]) -> Iterator[T]:
        """Yield the same for rows in float32 with a column of ones behind them."""
        return self.stream.map_blocks(lambda position, X: work(position, self._scale_short(X)))

    def scale(self, X: Float32Array) -> Float64Array:
        """Return rows (n, n_features) as scikit-learn's transformer scales them."""
        Z = X.astype(np.float64)
        if self.scaler is None:
            return Z
        if hasattr(self.scaler, "scale_"):
            Z -= self.scaler.mean_
            Z /= self.scaler.scale_
            return Z
        return unit_rows(Z)

    def sample(self, *, seed: int = 0) -> tuple[IntArray, Float64Array]:
        """Return rows that stand for all, ascending, and their scaled features; all where they are few."""
        n = min(len(self.stream), sample_rows(self.stream))
        rows = np.sort(np.random.default_rng(seed).permutation(len(self.stream))[:n])
        return rows, self.scale(self.stream.take(rows))

    def _scale_short(self, X: Float32Array) -> Float32Array:
        Z = np.empty((len(X), X.shape[1] + 1), dtype=np.float32)
        Z[:, -1] = 1.0
        if self.scaler is not None and hasattr(self.scaler, "scale_"):
            np.subtract(X, self.scaler.mean_.astype(np.float32), out=Z[:, :-1])
            Z[:, :-1] *= (1.0 / self.scaler.scale_).astype(np.float32)
        else:
            Z[:, :-1] = X if self.scaler is None else unit_rows(X)
        return Z


def sample_rows(stream: RowStream) -> int:
    """Return how many rows stand for all: as many as the columns call for and memory allows."""
    wanted = max(LEAST_SAMPLE, SAMPLE_A_COLUMN * stream.n_features)
    return int(min(wanted, max(1, stream.working_bytes // (4 * 24 * stream.n_features))))


def unit_rows(Z: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return rows divided by their length, those of zeros as they are."""
    length = np.sqrt(np.einsum("ij,ij->i", Z, Z))
    length[length == 0.0] = 1.0
    Z /= length[:, None]
    return Z


def unscaled(stream: RowStream) -> Scaled:
    """Return a stream that is not scaled."""
    nothing = np.zeros(stream.n_features)
    return Scaled(stream=stream, scaler=None, gamma=1.0, mean=nothing, variance=nothing)


def fit_scaling(stream: RowStream, scaling: str, *, chosen: BoolArray | None = None) -> Scaled:
    """Return a stream scaled as scikit-learn's transformer would be fitted on all its rows, or the chosen.

    Raises
    ------
    FitError
        If the scaling is unknown, or a feature is not finite.
    """
    scaler = make_scaler(scaling)
    n, mean, squares = 0, np.zeros(stream.n_features), np.zeros(stream.n_features)
    of_unit = np.zeros(2)  # sum and sum of squares of rows of length 1
    l2 = scaling == "l2"

    def moments(_: IntArray, X: Float32Array) -> tuple[int, Float64Array, Float64Array, Float64Array]:
        Z = X.astype(np.float64)
        centre = Z.mean(axis=0)
        spread = np.square(Z - centre).sum(axis=0)
        unit = unit_rows(Z) if l2 else Z[:0]
        return len(X), centre, spread, np.array([unit.sum(), np.square(unit).sum()])

    for more, centre, spread, unit in stream.map_blocks(moments, chosen=chosen):
        # Chan, Golub & LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances".
        off = centre - mean
        mean += off * (more / (n + more))
        squares += spread + off**2 * (n * more / (n + more))
        of_unit += unit
        n += more
    if not (np.isfinite(mean).all() and np.isfinite(squares).all()):
        raise FitError(
            "The features contain NaN or infinity: expected finite ones. Check the store: "
            "featurize verify STORE"
        )
    variance = squares / n
    _settle(scaler, n, mean, variance)
    of_columns = _gamma_of_columns(scaler, variance) if not l2 else None
    spread_of_unit = of_unit[1] / (n * len(mean)) - (of_unit[0] / (n * len(mean))) ** 2
    total = of_columns if of_columns is not None else spread_of_unit
    gamma = 1.0 / (len(mean) * total) if total > 0 else 1.0
    return Scaled(stream=stream, scaler=scaler, gamma=float(gamma), mean=mean, variance=variance)


def _settle(scaler: TransformerMixin, n: int, mean: Float64Array, variance: Float64Array) -> None:
    """Make a transformer what it would be, had it been fitted on rows of these moments."""
    scaler.n_features_in_ = len(mean)
    if not hasattr(scaler, "with_std"):
        return
    # Columns that differ by rounding alone are constant, as scikit-learn has it.
    rounding = np.finfo(np.float64).eps
    constant = variance <= n * rounding * variance + (n * mean * rounding) ** 2
    scaler.mean_, scaler.var_, scaler.n_samples_seen_ = mean, variance, n
    scaler.scale_ = np.where(constant, 1.0, np.sqrt(variance))


def _gamma_of_columns(scaler: TransformerMixin, variance: Float64Array) -> float:
    """Return the variance of all values of standardised rows, whose columns have mean 0."""
    return float(np.mean(variance / scaler.scale_**2))
